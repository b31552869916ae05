"""Find a Linux kernel and its modules among the system's packages. Builds and boots nothing."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from krunpy.core.errors import HostError
from krunpy.core.files import load_bounded
from krunpy.formats.bzimage import parse_kernel_release

MAX_KERNEL = 64 * 1024 * 1024  # bytes
MAX_FIRMWARE = 16 * 1024 * 1024  # bytes
_PREFIX = "vmlinuz-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """A kernel image, its release, the folder of its modules, and where it was found."""

    image: str
    release: str
    modules: str
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


def require_kernel(roots: list[str]) -> Kernel:
    """Return the best kernel, or raise HostError that says how to get one."""
    kernels = find_kernels(roots)
    if not kernels:
        raise HostError(
            "cannot find a kernel for the guest",
            why=f"no boot/vmlinuz-RELEASE with lib/modules/RELEASE under {', '.join(roots)}",
            next="run `krunpy guest fetch-kernel` (Debian), or pass --kernel FILE --modules DIR",
        )
    return kernels[0]


def _rank(kernel: Kernel) -> tuple[bool, list[int]]:
    numbers = [int(word) for word in re.findall(r"\d+", kernel.release)]
    return "cloud" in kernel.release, numbers
