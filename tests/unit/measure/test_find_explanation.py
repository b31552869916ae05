"""A digest that was not registered is explained by the inputs that differ."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krunpy.core.errors import FormatError
from krunpy.core.octets import LaunchDigest
from krunpy.measure.description import (
    LaunchDescription,
    measure_cmdline,
    measure_file,
    measure_firmware,
    parse_description,
    predict_described,
)
from krunpy.measure.explain import Candidates, find_explanation
from krunpy.measure.kernel_hashes import hash_direct_boot
from krunpy.measure.launch import LaunchInputs, Layout, predict_snp_digest
from tests.fakes.firmware import build_sev_firmware

FIRMWARE = build_sev_firmware()
REGISTERED = LaunchDescription(
    layout=Layout.SEV_METADATA,
    firmware=measure_firmware("OVMF.fd", FIRMWARE),
    kernel=measure_file("vmlinuz-6.1", b"kernel"),
    initrd=measure_file("initrd-a", b"initrd"),
    cmdline=measure_cmdline("console=ttyS0"),
    vcpus=1,
)
OTHERS = {
    "cmdline": measure_cmdline("console=ttyS0 debug"),
    "kernel": measure_file("vmlinuz-6.12", b"newer kernel"),
    "initrd": measure_file("initrd-b", b"newer initrd"),
    "firmware": measure_firmware("OVMF-new.fd", build_sev_firmware(12288)),
}
CANDIDATES = Candidates(
    cmdlines=(REGISTERED.cmdline, OTHERS["cmdline"]),
    kernels=(REGISTERED.kernel, OTHERS["kernel"]),
    initrds=(OTHERS["initrd"],),
    firmwares=(measure_firmware("plain", bytes(4096)), OTHERS["firmware"]),
)


def explain(**changes: object) -> dict[str, tuple[str, str]] | None:
    seen = predict_described(replace(REGISTERED, **changes))
    found = find_explanation(seen, REGISTERED, CANDIDATES)
    return None if found is None else {item.input: (item.registered, item.explains) for item in found}


def test_a_description_predicts_what_its_files_predict() -> None:
    inputs = LaunchInputs(
        firmware=FIRMWARE,
        layout=Layout.SEV_METADATA,
        kernel_hashes=hash_direct_boot(b"kernel", b"initrd", "console=ttyS0"),
        vcpus=1,
    )

    assert predict_described(REGISTERED) == predict_snp_digest(inputs)


@pytest.mark.parametrize(
    ("field", "value"),
    [("vcpus", 16), ("vcpu_type", "EPYC-Genoa"), ("guest_features", 0x21), *OTHERS.items()],
)
def test_one_changed_input_is_named(field: str, value: object) -> None:
    found = explain(**{field: value})

    assert found is not None
    assert list(found) == [field]
    assert str(getattr(value, "name", value)) in found[field][1]


def test_two_changed_inputs_are_named() -> None:
    found = explain(vcpus=4, kernel=OTHERS["kernel"])

    assert found is not None
    assert set(found) == {"vcpus", "kernel"}
    assert found["vcpus"] == ("1", "4")
    assert "vmlinuz-6.1 " in found["kernel"][0]


def test_three_changed_inputs_are_not_explained() -> None:
    assert explain(vcpus=4, kernel=OTHERS["kernel"], cmdline=OTHERS["cmdline"]) is None


def test_the_search_ends_at_its_limit() -> None:
    seen = predict_described(replace(REGISTERED, vcpus=16))

    assert find_explanation(seen, REGISTERED, CANDIDATES, limit=3) is None
    assert find_explanation(seen, REGISTERED, CANDIDATES, limit=15) is not None


def test_a_launch_without_a_kernel_is_not_explained_by_kernels() -> None:
    bare = replace(REGISTERED, kernel=None, initrd=None, cmdline=None)

    assert find_explanation(predict_described(replace(bare, vcpus=2)), bare, CANDIDATES) is not None
    assert find_explanation(LaunchDigest(bytes(48)), bare, CANDIDATES) is None


@pytest.mark.parametrize(
    "described",
    [
        REGISTERED,
        replace(REGISTERED, kernel=None, initrd=None, cmdline=None),
        replace(REGISTERED, layout=Layout.PLAIN, firmware=measure_firmware("bios", bytes(4096))),
    ],
)
def test_a_description_is_read_as_it_was_written(described: LaunchDescription) -> None:
    assert parse_description(json.loads(json.dumps(described.to_dict()))) == described


@pytest.mark.parametrize(
    "change",
    [
        {"layout": "other"},
        {"vmm": "bhyve"},
        {"vcpus": 0},
        {"vcpus": True},
        {"unknown": 1},
        {"kernel": {"name": "k", "sha256": "AB" * 32}},
        {"firmware": {"name": "f", "sha256": "00" * 32, "folded": "00" * 47}},
    ],
)
def test_a_broken_description_is_refused(change: dict) -> None:
    with pytest.raises(FormatError):
        parse_description(REGISTERED.to_dict() | change)


@pytest.mark.parametrize("field", ["kernel", "initrd", "cmdline"])
def test_a_description_with_half_a_kernel_is_refused(field: str) -> None:
    document = REGISTERED.to_dict()
    del document[field]

    with pytest.raises(FormatError, match="belong together"):
        parse_description(document)


def test_an_unknown_section_in_a_description_is_refused() -> None:
    document = REGISTERED.to_dict()
    document["firmware"]["sections"][0]["type"] = 9

    with pytest.raises(FormatError, match="section type 9"):
        parse_description(document)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(st.sampled_from(list(REGISTERED.to_dict())), inner, max_size=9)
        ),
        max_leaves=8,
    )
)
def test_any_value_is_a_description_or_a_format_error(value: object) -> None:
    try:
        parse_description(value)
    except FormatError:
        pass
