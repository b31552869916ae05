"""What the emulated machine is made of, fetched by names: packages, sid's libkrunfw, a libkrun. Nothing is committed.

Programs come from the distribution. No Debian release has libkrun or libkrunfw: libkrunfw is unpacked from Debian sid's
package, without installing it, and libkrun from the wheel smolmachines.
"""

from __future__ import annotations

import glob
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

from krunpy.formats.krun_kernel import wrap_kernel
from krunpy.vmm.libkrun_bundle import load_bundle_kernel

WHEEL = "smolmachines==1.32.2"
QEMU = "qemu-system-x86_64"
VIRTIOFSD = ("/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd")  # Debian 12's, in C; later ones, in Rust
BUSYBOX = "/bin/busybox"
_LIST = """\
deb [signed-by={keyring}] {mirror} sid main
"""


class MissingError(Exception):
    """Something cannot be had here."""


class Parts(NamedTuple):
    """Absolute paths. kernel: of the emulated machine, ELF."""

    qemu: str
    virtiofsd: str
    kernel: str
    libkrun: str
    libkrunfw: str


def prepare(cache: Path) -> Parts:
    """Return all parts; install, download and unpack what is missing. Raises MissingError."""
    cache.mkdir(parents=True, exist_ok=True)
    qemu, virtiofsd = _install_programs()
    libkrun = _unpack_wheel(cache)
    libkrunfw = _unpack_libkrunfw(cache)
    kernel = cache / "kernel.elf"
    if not kernel.exists():
        partial = cache / "kernel.partial"
        partial.write_bytes(wrap_kernel(load_bundle_kernel(libkrunfw)))
        partial.rename(kernel)
    return Parts(qemu, virtiofsd, str(kernel), libkrun, libkrunfw)


def _install_programs() -> tuple[str, str]:
    wanted = [] if shutil.which(QEMU) else ["qemu-system-x86"]
    wanted += [] if os.path.exists(BUSYBOX) else ["busybox-static"]
    if wanted:
        _apt_get("update")
        _apt_get("install", "-y", *wanted)
    if not any(map(os.path.exists, VIRTIOFSD)):
        _apt_get("install", "-y", "virtiofsd")
    qemu = shutil.which(QEMU)
    if qemu is None:
        raise MissingError(f"{QEMU} is missing")
    return qemu, next(path for path in VIRTIOFSD if os.path.exists(path))


def _unpack_wheel(cache: Path) -> str:
    """Return the path of libkrun. Other wheels have it linked into something else."""
    library = cache / "libkrun.so"
    if not library.exists():
        _run(sys.executable, "-m", "pip", "-q", "download", "--no-deps", "-d", str(cache / "wheel"), WHEEL)
        (wheel,) = (cache / "wheel").glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            partial = cache / "libkrun.partial"
            partial.write_bytes(archive.read("smol/libkrun.so"))
        partial.rename(library)
        shutil.rmtree(cache / "wheel")
    return str(library)


def _unpack_libkrunfw(cache: Path) -> str:
    """Return the path of sid's libkrunfw, unpacked from a package list of its own."""
    root = cache / "sid"
    if not (found := sorted(root.glob("usr/lib/*/libkrunfw.so.5"))):
        work = cache / "apt"
        for name in ("lists/partial", "cache/archives/partial", "state"):
            (work / name).mkdir(parents=True, exist_ok=True)
        (work / "status").touch()
        (work / "sources.list").write_text(_LIST.format(keyring=_find_keyring(), mirror=find_mirror()))
        options = {
            "Dir::Etc::sourcelist": work / "sources.list", "Dir::Etc::sourceparts": "-",
            "Dir::State": work / "state", "Dir::State::status": work / "status",
            "Dir::State::Lists": work / "lists",
            "Dir::Cache": work / "cache", "Acquire::Languages": "none", "APT::Sandbox::User": "root",
        }  # fmt: skip
        own = [f"-o{name}={value}" for name, value in options.items()]
        _apt_get(*own, "update")
        _apt_get(*own, "install", "-y", "--download-only", "--no-install-recommends", "libkrunfw5")
        for package in (work / "cache/archives").glob("libkrunfw5_*.deb"):
            _run("dpkg", "-x", str(package), str(root))
        shutil.rmtree(work)
        found = sorted(root.glob("usr/lib/*/libkrunfw.so.5"))
    if not found:
        raise MissingError("Debian sid has no libkrunfw5")
    return str(found[0])


def find_mirror() -> str:
    """Return the address of the Debian mirror that this machine uses."""
    lists = [*glob.glob("/etc/apt/sources.list.d/*"), "/etc/apt/sources.list"]
    texts = [Path(path).read_text() for path in lists if os.path.isfile(path)]
    for text in texts:
        for address in re.findall(r"^(?:URIs:|deb (?:\[[^]]*\] )?) *(\S+)", text, re.MULTILINE):
            if address.rstrip("/").endswith("debian"):
                return address
    raise MissingError("no Debian mirror in /etc/apt")


def _find_keyring() -> str:
    for path in sorted(glob.glob("/usr/share/keyrings/debian-archive-keyring.*")):
        return path
    raise MissingError("debian-archive-keyring is missing")


def _apt_get(*words: str) -> None:
    _run("apt-get", "-qq", *words, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})


def _run(*argv: str, env: dict[str, str] | None = None) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, env=env, check=False)
    if done.returncode:
        last = " | ".join((done.stderr or done.stdout).strip().splitlines()[-4:])
        raise MissingError(f"{' '.join(argv[:4])}... failed with {done.returncode}: {last}")
