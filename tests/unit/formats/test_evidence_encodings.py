"""Evidence is recognised by what it holds, whatever it is wrapped in, and any bytes come to an end."""

import base64
import json
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krunpy.core.errors import FormatError
from krunpy.formats.evidence_azure import AzureEvidence
from krunpy.formats.evidence_encodings import (
    LARGEST_EVIDENCE,
    TdxEvidence,
    make_tdx_evidence,
    recognise_evidence,
)
from krunpy.formats.evidence_sev import SnpEvidence, make_sev_evidence
from krunpy.formats.snp_certs import CertKind, pack_cert_table, pack_evidence
from krunpy.formats.snp_report import pack_report
from tests.fakes.amd import FakeChip
from tests.fakes.azure import make_document

REPORT = pack_report(FakeChip().report())
BLOBS = {CertKind.VCEK: b"vcek", CertKind.ASK: b"ask"}
TABLE = pack_cert_table(BLOBS)
QUOTE = bytes.fromhex("0400020081000000") + b"quote"
ALONE, WITH_TABLE = SnpEvidence(report=REPORT, blobs={}), SnpEvidence(report=REPORT, blobs=BLOBS)
RESPONSE = bytes(4) + (1184).to_bytes(4, "little") + bytes(24) + REPORT

ENCODINGS = {
    "report": (REPORT, ALONE),
    "report and table": (REPORT + TABLE, WITH_TABLE),
    "report and empty table": (REPORT + bytes(24), ALONE),
    "response": (RESPONSE, ALONE),
    "padded response": (RESPONSE.ljust(4000, b"\0"), ALONE),
    "payload": (pack_evidence(REPORT, TABLE), WITH_TABLE),
    "payload without table": (pack_evidence(REPORT, b""), ALONE),
    "quote": (QUOTE, TdxEvidence(quote=QUOTE)),
    "version 5": (b"\5" + QUOTE[1:], TdxEvidence(quote=b"\5" + QUOTE[1:])),
    "payload with quote": (pack_evidence(QUOTE, b""), TdxEvidence(quote=QUOTE)),
    "snp": (json.dumps(make_sev_evidence(WITH_TABLE)).encode(), WITH_TABLE),
    "tdx": (json.dumps(make_tdx_evidence(TdxEvidence(quote=QUOTE))).encode(), TdxEvidence(quote=QUOTE)),
    "tdx with log": (
        json.dumps(make_tdx_evidence(TdxEvidence(quote=QUOTE, event_log=b"log"))).encode(),
        TdxEvidence(quote=QUOTE, event_log=b"log"),
    ),
    "raw in json": (json.dumps({"report": REPORT.hex()}).encode(), ALONE),
}
WRAPPINGS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    "hex": lambda data: data.hex().encode(),
    "hex in capitals, in lines": lambda data: data.hex().upper().encode().replace(b"00", b"00\n"),
    "hex after 0x": lambda data: b"0x" + data.hex().encode(),
    "base64": base64.b64encode,
    "base64 in lines": base64.encodebytes,
    "base64 for addresses": lambda data: base64.urlsafe_b64encode(data).rstrip(b"="),
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_evidence_is_recognised(encoding: str, wrapping: str) -> None:
    data, evidence = ENCODINGS[encoding]

    found = recognise_evidence(WRAPPINGS[wrapping](data))

    assert found.evidence == evidence
    assert wrapping.startswith(found.wrapping)


def test_azure_is_recognised_in_every_version() -> None:
    document = make_document(FakeChip())

    for version in (1, 2):
        found = recognise_evidence(json.dumps(document | {"version": version}).encode())
        assert isinstance(found.evidence, AzureEvidence)
        assert found.evidence.version == version


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" \n",
        b"{",
        b"{}",
        b"[]",
        b"evidence",
        REPORT[:-1],
        REPORT + b"\1",
        REPORT + TABLE[:-1],
        REPORT.hex().encode()[:-1],
        RESPONSE + b"\1",
        pack_evidence(QUOTE, b"table"),
        b'{"quote": 1}',
        b'{"quote": "AA==", "quote": "AA=="}',
        b'{"quote": "AA==", "cc_eventlog": 5}',
        b'{"quote": "AA==", "more": 5}',
        b'{"quote": "A"}',
        b'{"quote": NaN}',
        b'{"report": "00"}',
        b'{"report": ""}',
        b'{"quote": ' + b"1" * 5000 + b"}",
        b'{"a":' * 100_000,
        b'{"attestation_report": ' + b"[" * 100_000,
        base64.b64encode(base64.b64encode(REPORT)),
    ],
    ids=lambda data: repr(data[:24]),
)
def test_what_is_no_evidence_is_a_format_error(data: bytes) -> None:
    with pytest.raises(FormatError):
        recognise_evidence(data)


@given(
    st.binary(max_size=1300)
    | st.text(alphabet='{}[]":,0123456789abcdefquote report', max_size=200).map(str.encode)
    | st.binary(max_size=100).map(lambda tail: REPORT + tail)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(
                    ["quote", "report", "vcek", "attestation_report", "hcl_report", "td_quote", "version"]
                ),
                inner,
            )
        ),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_bytes_are_evidence_or_a_format_error(data: bytes) -> None:
    try:
        found = recognise_evidence(data)
    except FormatError:
        return
    assert found.encoding


@pytest.mark.parametrize("byte", [b"{", b"0", b"A", b" ", b"\0", b'{"a":'])
def test_the_largest_input_comes_to_an_end(byte: bytes) -> None:
    data = (byte * LARGEST_EVIDENCE)[:LARGEST_EVIDENCE]
    started = time.process_time()

    with pytest.raises(FormatError):
        recognise_evidence(data)
    with pytest.raises(FormatError, match="at most"):
        recognise_evidence(data + b"\0")

    assert time.process_time() - started < 5
