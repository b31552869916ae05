"""TDX parts agree with what others made: Debian's firmware, and the signature on Debian's kernel."""

import os
from hashlib import sha256, sha384
from pathlib import Path

import pytest

from krunpy.formats.authenticode import list_hashed_parts
from krunpy.formats.eventlog import parse_ccel
from krunpy.formats.tdvf import TdvfType, find_configuration, parse_tdvf
from krunpy.measure.tdx_mrtd import PageOrder, predict_mrtd
from krunpy.measure.tdx_rtmr import KernelForm, make_measured_kernel, predict_rtmr1

OVMF, VARIABLES = Path("/usr/share/ovmf/OVMF.fd"), Path("/usr/share/OVMF/OVMF_VARS.fd")
VARIABLES_4M = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
DEFAULT = Path(__file__).resolve().parents[2].parent / "shared" / "vectors"
LOG = Path(os.environ.get("KRUNPY_VECTORS") or DEFAULT) / "eventlog" / "ovmf-direct-boot-ccel.bin"
EFI_PLATFORM_FIRMWARE_BLOB2 = 0x8000000A
GUESTS = Path(os.environ.get("KRUNPY_GUEST_DIR") or "/var/lib/krunpy/guest")


def find_kernels() -> list[Path]:
    return [*Path("/boot").glob("vmlinuz-*"), *GUESTS.glob("builds/*/vmlinuz")]


@pytest.mark.skipif(
    not VARIABLES.exists() or not OVMF.exists(), reason="no OVMF.fd: install the package ovmf"
)
def test_installed_firmware_has_the_variables_that_are_shipped_beside_it() -> None:
    image = OVMF.read_bytes()

    sections = parse_tdvf(image)

    assert find_configuration(sections) == VARIABLES.read_bytes()
    assert {section.kind for section in sections} >= {TdvfType.BFV, TdvfType.CFV, TdvfType.TD_HOB}
    assert len({predict_mrtd(image, order) for order in PageOrder}) == 2


@pytest.mark.skipif(
    not VARIABLES_4M.exists() or not LOG.exists(),
    reason="no OVMF_VARS_4M.fd or no vectors: set KRUNPY_VECTORS",
)
def test_a_real_boot_measured_the_configuration_volume_that_debian_ships() -> None:
    events = parse_ccel(LOG.read_bytes())

    blobs = [event.digest for event in events if event.kind == EFI_PLATFORM_FIRMWARE_BLOB2]

    assert blobs == [sha384(VARIABLES_4M.read_bytes()).digest()]


@pytest.mark.skipif(not find_kernels(), reason="no kernel: run `krunpy guest build`")
def test_an_installed_kernel_has_the_authenticode_digest_that_its_signature_names() -> None:
    for path in find_kernels():
        image = path.read_bytes()
        digest = sha256(b"".join(list_hashed_parts(image))).digest()

        signed = digest in image
        if b"Debian Secure Boot" in image:
            assert signed, path
        forms = {
            predict_rtmr1(make_measured_kernel(image, form, initrd_size=1 << 20, memory_size=1 << 30))
            for form in KernelForm
        }
        assert len(forms) == 2
