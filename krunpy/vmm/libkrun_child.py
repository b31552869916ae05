"""The process that becomes a machine of libkrun: it configures one, enters it, and ends with it.

What it imports stays in memory for as long as the machine runs. Its words are those of `libkrun.build_argv`. It runs
as an unprivileged user, with files handed over open and an environment of its own, which is empty.
Source: libkrun include/libkrun.h; src/libkrun/src/lib.rs, krun_start_enter.
"""

from __future__ import annotations

import os

from krunpy.core.errors import HostError, format_error
from krunpy.core.linux import set_dumpable, set_parent_death_signal
from krunpy.vmm.libkrun_abi import Libkrun, open_library
from krunpy.vmm.machine_user import leave_root

TYPE_CHECKING = False  # typing itself costs memory and time
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

STATUS = 125  # of a machine that did not start
# the first word of one that is told its words later, on standard input, one packet with the descriptors; after it, the
# libraries that it loads meanwhile
WAIT = "wait"
_LONGEST, _MOST_FILES, _NUMBER = 1 << 18, 16, 4  # bytes of a packet, its descriptors, bytes of each
_CHANNEL_PORT = 0x6B72  # libkrun_spec.CHANNEL_PORT; importing that costs as much as all the rest
_ELF = 1  # kernel format
_ERRORS, _PLAIN_TEXT, _IGNORE_ENVIRONMENT = 1, 2, 1  # log level, style, option
_HIJACK_INET = 1  # TSI feature
_STANDARD_ERROR = -1  # as the log's target
_NO_FILE = -1
SIGKILL = 9  # importing signal costs memory
_DISKS = ("boot", "disk")  # the guest numbers them in this order


def main(words: Sequence[str]) -> NoReturn:
    """Become the machine. Exits with STATUS if it cannot start, and else as libkrun does."""
    os.dup2(2, 1)  # libkrun prints to both
    os.environ.clear()  # it reads RUST_LOG, RUST_BACKTRACE and HOSTNAME
    try:
        given = _parse(_await_words(words[1:]) if words[:1] == [WAIT] else words)
        for bundle in given.get("bundle", ()):
            open_library(bundle)  # libkrun asks for one by its SONAME, and finds what is loaded
        library = Libkrun(given["library"][0])
        context = configure(library, given)
        if "tee" in given:
            _allow_locking(int(given["memory_mib"][0]))
        _become_unprivileged(given)
        library.call("krun_start_enter", context)
    except HostError as error:
        os.write(2, f"{format_error(error)}\n".encode())
    finally:
        os._exit(STATUS)


def _allow_locking(memory_mib: int) -> None:
    """Raise the limit of locked memory: KVM pins all of a machine's in SEV, and counts it so. Says so if it cannot.

    Source: libkrun src/vmm/src/linux/tee/amdsnp/mod.rs, vm_prepare; Linux arch/x86/kvm/svm/sev.c, sev_pin_memory.
    """
    import resource  # a plain machine does without

    wanted = (memory_mib + 1) << 20  # with the firmware
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    try:
        most = hard if hard == resource.RLIM_INFINITY else max(hard, wanted)
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (wanted, most))
    except (OSError, ValueError):
        seen = f"krunpy: this user may lock {hard >> 20} MiB, and KVM pins all {wanted >> 20} MiB of such a machine"
        os.write(2, f"{seen}: raise the limit (ulimit -l, LimitMEMLOCK=) if it does not start\n".encode())


def _become_unprivileged(given: dict[str, list[str]]) -> None:
    """Leave root as late as can be: Python and libraries may lie where only root may read."""
    uid, _, gid = given.get("owner", [""])[0].partition(":")
    parent = os.getppid()
    leave_root([int(group) for group in given.get("group", ())], (int(uid), int(gid)) if uid else None)
    set_dumpable()  # or its files in /proc, by which libkrun opens what it was handed, would be root's
    set_parent_death_signal(SIGKILL)  # which a change of user takes away
    if os.getppid() != parent:
        os._exit(STATUS)


def _await_words(libraries: Sequence[str]) -> list[str]:
    for path in libraries:
        open_library(path)
    return _receive_words()


def _receive_words() -> list[str]:
    """Wait for words with a zero byte between each two, and the files named in them. Ends if nobody wants a machine."""
    import _socket  # a part of socket, with a tenth of its memory

    end = _socket.socket(fileno=0)
    data, ancillary, _, _ = end.recvmsg(_LONGEST, _socket.CMSG_SPACE(_MOST_FILES * _NUMBER))
    os.dup2(os.open("/dev/null", os.O_RDONLY), end.detach())
    if not data:
        os._exit(0)
    rights = b"".join(rights for _, _, rights in ancillary)
    words = os.fsdecode(data)
    for index, at in enumerate(range(0, len(rights), _NUMBER)):
        number = int.from_bytes(rights[at : at + _NUMBER], "little")
        words = words.replace(f"{{fd{index}}}", str(number))
    return words.split("\0")


def _parse(words: Sequence[str]) -> dict[str, list[str]]:
    given: dict[str, list[str]] = {}
    for word in words:
        name, _, value = word.partition("=")
        given.setdefault(name, []).append(value)
    return given


def configure(library: Libkrun, given: dict[str, list[str]]) -> int:
    """Return the context of a machine, ready to be entered. Raises HostError."""
    _start_log(library)
    context = library.call("krun_create_ctx")
    library.call("krun_set_vm_config", context, int(given["cpus"][0]), int(given["memory_mib"][0]))
    if "kernel" in given:
        library.call("krun_set_kernel", context, given["kernel"][0], _ELF, None, given["cmdline"][0])
    else:
        library.call("krun_set_tee_config_file", context, given["config"][0])
        if given["tee"] == ["tdx"]:
            library.call("krun_split_irqchip", context, True)
    _add_console(library, context)
    for name in _DISKS:
        for path in given.get(name, ()):
            library.call("krun_add_disk", context, name, path, True)
    for kind in ("ro", "rw"):
        for share in given.get(kind, ()):
            _add_share(library, context, share, is_read_only=kind == "ro")
    _add_vsock(library, context, given)
    return context


def _start_log(library: Libkrun) -> None:
    """Have libkrun say on standard error what fails; the guest's console comes the same way."""
    if library.has("krun_init_log"):
        library.call("krun_init_log", _STANDARD_ERROR, _ERRORS, _PLAIN_TEXT, _IGNORE_ENVIRONMENT)
    else:
        library.call("krun_set_log_level", _ERRORS)


def _add_console(library: Libkrun, context: int) -> None:
    """Give the guest a console without files: libkrun logs what it writes. Old ones have such a console anyway."""
    if library.has("krun_add_virtio_console_default"):
        if library.has("krun_disable_implicit_console"):
            library.call("krun_disable_implicit_console", context)
        library.call("krun_add_virtio_console_default", context, _NO_FILE, _NO_FILE, _NO_FILE)


def _add_share(library: Libkrun, context: int, share: str, *, is_read_only: bool) -> None:
    link, _, tag = share.partition(":")
    path = f"{link}/."  # libkrun does not follow a link, and would share the link itself
    if is_read_only:
        library.call("krun_add_virtiofs3", context, tag, path, 0, True)
    else:
        library.call("krun_add_virtiofs", context, tag, path)


def _add_vsock(library: Libkrun, context: int, given: dict[str, list[str]]) -> None:
    """Add the channel. Before 1.17 the guest's vsock reaches this host's network too, and nothing turns that off."""
    is_network_shared = given["network"] == ["shared"]
    if not is_network_shared or library.has("krun_add_vsock"):
        if library.has("krun_disable_implicit_vsock"):
            library.call("krun_disable_implicit_vsock", context)
        library.call("krun_add_vsock", context, _HIJACK_INET if is_network_shared else 0)
    library.call("krun_add_vsock_port", context, _CHANNEL_PORT, given["channel"][0])
    if is_network_shared:
        library.call("krun_set_port_map", context, given.get("port", []))
