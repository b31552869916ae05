"""Read what the TD quoting enclave (QE) says of itself, and what Intel says it must be.

The QE's report is an SGX report, as the processor made it; the QE identity is signed JSON. Neither is
verified here, nor are they compared.

Source: Intel SDM volume 3D, section 38.15 (REPORT); Intel API for the Provisioning Certification Service,
version 4: Get TDX QE identity.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from krunpy.core.errors import FormatError
from krunpy.core.octets import ReportData
from krunpy.formats.tdx_json import parse_signed_json, take_octets, take_time
from krunpy.formats.tdx_levels import HIGHEST_U16, IsvLevel, take_isv_levels

if TYPE_CHECKING:
    from datetime import datetime

_WHERE = "QE identity"
_ID, _VERSION = "TD_QE", 2
_HIGHEST_U32 = 0xFFFFFFFF
# CPUSVN, MISCSELECT, reserved, ATTRIBUTES, MRENCLAVE, reserved, MRSIGNER, reserved, ISVPRODID, ISVSVN,
# reserved, REPORTDATA
_REPORT = struct.Struct("<16x4s28x16s32x32x32s96xHH60x64s")
QE_REPORT_SIZE = _REPORT.size  # 384 bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class QeReport:
    """The QE's report: miscselect 4 bytes, attributes 16 bytes, mrsigner 32 bytes, as they lie there."""

    miscselect: bytes
    attributes: bytes
    mrsigner: bytes
    isv_prod_id: int
    isv_svn: int
    report_data: ReportData


@dataclass(frozen=True, slots=True, kw_only=True)
class QeIdentity:
    """Intel's identity of the TD QE, version 2; sizes as in `QeReport`, a mask beside what it masks."""

    issue_date: datetime
    next_update: datetime
    evaluation_number: int
    miscselect: bytes
    miscselect_mask: bytes
    attributes: bytes
    attributes_mask: bytes
    mrsigner: bytes
    isv_prod_id: int
    levels: tuple[IsvLevel, ...]


def parse_qe_report(raw: bytes) -> QeReport:
    """Return the fields of an SGX report, 384 bytes. Raises FormatError on any other size."""
    if len(raw) != QE_REPORT_SIZE:
        raise FormatError("cannot read the QE report", why=f"seen {len(raw)} bytes, wanted {QE_REPORT_SIZE}")
    miscselect, attributes, mrsigner, isv_prod_id, isv_svn, report_data = _REPORT.unpack(raw)
    return QeReport(
        miscselect=miscselect,
        attributes=attributes,
        mrsigner=mrsigner,
        isv_prod_id=isv_prod_id,
        isv_svn=isv_svn,
        report_data=ReportData(report_data),
    )


def parse_qe_identity(raw: bytes) -> QeIdentity:
    """Return what the signed bytes of a QE identity say: the inner object of Intel's answer.

    Raises FormatError unless it is an identity of the TD QE, version 2.
    """
    fields = parse_signed_json(raw, _WHERE)
    kind = fields.take_string("id")
    version = fields.take_integer("version", maximum=_HIGHEST_U32)
    if (kind, version) != (_ID, _VERSION):
        raise FormatError(
            f"cannot read the {_WHERE}", why=f'seen id "{kind[:40]}", version {version}; wanted "TD_QE", 2'
        )
    return QeIdentity(
        issue_date=take_time(fields, "issueDate"),
        next_update=take_time(fields, "nextUpdate"),
        evaluation_number=fields.take_integer("tcbEvaluationDataNumber", maximum=_HIGHEST_U32),
        miscselect=take_octets(fields, "miscselect", 4),
        miscselect_mask=take_octets(fields, "miscselectMask", 4),
        attributes=take_octets(fields, "attributes", 16),
        attributes_mask=take_octets(fields, "attributesMask", 16),
        mrsigner=take_octets(fields, "mrsigner", 32),
        isv_prod_id=fields.take_integer("isvprodid", maximum=HIGHEST_U16),
        levels=take_isv_levels(fields),
    )
