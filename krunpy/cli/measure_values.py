"""Predict the values of a prepared workload on the machine that the command line describes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

from krunpy.core.errors import UsageError
from krunpy.formats.manifest import encode_manifest, hash_manifest, parse_manifest
from krunpy.formats.vmsa import FEATURE_DEBUG_SWAP, FEATURE_SNP_ACTIVE
from krunpy.formats.vmsa_libkrun import VmsaVariant
from krunpy.guest.payload import assemble_payload
from krunpy.measure.description import (
    LaunchDescription,
    MeasuredFile,
    measure_file,
    measure_firmware,
    predict_described,
)
from krunpy.measure.launch import DEFAULT_VCPU_TYPE, Layout
from krunpy.measure.libkrun import LibkrunLaunch, fold_payload, pad_to_pages, predict_libkrun_digest
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

if TYPE_CHECKING:
    from collections.abc import Iterator

    from krunpy.core.octets import Digest48
    from krunpy.guest.payload import GuestPayload
    from krunpy.runtime.prepare import Prepared

QEMU, LIBKRUN = "qemu", "libkrun"
FEATURES = (FEATURE_SNP_ACTIVE, FEATURE_SNP_ACTIVE | FEATURE_DEBUG_SWAP)
_MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedFile:
    """A file of the command line."""

    name: str
    contents: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """The machine to predict for.

    firmware: None for the guest's own; of libkrun: qboot. kernel: of a libkrunfw bundle, as it lies in memory.
    vcpu_type, memory_mib: empty and 0 where the command line names none.
    rtmr0:    of a pinned machine, None if there is none.
    """

    tee: Tee
    vmm: str
    counts: tuple[int, ...]
    firmware: NamedFile | None
    kernel: NamedFile | None
    vcpu_type: str
    memory_mib: int
    usual_memory_mib: int
    rtmr0: Digest48 | None

    @property
    def measured_memory_mib(self) -> int:
        """The memory that values depend on."""
        return self.memory_mib or self.usual_memory_mib


def require_possible(wish: Wish) -> None:
    """Raise UsageError if nothing can be predicted for such a machine, or an option would be ignored."""
    what = f"cannot predict for {wish.tee} under {wish.vmm}"
    if wish.vmm not in {QEMU, LIBKRUN}:
        raise UsageError(what, why=f"wanted --vmm {QEMU} or {LIBKRUN}")
    if wish.vmm == LIBKRUN and wish.tee is Tee.TDX:
        raise UsageError(
            what,
            why="libkrun has TDX measure its firmware alone: kernel, initrd and command line could be anybody's",
            next="launch with QEMU and a TDVF firmware: --vmm qemu --firmware FILE",
        )
    if wish.vmm == LIBKRUN and (wish.firmware is None or wish.kernel is None):
        raise UsageError(
            what,
            why="a libkrunfw bundle has its own firmware and kernel",
            next="name its qboot with --firmware and its kernel with --kernel",
        )
    if wish.vmm == LIBKRUN and wish.tee is Tee.SOFTWARE:
        raise UsageError(what, why="the software TEE is launched by QEMU", next="give --tee snp")
    for option, given, fits in (
        ("--kernel", wish.kernel is not None, wish.vmm == LIBKRUN),
        ("--firmware", wish.firmware is not None, wish.tee is not Tee.SOFTWARE),
        ("--vcpu-type", bool(wish.vcpu_type), wish.tee is Tee.SNP and wish.vmm == QEMU),
        ("--memory", bool(wish.memory_mib), wish.tee is Tee.TDX or wish.vmm == LIBKRUN),
        ("--rtmr0", wish.rtmr0 is not None, wish.tee is Tee.TDX),
    ):
        if given and not fits:
            raise UsageError(what, why=f"{option} does not belong there")


def retarget(prepared: Prepared, tee: Tee) -> Prepared:
    """Return a prepared workload whose manifest, and so whose initrd, is for one TEE alone.

    Its launch digest is not predicted again: that is for `predict_values`.
    """
    if tee is Tee.SOFTWARE:
        return prepared
    manifest = encode_manifest(replace(parse_manifest(prepared.manifest), tees=(str(tee),)))
    payload = assemble_payload(prepared.guest, manifest)
    described = replace(
        prepared.description, initrd=measure_file(_name(prepared.description.initrd), payload.initrd)
    )
    return replace(prepared, manifest=manifest, payload=payload, description=described)


def predict_values(prepared: Prepared, wish: Wish) -> ReferenceValues:
    """Return the values of a workload that `retarget` made for the wish's TEE.

    Raises FormatError if the firmware cannot start such a machine.
    """
    predict = {
        (Tee.SOFTWARE, QEMU): _predict_software,
        (Tee.SNP, QEMU): _predict_snp,
        (Tee.SNP, LIBKRUN): _predict_libkrun,
        (Tee.TDX, QEMU): _predict_tdx,
    }[wish.tee, wish.vmm]
    return ReferenceValues(
        workload=prepared.parsed.workload,
        manifest_hash=hash_manifest(prepared.manifest),
        tee=wish.tee,
        vmm=wish.vmm,
        values=tuple(predict(prepared, wish)),
    )


def _name(file: MeasuredFile | None) -> str:
    return file.name if file is not None else ""


def _describe_file(name: str, contents: bytes) -> dict[str, object]:
    return {"name": name, "sha256": measure_file(name, contents).digest.hex()}


def _predict_software(prepared: Prepared, wish: Wish) -> Iterator[PredictedValue]:
    for count in wish.counts:
        described = replace(prepared.description, vcpus=count)
        yield _predict_one(described)


def _predict_one(described: LaunchDescription) -> PredictedValue:
    digest = predict_described(described)
    return PredictedValue(registers={"launch_digest": digest}, inputs=described.to_dict())


def _predict_snp(prepared: Prepared, wish: Wish) -> Iterator[PredictedValue]:
    firmware = prepared.description.firmware
    if wish.firmware is not None:
        firmware = measure_firmware(wish.firmware.name, wish.firmware.contents)
    described = replace(
        prepared.description,
        layout=Layout.SEV_METADATA,
        firmware=firmware,
        vcpu_type=wish.vcpu_type or DEFAULT_VCPU_TYPE,
    )
    for count, features in product(wish.counts, FEATURES):
        yield _predict_one(replace(described, vcpus=count, guest_features=features))


def _predict_libkrun(prepared: Prepared, wish: Wish) -> Iterator[PredictedValue]:
    if wish.firmware is None or wish.kernel is None:
        raise UsageError("cannot predict for libkrun", why="wanted --firmware and --kernel")
    initrd = pad_to_pages(prepared.payload.initrd)
    launch = LibkrunLaunch(
        qboot=wish.firmware.contents,
        kernel=wish.kernel.contents,
        initrd=initrd,
        vcpus=1,
        memory_mib=wish.measured_memory_mib,
    )
    folded = fold_payload(launch)
    files: dict[str, object] = {
        "firmware": _describe_file(wish.firmware.name, wish.firmware.contents),
        "kernel": _describe_file(wish.kernel.name, wish.kernel.contents),
        "initrd": _describe_file(f"{_name(prepared.description.initrd)}, padded", initrd),
        "memory_mib": wish.measured_memory_mib,
    }
    for count, variant in product(wish.counts, VmsaVariant):
        digest = predict_libkrun_digest(replace(launch, vcpus=count, variant=variant), folded=folded)
        yield PredictedValue(
            registers={"launch_digest": digest}, inputs=files | {"vcpus": count, "vmsa": str(variant)}
        )


def _predict_tdx(prepared: Prepared, wish: Wish) -> Iterator[PredictedValue]:
    payload, described = prepared.payload, prepared.description
    firmware = wish.firmware or NamedFile(name=described.firmware.name, contents=payload.firmware)
    mrtds = {order: predict_mrtd(firmware.contents, order) for order in PageOrder}
    kernels = {form: _predict_kernel(payload, form, wish.measured_memory_mib) for form in KernelForm}
    options = {form: make_load_options(payload.cmdline, form, has_initrd=True) for form in LoadOptionsForm}
    loads = {form: predict_rtmr2(text, payload.initrd) for form, text in options.items()}
    files: dict[str, object] = {
        "firmware": _describe_file(firmware.name, firmware.contents),
        "kernel": _describe_file(_name(described.kernel), payload.kernel),
        "initrd": _describe_file(_name(described.initrd), payload.initrd),
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
