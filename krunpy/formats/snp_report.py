"""The SEV-SNP attestation report, versions 2 to 5: read all of it, and write it.

Reading says that the bytes have the report's shape, not that anyone signed them. TCB versions stay
bytes, for their layout depends on the product. What is signed is the first 0x2A0 bytes as they came.

Source: AMD SEV-SNP Firmware ABI (publication 56860), section 7.3, table ATTESTATION_REPORT. Version 4 is
undocumented and has the layout of 3.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, fields
from enum import IntEnum, IntFlag

from krunpy.core.errors import FormatError
from krunpy.core.octets import Digest48, HostData, LaunchDigest, ReportData
from krunpy.formats.snp_tcb import TCB_SIZE

REPORT_SIZE = 0x4A0  # bytes
SIGNED_SIZE = 0x2A0  # bytes, from the start
SIGNATURE_ECDSA_P384_SHA384 = 1
VMPL_OF_HOST = 0xFFFFFFFF  # the hypervisor asked for the report; the guest did not choose REPORT_DATA

_LAYOUT = struct.Struct("<II8s16s16sII8s8sI4x64s48s32s48s48s32s32s8s3s21x64s8s3sx3sx8s8s8s152x72s72s368x")
# must be zero: from, to, and the first version in which it is a field; the last lies outside the signature
_RESERVED = (
    (0x04C, 0x050, None),
    (0x188, 0x18B, 3),
    (0x18B, 0x1A0, None),
    (0x1EB, 0x1EC, None),
    (0x1EF, 0x1F0, None),
    (0x1F8, 0x208, 5),
    (0x208, 0x2A0, None),
    (0x330, 0x4A0, None),
)
_VERSIONS = (2, 3, 4, 5)
_POLICY_RESERVED_ONE = 1 << 17
_POLICY_KNOWN = (1 << 26) - 1


_NO_REPORT_DATA, _NO_MEASUREMENT = ReportData(bytes(64)), LaunchDigest(bytes(48))
_NO_HOST_DATA, _NO_DIGEST = HostData(bytes(32)), Digest48(bytes(48))


class GuestPolicy(IntFlag):
    """The bits of POLICY, section 4.3; the low 16 bits hold the ABI version."""

    SMT = 1 << 16
    RESERVED_ONE = _POLICY_RESERVED_ONE
    MIGRATE_MA = 1 << 18
    DEBUG = 1 << 19
    SINGLE_SOCKET = 1 << 20
    CXL_ALLOW = 1 << 21
    MEM_AES_256_XTS = 1 << 22
    RAPL_DIS = 1 << 23
    CIPHERTEXT_HIDING_DRAM = 1 << 24
    PAGE_SWAP_DISABLE = 1 << 25


class PlatformInfo(IntFlag):
    """The known bits of PLATFORM_INFO; others may be set and are left to the appraisal."""

    SMT_ENABLED = 1
    TSME_ENABLED = 1 << 1
    ECC_ENABLED = 1 << 2
    RAPL_DISABLED = 1 << 3
    CIPHERTEXT_HIDING_ENABLED = 1 << 4
    ALIAS_CHECK_COMPLETE = 1 << 5
    IOMMU_WRITE_SAFE = 1 << 6
    TIO_ENABLED = 1 << 7


class SigningKey(IntEnum):
    """SIGNING_KEY of KEY_INFO: which endorsement key signed the report."""

    VCEK = 0
    VLEK = 1
    NONE = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpReport:
    """Every field of a report. The `_tcb` fields are 8 bytes; cpuid is (family, model, stepping)."""

    version: int = 3
    guest_svn: int = 0
    policy: int = _POLICY_RESERVED_ONE
    family_id: bytes = bytes(16)
    image_id: bytes = bytes(16)
    vmpl: int = 0
    signature_algorithm: int = SIGNATURE_ECDSA_P384_SHA384
    current_tcb: bytes = bytes(TCB_SIZE)
    platform_info: int = 0
    has_author_key: bool = False
    masks_chip_key: bool = False
    signing_key: SigningKey = SigningKey.VCEK
    report_data: ReportData = _NO_REPORT_DATA
    measurement: LaunchDigest = _NO_MEASUREMENT
    host_data: HostData = _NO_HOST_DATA
    id_key_digest: Digest48 = _NO_DIGEST
    author_key_digest: Digest48 = _NO_DIGEST
    report_id: bytes = bytes(32)
    report_id_ma: bytes = b"\xff" * 32
    reported_tcb: bytes = bytes(TCB_SIZE)
    cpuid: tuple[int, int, int] = (0, 0, 0)
    chip_id: bytes = bytes(64)
    committed_tcb: bytes = bytes(TCB_SIZE)
    current_firmware: tuple[int, int, int] = (0, 0, 0)  # major, minor, build
    committed_firmware: tuple[int, int, int] = (0, 0, 0)
    launch_tcb: bytes = bytes(TCB_SIZE)
    launch_mit_vector: int = 0
    current_mit_vector: int = 0
    signature_r: bytes = bytes(72)  # little-endian
    signature_s: bytes = bytes(72)

    @property
    def abi_version(self) -> tuple[int, int]:
        """The least firmware ABI (major, minor) that the guest policy asks for."""
        return (self.policy >> 8) & 0xFF, self.policy & 0xFF


def _refuse(why: str) -> FormatError:
    return FormatError("cannot read the SNP attestation report", why=why)


def _u64(raw: bytes) -> int:
    return int.from_bytes(raw, "little")


def _version(raw: bytes) -> tuple[int, int, int]:
    build, minor, major = raw
    return major, minor, build


def _require_known(version: int, algorithm: int, policy: int, key_info: int) -> None:
    if algorithm != SIGNATURE_ECDSA_P384_SHA384:
        raise _refuse(f"seen SIGNATURE_ALGO {algorithm}, wanted 1")
    if not policy & _POLICY_RESERVED_ONE or policy > _POLICY_KNOWN:
        raise _refuse(f"seen POLICY {policy:#x}, wanted bit 17 and none above 25")
    if key_info >> 2 not in {0, 1, 7}:  # also: no bit above 4
        raise _refuse(f"seen KEY_INFO {key_info:#x}, wanted SIGNING_KEY 0, 1 or 7 and no reserved bit")
    if version not in _VERSIONS:
        raise _refuse(f"seen version {version}, wanted 2 to 5")


def _require_reserved(raw: bytes, version: int) -> None:
    for start, end, first_version in _RESERVED:
        is_reserved = first_version is None or version < first_version
        if is_reserved and raw[start:end].strip(b"\0"):
            raise _refuse(f"seen bytes other than zero at {start:#05x} of version {version}, wanted zero")


def parse_report(raw: bytes) -> SnpReport:
    """Return the fields of a report.

    raw: 1184 bytes.

    Raises FormatError on another length, an unknown version, algorithm, signing key or policy bit, or a
    reserved byte that is not zero.
    """
    if len(raw) != REPORT_SIZE:
        raise _refuse(f"seen {len(raw)} bytes, wanted {REPORT_SIZE}")
    (
        version, guest_svn, policy, family_id, image_id, vmpl, algorithm, current_tcb, platform_info,
        key_info, report_data, measurement, host_data, id_key, author_key, report_id, report_id_ma,
        reported_tcb, cpuid, chip_id, committed_tcb, current, committed, launch_tcb, launch_mit,
        current_mit, r, s,
    ) = _LAYOUT.unpack(raw)  # fmt: skip
    _require_known(version, algorithm, _u64(policy), key_info)
    _require_reserved(raw, version)
    return SnpReport(
        version=version,
        guest_svn=guest_svn,
        policy=_u64(policy),
        family_id=family_id,
        image_id=image_id,
        vmpl=vmpl,
        signature_algorithm=algorithm,
        current_tcb=current_tcb,
        platform_info=_u64(platform_info),
        has_author_key=bool(key_info & 1),
        masks_chip_key=bool(key_info & 2),
        signing_key=SigningKey(key_info >> 2),
        report_data=ReportData(report_data),
        measurement=LaunchDigest(measurement),
        host_data=HostData(host_data),
        id_key_digest=Digest48(id_key),
        author_key_digest=Digest48(author_key),
        report_id=report_id,
        report_id_ma=report_id_ma,
        reported_tcb=reported_tcb,
        cpuid=(cpuid[0], cpuid[1], cpuid[2]),
        chip_id=chip_id,
        committed_tcb=committed_tcb,
        current_firmware=_version(current),
        committed_firmware=_version(committed),
        launch_tcb=launch_tcb,
        launch_mit_vector=_u64(launch_mit),
        current_mit_vector=_u64(current_mit),
        signature_r=r,
        signature_s=s,
    )


def pack_report(report: SnpReport) -> bytes:
    """Return the 1184 bytes of a report; the inverse of `parse_report` on what it accepts.

    Raises ValueError or struct.error where a field does not fit its place.
    """
    for field in fields(report):
        value = getattr(report, field.name)
        if isinstance(value, bytes) and len(value) != len(field.default):  # type: ignore[arg-type]
            msg = f"{field.name} is {len(field.default)} bytes, seen {len(value)}"  # type: ignore[arg-type]
            raise ValueError(msg)
    key_info = report.has_author_key | report.masks_chip_key << 1 | report.signing_key << 2
    return _LAYOUT.pack(
        report.version,
        report.guest_svn,
        report.policy.to_bytes(8, "little"),
        report.family_id,
        report.image_id,
        report.vmpl,
        report.signature_algorithm,
        report.current_tcb,
        report.platform_info.to_bytes(8, "little"),
        key_info,
        report.report_data,
        report.measurement,
        report.host_data,
        report.id_key_digest,
        report.author_key_digest,
        report.report_id,
        report.report_id_ma,
        report.reported_tcb,
        bytes(report.cpuid),
        report.chip_id,
        report.committed_tcb,
        bytes(reversed(report.current_firmware)),
        bytes(reversed(report.committed_firmware)),
        report.launch_tcb,
        report.launch_mit_vector.to_bytes(8, "little"),
        report.current_mit_vector.to_bytes(8, "little"),
        report.signature_r,
        report.signature_s,
    )
