"""The values that a workload's evidence is compared with, one kind for each form of evidence. Pure.

Source: docs/protocol.md section 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from krunpy.core.errors import FormatError
from krunpy.core.octets import Digest48, HostData, LaunchDigest
from krunpy.formats.manifest import TEES
from krunpy.server.documents import take_object

if TYPE_CHECKING:
    from krunpy.formats.narrow import Fields
    from krunpy.formats.tdx_quote import TdReport

RTMRS = 4
_MAX_INPUTS = 8192  # characters of JSON, for one reference value


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpReferenceValue:
    """A launch digest that is right for the workload, and the inputs it was predicted from.

    tee:       "snp" or "software".
    host_data: None for any: the host chooses it, and the manifest lies in the measured initrd.
    """

    tee: str
    launch_digest: LaunchDigest
    inputs: dict[str, object]
    host_data: HostData | None = None

    @property
    def name(self) -> bytes:
        """What tells this value from others of its TEE."""
        return self.launch_digest

    def to_document(self) -> dict[str, object]:
        """Return the value as the protocol writes it."""
        bound = {"host_data": self.host_data.hex()} if self.host_data is not None else {}
        return {"tee": self.tee, "launch_digest": self.launch_digest.hex(), **bound, "inputs": self.inputs}


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxReferenceValue:
    """The registers of a TD that is right for the workload: all of them together, not each for itself.

    rtmrs:      RTMR0 to 3. Kernel, initrd and command line are in them, so there is no leaving them out.
    mrconfigid: None for any: the host chooses it, and the manifest lies in the measured initrd.
    """

    tee: ClassVar[str] = "tdx"
    mrtd: Digest48
    rtmrs: tuple[Digest48, ...]
    mrconfigid: Digest48 | None
    inputs: dict[str, object]

    @property
    def name(self) -> bytes:
        """What tells this value from others of its TEE."""
        return b"".join((self.mrtd, *self.rtmrs, self.mrconfigid or b""))

    def fits(self, td: TdReport) -> bool:
        """Return whether a TD has these registers."""
        registers = (td.mrtd, *td.rtmrs)
        is_configured = self.mrconfigid is None or td.mrconfigid == self.mrconfigid
        return is_configured and registers == (self.mrtd, *self.rtmrs)

    def to_document(self) -> dict[str, object]:
        """Return the value as the protocol writes it."""
        return {
            "tee": self.tee,
            "mrtd": self.mrtd.hex(),
            "rtmrs": [rtmr.hex() for rtmr in self.rtmrs],
            "mrconfigid": "" if self.mrconfigid is None else self.mrconfigid.hex(),
            "inputs": self.inputs,
        }


ReferenceValue: TypeAlias = SnpReferenceValue | TdxReferenceValue


def parse_reference_value(item: Fields) -> ReferenceValue:
    """Return one reference value. Raises FormatError if it is not one."""
    tee = item.take_string("tee")
    if tee not in TEES:
        raise FormatError(
            "cannot read the reference value", why=f'TEE "{tee[:40]}" is not one of {", ".join(TEES)}'
        )
    value = _parse_tdx(item) if tee == TdxReferenceValue.tee else _parse_snp(item, tee)
    item.require_no_more()
    return value


def _parse_snp(item: Fields, tee: str) -> SnpReferenceValue:
    return SnpReferenceValue(
        tee=tee,
        launch_digest=LaunchDigest(item.take_hex("launch_digest", LaunchDigest.size)),
        inputs=take_object(item, "inputs", limit=_MAX_INPUTS),
        host_data=HostData(item.take_hex("host_data", HostData.size)) if item.has("host_data") else None,
    )


def _parse_tdx(item: Fields) -> TdxReferenceValue:
    rtmrs = tuple(_parse_register(text) for text in item.take_strings("rtmrs", limit=RTMRS))
    if len(rtmrs) != RTMRS:
        raise FormatError(
            "cannot read the reference value", why=f"seen {len(rtmrs)} RTMRs, wanted {RTMRS}: RTMR0 to 3"
        )
    mrconfigid = item.take_string("mrconfigid")
    return TdxReferenceValue(
        mrtd=Digest48(item.take_hex("mrtd", Digest48.size)),
        rtmrs=rtmrs,
        mrconfigid=_parse_register(mrconfigid) if mrconfigid else None,
        inputs=take_object(item, "inputs", limit=_MAX_INPUTS),
    )


def _parse_register(text: str) -> Digest48:
    try:
        return Digest48.from_hex(text)
    except ValueError as error:
        raise FormatError(
            "cannot read the reference value", why=f"wanted {Digest48.size} bytes in lower-case hex"
        ) from error
