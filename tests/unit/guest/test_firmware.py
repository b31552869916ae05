"""The firmware of hardware TEEs: what fits, where it is found, and a guest that has it or not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from krunpy.core.errors import FormatError, HostError
from krunpy.guest.firmware import HARDWARE, PATHS, find_firmware, load_firmware, require_fit
from krunpy.guest.payload import assemble_payload, load_guest, require_unchanged
from krunpy.tee.detect import TeeKind
from tests.fakes.firmware import AMD_SEV_SECTIONS, build_firmware, build_sev_firmware
from tests.fakes.guest_build import FITTING, build_guest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("kind", HARDWARE)
def test_a_firmware_fits_its_own_tee_alone(kind: TeeKind) -> None:
    for other, firmware in FITTING.items():
        if other is kind:
            require_fit(kind, firmware)
        else:
            with pytest.raises(FormatError, match="metadata"):
                require_fit(kind, firmware)


@pytest.mark.parametrize(
    "firmware",
    [
        build_firmware(sections=AMD_SEV_SECTIONS),
        build_firmware(
            sections=[item for item in AMD_SEV_SECTIONS if item[0] != 0x10], hash_table_gpa=0x810400
        ),
    ],
)
def test_an_snp_firmware_that_would_boot_any_kernel_is_refused(firmware: bytes) -> None:
    with pytest.raises(FormatError, match="what it boots would not be measured"):
        require_fit(TeeKind.SNP, firmware)


def test_a_named_file_that_does_not_fit_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "seabios.bin").write_bytes(bytes(8192))

    for kind in HARDWARE:
        with pytest.raises(FormatError, match=rf"seabios\.bin for {kind}"):
            load_firmware(kind, str(tmp_path / "seabios.bin"))


@pytest.mark.parametrize("kind", HARDWARE)
def test_the_first_installed_firmware_that_fits_is_taken_and_others_are_named(
    kind: TeeKind, tmp_path: Path
) -> None:
    notes: list[str] = []
    assert find_firmware(kind, note=notes.append, root=str(tmp_path)) is None
    first, second = (tmp_path / path[1:] for path in PATHS[kind][:2])
    for path in (first, second):
        path.parent.mkdir(parents=True, exist_ok=True)
    first.write_bytes(bytes(8192))
    second.write_bytes(FITTING[kind])

    assert find_firmware(kind, note=notes.append, root=str(tmp_path)) == (PATHS[kind][1], FITTING[kind])
    assert len(notes) == 1
    assert str(first) in notes[0]


@pytest.mark.parametrize("kind", HARDWARE)
def test_a_guest_boots_each_tee_with_its_own_firmware_and_the_same_rest(
    kind: TeeKind, tmp_path: Path
) -> None:
    build_guest(tmp_path, *HARDWARE)

    plain, guest = load_guest(str(tmp_path)), load_guest(str(tmp_path), tee=kind)
    require_unchanged(guest)
    before, payload = (assemble_payload(item, b"{}") for item in (plain, guest))

    assert (plain.tee, plain.firmware) == (TeeKind.SOFTWARE, bytes(8192))
    assert (guest.tee, payload.firmware) == (kind, FITTING[kind])
    assert (payload.kernel, payload.initrd, payload.cmdline) == (before.kernel, before.initrd, before.cmdline)


@pytest.mark.parametrize("kind", HARDWARE)
def test_a_guest_without_the_firmware_is_refused_with_the_packages_name(
    kind: TeeKind, tmp_path: Path
) -> None:
    build_guest(tmp_path)

    load_guest(str(tmp_path))
    with pytest.raises(HostError, match=f"without a firmware for {kind}") as caught:
        load_guest(str(tmp_path), tee=kind)
    assert "apt-get install ovmf" in caught.value.next
    assert f"--{kind}-firmware FILE" in caught.value.next


def test_a_firmware_that_changed_since_the_build_is_refused(tmp_path: Path) -> None:
    build_guest(tmp_path, TeeKind.SNP)
    (tmp_path / "current/firmware-snp.fd").write_bytes(build_sev_firmware(16384))

    require_unchanged(load_guest(str(tmp_path)))
    with pytest.raises(HostError, match="firmware-snp"):
        require_unchanged(load_guest(str(tmp_path), tee=TeeKind.SNP))


def test_guests_of_earlier_versions_are_still_loaded(tmp_path: Path) -> None:
    build_guest(tmp_path)
    path = tmp_path / "current/guest.json"

    assert "firmwares" not in json.loads(path.read_text())
    assert load_guest(str(tmp_path)).firmware == bytes(8192)
