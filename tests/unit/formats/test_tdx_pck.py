"""PCK certificates: their chains as text, and the SGX extension that names a platform."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krunpy.core.errors import FormatError
from krunpy.formats.pck_chain import encode_pem, parse_pem_chain
from krunpy.formats.pck_extension import parse_pck_extension
from tests.fakes.intel_pki import (
    COMPONENTS,
    FMSPC,
    boolean,
    integer,
    octets,
    pairs,
    pem,
    sgx_entries,
    tcb_entries,
    tlv,
)

CHAIN = (bytes(range(100)), b"\x01" * 96, b"x")


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
@pytest.mark.parametrize("end", [b"", b"newline", b"newline\0"])
@pytest.mark.parametrize("count", [1, 3])
def test_a_chain_is_read_in_its_order(newline: bytes, end: bytes, count: int) -> None:
    text = newline.join(encode_pem(der, newline) for der in CHAIN[:count])

    assert parse_pem_chain(text + end.replace(b"newline", newline)) == CHAIN[:count]


@pytest.mark.parametrize(
    "text",
    {
        "empty": b"",
        "only a newline": b"\n",
        "a NUL in the newline's place": pem(*CHAIN).removesuffix(b"\n") + b"\0",
        "text before": b"x\n" + pem(*CHAIN),
        "text between": pem(CHAIN[0]) + b"\n" + pem(CHAIN[1]),
        "text after": pem(*CHAIN) + b"x",
        "no newline between": encode_pem(CHAIN[0]) + encode_pem(CHAIN[1]),
        "two newlines at the end": pem(*CHAIN) + b"\n",
        "two NULs": pem(*CHAIN) + b"\0\0",
        "NUL before the newline": pem(*CHAIN)[:-1] + b"\0\n",
        "mixed newlines": pem(CHAIN[0]) + encode_pem(CHAIN[1], b"\r\n"),
        "longer lines": pem(CHAIN[0]).replace(b"\n", b"", 2),
        "blank in a line": pem(CHAIN[0]).replace(b"AAEC", b"AAE C"),
        "no padding": pem(CHAIN[2]).replace(b"==", b""),
        "bits that mean nothing": pem(CHAIN[2]).replace(b"eA==", b"eB=="),
        "no base64": pem(CHAIN[0]).replace(b"AAEC", b"AA*C"),
        "another label": pem(*CHAIN).replace(b"BEGIN CERTIFICATE", b"BEGIN CERTIFICATES", 1),
        "no end": pem(CHAIN[0])[:-5],
    }.values(),
    ids=str,
)
def test_text_of_another_form_is_refused(text: bytes) -> None:
    with pytest.raises(FormatError, match="cannot read the certificate chain"):
        parse_pem_chain(text)


def test_a_chain_is_bounded() -> None:
    with pytest.raises(FormatError, match="at most 16384"):
        parse_pem_chain(b"\n" * 16385)
    with pytest.raises(FormatError, match="seen 5 certificates, wanted at most 4"):
        parse_pem_chain(pem(*[b"x"] * 5))


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=4))
def test_any_certificates_are_written_and_read_back(chain: list[bytes]) -> None:
    assert parse_pem_chain(pem(*chain)) == tuple(chain)


@given(st.data())
def test_no_byte_of_a_chain_can_be_changed(data: st.DataObject) -> None:
    text = pem(*CHAIN)
    at = data.draw(st.integers(0, len(text) - 1))
    changed = text[:at] + bytes([text[at] ^ 1 << data.draw(st.integers(0, 7))]) + text[at + 1 :]
    try:
        chain = parse_pem_chain(changed)
    except FormatError:
        return

    assert chain != CHAIN


def test_the_extension_is_read() -> None:
    said = parse_pck_extension(pairs(sgx_entries()))

    assert (said.ppid, said.pceid, said.fmspc, said.piid) == (b"\x77" * 16, bytes(2), FMSPC, b"\x66" * 16)
    assert (said.components, said.pce_svn, said.cpu_svn, said.sgx_type) == (COMPONENTS, 13, COMPONENTS, 1)
    assert (said.dynamic_platform, said.cached_keys, said.smt_enabled) == (True, False, True)


def test_what_a_single_package_platform_leaves_out_is_not_known() -> None:
    said = parse_pck_extension(pairs({k: v for k, v in sgx_entries().items() if k not in {"6", "7"}}))

    assert (said.piid, said.dynamic_platform, said.cached_keys, said.smt_enabled) == (None,) * 4


def test_each_component_has_its_place() -> None:
    levels = tcb_entries() | {f"2.{index}": integer(index) for index in range(1, 17)}

    assert parse_pck_extension(pairs(sgx_entries() | {"2": pairs(levels)})).components == bytes(range(1, 17))


def test_an_entry_that_is_not_known_is_left() -> None:
    assert parse_pck_extension(pairs(sgx_entries() | {"8": octets(b"?")})).sgx_type == 1


def without(entries: dict[str, bytes], name: str) -> bytes:
    return pairs({arc: value for arc, value in entries.items() if arc != name})


@pytest.mark.parametrize("name", ["1", "2", "3", "4", "5"])
def test_an_entry_that_every_platform_has_cannot_be_missing(name: str) -> None:
    with pytest.raises(FormatError, match="it has no"):
        parse_pck_extension(without(sgx_entries(), name))


@pytest.mark.parametrize("name", list(tcb_entries()))
def test_a_level_cannot_be_missing(name: str) -> None:
    with pytest.raises(FormatError, match="it has no"):
        parse_pck_extension(pairs(sgx_entries() | {"2": without(tcb_entries(), name)}))


@pytest.mark.parametrize(
    "changes",
    {
        "entry twice": {"4#2": octets(FMSPC)},
        "level twice": {"2": pairs(tcb_entries() | {"2.1#2": integer(9)})},
        "short PPID": {"1": octets(bytes(15))},
        "long PCEID": {"3": octets(bytes(3))},
        "short FMSPC": {"4": octets(bytes(5))},
        "short PIID": {"6": octets(bytes(15))},
        "short CPUSVN": {"2": pairs(tcb_entries() | {"2.18": octets(bytes(15))})},
        "component over 255": {"2": pairs(tcb_entries() | {"2.3": integer(256)})},
        "PCESVN over 16 bits": {"2": pairs(tcb_entries() | {"2.17": integer(65536)})},
        "negative component": {"2": pairs(tcb_entries() | {"2.3": b"\2\1\xff"})},
        "SGX type as an integer": {"5": integer(1)},
        "SGX type of two bytes": {"5": tlv(0x0A, b"\0\1")},
        "bytes after FMSPC": {"4": octets(FMSPC) + b"\5\0"},
        "bytes after a level": {"2": pairs(tcb_entries() | {"2.3": integer(1) + b"\5\0"})},
        "bytes after SGX type": {"5": tlv(0x0A, b"\1") + b"\5\0"},
        "bytes after the levels": {"2": pairs(tcb_entries()) + b"\5\0"},
        "odd boolean": {"7": pairs({"7.1": b"\1\1\1"})},
        "bytes after a boolean": {"7": pairs({"7.1": boolean(value=True) + b"\5\0"})},
        "setting twice": {"7": pairs({"7.1": boolean(value=True), "7.1#2": boolean(value=False)})},
    }.values(),
    ids=lambda changes: next(iter(changes)),
)
def test_an_entry_of_another_form_is_refused(changes: dict[str, bytes]) -> None:
    with pytest.raises(FormatError):
        parse_pck_extension(pairs(sgx_entries() | changes))


def test_the_entries_are_bounded() -> None:
    with pytest.raises(FormatError, match="over 32"):
        parse_pck_extension(pairs({str(arc): octets(b"") for arc in range(100, 140)}))


def test_bytes_after_the_extension_are_refused() -> None:
    with pytest.raises(FormatError):
        parse_pck_extension(pairs(sgx_entries()) + b"\5\0")


@given(st.binary(max_size=300))
def test_any_bytes_give_a_format_error(raw: bytes) -> None:
    for parse in (parse_pck_extension, parse_pem_chain):
        with pytest.raises(FormatError):
            parse(raw)


@given(st.data())
def test_any_change_of_the_extension_gives_a_value_or_a_format_error(data: st.DataObject) -> None:
    raw = bytearray(pairs(sgx_entries()))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        parse_pck_extension(bytes(raw))
    except FormatError:
        return
