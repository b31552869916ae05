import os

import pytest

from krunpy.vmm.files import make_sealed_file, read_sealed_file
from krunpy.vmm.qemu import build_argv
from krunpy.vmm.spec import Accel, VmSpec

SPEC = VmSpec(
    accel=Accel.TCG, memory_mib=300, cpus=2, cmdline="quiet a=b", firmware_fd=0, kernel_fd=1, initrd_fd=2, channel_fd=3,
    disk_fd=4,
)  # fmt: skip


def value_after(argv, option):
    return argv[argv.index(option) + 1]


def test_the_machine_is_what_was_asked_for():
    argv = build_argv(SPEC, "/q")

    assert argv[0] == "/q"
    assert value_after(argv, "-m") == "300M"
    assert value_after(argv, "-smp") == "2"
    assert value_after(argv, "-append") == "quiet a=b"
    assert value_after(argv, "-kernel") == "/proc/self/fd/{fd1}"
    assert value_after(argv, "-cpu") == "max,erms=off,la57=off"


def test_the_disk_is_read_only_and_can_be_left_out():
    assert "readonly=on" in value_after(build_argv(SPEC, "/q"), "-drive")
    from dataclasses import replace

    assert "-drive" not in build_argv(replace(SPEC, disk_fd=None), "/q")


def test_nothing_of_the_users_configuration_and_no_device_by_default():
    argv = build_argv(SPEC, "/q")

    assert {"-nodefaults", "-no-user-config", "-no-reboot"} <= set(argv)


def test_qemu_locks_itself_in():
    sandbox = value_after(build_argv(SPEC, "/q"), "-sandbox")

    assert sandbox.startswith("on,")
    assert {"elevateprivileges=deny", "spawn=deny"} <= set(sandbox.split(","))


def test_a_sealed_file_reads_back_and_cannot_be_changed():
    descriptor = make_sealed_file("x", b"contents" * 1000)
    try:
        assert read_sealed_file(descriptor) == b"contents" * 1000
        with pytest.raises(OSError):
            os.pwrite(descriptor, b"y", 0)
        with pytest.raises(OSError):
            os.ftruncate(descriptor, 1)
        with pytest.raises(OSError):
            os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_TRUNC)
    finally:
        os.close(descriptor)
