"""Choose the kernel modules that the guest needs, in an order in which they load. No depmod is needed.

Signatures are cut off where the kernel does not insist on them: the launch digest covers the modules, and to check
twenty signatures costs a boot 0.2 s under emulation.
"""

from __future__ import annotations

import lzma
import os
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from krunpy.core.errors import FormatError, HostError
from krunpy.core.files import load_bounded
from krunpy.formats.modinfo import ModuleInfo, cut_signature, module_name, parse_modinfo

if TYPE_CHECKING:
    from krunpy.guest.kernel import Kernel

_NOT_FORCED = b"# CONFIG_MODULE_SIG_FORCE is not set"
MAX_MODULE = 32 * 1024 * 1024  # bytes
TEE_DRIVERS = ("sev_guest", "tdx_guest")  # from kernel 6.12 on
CHANNEL = ("virtio_pci", "virtio_console")  # loaded before the agent says hello
WORKLOAD = (  # loaded while the server works
    "virtio_blk",
    "dm_verity",
    "dm_crypt",
    "xts",
    "aesni_intel",
    "erofs",
    "overlay",
)
REQUIRED = (*CHANNEL, *WORKLOAD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """A kernel module: name with underscores, uncompressed contents."""

    name: str
    contents: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Modules:
    """Modules in load order: those that the channel and the evidence need, then those of the workload."""

    early: tuple[Module, ...]
    late: tuple[Module, ...]


def load_modules(kernel: Kernel) -> Modules:
    """Return the modules that the guest needs and this kernel has not built in: none for one of our own.

    Raises HostError if a required one is neither built in nor there, FormatError if a file is no module.
    """
    return _Resolver(kernel).resolve() if kernel.modules else Modules(early=(), late=())


class _Resolver:
    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._files = _index(kernel.modules)
        self._builtin = _load_builtin(kernel.modules)
        self._takes_unsigned = _takes_unsigned(kernel)
        self._order: list[Module] = []
        self._seen: set[str] = set()

    def resolve(self) -> Modules:
        for name in TEE_DRIVERS:
            self._add(name, is_required=False)
        for name in CHANNEL:
            self._add(name, is_required=True)
        count = len(self._order)
        for name in WORKLOAD:
            self._add(name, is_required=True)
        return Modules(early=tuple(self._order[:count]), late=tuple(self._order[count:]))

    def _add(self, name: str, *, is_required: bool) -> None:
        if name in self._seen or name in self._builtin:
            return
        self._seen.add(name)
        path = self._files.get(name)
        if path is None:
            if is_required:
                raise HostError(
                    f"cannot use kernel {self._kernel.release}",
                    why=f"module {name} is neither built in nor under {self._kernel.modules}",
                    next="use a distribution's cloud kernel",
                )
            return
        contents = _load_module(path)
        if self._takes_unsigned:
            contents = cut_signature(contents)
        info = parse_modinfo(contents)
        self._require_same_kernel(info, path)
        for other in info.soft_before:
            self._add(other, is_required=False)
        for other in info.depends:
            self._add(other, is_required=True)
        self._order.append(Module(name=name, contents=contents))

    def _require_same_kernel(self, info: ModuleInfo, path: str) -> None:
        built_for = info.vermagic.split(" ", 1)[0]
        if built_for != self._kernel.release:
            raise HostError(
                f"cannot use {path}", why=f"it is for kernel {built_for}, wanted {self._kernel.release}"
            )


def _index(folder: str) -> dict[str, str]:
    files: dict[str, str] = {}
    for directory, _, names in os.walk(os.path.join(folder, "kernel")):
        for name in names:
            stem, dot, ending = name.partition(".ko")
            if dot and ending in ("", ".xz", ".gz"):
                files[module_name(stem)] = os.path.join(directory, name)
    return files


def _load_builtin(folder: str) -> set[str]:
    text = load_bounded(os.path.join(folder, "modules.builtin"), 4 * 1024 * 1024).decode("utf-8", "replace")
    return {module_name(os.path.basename(line).removesuffix(".ko")) for line in text.splitlines()}


def _takes_unsigned(kernel: Kernel) -> bool:
    """Return whether the kernel's configuration says that it loads modules without a signature."""
    beside = os.path.join(os.path.dirname(kernel.image), f"config-{kernel.release}")
    path = next((path for path in (beside, f"{kernel.modules}/config") if os.path.exists(path)), "")
    return bool(path) and _NOT_FORCED in load_bounded(path, 4 * 1024 * 1024).splitlines()


def _load_module(path: str) -> bytes:
    data = load_bounded(path, MAX_MODULE)
    try:
        if path.endswith(".xz"):
            decoder = lzma.LZMADecompressor(memlimit=256 * 1024 * 1024)
            data = decoder.decompress(data, MAX_MODULE)
        elif path.endswith(".gz"):
            data = zlib.decompressobj(31).decompress(data, MAX_MODULE)
    except (lzma.LZMAError, zlib.error) as error:
        raise FormatError(f"cannot unpack {path}", why=str(error)) from error
    return data
