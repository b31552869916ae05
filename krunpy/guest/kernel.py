"""Find a Linux kernel: among the system's packages, with its modules, or one of our own. Builds and boots nothing."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass

from krunpy.core.errors import FormatError, HostError
from krunpy.core.files import load_bounded
from krunpy.formats.bzimage import parse_kernel_release
from krunpy.formats.narrow import Fields

MAX_KERNEL = 64 * 1024 * 1024  # bytes
_MAX_DESCRIPTION = 1024 * 1024  # bytes
MAX_FIRMWARE = 16 * 1024 * 1024  # bytes
IMAGE, ELF, DESCRIPTION = "bzImage", "vmlinux", "kernel.json"  # a folder of `krunpy guest kernel build`
OWN = "own"  # the origin of such a kernel
_PREFIX = "vmlinuz-"
_BANNER = re.compile(rb"Linux version ([\x21-\x7e]{1,256}) \(")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """A kernel image, its release, and where it was found.

    modules: the folder of its modules; empty for one of our own, which needs none.
    elf:     the same kernel for libkrun, which takes no bzImage; empty if there is none.
    """

    image: str
    release: str
    modules: str
    origin: str
    elf: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ElfKernel:
    """A kernel as libkrun takes it: an ELF file, its release, and where it comes from (OWN, or a libkrunfw)."""

    contents: bytes
    release: str
    origin: str


def find_kernels(roots: list[str]) -> list[Kernel]:
    """Return the kernels under each root ("/", or a folder that a package was unpacked into), best first.

    Best: a cloud kernel before others (it is smaller), then the highest version.
    """
    found: list[Kernel] = []
    for root in roots:
        boot = os.path.join(root, "boot")
        names = sorted(os.listdir(boot)) if os.path.isdir(boot) else []
        for name in names:
            release = name.removeprefix(_PREFIX)
            modules = next(
                (
                    path
                    for lib in ("lib", "usr/lib")
                    if os.path.isdir(path := os.path.join(root, lib, "modules", release))
                ),
                "",
            )
            if name.startswith(_PREFIX) and modules:
                found.append(Kernel(image=f"{boot}/{name}", release=release, modules=modules, origin=root))
    return sorted(found, key=_rank, reverse=True)


def load_kernel(image: str, modules: str) -> Kernel:
    """Return the kernel of a given image and folder of modules.

    Raises HostError if one cannot be read, FormatError if the image is not a bzImage.
    """
    release = parse_kernel_release(load_bounded(image, MAX_KERNEL))
    if not os.path.isdir(modules):
        raise HostError("cannot use the kernel", why=f"{modules} is not a folder of modules")
    return Kernel(image=image, release=release, modules=modules, origin="given")


def find_own_kernels(output: str) -> list[str]:
    """Return the folders that `krunpy guest kernel build` left in `output`, the newest first."""
    names = os.listdir(output) if os.path.isdir(output) else []
    found = [
        path
        for name in names
        if os.path.exists(os.path.join(path := os.path.join(output, name), DESCRIPTION))
    ]
    return sorted(found, key=lambda path: os.stat(os.path.join(path, DESCRIPTION)).st_mtime, reverse=True)


def load_elf(kernel: Kernel) -> ElfKernel | None:
    """Return a kernel as libkrun takes it, None if there is only a bzImage. Raises HostError if it cannot be read."""
    if not kernel.elf:
        return None
    return ElfKernel(
        contents=load_bounded(kernel.elf, MAX_KERNEL), release=kernel.release, origin=kernel.origin
    )


def load_own_kernel(folder: str) -> Kernel:
    """Return a kernel of our own from its folder.

    Raises HostError if a part cannot be read or is not what was built, FormatError if its description is broken.
    """
    described = os.path.join(folder, DESCRIPTION)
    try:
        fields = Fields(json.loads(load_bounded(described, _MAX_DESCRIPTION)), described)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"cannot read {described}", why="it is not JSON") from error
    digests = fields.take_fields("sha256")
    for name in (IMAGE, ELF):
        wanted = digests.take_string(name)
        seen = hashlib.sha256(load_bounded(os.path.join(folder, name), MAX_KERNEL)).hexdigest()
        if seen != wanted:
            raise HostError(
                f"cannot use the kernel's {name}",
                why=f"SHA-256 is {seen}, recorded when it was built {wanted}",
                next=f"remove {folder} and run `krunpy guest kernel build` again",
            )
    return Kernel(
        image=os.path.join(folder, IMAGE),
        release=fields.take_string("release"),
        modules="",
        origin=OWN,
        elf=os.path.join(folder, ELF),
    )


def find_release(image: bytes) -> str:
    """Return the release that an unpacked kernel names itself. Raises FormatError if it names none."""
    found = _BANNER.search(image)
    if found is None:
        raise FormatError("cannot read the kernel", why='it does not say "Linux version"')
    return found[1].decode("ascii")


def require_kernel(roots: list[str]) -> Kernel:
    """Return the best kernel, or raise HostError that says how to get one."""
    kernels = find_kernels(roots)
    if not kernels:
        raise HostError(
            "cannot find a kernel for the guest",
            why=f"no boot/vmlinuz-RELEASE with lib/modules/RELEASE under {', '.join(roots)}",
            next="run `krunpy guest fetch-kernel` (Debian) or `krunpy guest kernel build`, "
            "or pass --kernel FILE --modules DIR",
        )
    return kernels[0]


def _rank(kernel: Kernel) -> tuple[bool, list[int]]:
    numbers = [int(word) for word in re.findall(r"\d+", kernel.release)]
    return "cloud" in kernel.release, numbers
