"""The real libkrun, misused: an error each time, and never the end of the process that asked.

It needs a /dev/kvm that works, and is one job of the emulated machine: tests/nested/joblist.py. By itself:
`python -m tests.nested.rig -- python -m pytest tests/e2e/test_libkrun_binding.py`.
"""

import os
import resource
import socket
import subprocess

import pytest

from krunpy.core.errors import HostError
from krunpy.formats.krun_kernel import wrap_kernel
from krunpy.runtime.krun_machine import PANIC
from krunpy.vmm.files import make_sealed_file
from krunpy.vmm.libkrun import build_argv
from krunpy.vmm.libkrun_abi import PROTOTYPES, Libkrun
from krunpy.vmm.libkrun_bundle import load_bundle_kernel
from krunpy.vmm.libkrun_child import STATUS
from krunpy.vmm.libkrun_find import find_libraries, require_libkrunfw
from krunpy.vmm.libkrun_spec import KrunSpec, Share

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(os.environ.get("KRUNPY_NESTED") != "1", reason="runs in the emulated machine"),
]
NO_CONTEXT = 4000
NO_FILE = "/nowhere/nothing"
REFUSED, RETURNED = 3, 4
# what each function of a context is given, after a context that does not exist
ARGUMENTS = {
    "krun_free_ctx": (),
    "krun_set_vm_config": (1, 256),
    "krun_set_kernel": (NO_FILE, 1, None, "quiet"),
    "krun_add_disk": ("boot", NO_FILE, True),
    "krun_add_virtiofs": ("tag", NO_FILE),
    "krun_add_virtiofs3": ("tag", NO_FILE, 0, True),
    "krun_add_vsock": (0,),
    "krun_add_vsock_port": (27506, NO_FILE),
    "krun_set_port_map": (["1:1"],),
    "krun_split_irqchip": (True,),
    "krun_add_virtio_console_default": (-1, -1, -1),
    "krun_start_enter": (),
}
IS_NESTED = os.environ.get("KRUNPY_NESTED") == "1"
LIBRARIES = (
    find_libraries(os.environ["KRUNPY_LIBKRUN"], os.environ["KRUNPY_LIBKRUNFW"]) if IS_NESTED else None
)


def attempt(name, *arguments):
    """Return how a process ends that makes one call."""
    pid = os.fork()
    if pid == 0:
        status = RETURNED
        try:
            Libkrun(LIBRARIES.libkrun).call(name, *arguments)
        except HostError:
            status = REFUSED
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_every_function_of_the_table_is_misused_here_or_absent_from_this_library():
    library = Libkrun(LIBRARIES.libkrun)
    harmless = {"krun_init_log", "krun_set_log_level", "krun_create_ctx", "krun_has_feature"}

    assert {name for name in PROTOTYPES if library.has(name)} - set(ARGUMENTS) <= harmless


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_context_that_is_none_is_refused(name):
    assert attempt(name, NO_CONTEXT, *ARGUMENTS[name]) == REFUSED


@pytest.mark.parametrize(
    "name", [name for name, words in ARGUMENTS.items() if any(isinstance(w, str) for w in words)]
)
def test_null_in_place_of_a_text_is_refused(name):
    words = [None if isinstance(word, str) else word for word in ARGUMENTS[name]]

    assert attempt(name, 0, *words) == REFUSED


@pytest.fixture(scope="module")
def kernel():
    return make_sealed_file("kernel", wrap_kernel(load_bundle_kernel(require_libkrunfw(LIBRARIES))))


@pytest.fixture
def machine(tmp_path, kernel):
    boot = make_sealed_file("boot", bytes(4096))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "sock"))
    inode = os.open(tmp_path / "sock", os.O_PATH)
    files = [kernel, boot, inode]

    def name(files, **more):
        given = {
            "libraries": LIBRARIES, "memory_mib": 256, "cpus": 1, "cmdline": "console=hvc0 panic=-1 reboot=k",
            "kernel_fd": 0, "boot_fd": 1, "channel_fd": 2, "disk_fd": None,
        }  # fmt: skip
        words = build_argv(KrunSpec(**{**given, **more}))
        for index, file in enumerate(files):
            words = [word.replace(f"{{fd{index}}}", str(file)) for word in words]
        return words

    def start(files=files, **more):
        return subprocess.run(
            name(files, **more), pass_fds=files, capture_output=True, text=True, timeout=60, check=False
        )

    start.files, start.name = files, name
    yield start
    listener.close()
    os.close(boot)
    os.close(inode)


def test_a_guest_without_an_init_says_so_on_standard_error_and_ends(machine):
    done = machine(cmdline="console=hvc0 panic=-1 reboot=k root=/dev/vda rootfstype=erofs")

    assert "Kernel panic" in done.stderr
    assert "VFS" in done.stderr
    assert done.stdout == ""


def test_a_kernel_that_is_none_is_an_error(machine):
    other = make_sealed_file("kernel", b"no kernel at all" * 256)

    done = machine([other, *machine.files[1:]])

    assert done.returncode == STATUS
    assert "cannot call krun_start_enter" in done.stderr


def test_a_thread_of_libkrun_that_panics_leaves_the_machine_hanging_with_the_word_the_shim_ends_it_for(
    machine,
):
    file = make_sealed_file("share", b"")  # no directory
    share = Share(tag="krun0", directory=3, is_read_only=True)
    words = machine.name([*machine.files, file], shares=(share,))

    with subprocess.Popen(
        words, pass_fds=[*machine.files, file], stderr=subprocess.PIPE, text=True
    ) as process:
        said = next((line for line in process.stderr if PANIC in line), "")
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(3)
        process.kill()

    os.close(file)
    assert said


def test_more_memory_than_an_address_space_is_an_error_or_a_crash_of_the_machine_alone(machine):
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    done = machine(memory_mib=0xFFFFFFFF)

    assert done.returncode != 0
