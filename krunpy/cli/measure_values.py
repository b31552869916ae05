"""Predict the values of a prepared workload on the machine that the command line describes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

from krunpy.core.errors import UsageError
from krunpy.formats.manifest import ManifestIn
from krunpy.guest.bundle import build_bundle, open_payload
from krunpy.measure.description import (
    LaunchDescription,
    measure_file,
    measure_firmware,
    predict_described,
)
from krunpy.measure.launch import DEFAULT_VCPU_TYPE, SNP_FEATURES, Layout
from krunpy.measure.libkrun_description import list_variants, predict_bundle
from krunpy.measure.libkrun_tdx import predict_shim_mrtd
from krunpy.measure.reference_values import RTMR0, PredictedValue, ReferenceValues, Tee
from krunpy.measure.tdx_mrtd import PageOrder, predict_mrtd
from krunpy.measure.tdx_rtmr import (
    ZERO_REGISTER,
    KernelForm,
    LoadOptionsForm,
    make_load_options,
    make_measured_kernel,
    predict_rtmr1,
    predict_rtmr2,
)
from krunpy.runtime.predict import describe_bundle_launch, describe_launch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from krunpy.core.octets import Digest48
    from krunpy.formats.krun_bundle import KrunBundle
    from krunpy.formats.krun_kernel import KrunKernel
    from krunpy.guest.payload import GuestPayload
    from krunpy.runtime.prepare import Drafted

QEMU, LIBKRUN = "qemu", "libkrun"
_MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedFile:
    """A file of the command line."""

    name: str
    contents: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleParts:
    """Kernel and firmware of an installed libkrunfw for SEV."""

    name: str
    kernel: KrunKernel
    qboot: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """The machine to predict for.

    firmware, bundle: in place of the guest's own; bundle: what a libkrunfw for SEV has.
    vcpu_type, memory_mib: empty and 0 where the command line names none.
    rtmr0:    of a pinned machine, None if there is none.
    """

    tee: Tee
    vmm: str
    counts: tuple[int, ...]
    firmware: NamedFile | None
    bundle: BundleParts | None
    vcpu_type: str
    memory_mib: int
    usual_memory_mib: int
    rtmr0: Digest48 | None

    @property
    def is_bundled(self) -> bool:
        """Whether the machine boots a bundle of libkrunfw's kind."""
        return self.vmm == LIBKRUN and self.tee is Tee.SNP

    @property
    def is_whole(self) -> bool:
        """Whether everything of the workload is in the values; what TD-Shim measures under libkrun is not."""
        return self.vmm == QEMU or self.tee is not Tee.TDX

    @property
    def measured_memory_mib(self) -> int:
        """The memory that values depend on."""
        return self.memory_mib or self.usual_memory_mib


def require_possible(wish: Wish) -> None:
    """Raise UsageError if nothing can be predicted for such a machine, or an option would be ignored."""
    what = f"cannot predict for {wish.tee} under {wish.vmm}"
    if wish.vmm not in {QEMU, LIBKRUN}:
        raise UsageError(what, why=f"wanted --vmm {QEMU} or {LIBKRUN}")
    is_shim = not wish.is_whole
    if is_shim and wish.firmware is None:
        raise UsageError(
            what,
            why="libkrun has TDX measure its firmware alone: kernel, initrd and command line could be anybody's",
            next="launch with QEMU and a TDVF firmware: --vmm qemu --firmware FILE; or name the TD-Shim of a libkrun "
            "that has one: --firmware TDSHIM",
        )
    is_bundled = wish.is_bundled
    for option, given, fits in (
        ("--libkrunfw", wish.bundle is not None, is_bundled),
        ("--firmware", wish.firmware is not None, wish.tee is not Tee.SOFTWARE and not is_bundled),
        ("--vcpu-type", bool(wish.vcpu_type), wish.tee is Tee.SNP and wish.vmm == QEMU),
        ("--memory", bool(wish.memory_mib), wish.tee is Tee.TDX or is_bundled),
        ("--rtmr0", wish.rtmr0 is not None, wish.tee is Tee.TDX and not is_shim),
    ):
        if given and not fits:
            raise UsageError(what, why=f"{option} does not belong there")


def predict_values(drafted: Drafted, wish: Wish, bundle: KrunBundle | None = None) -> ReferenceValues:
    """Return the values of a workload that was drafted for the wish's TEE.

    bundle: of `build_wished_bundle`, for SNP under libkrun.

    Raises FormatError if the firmware cannot start such a machine.
    """
    if bundle is not None and drafted.manifest_in is ManifestIn.HOST_DATA:
        raise UsageError(
            "cannot predict for libkrun",
            why="it sets no HOST_DATA, which is what --manifest-in host-data binds a manifest by",
            next="measure and run with --manifest-in initrd",
        )
    predict = {Tee.SOFTWARE: _predict_software, Tee.SNP: _predict_snp, Tee.TDX: _predict_tdx}[wish.tee]
    found = predict(drafted, wish) if bundle is None else _predict_libkrun(bundle, drafted, wish)
    return ReferenceValues(
        workload=drafted.parsed.workload,
        manifest_hash=drafted.manifest_hash,
        tee=wish.tee,
        vmm=wish.vmm,
        values=tuple(found),
        manifest_in=drafted.manifest_in,
    )


def _describe_file(name: str, contents: bytes) -> dict[str, object]:
    return {"name": name, "sha256": measure_file(name, contents).digest.hex()}


def _predict_software(drafted: Drafted, wish: Wish) -> Iterator[PredictedValue]:
    described = describe_launch(drafted.payload, cpus=1, name=drafted.guest_name)
    for count in wish.counts:
        yield _predict_one(replace(described, vcpus=count))


def _predict_one(described: LaunchDescription) -> PredictedValue:
    digest = predict_described(described)
    return PredictedValue(registers={"launch_digest": digest}, inputs=described.to_dict())


def _predict_snp(drafted: Drafted, wish: Wish) -> Iterator[PredictedValue]:
    described = describe_launch(drafted.payload, cpus=1, name=drafted.guest_name)
    described = replace(
        described,
        layout=Layout.SEV_METADATA,
        firmware=measure_firmware(wish.firmware.name, wish.firmware.contents)
        if wish.firmware is not None
        else described.firmware,
        vcpu_type=wish.vcpu_type or DEFAULT_VCPU_TYPE,
    )
    for count, features in product(wish.counts, SNP_FEATURES):
        yield _predict_one(replace(described, vcpus=count, guest_features=features))


def build_wished_bundle(drafted: Drafted, wish: Wish, agent: bytes) -> KrunBundle | None:
    """Return what a machine of libkrun in SNP boots for a drafted workload, None for other wishes.

    Raises FormatError if libkrunfw's parts do not fit each other or our initrd.
    """
    if not wish.is_bundled:
        return None
    if wish.bundle is None:
        return open_payload(drafted.payload)
    return build_bundle(wish.bundle.kernel, wish.bundle.qboot, agent=agent, manifest=drafted.manifest)


def _predict_libkrun(bundle: KrunBundle, drafted: Drafted, wish: Wish) -> Iterator[PredictedValue]:
    name = wish.bundle.name if wish.bundle is not None else drafted.guest_name
    system = drafted.guest.folded if wish.bundle is None else None
    described = describe_bundle_launch(
        bundle, cpus=1, memory_mib=wish.measured_memory_mib, name=name, system=system
    )
    for count in wish.counts:
        for item in list_variants(replace(described, vcpus=count)):
            yield PredictedValue(registers={"launch_digest": predict_bundle(item)}, inputs=item.to_dict())


def _predict_shim(firmware: NamedFile, wish: Wish) -> Iterator[PredictedValue]:
    yield PredictedValue(
        registers={"mrtd": predict_shim_mrtd(firmware.contents, memory_mib=wish.measured_memory_mib)},
        inputs={
            "firmware": _describe_file(firmware.name, firmware.contents),
            "memory_mib": wish.measured_memory_mib,
            "page_order": str(PageOrder.SINGLE_PASS),
        },
    )


def _predict_tdx(drafted: Drafted, wish: Wish) -> Iterator[PredictedValue]:
    if wish.vmm == LIBKRUN and wish.firmware is not None:
        yield from _predict_shim(wish.firmware, wish)
        return
    payload, name = drafted.payload, drafted.guest_name
    firmware = wish.firmware or NamedFile(name=f"firmware of {name}", contents=payload.firmware)
    mrtds = {order: predict_mrtd(firmware.contents, order) for order in PageOrder}
    kernels = {form: _predict_kernel(payload, form, wish.measured_memory_mib) for form in KernelForm}
    options = {form: make_load_options(payload.cmdline, form, has_initrd=True) for form in LoadOptionsForm}
    loads = {form: predict_rtmr2(text, payload.initrd) for form, text in options.items()}
    files: dict[str, object] = {
        "firmware": _describe_file(firmware.name, firmware.contents),
        "kernel": _describe_file(f"kernel of {name}", payload.kernel),
        "initrd": _describe_file(f"initrd of {name}", payload.initrd),
        "cmdline": payload.cmdline,
        "memory_mib": wish.measured_memory_mib,
        "vcpus": list(wish.counts),
    }
    pinned = {RTMR0: wish.rtmr0} if wish.rtmr0 is not None else {}
    for order, kernel, load in product(PageOrder, KernelForm, LoadOptionsForm):
        registers = {"mrtd": mrtds[order], "rtmr1": kernels[kernel], "rtmr2": loads[load]}
        shape: dict[str, object] = {
            "page_order": str(order),
            "kernel_form": str(kernel),
            "load_options": options[load],
        }
        yield PredictedValue(registers=registers | {"rtmr3": ZERO_REGISTER} | pinned, inputs=files | shape)


def _predict_kernel(payload: GuestPayload, form: KernelForm, memory_mib: int) -> Digest48:
    measured = make_measured_kernel(
        payload.kernel, form, initrd_size=len(payload.initrd), memory_size=memory_mib * _MIB
    )
    return predict_rtmr1(measured)
