"""The process of one machine, with a libkrun that writes down how it is called."""

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from krunpy.core.errors import HostError
from krunpy.formats.krun_bundle import SONAMES, pack_bundle
from krunpy.formats.krun_tee_config import encode_tee_config
from krunpy.guest.bundle import build_bundle
from krunpy.vmm.files import make_sealed_file
from krunpy.vmm.libkrun_child import STATUS
from krunpy.vmm.libkrun_features import Feature, load_features, require_sev
from krunpy.vmm.libkrun_spec import Flavour, Share, TeeLaunch
from tests.fakes.krun_sev import KERNEL, fnv
from tests.fakes.qboot import make_qboot

SOURCE = Path(__file__).parent / "fake_libkrun.c"
BUNDLE = build_bundle(KERNEL, make_qboot(0x10009A3), agent=b"agent", manifest=b"{}")
OF_VERSION_2 = "int krun_payload_load_krunfw(void) { return 0; }"
ABORTS = """\
#include <stdlib.h>
int krun_create_ctx(void) { abort(); }
int krun_set_log_level(int level) { return 0; }
"""


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


def may_lock(mib):
    """Return 1 if a process started here can be allowed to lock so much memory, else 0."""
    trial = f"import resource; resource.setrlimit(resource.RLIMIT_MEMLOCK, ({mib} << 20, {mib} << 20))"
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if resource.RLIM_INFINITY in (soft, hard) or hard >= mib << 20:
        return 1
    return int(
        subprocess.run([sys.executable, "-c", trial], capture_output=True, check=False).returncode == 0
    )


@pytest.fixture
def files():
    """Return the descriptors of a bundle and of a configuration, as the launcher hands them over."""
    opened = [
        make_sealed_file("bundle", pack_bundle(BUNDLE, SONAMES[0])),
        make_sealed_file("tee", encode_tee_config(workload="w", cpus=2, memory_mib=300)),
    ]
    yield opened
    for descriptor in opened:
        os.close(descriptor)


def in_a_tee(lab, files, flavour=Flavour.SEV, under=()):
    tee = {"kernel_fd": None, "boot_fd": None, "cmdline": "", "tee": TeeLaunch(bundle_fd=4, config_fd=5)}
    return lab.run(lab.spec(flavour, **tee), at={4: files[0], 5: files[1]}, under=under)


def test_a_machine_in_sev_loads_its_bundle_first_and_is_configured_in_one_order(lab, files):
    lab.compile(tee=True)

    done = in_a_tee(lab, files)

    assert lab.calls == [
        "krun_init_log -1 1 2 1",
        "krun_create_ctx",
        f"krunfw_get_kernel 1000000 1000123 65536 {fnv(BUNDLE.kernel.image):08x}",
        f"krunfw_get_initrd {len(BUNDLE.initrd)} {fnv(BUNDLE.initrd):08x}",
        f"krunfw_get_qboot 65536 {fnv(BUNDLE.qboot):08x}",
        "krun_set_vm_config 7 2 300",
        f"krun_set_tee_config_file 7 /proc/self/fd/{files[1]}",
        "krun_disable_implicit_console 7",
        "krun_add_virtio_console_default 7 -1 -1 -1",
        "krun_add_disk 7 disk /proc/self/fd/43 1",
        "krun_disable_implicit_vsock 7",
        "krun_add_vsock 7 0",
        "krun_add_vsock_port 7 27506 /proc/self/fd/42",
        'config {"workload_id":"w","cpus":2,"ram_mib":300,"tee":"snp","tee_data":"","attestation_url":""}',
        f"memlock {may_lock(301)}",
        "krun_start_enter 7 RUST_LOG=NULL HOSTNAME=NULL",
    ], done.stderr


LITTLE = ("sh", "-c", 'ulimit -l 1024 && exec setpriv --bounding-set=-sys_resource "$@"', "sh")


@pytest.mark.skipif(not shutil.which("setpriv"), reason="setpriv is missing: apt-get install util-linux")
def test_a_machine_in_sev_whose_memory_may_not_be_locked_says_so_before_libkrun_fails(lab, files):
    lab.compile(tee=True)

    done = in_a_tee(lab, files, under=LITTLE)

    assert "this user may lock 1 MiB, and KVM pins all 301 MiB" in done.stderr
    assert "memlock 0" in lab.calls


@pytest.mark.skipif(not shutil.which("setpriv"), reason="setpriv is missing: apt-get install util-linux")
def test_a_plain_machine_locks_nothing(lab):
    lab.compile()

    assert "lock" not in lab.run(lab.spec(), under=LITTLE).stderr


def test_a_machine_in_tdx_has_its_interrupt_controller_split(lab, files):
    lab.compile(tee=True)

    in_a_tee(lab, files, Flavour.TDX)

    assert "krun_split_irqchip 7 1" in lab.calls
    assert not any(call.startswith("krun_set_kernel") for call in lab.calls)


def test_a_machine_in_sev_whose_bundle_is_no_library_does_not_start(lab, files):
    lab.compile(tee=True)

    done = in_a_tee(lab, [files[1], files[1]])

    assert done.returncode == STATUS
    assert f"cannot load /proc/self/fd/{files[1]}" in done.stderr
    assert not lab.calls


def test_a_library_that_is_not_for_a_tee_gets_no_machine_in_one(lab, files):
    lab.compile()

    done = in_a_tee(lab, files)

    assert done.returncode == STATUS
    assert "it has no krun_set_tee_config_file" in done.stderr
    assert not any(call.startswith("krun_start_enter") for call in lab.calls)


@pytest.mark.parametrize(("features", "seen"), [(0x01, "no TEE at all"), (0x40, "TEE, wanted"), (0xC0, "")])
def test_only_a_library_that_says_so_itself_is_for_sev(lab, features, seen):
    lab.compile(features=features)

    if not seen:
        require_sev(lab.library)
        assert load_features(lab.library) == {Feature.TEE, Feature.AMD_SEV}
        return
    with pytest.raises(HostError, match=seen) as caught:
        require_sev(lab.library)

    assert "KRUNPY_LIBKRUN" in caught.value.next


def test_a_library_that_cannot_be_asked_is_too_old(lab):
    lab.compile(tee=True)

    with pytest.raises(HostError, match="has no krun_has_feature") as caught:
        load_features(lab.library)

    assert caught.value.what == f"cannot use {lab.library}"
    assert caught.value.next == "install libkrun 1.17.3 or later"
