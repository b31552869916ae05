"""Replay and RTMR prediction, on made-up logs and on the real ones of the vectors."""

import json
import os
from hashlib import sha384
from pathlib import Path
from uuid import UUID

import pytest

from krunpy.core.errors import EvidenceError, FormatError
from krunpy.core.octets import Digest48
from krunpy.formats.authenticode import hash_authenticode
from krunpy.formats.eventlog import Event, EventType, pack_ccel, parse_ccel
from krunpy.formats.tdx_quote import parse_tdx_quote
from krunpy.measure.replay import find_differences, replay_events, require_replay
from krunpy.measure.tdx_rtmr import (
    ZERO_REGISTER,
    EfiVariable,
    KernelForm,
    LoadOptionsForm,
    PinnedShape,
    extend,
    fold_digests,
    make_load_options,
    make_measured_kernel,
    pack_variable,
    predict_rtmr0,
    predict_rtmr1,
    predict_rtmr2,
)
from tests.fakes.pe import build_pe

DEFAULT = Path(__file__).resolve().parents[3].parent / "shared" / "vectors"
VECTORS = Path(os.environ.get("KRUNPY_VECTORS") or DEFAULT)
LOGS = VECTORS / "eventlog"
needs_vectors = pytest.mark.skipif(
    not LOGS.is_dir(), reason="no attestation vectors: set KRUNPY_VECTORS to their folder"
)
KERNEL = build_pe([b"text" * 64], setup=True)
GLOBAL = UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
ACTION_DIGESTS = tuple(
    sha384(part).digest()
    for part in (
        b"Calling EFI Application from Boot Option",
        bytes(4),
        b"Exit Boot Services Invocation",
        b"Exit Boot Services Returned with Success",
    )
)
SEPARATOR_DIGEST = ACTION_DIGESTS[1]
SECURITY = UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")


def event(register: int, kind: int, data: bytes) -> Event:
    return Event(register=register, kind=kind, digest=Digest48(sha384(data).digest()), data=data, hashed=data)


def test_each_event_extends_its_own_register() -> None:
    replay = replay_events([event(1, 4, b"a"), event(4, 4, b"b"), event(1, 4, b"c")])

    a, b, c = (sha384(data).digest() for data in (b"a", b"b", b"c"))
    assert replay.rtmrs[0] == sha384(sha384(bytes(48) + a).digest() + c).digest()
    assert replay.rtmrs[3] == sha384(bytes(48) + b).digest()
    assert replay.rtmrs[1:3] == (ZERO_REGISTER, ZERO_REGISTER)


@pytest.mark.parametrize("skipped", [event(1, EventType.NO_ACTION, b"a"), event(0, 4, b"a")])
def test_what_is_not_extended_changes_nothing_and_vouches_for_nothing(skipped: Event) -> None:
    replay = replay_events([skipped])

    assert replay.rtmrs == (ZERO_REGISTER,) * 4
    assert replay.vouched == ()


def test_an_event_whose_digest_is_over_other_bytes_is_not_vouched_for() -> None:
    told = event(2, 6, b"label")
    other = Event(register=2, kind=6, digest=told.digest, data=b"Label", hashed=b"Label")

    assert replay_events([told, other]).vouched == (told,)


def test_a_log_that_leads_elsewhere_is_dropped_whole() -> None:
    events = [event(register, 4, b"x") for register in (1, 2, 3, 4)]
    right = replay_events(events).rtmrs

    assert require_replay(events, right).rtmrs == right
    for index in range(4):
        wrong = (*right[:index], ZERO_REGISTER, *right[index + 1 :])
        assert find_differences(replay_events(events), wrong) == (index,)
        with pytest.raises(EvidenceError, match=f"RTMR{index}"):
            require_replay(events, wrong)


def test_a_cut_log_and_a_swapped_one_are_dropped() -> None:
    events = [event(1, 4, b"a"), event(1, 4, b"b")]
    right = replay_events(events).rtmrs

    for wrong in (events[:1], events[::-1], [*events, events[0]]):
        with pytest.raises(EvidenceError, match="RTMR0"):
            require_replay(wrong, right)


@needs_vectors
def test_real_logs_lead_to_their_registers() -> None:
    expected = json.loads((LOGS / "expected.json").read_text())

    assert expected
    for name, case in expected.items():
        events = parse_ccel((LOGS / name).read_bytes())
        assert [rtmr.hex() for rtmr in replay_events(events).rtmrs] == case["rtmr"], name
        if "quote" in case:
            require_replay(events, parse_tdx_quote((LOGS / case["quote"]).read_bytes()).td.rtmrs)


@needs_vectors
def test_a_flipped_bit_of_any_extended_digest_is_seen() -> None:
    events = parse_ccel((LOGS / "cos113-ccel.bin").read_bytes())
    right = replay_events(events).rtmrs

    for index, one in enumerate(events):
        if one.kind == EventType.NO_ACTION or not one.register:
            continue
        digest = Digest48(bytes([one.digest[0] ^ 1]) + one.digest[1:])
        changed = Event(register=one.register, kind=one.kind, digest=digest, data=one.data, hashed=one.data)
        with pytest.raises(EvidenceError):
            require_replay([*events[:index], changed, *events[index + 1 :]], right)


@needs_vectors
def test_a_direct_boot_has_the_events_that_prediction_folds_in_this_order() -> None:
    events = parse_ccel((LOGS / "ovmf-direct-boot-ccel.bin").read_bytes())
    kernel, *actions = [one for one in events if one.register == 2]

    assert kernel.kind == EventType.EFI_BOOT_SERVICES_APPLICATION
    # this firmware is so old that it extends the separator into RTMR0
    assert [one.digest for one in actions] == [
        digest for digest in ACTION_DIGESTS if digest != SEPARATOR_DIGEST
    ]
    assert [one.data[8:20] for one in events if one.register == 3] == [b"LOADED_IMAGE", b"Linux initrd"]


@needs_vectors
def test_the_separator_of_a_newer_boot_is_in_rtmr1() -> None:
    events = parse_ccel((LOGS / "cos113-ccel.bin").read_bytes())
    applications = {EventType.EFI_BOOT_SERVICES_APPLICATION}

    actions = [one.digest for one in events if one.register == 2 and one.digest in ACTION_DIGESTS]

    assert actions == list(ACTION_DIGESTS)
    assert [one for one in events if one.register == 2 and one.kind in applications]


@needs_vectors
def test_the_variables_of_a_real_boot_are_packed_as_firmware_does() -> None:
    events = parse_ccel((LOGS / "ovmf-direct-boot-ccel.bin").read_bytes())
    variables = [one for one in events if one.kind == EventType.EFI_VARIABLE_DRIVER_CONFIG]
    names = [(GLOBAL, "SecureBoot"), (GLOBAL, "PK"), (GLOBAL, "KEK"), (SECURITY, "db"), (SECURITY, "dbx")]

    packed = [pack_variable(EfiVariable(vendor=vendor, name=name)) for vendor, name in names]

    assert [one.data for one in variables] == packed
    assert all(one.is_vouched for one in variables)


def test_rtmr0_folds_the_parts_of_a_pinned_machine_in_order() -> None:
    variable = EfiVariable(vendor=GLOBAL, name="PK", value=b"v")
    shape = PinnedShape(
        td_hob=b"hob",
        configuration=b"cfv",
        secure_boot=(variable,),
        acpi=(b"l", b"r", b"t"),
        boot_variables=(b"o",),
    )

    wanted = ZERO_REGISTER
    for part in (b"hob", b"cfv", pack_variable(variable), bytes(4), b"l", b"r", b"t", b"o"):
        wanted = extend(wanted, sha384(part).digest())

    assert predict_rtmr0(shape) == wanted


def test_both_forms_of_the_kernel_are_predicted() -> None:
    raw, patched = (
        make_measured_kernel(KERNEL, form, initrd_size=4096, memory_size=1 << 30)
        for form in (KernelForm.RAW, KernelForm.PATCHED)
    )

    assert raw == KERNEL
    assert predict_rtmr1(raw) == fold_digests([hash_authenticode(raw), *ACTION_DIGESTS])
    assert predict_rtmr1(raw) != predict_rtmr1(patched)
    with pytest.raises(FormatError, match="PE image"):
        predict_rtmr1(b"no kernel at all" * 10)


def test_both_forms_of_the_load_options_are_predicted() -> None:
    forms = {form: make_load_options("quiet ro", form, has_initrd=True) for form in LoadOptionsForm}

    assert forms == {
        LoadOptionsForm.INITRD_LAST: "quiet ro initrd=initrd",
        LoadOptionsForm.INITRD_FIRST: "initrd=initrd quiet ro",
    }
    assert make_load_options("quiet", LoadOptionsForm.INITRD_FIRST, has_initrd=False) == "quiet"
    options = sha384("quiet\0".encode("utf-16-le")).digest()
    initrd = sha384(b"initrd").digest()
    assert predict_rtmr2("quiet", None) == extend(ZERO_REGISTER, options)
    assert predict_rtmr2("quiet", b"initrd") == extend(extend(ZERO_REGISTER, options), initrd)


def test_a_written_log_leads_where_its_events_do() -> None:
    events = (event(1, 4, b"a"), event(3, 6, b"b"))

    assert replay_events(parse_ccel(pack_ccel(events))).rtmrs == replay_events(events).rtmrs
