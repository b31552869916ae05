"""Collateral, TCB Info and QE identity: exact members, bounded, one form each; anything else is a FormatError."""

import copy
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krunpy.core.errors import FormatError
from krunpy.formats.tdx_collateral import pack_tdx_collateral, parse_tdx_collateral
from krunpy.formats.tdx_json import parse_signed_json
from krunpy.formats.tdx_qe import parse_qe_identity, parse_qe_report
from krunpy.formats.tdx_tcb_info import parse_tcb_info
from tests.fakes.intel import FakePlatform
from tests.fakes.intel_collateral import mint_collateral, qe_identity, tcb_info
from tests.fakes.intel_pki import COMPONENTS, FMSPC

GOOD = mint_collateral()
MISSING = object()


def change(document: dict, path: str, value: object) -> dict:
    """Return a copy in which the member at "a.0.b" has another value, or is missing."""
    document = copy.deepcopy(document)
    *parents, last = path.split(".")
    place = document
    for step in parents:
        place = place[int(step) if isinstance(place, list) else step]
    key = int(last) if isinstance(place, list) else last
    if value is MISSING:
        del place[key]
    else:
        place[key] = value
    return document


def paths(value: object, prefix: str = "") -> list[str]:
    """Return the paths of all members of objects, of the first item of each list."""
    found = []
    if isinstance(value, dict):
        for name, member in value.items():
            found += [f"{prefix}{name}", *paths(member, f"{prefix}{name}.")]
    elif isinstance(value, list) and value:
        found += paths(value[0], f"{prefix}0.")
    return found


DOCUMENTS = {"info": (parse_tcb_info, tcb_info()), "identity": (parse_qe_identity, qe_identity())}
OPTIONAL = ("tdxModuleIdentities",)
MEMBERS = [(kind, path) for kind, (_, document) in DOCUMENTS.items() for path in paths(document)]


# The container.


def test_collateral_is_packed_and_read_back() -> None:
    assert parse_tdx_collateral(pack_tdx_collateral(GOOD)) == GOOD


def test_the_signed_bytes_come_out_as_they_went_in() -> None:
    odd = mint_collateral(info=b' {"id" : "TDX"}\n')

    assert parse_tdx_collateral(pack_tdx_collateral(odd)).tcb_info == b' {"id" : "TDX"}\n'


def test_crls_may_be_missing() -> None:
    document = json.loads(pack_tdx_collateral(GOOD)) | {"pck_crl": ""}

    assert parse_tdx_collateral(json.dumps(document).encode()).pck_crl == b""


@pytest.mark.parametrize("name", json.loads(pack_tdx_collateral(GOOD)))
@pytest.mark.parametrize("value", [MISSING, None, 1, "\ud800", ["a"]], ids=str)
def test_a_member_of_collateral_that_is_missing_or_of_another_type_is_refused(
    name: str, value: object
) -> None:
    document = change(json.loads(pack_tdx_collateral(GOOD)), name, value)

    with pytest.raises(FormatError, match=name):
        parse_tdx_collateral(json.dumps(document).encode())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tcb_info_signature", "00" * 63),
        ("qe_identity_signature", "00" * 65),
        ("root_ca_crl", "0"),
        ("pck_crl", "zz"),
        ("pck_crl", "00 00"),
    ],
)
def test_octets_of_another_form_are_refused(name: str, value: str) -> None:
    document = json.loads(pack_tdx_collateral(GOOD)) | {name: value}

    with pytest.raises(FormatError, match=name):
        parse_tdx_collateral(json.dumps(document).encode())


def test_a_member_of_collateral_that_is_not_known_is_refused() -> None:
    document = json.loads(pack_tdx_collateral(GOOD)) | {"version": 3}

    with pytest.raises(FormatError, match="unknown members: version"):
        parse_tdx_collateral(json.dumps(document).encode())


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        (b" " * (1 << 20) + b"{}", "1048576"),
        (b'{"a": 1, "a": 1}', "given twice"),
        (b'{"a": {"b": 1, "b": 2}}', "given twice"),
        (b'{"a": 1.0}', "wanted an integer"),
        (b'{"a": NaN}', "wanted an integer"),
        (b'{"a": -Infinity}', "wanted an integer"),
        (b"[" * 100_000, "not JSON"),
        (b"9" * 10_000, "not JSON"),
        (b"\xff", "not JSON"),
        (b"{} {}", "not JSON"),
        (b"[]", "wanted an object"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_json_that_intel_would_not_sign_is_refused(raw: bytes, match: str) -> None:
    with pytest.raises(FormatError, match=match):
        parse_signed_json(raw, "document", limit=1 << 20)


# TCB Info and QE identity.


def test_a_tcb_info_is_read() -> None:
    info = parse_tcb_info(json.dumps(tcb_info()).encode())

    assert (info.fmspc, info.pceid, info.evaluation_number) == (FMSPC, bytes(2), 20)
    assert info.issue_date == datetime(2026, 5, 20, tzinfo=UTC)
    assert info.next_update == datetime(2026, 6, 19, tzinfo=UTC)
    assert info.module.attributes_mask == b"\xff" * 8
    (identity,) = info.module_identities
    assert identity.id == "TDX_01"
    assert [level.isv_svn for level in identity.levels] == [5, 3, 2]
    first, *_, last = info.levels
    assert (first.components, first.pce_svn, first.tdx_components[:3]) == (COMPONENTS, 13, b"\5\0\6")
    assert (last.status.status, last.status.advisory_ids) == ("OutOfDate", ("INTEL-SA-2",))


def test_a_qe_identity_is_read() -> None:
    identity = parse_qe_identity(json.dumps(qe_identity()).encode())

    assert (identity.isv_prod_id, identity.evaluation_number) == (2, 21)
    assert (identity.miscselect_mask, identity.attributes[:1]) == (b"\xff" * 4, b"\x11")
    assert [level.status.status for level in identity.levels] == ["UpToDate", "OutOfDate", "Revoked"]


def test_members_that_are_not_known_are_left() -> None:
    assert parse_tcb_info(json.dumps(tcb_info() | {"new": [{}]}).encode()).evaluation_number == 20
    assert parse_qe_identity(json.dumps(qe_identity() | {"new": 1}).encode()).isv_prod_id == 2


@pytest.mark.parametrize(("kind", "path"), MEMBERS)
def test_a_member_of_another_type_is_refused(kind: str, path: str) -> None:
    parse, document = DOCUMENTS[kind]

    for value in (None, True, -1, 2**40):
        with pytest.raises(FormatError):
            parse(json.dumps(change(document, path, value)).encode())


@pytest.mark.parametrize(("kind", "path"), MEMBERS)
def test_a_member_that_is_missing_is_refused(kind: str, path: str) -> None:
    parse, document = DOCUMENTS[kind]
    if path in OPTIONAL:
        assert parse(json.dumps(change(document, path, MISSING)).encode()).module_identities == ()
        return

    with pytest.raises(FormatError, match="is missing"):
        parse(json.dumps(change(document, path, MISSING)).encode())


@pytest.mark.parametrize(
    "text",
    [
        *("2026-06-01", "2026-06-01T00:00:00", "2026-06-01T00:00:00+00:00", "2026-06-01t00:00:00Z"),
        *("2026-W23-1T00:00:00Z", "2026-06-31T00:00:00Z", "2026-06-01T00:00:00.5Z", "20260601T000000Z"),
        *("2026-06-01T24:00:00Z", "2026-06-01 00:00:00Z"),
    ],
)
def test_there_is_one_way_to_write_a_time(text: str) -> None:
    with pytest.raises(FormatError, match="wanted a time in UTC"):
        parse_tcb_info(json.dumps(tcb_info() | {"issueDate": text}).encode())


@pytest.mark.parametrize("text", ["00f0f00001", "00f0f000000100", "00f0f000 0001", "00F0F000000g"])
def test_octets_in_hex_have_their_length(text: str) -> None:
    with pytest.raises(FormatError, match="wanted 6 bytes in hex"):
        parse_tcb_info(json.dumps(tcb_info() | {"fmspc": text}).encode())


@pytest.mark.parametrize("count", [0, 15, 17])
@pytest.mark.parametrize("name", ["sgxtcbcomponents", "tdxtcbcomponents"])
def test_a_level_has_sixteen_components_of_each_kind(name: str, count: int) -> None:
    document = change(tcb_info(), f"tcbLevels.0.tcb.{name}", [{"svn": 1}] * count)

    with pytest.raises(FormatError, match=name):
        parse_tcb_info(json.dumps(document).encode())


@pytest.mark.parametrize("path", ["tcbLevels", "tdxModuleIdentities.0.tcbLevels"])
@pytest.mark.parametrize("count", [0, 257])
def test_levels_are_bounded_and_never_empty(path: str, count: int) -> None:
    place = tcb_info()
    levels = place["tcbLevels"] if path == "tcbLevels" else place["tdxModuleIdentities"][0]["tcbLevels"]

    with pytest.raises(FormatError, match="tcbLevels"):
        parse_tcb_info(json.dumps(change(tcb_info(), path, levels[:1] * count)).encode())


def test_a_module_is_named_once() -> None:
    identity = tcb_info()["tdxModuleIdentities"][0]
    twice = [identity, identity | {"id": "tdx_01"}]

    with pytest.raises(FormatError, match="an id is given twice"):
        parse_tcb_info(json.dumps(tcb_info() | {"tdxModuleIdentities": twice}).encode())


# The QE's report.


def test_a_qe_report_is_read() -> None:
    raw = FakePlatform(qe={"isv_svn": b"\x34\x12"}).qe_report(b"")

    report = parse_qe_report(raw)

    assert (report.miscselect, report.attributes, report.mrsigner) == (raw[16:20], raw[48:64], raw[128:160])
    assert (report.isv_prod_id, report.isv_svn, report.report_data) == (2, 0x1234, raw[320:])


@pytest.mark.parametrize("size", [0, 383, 385])
def test_a_qe_report_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(FormatError, match="wanted 384"):
        parse_qe_report(bytes(size))


# Any bytes.

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(st.binary(max_size=200))
def test_any_bytes_give_a_value_or_a_format_error(raw: bytes) -> None:
    for parse in (parse_tdx_collateral, parse_tcb_info, parse_qe_identity, parse_qe_report):
        with pytest.raises(FormatError):
            parse(raw)


@given(st.sampled_from(MEMBERS), JSON)
def test_any_value_of_a_member_gives_a_value_or_a_format_error(
    member: tuple[str, str], value: object
) -> None:
    kind, path = member
    parse, document = DOCUMENTS[kind]
    try:
        parse(json.dumps(change(document, path, value)).encode())
    except FormatError:
        return


@given(st.data())
def test_any_change_of_a_document_gives_a_value_or_a_format_error(data: st.DataObject) -> None:
    raw = pack_tdx_collateral(GOOD)
    at = data.draw(st.integers(0, len(raw) - 1))
    raw = raw[:at] + data.draw(st.binary(max_size=4)) + raw[at + data.draw(st.integers(0, 4)) :]
    try:
        parse_tdx_collateral(raw)
    except FormatError:
        return
