"""A kernel source of five small files that configures and "compiles" as Linux does, with a make of its own."""

import io
import os
import shutil
import tarfile

from krunpy.guest.kernel_options import FRAGMENTS, VARYING

RELEASE = "6.99.0-krunpy"
# "configures" by taking the wanted options as they are, less what KNOWN lacks, as a source that does not know them
MAKEFILE = """\
mrproper:
\t@rm -f .config stale.o
allnoconfig:
\t@grep -F -f known $(KCONFIG_ALLCONFIG) > .config
bzImage:
\t@echo '  CC      init/main.o'
\t@echo '  LD      vmlinux'
\t@mkdir -p arch/x86/boot
\t@sh make_image.sh
"""
MAKE_IMAGE = r"""
{ head -c 514 /dev/zero; printf 'HdrS'; head -c 8 /dev/zero; printf '\000\001'; head -c 240 /dev/zero
  printf '6.99.0-krunpy (%s@%s) #%s %s\000' "$KBUILD_BUILD_USER" "$KBUILD_BUILD_HOST" "$KBUILD_BUILD_VERSION" \
    "$KBUILD_BUILD_TIMESTAMP"; cat main.c .config; } > arch/x86/boot/bzImage
cp /bin/true vmlinux
"""
PROGRAMS = "make ld tar xz patch objcopy sh rm cp mkdir head cat grep echo false sleep".split()
TOOLS = (
    "flex",
    "bison",
    "bc",
    "lz4",
)  # that the fake does not need, and that a machine of the tests may lack


def make_tree(folder, *, options=("SMP", "NET", "NEWER"), makefile=MAKEFILE):
    folder.mkdir()
    (folder / "Makefile").write_text(makefile)
    (folder / "make_image.sh").write_text(MAKE_IMAGE)
    (folder / "main.c").write_text("int main;\n")
    (folder / "known").write_text("".join(f"CONFIG_{name}\n" for name in (*options, "MODULES")))
    (folder / "net").mkdir()
    (folder / "Kconfig").write_text(
        'config SMP\n\tbool "many"\nconfig MODULES\n\tbool\nsource "net/Kconfig"\n'
    )
    (folder / "net/Kconfig").write_text(
        "".join(f"menuconfig {name}\n\tbool\n" for name in options if name != "SMP")
    )
    return folder


def pack_tree(folder, archive):
    """Pack a tree as a distribution does, below one folder."""
    with tarfile.open(archive, "w:xz") as stream:
        for path in sorted(folder.rglob("*")):
            info = stream.gettarinfo(path, arcname=f"linux-6.99/{path.relative_to(folder)}")
            stream.addfile(info, io.BytesIO(path.read_bytes()) if path.is_file() else None)
    return archive


def make_fragments(folder, **texts):
    """Write fragments: base and hardening are those of the tests, unless others are given by name."""
    given = {
        "base": "CONFIG_SMP=y\nCONFIG_NET=y\n",
        "hardening": "# CONFIG_MODULES is not set\n",
        "versions": "CONFIG_NEWER=y\n",
        **texts,
    }
    folder.mkdir(exist_ok=True)
    for name in FRAGMENTS:
        (folder / name).write_text(given["versions" if name == VARYING else name.removesuffix(".config")])
    return folder


def use_tools(folder, monkeypatch, *, without=()):
    """Put a folder of links to this machine's programs, and of stand-ins for those the fake does not need, on PATH."""
    folder.mkdir()
    for name in PROGRAMS:
        if name not in without:
            os.symlink(shutil.which(name), folder / name)
    stand_ins = dict.fromkeys(TOOLS, "exit 0") | {"gcc": 'case "$1" in --version) echo "gcc 99";; esac'}
    for name in stand_ins.keys() - set(without):
        (folder / name).write_text(f"#!/bin/sh\n{stand_ins[name]}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setattr("krunpy.core.proc.PATH", str(folder))
