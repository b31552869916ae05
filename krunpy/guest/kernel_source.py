"""The source of a guest kernel of our own: where it is, what it hashes to, unpacked and patched. Compiles nothing."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from dataclasses import dataclass

from krunpy.core.errors import HostError, ToolError, UsageError
from krunpy.core.files import load_bounded
from krunpy.core.proc import find_program, run

DISTRIBUTION_SOURCES = "/usr/src"
_DISTRIBUTION = re.compile(r"linux-source-(\d+(?:\.\d+)*)\.tar\.(?:xz|gz|zst|bz2)")
_MAX_PATCH = 16 * 1024 * 1024  # bytes
_UNPACK_S, _PATCH_S = 1800, 120
_PACKAGES = {
    "make": "build-essential",
    "gcc": "build-essential",
    "ld": "build-essential",
    "tar": "tar",
    "xz": "xz-utils",
    "patch": "patch",
    "lz4": "lz4",
    "bc": "bc",
    "flex": "flex",
    "bison": "bison",
}
_HEADERS = {"gelf.h": "libelf-dev"}
_INSTALL = "apt-get install linux-source build-essential flex bison bc lz4 xz-utils libelf-dev"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A kernel's source, a folder or a tar archive, with its patches in the order in which they apply."""

    path: str
    patches: tuple[str, ...]


def require_tools() -> None:
    """Raise HostError that names everything which a build needs and this machine lacks."""
    lacking = {name: package for name, package in _PACKAGES.items() if find_program(name) is None}
    if "gcc" not in lacking:
        lacking |= {name: package for name, package in _HEADERS.items() if not _has_header(name)}
    if lacking:
        raise HostError(
            "cannot build a kernel",
            why=f"missing: {', '.join(lacking)}",
            next=f"apt-get install {' '.join(sorted(set(lacking.values())))}",
        )


def _has_header(name: str) -> bool:
    words = ["gcc", "-E", "-o", "/dev/null", "-x", "c", "-"]
    return run(words, timeout_s=60, stdin=f"#include <{name}>\n".encode(), codes=(0, 1)).code == 0


def find_source(path: str, patches: str, *, root: str = DISTRIBUTION_SOURCES) -> Source:
    """Return a source: the one that is named, else the newest that a distribution's package left in `root`.

    path:    a source tree or a tar archive; empty for the distribution's.
    patches: a folder of NAME.patch files, which apply in the order of their names; empty for none.

    Raises HostError if there is none, UsageError if a named one is no source or the folder holds no patch.
    """
    if path and not os.path.exists(path):
        raise UsageError("cannot build a kernel", why=f"{path} does not exist")
    if os.path.isdir(path) and not os.path.exists(os.path.join(path, "Kconfig")):
        raise UsageError("cannot build a kernel", why=f"{path} is no kernel source: it has no Kconfig")
    return Source(path=os.path.abspath(path or _find_distribution(root)), patches=_list_patches(patches))


def _find_distribution(root: str) -> str:
    names = os.listdir(root) if os.path.isdir(root) else []
    found = [(match[1], name) for name in names if (match := _DISTRIBUTION.fullmatch(name))]
    if not found:
        raise HostError(
            "cannot build a kernel", why=f"there is no linux-source-*.tar.xz in {root}", next=_INSTALL
        )
    return os.path.join(
        root, max(found, key=lambda each: ([int(part) for part in each[0].split(".")], each[1]))[1]
    )


def _list_patches(folder: str) -> tuple[str, ...]:
    if not folder:
        return ()
    if not os.path.isdir(folder):
        raise UsageError("cannot patch the kernel", why=f"{folder} is no folder")
    found = tuple(
        os.path.join(folder, name) for name in sorted(os.listdir(folder)) if name.endswith(".patch")
    )
    if not found:
        raise UsageError("cannot patch the kernel", why=f"{folder} holds no file NAME.patch")
    return found


def hash_source(path: str) -> str:
    """Return the SHA-256, in hex, of an archive, or of the names, kinds and contents of a tree without its .git."""
    if not os.path.isdir(path):
        return _hash_file(path)
    whole = hashlib.sha256()
    for directory, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if name != ".git")
        links = [name for name in folders if os.path.islink(os.path.join(directory, name))]
        for name in sorted([*names, *links]):
            full = os.path.join(directory, name)
            if os.path.islink(full):
                kind, digest = "link", hashlib.sha256(os.fsencode(os.readlink(full))).hexdigest()
            else:
                kind = "program" if os.access(full, os.X_OK) else "file"
                digest = _hash_file(full)
            whole.update(
                f"{os.path.relpath(full, path)}\0{kind}\0{digest}\n".encode(errors="surrogateescape")
            )
    return whole.hexdigest()


def _hash_file(path: str) -> str:
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise HostError(f"cannot read {path}", why=(error.strerror or "error").lower()) from error


def unpack_source(source: Source, folder: str) -> str:
    """Unpack or copy a source into a new folder, clean it, apply the patches, and return the tree's folder.

    Raises UsageError if an archive holds no kernel source, ToolError if a patch does not apply.
    """
    if os.path.isdir(source.path):
        shutil.copytree(source.path, folder, symlinks=True, ignore=shutil.ignore_patterns(".git"))
        run(["make", "-s", "-C", folder, "mrproper"], timeout_s=_UNPACK_S)
        tree = folder
    else:
        os.mkdir(folder, 0o700)
        run(["tar", "-xf", source.path, "-C", folder, "--no-same-owner"], timeout_s=_UNPACK_S)
        tree = _find_tree(folder, source.path)
    for path in source.patches:
        _apply_patch(tree, path)
    return tree


def _find_tree(folder: str, archive: str) -> str:
    candidates = [folder, *(os.path.join(folder, name) for name in sorted(os.listdir(folder)))]
    tree = next((path for path in candidates if os.path.exists(os.path.join(path, "Kconfig"))), None)
    if tree is None:
        raise UsageError("cannot build a kernel", why=f"{archive} is no kernel source: it has no Kconfig")
    return tree


def _apply_patch(tree: str, path: str) -> None:
    words = ["patch", "-p1", "--batch", "--forward", "--no-backup-if-mismatch", "-d", tree]
    done = run(words, timeout_s=_PATCH_S, stdin=load_bounded(path, _MAX_PATCH), codes=(0, 1, 2))
    if done.code:
        lines = (done.stdout + done.stderr).decode(errors="replace").splitlines()
        failed = [line for line in lines if "FAILED" in line or "can't find file" in line] or lines[-2:]
        raise ToolError(
            f"cannot apply {os.path.basename(path)}",
            why="; ".join(failed[:4]),
            next="take a source that it was made for",
        )
