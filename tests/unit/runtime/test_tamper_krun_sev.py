"""Whatever a dishonest host changes of a bundle of libkrun's is measured."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from krunpy.core.errors import UsageError
from krunpy.core.octets import PublicKey32
from krunpy.formats.manifest import ManifestIn
from krunpy.guest.payload import VmmKind, assemble_payload, load_guest
from krunpy.runtime.predict import predict_bundled
from krunpy.runtime.tamper import Tamper, tamper_payload
from krunpy.tee.detect import TeeKind
from tests.fakes.guest import make_manifest
from tests.fakes.guest_build import build_guest


@pytest.fixture
def drafted(tmp_path):
    build_guest(tmp_path, krun_sev=True)
    guest = load_guest(str(tmp_path), tee=TeeKind.SNP, vmm=VmmKind.LIBKRUN)
    manifest = make_manifest(PublicKey32(bytes(32)), tees=("snp",))
    return SimpleNamespace(
        guest=guest,
        manifest=manifest,
        manifest_in=ManifestIn.INITRD,
        payload=assemble_payload(guest, manifest),
    )


def digests_of(payload):
    return {item.digest for item in predict_bundled(payload, cpus=1, memory_mib=512, name="x")}


@pytest.mark.parametrize("kind", [Tamper.KERNEL, Tamper.INITRD, Tamper.MANIFEST])
def test_a_changed_part_has_none_of_the_registered_digests(drafted, kind):
    changed = tamper_payload(drafted, kind)

    assert not digests_of(changed) & digests_of(drafted.payload)


def test_there_is_no_command_line_to_change(drafted):
    with pytest.raises(UsageError, match="built into this kernel"):
        tamper_payload(drafted, Tamper.CMDLINE)
