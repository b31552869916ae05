"""libkrun's C interface: one table of prototypes, one way to call. A door of `ctypes`, beside `core.linux`.

Which functions a library has is asked of the library (dlsym), never of its version: distributions and forks leave out
and add some. It decides nothing about machines, and is small, since the machine's own process imports it.
Source: libkrun include/libkrun.h at v1.9 to v1.19 and later.
"""

from __future__ import annotations

import ctypes
import errno
import os

from krunpy.core.errors import HostError

_NUMBER, _SHORT, _LONG = ctypes.c_uint32, ctypes.c_uint8, ctypes.c_uint64
_TEXT, _TEXTS = ctypes.c_char_p, ctypes.POINTER(ctypes.c_char_p)
_FLAG, _DESCRIPTOR = ctypes.c_bool, ctypes.c_int
_CONTEXT = _NUMBER


class _OptionalText(ctypes.c_char_p):
    """A text that may be NULL; at any other NULL libkrun crashes."""


# name -> arguments, the first libkrun that has it. All return an int32: negative is an errno.
PROTOTYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "krun_init_log": ((_DESCRIPTOR, _NUMBER, _NUMBER, _NUMBER), "1.13"),
    "krun_set_log_level": ((_NUMBER,), "1.0"),
    "krun_create_ctx": ((), "1.0"),
    "krun_free_ctx": ((_CONTEXT,), "1.0"),
    "krun_set_vm_config": ((_CONTEXT, _SHORT, _NUMBER), "1.0"),
    "krun_set_kernel": ((_CONTEXT, _TEXT, _NUMBER, _OptionalText, _TEXT), "1.11"),
    "krun_set_tee_config_file": ((_CONTEXT, _TEXT), "1.0, built for a TEE,"),
    "krun_split_irqchip": ((_CONTEXT, _FLAG), "1.12"),
    "krun_add_disk": ((_CONTEXT, _TEXT, _TEXT, _FLAG), "1.7"),
    "krun_add_virtiofs": ((_CONTEXT, _TEXT, _TEXT), "1.8"),
    "krun_add_virtiofs3": ((_CONTEXT, _TEXT, _TEXT, _LONG, _FLAG), "1.18"),
    "krun_disable_implicit_vsock": ((_CONTEXT,), "1.17"),
    "krun_add_vsock": ((_CONTEXT, _NUMBER), "1.17"),
    "krun_add_vsock_port": ((_CONTEXT, _NUMBER, _TEXT), "1.4"),
    "krun_set_port_map": ((_CONTEXT, _TEXTS), "1.0"),
    "krun_disable_implicit_console": ((_CONTEXT,), "1.16"),
    "krun_add_virtio_console_default": ((_CONTEXT, _DESCRIPTOR, _DESCRIPTOR, _DESCRIPTOR), "1.16"),
    "krun_has_feature": ((_LONG,), "1.17.3"),
    "krun_start_enter": ((_CONTEXT,), "1.0"),
}
_OF_A_KIND = "krun_create_ctx"  # a library without it has another interface altogether
_OF_VERSION_2 = "krun_payload_load_krunfw"  # libkrun pull request 718: handles in place of context numbers
_WANTED = "libkrun 1.11 or later with the C interface of version 1"
_BUNDLE_PART = ctypes.POINTER(ctypes.c_size_t)


class Libkrun:
    """A loaded library. Every text that it is given is UTF-8 without NUL, and none is NULL that may not be."""

    def __init__(self, path: str) -> None:
        """Load by absolute path. Raises HostError if it cannot be loaded, or is no libkrun of version 1."""
        self.path = path
        self._library = open_library(path)
        if not self.has(_OF_A_KIND):
            found = "that of version 2" if self.has(_OF_VERSION_2) else "another"
            raise HostError(f"cannot use {path}", why=f"its interface is {found}", next=f"install {_WANTED}")

    def has(self, name: str) -> bool:
        """Return whether the library has a function."""
        return hasattr(self._library, name)

    def call(self, name: str, *arguments: int | str | list[str] | None) -> int:
        """Return what a function of the table returns, never a negative number.

        Raises HostError if the library lacks it, it fails, a text has a NUL, or is None where that would crash it.
        """
        types, since = PROTOTYPES[name]
        if not self.has(name):
            why = f"it has no {name}, which libkrun {since} and later have"
            raise HostError(f"cannot use {self.path}", why=why)
        function = getattr(self._library, name)
        function.argtypes, function.restype = types, ctypes.c_int32
        for kind, argument in zip(types, arguments, strict=True):
            if argument is None and kind is not _OptionalText:
                raise HostError(f"cannot call {name}", why="a text is missing, and NULL would crash it")
        result = int(function(*(_convert(name, argument) for argument in arguments)))
        if result < 0:
            code = errno.errorcode.get(-result, str(result))
            raise HostError(f"cannot call {name}", why=f"{code}: {os.strerror(-result).lower()}")
        return result


class KernelBundle:
    """libkrunfw: a guest kernel in a library, and for a TEE an initrd and a firmware too."""

    def __init__(self, path: str) -> None:
        """Load by absolute path. Raises HostError if it is no such library."""
        self._library = open_library(path)
        if not hasattr(self._library, "krunfw_get_kernel"):
            raise HostError(
                f"cannot use {path}", why="it has no krunfw_get_kernel", next="install libkrunfw 5"
            )

    def locate_kernel(self) -> tuple[int, int, int, int]:
        """Return the address of the kernel's image here, its size, its gpa and the gpa of its entry."""
        function = self._library.krunfw_get_kernel
        function.argtypes, function.restype = (_BUNDLE_PART,) * 3, ctypes.c_void_p
        load, entry, size = ctypes.c_size_t(), ctypes.c_size_t(), ctypes.c_size_t()
        here = function(ctypes.byref(load), ctypes.byref(entry), ctypes.byref(size))
        return here or 0, size.value, load.value, entry.value

    def locate_qboot(self) -> tuple[int, int]:
        """Return the address of the firmware here and its size; two zeros if it is made for plain machines."""
        if not hasattr(self._library, "krunfw_get_qboot"):
            return 0, 0
        function = self._library.krunfw_get_qboot
        function.argtypes, function.restype = (_BUNDLE_PART,), ctypes.c_void_p
        size = ctypes.c_size_t()
        here = function(ctypes.byref(size))
        return here or 0, size.value


def copy_memory(address: int, size: int) -> bytes:
    """Return what lies in this process's memory at an address that a library gave."""
    return ctypes.string_at(address, size)


def open_library(path: str) -> ctypes.CDLL:
    """Return a library whose functions are looked up when they are called, and not before.

    The build of libkrun in the wheel smolmachines refers to a graphics library that it is not linked to; ctypes itself
    would look up everything at once. A library stays loaded until the process ends.

    Raises HostError if it cannot be loaded.
    """
    if not os.path.isabs(path):
        raise HostError(f"cannot load {path}", why="the path is relative, wanted an absolute one")
    libc = ctypes.CDLL(None)
    libc.dlopen.argtypes, libc.dlopen.restype = (ctypes.c_char_p, ctypes.c_int), ctypes.c_void_p
    libc.dlerror.argtypes, libc.dlerror.restype = (), ctypes.c_char_p
    handle = libc.dlopen(_convert("dlopen", path), os.RTLD_LAZY | os.RTLD_LOCAL)
    if not handle:
        why = (libc.dlerror() or b"unknown").decode(errors="replace")
        raise HostError(f"cannot load {path}", why=why)
    return ctypes.CDLL(path, handle=handle)


def _convert(name: str, argument: int | str | list[str] | None) -> object:
    """Return an argument as ctypes takes it. A list ends with NULL, as the library wants it."""
    if isinstance(argument, list):
        return (_TEXT * (len(argument) + 1))(*(_encode(name, text) for text in argument), None)
    return _encode(name, argument) if isinstance(argument, str) else argument


def _encode(name: str, text: str) -> bytes:
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise HostError(f"cannot call {name}", why=f"{text!a} is not UTF-8") from None
    if b"\0" in data:
        raise HostError(f"cannot call {name}", why=f"{text!a} has a NUL")
    return data
