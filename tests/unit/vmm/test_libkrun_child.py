"""The process of one machine, with a libkrun that writes down how it is called."""

import shutil
import subprocess
from pathlib import Path

import pytest

from krunpy.vmm.libkrun import build_argv
from krunpy.vmm.libkrun_child import STATUS
from krunpy.vmm.libkrun_spec import Flavour, KrunSpec, Libraries, Share, TeeLaunch

SOURCE = Path(__file__).parent / "fake_libkrun.c"
OF_VERSION_2 = "int krun_payload_load_krunfw(void) { return 0; }"
ABORTS = """\
#include <stdlib.h>
int krun_create_ctx(void) { abort(); }
int krun_set_log_level(int level) { return 0; }
"""


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path)


class Lab:
    """A fake library and the machine's process under it."""

    def __init__(self, folder):
        self.folder, self.log = folder, folder / "calls"
        self.library = str(folder / "libkrun.so")

    def compile(self, *, until=99, fail="", tee=False, source=None):
        compiler = shutil.which("cc") or pytest.fail("a C compiler is missing: apt-get install gcc libc6-dev")
        path = SOURCE
        if source is not None:
            path = self.folder / "source.c"
            path.write_text(source)
        defines = [
            f'-DLOG="{self.log}"',
            f'-DFAIL="{fail}"',
            f"-DONLY_UNTIL={until}",
            *(["-DTEE"] if tee else []),
        ]
        subprocess.run(
            [compiler, "-shared", "-fPIC", "-Wall", "-Werror", *defines, "-o", self.library, path], check=True
        )

    def spec(self, flavour=Flavour.PLAIN, **more):
        plain = {"kernel_fd": 0, "cmdline": "console=hvc0 quiet"}
        given = {
            "libraries": Libraries(libkrun=self.library, libkrunfw=None, flavour=flavour),
            "memory_mib": 300, "cpus": 2, "boot_fd": 1, "channel_fd": 2, "disk_fd": 3,
        }  # fmt: skip
        return KrunSpec(**{**given, **plain, **more})

    def run(self, spec):
        words = build_argv(spec)
        for index in range(6):
            words = [word.replace(f"{{fd{index}}}", str(40 + index)) for word in words]
        environment = {"RUST_LOG": "trace", "HOSTNAME": "host", "PATH": "/usr/bin:/bin"}
        return subprocess.run(words, capture_output=True, text=True, env=environment, timeout=30, check=False)

    @property
    def calls(self):
        return self.log.read_text().splitlines() if self.log.exists() else []


def test_a_machine_is_configured_in_one_order(lab):
    lab.compile()

    done = lab.run(lab.spec())

    assert lab.calls == [
        "krun_init_log -1 1 2 1",
        "krun_create_ctx",
        "krun_set_vm_config 7 2 300",
        "krun_set_kernel 7 /proc/self/fd/40 1 NULL console=hvc0 quiet",
        "krun_disable_implicit_console 7",
        "krun_add_virtio_console_default 7 -1 -1 -1",
        "krun_add_disk 7 boot /proc/self/fd/41 1",
        "krun_add_disk 7 disk /proc/self/fd/43 1",
        "krun_disable_implicit_vsock 7",
        "krun_add_vsock 7 0",
        "krun_add_vsock_port 7 27506 /proc/self/fd/42",
        "krun_start_enter 7 RUST_LOG=NULL HOSTNAME=NULL",
    ], done.stderr


def test_what_libkrun_prints_goes_to_standard_error(lab):
    lab.compile()

    done = lab.run(lab.spec())

    assert (done.stdout, done.stderr, done.returncode) == ("", "libkrun prints\n", STATUS)


def test_shares_end_at_the_directory_itself_and_ports_are_a_list(lab):
    lab.compile()
    shares = (
        Share(tag="krun0", directory=4, is_read_only=True),
        Share(tag="krun1", directory=5, is_read_only=False),
    )

    lab.run(lab.spec(shares=shares, ports=((8080, 80),), is_network_shared=True))

    assert "krun_add_virtiofs3 7 krun0 /proc/self/fd/44/. 0 1" in lab.calls
    assert "krun_add_virtiofs 7 krun1 /proc/self/fd/45/." in lab.calls
    assert "krun_add_vsock 7 1" in lab.calls
    assert "krun_set_port_map 7 1 8080:80" in lab.calls


def test_a_shared_network_without_ports_gives_an_empty_list_and_never_null(lab):
    lab.compile()

    lab.run(lab.spec(is_network_shared=True))

    assert "krun_set_port_map 7 0 NULL" in lab.calls  # the list's first word
    assert lab.calls[-1].startswith("krun_start_enter")


@pytest.mark.parametrize(
    "name",
    [
        *("krun_init_log", "krun_create_ctx", "krun_set_vm_config", "krun_set_kernel", "krun_add_disk"),
        *("krun_add_virtio_console_default", "krun_add_vsock", "krun_add_vsock_port", "krun_start_enter"),
    ],
)
def test_each_function_that_fails_is_named_with_its_error_and_ends_the_machine(lab, name):
    lab.compile(fail=name)

    done = lab.run(lab.spec())

    assert done.returncode == STATUS
    assert f"cannot call {name}" in done.stderr
    assert "ENOENT" in done.stderr
    assert lab.calls[-1].split()[0] == name


def test_a_library_that_cannot_keep_the_guest_off_the_network_is_refused(lab):
    lab.compile(until=16)

    done = lab.run(lab.spec())

    assert done.returncode == STATUS
    assert "it has no krun_add_vsock, which libkrun 1.17 and later have" in done.stderr
    assert not any(call.startswith("krun_start_enter") for call in lab.calls)


def test_an_older_library_starts_a_machine_that_shares_the_network(lab):
    lab.compile(until=12)

    lab.run(lab.spec(is_network_shared=True))

    assert [call.split()[0] for call in lab.calls] == [
        *("krun_set_log_level", "krun_create_ctx", "krun_set_vm_config", "krun_set_kernel", "krun_add_disk"),
        *("krun_add_disk", "krun_add_vsock_port", "krun_set_port_map", "krun_start_enter"),
    ]


def test_a_library_without_kernels_of_others_is_too_old(lab):
    lab.compile(until=10)

    done = lab.run(lab.spec())

    assert "it has no krun_set_kernel, which libkrun 1.11 and later have" in done.stderr


def test_a_share_for_reading_is_never_given_by_a_function_that_lets_write(lab):
    lab.compile(until=17)
    shares = (Share(tag="krun0", directory=4, is_read_only=True),)

    done = lab.run(lab.spec(shares=shares))

    assert "it has no krun_add_virtiofs3" in done.stderr
    assert not any("virtiofs" in call for call in lab.calls)


def test_a_library_with_the_interface_of_version_2_is_refused(lab):
    lab.compile(source=OF_VERSION_2)

    done = lab.run(lab.spec())

    assert "its interface is that of version 2" in done.stderr


def test_a_file_that_is_no_library_is_refused(lab):
    Path(lab.library).write_text("nothing")

    done = lab.run(lab.spec())

    assert done.returncode == STATUS
    assert f"cannot load {lab.library}" in done.stderr


def test_a_library_that_panics_ends_its_own_process_only(lab):
    lab.compile(source=ABORTS)

    done = lab.run(lab.spec())

    assert done.returncode == -6


def test_a_machine_in_tdx_boots_its_bundle_with_the_interrupt_controller_split(lab):
    lab.compile(tee=True)
    bundle = shutil.copy(lab.library, lab.folder / "libkrunfw-tdx.so.5")
    tee = TeeLaunch(bundle=str(bundle), config_fd=4)

    lab.run(lab.spec(Flavour.TDX, kernel_fd=None, tee=tee))

    calls = [call.split(" ", 1)[0] for call in lab.calls]
    assert calls[2:5] == ["krun_set_vm_config", "krun_set_tee_config_file", "krun_split_irqchip"]
    assert "krun_set_kernel" not in calls
    assert "krun_set_tee_config_file 7 /proc/self/fd/44" in lab.calls


def test_a_machine_in_sev_whose_bundle_is_missing_does_not_start(lab):
    lab.compile(tee=True)
    tee = TeeLaunch(bundle="/nowhere/libkrunfw-sev.so.5", config_fd=4)

    done = lab.run(lab.spec(Flavour.SEV, kernel_fd=None, tee=tee))

    assert "cannot load /nowhere/libkrunfw-sev.so.5" in done.stderr
    assert not lab.calls
