"""What explains the launch digest of a machine of libkrun in SEV-SNP on this host."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from krunpy.cli.neighbours import explain_digest
from krunpy.core.settings import Settings
from krunpy.guest.bundle import open_payload
from krunpy.guest.payload import VmmKind, assemble_payload, load_guest
from krunpy.measure.libkrun_description import list_variants, predict_bundle
from krunpy.runtime.kept import keep_description
from krunpy.runtime.predict import describe_bundle_launch
from krunpy.tee.detect import TeeKind
from tests.fakes.guest_build import build_guest

if TYPE_CHECKING:
    from pathlib import Path

    from krunpy.measure.libkrun_description import BundleDescription

MANIFEST = b'{"a":1}'


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    build_guest(tmp_path / "guest", krun_sev=True)
    return Settings(data_dir=str(tmp_path), cache_dir="", guest_dir=str(tmp_path / "guest"))


def describe(settings: Settings, manifest: bytes = MANIFEST) -> BundleDescription:
    guest = load_guest(settings.guest_dir, tee=TeeKind.SNP, vmm=VmmKind.LIBKRUN)
    bundle = open_payload(assemble_payload(guest, manifest))
    return describe_bundle_launch(bundle, cpus=2, memory_mib=512, name="guest x")


def record(described: BundleDescription, launched: BundleDescription) -> dict[str, object]:
    values = [{"inputs": item.to_dict()} for item in list_variants(described)]
    return {"launch_digest": predict_bundle(launched).hex(), "reference_values": values}


def test_other_vcpus_and_memory_explain_it_and_the_three_variants_are_one_launch(settings: Settings) -> None:
    described = describe(settings)

    found, tried = explain_digest(
        settings, record(described, replace(described, vcpus=4, memory_mib=1024)), MANIFEST
    )

    assert found is not None
    assert {(each.input, each.registered, each.explains) for each in found} == {
        ("vcpus", "2", "4"),
        ("memory_mib", "512", "1024"),
    }
    assert tried == 1


def test_a_guest_that_was_rebuilt_explains_it(settings: Settings, tmp_path: Path) -> None:
    described = describe(settings)
    build_guest(tmp_path / "guest", krun_sev=True, agent=b"another agent")
    launched = describe(settings)

    found, _ = explain_digest(settings, record(described, launched), MANIFEST)

    assert found is not None
    assert [each.input for each in found] == ["initrd"]


def test_what_this_host_kept_of_a_launch_explains_it(settings: Settings) -> None:
    described, launched = describe(settings), replace(describe(settings, b"{}"), memory_mib=555)
    keep_description(settings, launched, predict_bundle(launched).hex())

    found, _ = explain_digest(settings, record(described, launched), MANIFEST)

    assert found is not None
    assert [each.input for each in found] == ["initrd", "memory_mib"]


def test_what_nothing_explains_stays_unexplained(settings: Settings) -> None:
    described = describe(settings)

    found = explain_digest(settings, record(described, describe(settings, b"{}")), MANIFEST)

    assert found == (None, 1)
