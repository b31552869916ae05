"""What a launch of libkrun in SEV-SNP is explained from, without its files."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krunpy.core.errors import FormatError
from krunpy.core.octets import LaunchDigest
from krunpy.formats.vmsa_libkrun import VmsaVariant
from krunpy.guest.bundle import build_bundle, describe_bundle
from krunpy.measure.libkrun import predict_libkrun_digest
from krunpy.measure.libkrun_description import (
    find_bundle_explanation,
    is_bundle_description,
    list_variants,
    parse_bundle_description,
    predict_bundle,
)
from krunpy.runtime.predict import describe_bundle_launch
from tests.fakes.krun_sev import KERNEL
from tests.fakes.qboot import make_qboot

QBOOT = make_qboot(0x10009A3)
BUNDLE = build_bundle(KERNEL, QBOOT, agent=b"agent", manifest=b"{}")
DESCRIBED = describe_bundle_launch(BUNDLE, cpus=2, memory_mib=512, name="guest x")


@pytest.mark.parametrize("variant", VmsaVariant)
def test_a_description_predicts_what_the_bundle_itself_does(variant: VmsaVariant) -> None:
    launch = replace(describe_bundle(BUNDLE, vcpus=2, memory_mib=512), variant=variant)

    assert predict_bundle(replace(DESCRIBED, variant=variant)) == predict_libkrun_digest(launch)


def test_the_variants_are_three_and_the_newest_comes_first() -> None:
    assert [item.variant for item in list_variants(DESCRIBED)] == list("CBA")


def test_a_description_is_read_back() -> None:
    value = DESCRIBED.to_dict()

    assert is_bundle_description(value)
    assert parse_bundle_description(value) == DESCRIBED


@given(
    name=st.sampled_from(sorted(DESCRIBED.to_dict())),
    value=st.none() | st.integers() | st.text(max_size=8) | st.just({}),
)
def test_a_description_that_is_none_is_refused(name: str, value: object) -> None:
    changed = {**DESCRIBED.to_dict(), name: value}

    try:
        parse_bundle_description(changed)
    except FormatError:
        return
    assert name in ("vcpus", "memory_mib", "initrd_bytes", "vmsa")  # another machine, described well


@pytest.mark.parametrize("value", [None, [], {}, {**DESCRIBED.to_dict(), "more": 1}])
def test_what_has_other_members_is_refused(value: object) -> None:
    with pytest.raises(FormatError):
        parse_bundle_description(value)


@pytest.mark.parametrize(
    ("launched", "inputs"),
    [
        ({"vcpus": 3}, {"vcpus": ("2", "3")}),
        ({"memory_mib": 1024}, {"memory_mib": ("512", "1024")}),
        ({"vcpus": 1, "memory_mib": 4096}, {"vcpus": ("2", "1"), "memory_mib": ("512", "4096")}),
        ({"variant": VmsaVariant.B}, {"variant": ("C", "B")}),
    ],
)
def test_another_machine_is_explained(launched: dict, inputs: dict) -> None:
    seen = predict_bundle(replace(DESCRIBED, **launched))

    found = find_bundle_explanation(seen, DESCRIBED, ())

    assert found is not None
    assert {each.input: (each.registered, each.explains) for each in found} == inputs


def test_another_initrd_is_explained_if_this_host_knows_it_and_by_that_alone() -> None:
    other = build_bundle(KERNEL, QBOOT, agent=b"another agent", manifest=b"{}")
    known = describe_bundle_launch(other, cpus=1, memory_mib=777, name="guest y")
    seen = predict_bundle(replace(known, vcpus=2, memory_mib=512))

    found = find_bundle_explanation(seen, DESCRIBED, [known])

    assert found is not None
    assert [each.input for each in found] == ["initrd"]
    assert "guest y" in found[0].explains
    assert find_bundle_explanation(seen, DESCRIBED, ()) is None


def test_a_digest_of_nothing_known_is_not_explained() -> None:
    assert find_bundle_explanation(LaunchDigest(bytes(48)), DESCRIBED, ()) is None
