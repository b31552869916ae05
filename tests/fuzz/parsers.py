"""Every parser of bytes from outside, with examples to start from.

A parser may raise FormatError and nothing else; what reads evidence for the verifier may raise a Refusal.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING

from krunpy.attest.evidence import read_snp_evidence
from krunpy.attest.policy_sections import load_policy_document, parse_policies
from krunpy.attest.refusal import Refusal
from krunpy.attest.tdx_evidence import read_tdx_evidence
from krunpy.core.errors import FormatError
from krunpy.core.octets import Secret
from krunpy.formats import (
    authenticode,
    bzimage,
    cpio,
    eventlog,
    eventlog_dstack,
    evidence_encodings,
    evidence_hcl,
    ext4_parse,
    ext4_parse_inode,
    ext4_parse_xattr,
    frames,
    krun_footer,
    luks1_parse,
    luks2_parse,
    luks_open,
    luks_open_slots,
    modinfo,
    ovmf,
    pck_chain,
    pck_extension,
    snp_certs,
    snp_report,
    snp_tcb,
    tdvf,
    tdx_collateral,
    tdx_json,
    tdx_qe,
    tdx_quote,
    tdx_tcb_info,
    tpm_quote,
    verity,
    x509,
)
from krunpy.formats.canonical import parse_canonical
from krunpy.formats.disk import parse_disk
from krunpy.formats.evidence_sev import SnpEvidence, make_sev_evidence
from krunpy.formats.luks2 import HEADER_SIZE, build_header
from krunpy.formats.manifest import parse_manifest
from krunpy.formats.snp_certs import CertKind, pack_cert_table, pack_evidence
from krunpy.formats.snp_report import pack_report
from tests.fakes import ext4_samples, intel_collateral, intel_pki
from tests.fakes.amd import FakeChip
from tests.fakes.azure import make_document, make_quote, make_runtime_data
from tests.fakes.firmware import build_sev_firmware
from tests.fakes.intel import FakePlatform
from tests.fakes.pe import build_pe
from tests.fakes.tdvf import build_tdvf
from tests.unit.image.legacydisks import make_luks1

if TYPE_CHECKING:
    from collections.abc import Callable

    from krunpy.formats.narrow import Fields

EXPECTED = (FormatError, Refusal)
DSTACK = {"imr": 3, "event_type": 134217729, "digest": "00" * 48, "event": "a", "event_payload": "00"}


@dataclass(frozen=True, kw_only=True)
class Parser:
    """parse: takes any bytes; examples: what it accepts, or nearly."""

    parse: Callable[[bytes], object]
    examples: Callable[[], list[bytes]] = list


def _read_fields(read: Callable[[Fields], object], data: bytes) -> object:
    return read(tdx_json.parse_signed_json(data, "the document"))


def _parse_policy(data: bytes) -> object:
    return parse_policies(load_policy_document(data), source="fuzzing", accepts_simulated=False)


def _parse_tcb(data: bytes) -> object:
    return [snp_tcb.parse_tcb(data, product) for product in snp_tcb.Product]


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


@cache
def _report() -> bytes:
    return pack_report(FakeChip().report())


@cache
def _quotes() -> list[bytes]:
    return [FakePlatform().quote(), FakePlatform().quote() + bytes(9)]


@cache
def _collateral() -> tdx_collateral.TdxCollateral:
    return intel_collateral.mint_collateral()


def _certificates() -> list[bytes]:
    return [FakeChip().certificate, FakePlatform().certificate, intel_pki.mint_root()]


def _encodings() -> list[bytes]:
    snp = SnpEvidence(report=_report(), blobs={CertKind.VCEK: b"vcek"})
    documents: list[object] = [
        make_sev_evidence(snp),
        make_document(FakeChip()),
        make_document(FakeChip(), version=1),
        evidence_encodings.make_tdx_evidence(evidence_encodings.TdxEvidence(quote=_quotes()[0])),
        {"report": _report().hex()},
    ]
    table = pack_cert_table({CertKind.VCEK: b"vcek"})
    raw = [_report(), _report() + table, pack_evidence(_report(), table), pack_evidence(_quotes()[0], b"")]
    return [*raw, *_quotes(), *map(_json, documents)]


def _hcl() -> list[bytes]:
    kind = evidence_hcl.HardwareReport.SNP
    return [evidence_hcl.pack_hcl_report(kind, _report(), make_runtime_data()) + bytes(8)]


def _extensions() -> list[bytes]:
    return [intel_pki.pairs(intel_pki.sgx_entries())]


POLICY = b"[snp]\nvmpl = [0, 1]\nmin_abi = [1, 55]\n[snp.min_reported_tcb.Milan]\nsnp = 20\n[tdx]\n"
DISK = _json({"block_size": 4096, "cipher": "a", "data_blocks": 1, "filesystem": "erofs", "key_size": 64})


def _luks2() -> bytes:
    return build_header(Secret(bytes(64)), 4096)[:HEADER_SIZE]


PARSERS: dict[str, Parser] = {
    "authenticode.hash_authenticode": Parser(
        parse=authenticode.hash_authenticode, examples=lambda: [build_pe([b"text"])]
    ),
    "bzimage.parse_kernel_release": Parser(
        parse=bzimage.parse_kernel_release, examples=lambda: [build_pe([b"text"], setup=True)]
    ),
    "bzimage.patch_as_qemu": Parser(
        parse=partial(bzimage.patch_as_qemu, initrd_size=4096, memory_size=1 << 29),
        examples=lambda: [build_pe([b"text"], setup=True)],
    ),
    "canonical.parse_canonical": Parser(
        parse=partial(parse_canonical, limit=65536), examples=lambda: [b'{"a":[1,"b",null]}']
    ),
    "cpio.parse_cpio": Parser(parse=cpio.parse_cpio, examples=lambda: [b"070701" + b"0" * 104]),
    "disk.parse_disk": Parser(parse=partial(_read_fields, parse_disk), examples=lambda: [DISK]),
    "eventlog.parse_ccel": Parser(parse=eventlog.parse_ccel, examples=lambda: [eventlog.pack_ccel(())]),
    "eventlog_dstack.parse_dstack_log": Parser(
        parse=eventlog_dstack.parse_dstack_log, examples=lambda: [_json([DSTACK])]
    ),
    "eventlog_dstack.parse_event_log": Parser(
        parse=eventlog_dstack.parse_event_log, examples=lambda: [_json([DSTACK]), eventlog.pack_ccel(())]
    ),
    "evidence_azure.parse_azure_evidence": Parser(
        parse=partial(_read_fields, evidence_encodings.parse_azure_evidence),
        examples=lambda: [_json(make_document(FakeChip()))],
    ),
    "evidence_encodings.recognise_evidence": Parser(
        parse=evidence_encodings.recognise_evidence, examples=_encodings
    ),
    "evidence_hcl.parse_hcl_report": Parser(parse=evidence_hcl.parse_hcl_report, examples=_hcl),
    "evidence_sev.parse_sev_evidence": Parser(
        parse=partial(_read_fields, evidence_encodings.parse_sev_evidence), examples=lambda: _encodings()[6:7]
    ),
    "ext4_parse.parse_superblock": Parser(
        parse=ext4_parse.parse_superblock, examples=lambda: [ext4_samples.superblock()]
    ),
    "ext4_parse.parse_inode_table": Parser(
        parse=partial(ext4_parse.parse_inode_table, ext4_samples.parsed(), 0), examples=lambda: [bytes(32)]
    ),
    "ext4_parse_inode.parse_directory": Parser(
        parse=ext4_samples.list_directory, examples=lambda: [b"\x0c\0\0\0\0\4\1\1a".ljust(1024, b"\0")]
    ),
    "ext4_parse_inode.parse_extents": Parser(
        parse=lambda data: ext4_parse_inode.parse_extents(data, ext4_samples.inode(), None),
        examples=lambda: [ext4_samples.EXTENTS],
    ),
    "ext4_parse_inode.parse_inode": Parser(
        parse=lambda data: ext4_parse_inode.parse_inode(data, 12, None), examples=lambda: [ext4_samples.INODE]
    ),
    "ext4_parse_xattr.parse_xattr_block": Parser(
        parse=lambda data: ext4_parse_xattr.parse_xattr_block(data, 9, None),
        examples=lambda: [ext4_samples.XATTR_BLOCK],
    ),
    "ext4_parse_xattr.parse_xattrs_after_inode": Parser(
        parse=lambda data: ext4_parse_xattr.parse_xattrs_after_inode(data, 12),
        examples=lambda: [ext4_samples.XATTRS],
    ),
    "frames.parse_evidence": Parser(parse=frames.parse_evidence, examples=lambda: [bytes(8)]),
    "frames.parse_exit": Parser(parse=frames.parse_exit, examples=lambda: [bytes(4)]),
    "frames.parse_failure": Parser(parse=frames.parse_failure, examples=lambda: [bytes(4) + b"why"]),
    "frames.parse_guest_header": Parser(parse=frames.parse_guest_header, examples=lambda: [bytes(8)]),
    "frames.parse_hello": Parser(parse=frames.parse_hello, examples=lambda: [b"\1".ljust(68, b"\0")]),
    "frames.parse_items": Parser(
        parse=frames.parse_items, examples=lambda: [frames.encode_items([(1, b"a")])]
    ),
    "frames.parse_started": Parser(parse=frames.parse_started, examples=lambda: [bytes(16)]),
    "frames.parse_stdin_ack": Parser(parse=frames.parse_stdin_ack, examples=lambda: [bytes(4)]),
    "frames.parse_text": Parser(parse=frames.parse_text, examples=lambda: [b"text"]),
    "krun_footer.parse_footer": Parser(
        parse=krun_footer.parse_footer, examples=lambda: [b"{}KRUN\2\0\0\0\0\0\0\0"]
    ),
    "krun_footer.parse_krun_config": Parser(
        parse=krun_footer.parse_krun_config,
        examples=lambda: [b'{"workload_id":"a","cpus":1,"ram_mib":1,"tee":"snp"}'],
    ),
    "luks1_parse.parse_luks1_volume": Parser(
        parse=luks1_parse.parse_luks1_volume, examples=lambda: [make_luks1()[:592]]
    ),
    "luks_open.parse_volume": Parser(
        parse=luks_open.parse_volume, examples=lambda: [make_luks1()[:592], _luks2()]
    ),
    "luks_open_slots.parse_luks2_volume": Parser(
        parse=luks_open_slots.parse_luks2_volume, examples=lambda: [_luks2()]
    ),
    "luks2_parse.parse_header": Parser(
        parse=luks2_parse.parse_header, examples=lambda: [b"LUKS\xba\xbe\0\2".ljust(16384, b"\0")]
    ),
    "manifest.parse_manifest": Parser(parse=parse_manifest, examples=lambda: [b'{"version":1}']),
    "modinfo.parse_modinfo": Parser(
        parse=modinfo.parse_modinfo, examples=lambda: [b"\x7fELF\x02\x01\x01".ljust(200, b"\0")]
    ),
    "ovmf.parse_firmware_table": Parser(
        parse=ovmf.parse_firmware_table, examples=lambda: [build_sev_firmware()]
    ),
    "ovmf.read_table_entries": Parser(parse=ovmf.read_table_entries, examples=lambda: [build_sev_firmware()]),
    "pck_chain.parse_pem_chain": Parser(
        parse=pck_chain.parse_pem_chain, examples=lambda: [intel_pki.pem(*FakePlatform().chain)]
    ),
    "pck_extension.parse_pck_extension": Parser(
        parse=pck_extension.parse_pck_extension, examples=_extensions
    ),
    "snp_certs.parse_cert_table": Parser(
        parse=snp_certs.parse_cert_table, examples=lambda: [pack_cert_table({CertKind.VCEK: b"vcek"})]
    ),
    "snp_certs.parse_evidence": Parser(
        parse=snp_certs.parse_evidence, examples=lambda: [pack_evidence(b"a", b"b")]
    ),
    "snp_report.parse_report": Parser(parse=snp_report.parse_report, examples=lambda: [_report()]),
    "snp_tcb.parse_tcb": Parser(parse=_parse_tcb, examples=lambda: [bytes(8)]),
    "tdvf.parse_tdvf": Parser(parse=tdvf.parse_tdvf, examples=lambda: [build_tdvf()]),
    "tdx_collateral.parse_tdx_collateral": Parser(
        parse=tdx_collateral.parse_tdx_collateral,
        examples=lambda: [tdx_collateral.pack_tdx_collateral(_collateral())],
    ),
    "tdx_json.parse_signed_json": Parser(
        parse=partial(tdx_json.parse_signed_json, where="the document"), examples=lambda: [b'{"a": [1]}']
    ),
    "tdx_qe.parse_qe_identity": Parser(
        parse=tdx_qe.parse_qe_identity, examples=lambda: [_collateral().qe_identity]
    ),
    "tdx_qe.parse_qe_report": Parser(parse=tdx_qe.parse_qe_report, examples=lambda: [bytes(384)]),
    "tdx_quote.parse_tdx_quote": Parser(parse=tdx_quote.parse_tdx_quote, examples=_quotes),
    "tdx_tcb_info.parse_tcb_info": Parser(
        parse=tdx_tcb_info.parse_tcb_info, examples=lambda: [_collateral().tcb_info]
    ),
    "tpm_quote.parse_tpm_quote": Parser(
        parse=tpm_quote.parse_tpm_quote, examples=lambda: [tpm_quote.pack_tpm_quote(make_quote())]
    ),
    "verity.parse_superblock": Parser(
        parse=verity.parse_superblock, examples=lambda: [b"verity\0\0\1\0\0\0\1".ljust(4096, b"\0")]
    ),
    "x509.parse_certificate": Parser(parse=x509.parse_certificate, examples=_certificates),
    "x509.parse_crl": Parser(
        parse=x509.parse_crl, examples=lambda: [_collateral().root_ca_crl, _collateral().pck_crl]
    ),
    "attest.parse_policies": Parser(parse=_parse_policy, examples=lambda: [POLICY, b'{"vmpl": 0}']),
    "attest.read_snp_evidence": Parser(
        parse=read_snp_evidence, examples=lambda: [pack_evidence(_report(), b"")]
    ),
    "attest.read_tdx_evidence": Parser(parse=read_tdx_evidence, examples=_quotes),
}
# parsers of a JSON object that is read already: `recognise_evidence` leads there
INNER = {"evidence_encodings.recognise_document"}
