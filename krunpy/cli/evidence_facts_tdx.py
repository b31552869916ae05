"""Every field of a TDX quote, for people: name, value, meaning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from krunpy.attest.tdx_policy import TdAttributes
from krunpy.cli.evidence_facts import Fact, Section

if TYPE_CHECKING:
    from collections.abc import Iterator

    from krunpy.formats.tdx_quote import TdReport, TdxQuote

_MEANINGS_OF_ATTRIBUTES = {
    TdAttributes.DEBUG: "the host may read the TD's memory",
    TdAttributes.TUD_1: "reserved: the TD cannot be trusted",
    TdAttributes.TUD_2: "reserved: the TD cannot be trusted",
    TdAttributes.TUD_3: "reserved: the TD cannot be trusted",
    TdAttributes.HGS_PLUS_PROF: "the host may profile it (HGS+)",
    TdAttributes.PERF_PROF: "the host may profile it",
    TdAttributes.PMT_PROF: "the host may profile it (PMT)",
    TdAttributes.TUD_7: "reserved: the TD cannot be trusted",
    TdAttributes.LASS: "linear address space separation",
    TdAttributes.SEPT_VE_DISABLE: "the host cannot make its pages raise #VE",
    TdAttributes.MIGRATABLE: "a migration TD may move it",
    TdAttributes.PKS: "supervisor protection keys",
    TdAttributes.KEY_LOCKER: "Key Locker",
    TdAttributes.TPA: "TDX partitioning assist",
    TdAttributes.PERFMON: "performance counters",
}
_WITHOUT_QE_SVN = 4  # version of a quote
_KNOWN_ATTRIBUTES = sum(TdAttributes)
_XFAM_BITS = {
    0: "x87", 1: "SSE", 2: "AVX", 5: "AVX-512 masks", 6: "AVX-512 ZMM_Hi256", 7: "AVX-512 Hi16_ZMM", 8: "PT",
    9: "PKU", 11: "CET user", 12: "CET supervisor", 14: "UINTR", 15: "LBR", 16: "HWP", 17: "AMX tile configuration",
    18: "AMX tile data", 19: "APX",
}  # fmt: skip


def describe_quote(quote: TdxQuote) -> Iterator[Section]:
    """Yield a section on the quote and one on the TD."""
    yield Section(
        title="TDX quote",
        facts=(
            Fact(name="version", value=str(quote.version)),
            Fact(name="body_type", value=str(int(quote.body_type)), meaning=quote.body_type.name),
            Fact(
                name="qe_svn",
                value=str(quote.qe_svn),
                meaning="version 4 has none" if quote.version == _WITHOUT_QE_SVN else "",
            ),
            Fact(name="pce_svn", value=str(quote.pce_svn)),
            Fact(name="qe_vendor", value=quote.qe_vendor.hex(), meaning="quoting enclave's vendor"),
            Fact(name="user_data", value=quote.user_data.hex(), meaning="of the quoting enclave"),
            Fact(name="attestation_key", value=quote.attestation_key.hex(), meaning="ECDSA P-256"),
            Fact(name="signature", value=quote.signature.hex()),
            Fact(name="qe_report", value=quote.qe_report.hex(), meaning="quoting enclave's SGX report"),
            Fact(name="qe_signature", value=quote.qe_signature.hex(), meaning="by the PCK"),
            Fact(name="qe_auth_data", value=quote.qe_auth_data.hex()),
            Fact(name="pck_chain", value=f"{len(quote.pck_chain)} bytes", meaning="PEM, leaf first"),
        ),
    )
    yield Section(title="TD report", facts=tuple(_list_td(quote.td)))


def _list_td(td: TdReport) -> Iterator[Fact]:
    yield Fact(name="tee_tcb_svn", value=td.tee_tcb_svn.hex(), meaning="security versions of the TDX module")
    yield Fact(name="mrseam", value=td.mrseam.hex(), meaning="TDX module")
    yield Fact(name="mrsignerseam", value=td.mrsignerseam.hex(), meaning="zero: Intel signed the TDX module")
    yield Fact(name="seam_attributes", value=td.seam_attributes.hex())
    yield Fact(name="td_attributes", value=f"{td.td_attributes:#x}")
    yield from _list_attributes(td.td_attributes)
    yield Fact(name="xfam", value=f"{td.xfam:#x}", meaning=_name_xfam(td.xfam))
    yield Fact(name="mrtd", value=td.mrtd.hex(), meaning="launch digest: the firmware's pages at start")
    yield Fact(name="mrconfigid", value=td.mrconfigid.hex(), meaning="chosen by the host at launch")
    yield Fact(name="mrowner", value=td.mrowner.hex(), meaning="chosen by the host at launch")
    yield Fact(name="mrownerconfig", value=td.mrownerconfig.hex(), meaning="chosen by the host at launch")
    meanings = (
        "machine shape and firmware settings",
        "kernel and boot",
        "command line and initrd",
        "by the guest",
    )
    for index, (rtmr, meaning) in enumerate(zip(td.rtmrs, meanings, strict=True)):
        yield Fact(name=f"rtmr{index}", value=rtmr.hex(), meaning=meaning)
    yield Fact(
        name="report_data", value=td.report_data.hex(), meaning="chosen by the guest: challenge and keys"
    )
    if td.tee_tcb_svn_2 is not None and td.mrservicetd is not None:
        yield Fact(name="tee_tcb_svn_2", value=td.tee_tcb_svn_2.hex(), meaning="of the module that runs now")
        yield Fact(
            name="mrservicetd", value=td.mrservicetd.hex(), meaning="TDs that may serve it; zero: none"
        )
    if td.extended is not None:
        for name in td.extended.__dataclass_fields__:
            value: int | bytes = getattr(td.extended, name)
            yield Fact(name=name, value=value.hex() if isinstance(value, bytes) else str(value))


def _list_attributes(attributes: int) -> Iterator[Fact]:
    for bit, meaning in _MEANINGS_OF_ATTRIBUTES.items():
        is_set = bool(attributes & bit)
        yield Fact(
            name=str(bit.name), value=str(int(is_set)), meaning=meaning if is_set else "", is_part=True
        )
    if unknown := attributes & ~_KNOWN_ATTRIBUTES:
        yield Fact(name="unknown bits", value=f"{unknown:#x}", is_part=True)


def _name_xfam(xfam: int) -> str:
    names = [name for bit, name in _XFAM_BITS.items() if xfam >> bit & 1]
    unknown = xfam & ~sum(1 << bit for bit in _XFAM_BITS)
    return ", ".join([*names, f"unknown {unknown:#x}"] if unknown else names)
