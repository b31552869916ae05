"""The boot volume of libkrun's guests, read back by a reader that shares no code with the writer."""

from __future__ import annotations

import stat

import pytest
from disk_fakes import ErofsReader

from krunpy.guest.libkrun import CMDLINE, build_boot_volume
from krunpy.guest.payload import Guest, VmmKind, assemble_class_payload, assemble_payload
from krunpy.runtime.predict import describe_launch
from krunpy.tee.detect import TeeKind

AGENT = b"\x7fELF" + bytes(range(256)) * 40
MANIFEST = b'{"version":1}'


def read(volume: bytes) -> dict[bytes, tuple[int, bytes]]:
    """Return mode and contents by path."""
    return {path: (entry[0], entry[7]) for path, entry in ErofsReader(volume).flatten().items()}


def test_the_volume_holds_agent_manifest_and_mount_points() -> None:
    entries = read(build_boot_volume(AGENT, MANIFEST))

    assert entries == {
        b"": (stat.S_IFDIR | 0o755, b""),
        **dict.fromkeys((b"/dev", b"/proc", b"/run", b"/sys"), (stat.S_IFDIR | 493, b"")),
        b"/init": (stat.S_IFREG | 0o755, AGENT),
        b"/manifest.json": (stat.S_IFREG | 0o444, MANIFEST),
    }


def test_a_class_has_no_manifest_in_it() -> None:
    assert b"/manifest.json" not in read(build_boot_volume(AGENT, None))


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, 256 * 1024])
def test_manifests_of_every_size_are_whole(size: int) -> None:
    manifest = bytes(at % 251 for at in range(size))

    volume = build_boot_volume(AGENT, manifest)

    assert len(volume) % 4096 == 0
    assert read(volume)[b"/manifest.json"][1] == manifest


def test_equal_inputs_give_equal_bytes_and_others_do_not() -> None:
    volume = build_boot_volume(AGENT, MANIFEST)

    assert build_boot_volume(AGENT, MANIFEST) == volume
    assert build_boot_volume(AGENT, MANIFEST + b" ") != volume
    assert build_boot_volume(AGENT[:-1] + b"\0", MANIFEST) != volume


def test_the_kernel_is_told_to_start_the_agent_from_the_volume_read_only() -> None:
    assert {"root=/dev/vda", "rootfstype=erofs", "ro", "init=/init"} <= set(CMDLINE.split())


def make_guest() -> Guest:
    return Guest(
        tee=TeeKind.SOFTWARE, vmm=VmmKind.LIBKRUN, folder="", release="6.12", cmdline=CMDLINE, kernel=b"kernel",
        base=AGENT, firmware=b"", recorded={},
    )  # fmt: skip


def test_what_is_launched_and_measured_is_the_volume() -> None:
    payload = assemble_payload(make_guest(), MANIFEST)

    described = describe_launch(payload, cpus=1, name="build")

    assert (payload.firmware, payload.initrd) == (b"", build_boot_volume(AGENT, MANIFEST))
    assert described.layout == "libkrun"
    assert assemble_class_payload(make_guest()).initrd == build_boot_volume(AGENT, None)
