"""Whatever a dishonest host changes of a bundle of libkrun's is measured."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from krunpy.core.errors import UsageError
from krunpy.core.octets import LaunchDigest, PublicKey32
from krunpy.formats.manifest import ManifestIn
from krunpy.guest.payload import VmmKind, assemble_payload, load_guest
from krunpy.runtime.predict import predict_bundled
from krunpy.runtime.prepare import predict
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
        guest_name="x",
        payload=assemble_payload(guest, manifest),
    )


def digests_of(payload):
    return {item.digest for item in predict_bundled(payload, cpus=1, memory_mib=512, name="x")}


@pytest.mark.parametrize("kind", [Tamper.KERNEL, Tamper.INITRD, Tamper.MANIFEST])
def test_a_changed_part_has_none_of_the_registered_digests(drafted, kind):
    changed = tamper_payload(drafted, kind)

    assert not digests_of(changed) & digests_of(drafted.payload)


def predicted(drafted, payload):
    return {item.digest for item in predict(drafted, payload, cpus=1, memory_mib=512)}


def test_the_digest_that_the_build_kept_of_firmware_and_kernel_is_that_of_their_bytes(drafted):
    assert drafted.guest.folded is not None

    assert predicted(drafted, drafted.payload) == digests_of(drafted.payload)


@pytest.mark.parametrize("kind", [Tamper.KERNEL, Tamper.INITRD, Tamper.MANIFEST])
def test_what_a_changed_payload_is_described_as_comes_from_its_own_bytes(drafted, kind):
    changed = tamper_payload(drafted, kind)

    assert predicted(drafted, changed) == digests_of(changed)


def test_the_kept_digest_is_what_the_prediction_begins_with(drafted):
    other = SimpleNamespace(**vars(drafted))
    other.guest = replace(drafted.guest, folded=LaunchDigest(bytes(48)))

    assert not predicted(other, drafted.payload) & digests_of(drafted.payload)


def test_there_is_no_command_line_to_change(drafted):
    with pytest.raises(UsageError, match="built into this kernel"):
        tamper_payload(drafted, Tamper.CMDLINE)
