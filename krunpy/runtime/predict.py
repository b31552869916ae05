"""What a payload's launch will be measured as: heavy imports, so nothing before a machine's start needs this module."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from krunpy.measure.description import (
    LaunchDescription,
    measure_cmdline,
    measure_file,
    measure_firmware,
    predict_described,
)
from krunpy.measure.launch import SNP_FEATURES, Layout, find_layout
from krunpy.tee.detect import TeeKind

if TYPE_CHECKING:
    from krunpy.core.octets import LaunchDigest
    from krunpy.guest.payload import GuestPayload


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedLaunch:
    """A launch digest, and what it was predicted from."""

    description: LaunchDescription
    digest: LaunchDigest


def describe_launch(payload: GuestPayload, *, cpus: int, name: str) -> LaunchDescription:
    """Return what a launch digest of this payload is made from. name: of the guest build, for people."""
    return LaunchDescription(
        layout=find_layout(payload.firmware),
        firmware=measure_firmware(f"firmware of {name}", payload.firmware),
        kernel=measure_file(f"kernel of {name}", payload.kernel),
        initrd=measure_file(f"initrd of {name}", payload.initrd),
        cmdline=measure_cmdline(payload.cmdline),
        vcpus=cpus,
    )


def predict_launches(
    tee: TeeKind, payload: GuestPayload, *, cpus: int, name: str
) -> tuple[PredictedLaunch, ...]:
    """Return every launch digest that a machine of krunpy's with this payload may have.

    None for TDX: what QEMU's tables for a machine measure to (RTMR0) is not predicted.

    Raises FormatError if the firmware cannot start such a machine.
    """
    if tee is TeeKind.TDX:
        return ()
    described = describe_launch(payload, cpus=cpus, name=name)
    variants = [described]
    if tee is TeeKind.SNP:
        variants = [
            replace(described, layout=Layout.SEV_METADATA, guest_features=features)
            for features in SNP_FEATURES
        ]
    return tuple(PredictedLaunch(description=item, digest=predict_described(item)) for item in variants)
