"""What a payload's launch will be measured as: heavy imports, so nothing before a machine's start needs this module."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from krunpy.guest.bundle import describe_bundle, open_payload
from krunpy.measure.description import (
    LaunchDescription,
    measure_cmdline,
    measure_file,
    measure_firmware,
    predict_described,
)
from krunpy.measure.launch import SNP_FEATURES, Layout, find_layout
from krunpy.measure.libkrun import fold_payload
from krunpy.measure.libkrun_description import BundleDescription, list_variants, predict_bundle
from krunpy.tee.detect import TeeKind

if TYPE_CHECKING:
    from krunpy.core.octets import LaunchDigest
    from krunpy.formats.krun_bundle import KrunBundle
    from krunpy.guest.payload import GuestPayload


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedLaunch:
    """A launch digest, and what it was predicted from."""

    description: LaunchDescription | BundleDescription
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


def describe_bundle_launch(
    bundle: KrunBundle, *, cpus: int, memory_mib: int, name: str, system: LaunchDigest | None = None
) -> BundleDescription:
    """Return what the launch digest of a machine with this bundle is made from. name: as for `describe_launch`.

    system: the launch digest after its firmware and kernel, where that is known.

    Raises FormatError if libkrun has no such machine.
    """
    launch = describe_bundle(bundle, vcpus=cpus, memory_mib=memory_mib)
    return BundleDescription(
        firmware=measure_file(f"qboot of {name}, entry {bundle.kernel.entry_gpa:#x}", bundle.qboot),
        kernel=measure_file(f"kernel of {name}, padded", bundle.kernel.image),
        initrd=measure_file(f"agent of {name} and manifest, padded", bundle.initrd),
        initrd_size=len(bundle.initrd),
        folded=fold_payload(launch, system),
        vcpus=cpus,
        memory_mib=memory_mib,
    )


def predict_launches(
    tee: TeeKind, payload: GuestPayload, *, cpus: int, name: str
) -> tuple[PredictedLaunch, ...]:
    """Return every launch digest that a machine of krunpy's with this payload may have.

    None for TDX: what QEMU's tables for a machine measure to (RTMR0) is not predicted. For SEV-SNP under libkrun see
    `predict_bundled`.

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


def predict_bundled(
    payload: GuestPayload, *, cpus: int, memory_mib: int, name: str, system: LaunchDigest | None = None
) -> tuple[PredictedLaunch, ...]:
    """Return every launch digest of a machine of libkrun in SEV-SNP: one for each variant of the VMSA.

    name, system: as for `describe_bundle_launch`.

    Raises FormatError if libkrun has no such machine.
    """
    described = describe_bundle_launch(
        open_payload(payload), cpus=cpus, memory_mib=memory_mib, name=name, system=system
    )
    return tuple(
        PredictedLaunch(description=item, digest=predict_bundle(item)) for item in list_variants(described)
    )
