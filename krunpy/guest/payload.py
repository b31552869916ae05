"""What one machine boots: firmware, kernel, initrd with the manifest, command line.

The bytes are read once; what is registered comes from the digests recorded when the guest was built, so a
part that was changed since then cannot become a reference value.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass

from krunpy.core.errors import FormatError, HostError
from krunpy.core.files import load_bounded
from krunpy.formats.narrow import Fields
from krunpy.guest.initrd import build_manifest_member
from krunpy.guest.kernel import MAX_FIRMWARE, MAX_KERNEL
from krunpy.tee.detect import TeeKind

_PARTS = {"vmlinuz": MAX_KERNEL, "base.cpio": MAX_KERNEL}
PACKAGES = {TeeKind.SNP: "ovmf-amdsev", TeeKind.TDX: "ovmf"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """A built guest, as it is on disk now, with the firmware of one TEE."""

    tee: TeeKind
    folder: str
    release: str
    cmdline: str
    kernel: bytes
    base: bytes
    firmware: bytes
    recorded: dict[str, str]  # part -> SHA-256 in hex, from the build


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestPayload:
    """Exactly the bytes that a machine is to load."""

    firmware: bytes
    kernel: bytes
    initrd: bytes
    cmdline: str


def name_firmware(tee: TeeKind) -> str:
    """Return the name of the part that holds the firmware of a TEE."""
    return "firmware.bin" if tee is TeeKind.SOFTWARE else f"firmware-{tee}.fd"


def load_guest(guest_dir: str, build: str = "current", *, tee: TeeKind = TeeKind.SOFTWARE) -> Guest:
    """Return the current guest (or a kept build) with the firmware of a TEE.

    Raises HostError if none was built, or without that firmware, FormatError if its description is broken.
    """
    folder = os.path.join(guest_dir, build if build == "current" else os.path.join("builds", build))
    if not os.path.exists(os.path.join(folder, "guest.json")):
        raise HostError(
            "cannot find the guest", why=f"{folder} does not exist", next="run `krunpy guest build`"
        )
    folder = os.path.realpath(folder)
    description = load_description(folder)
    digests = description.take_fields("sha256")
    firmware = name_firmware(tee)
    if tee is not TeeKind.SOFTWARE and not digests.has(firmware):
        raise _make_lacking(tee)
    sizes = {**_PARTS, firmware: MAX_FIRMWARE}
    parts = {name: load_bounded(os.path.join(folder, name), limit) for name, limit in sizes.items()}
    return Guest(
        tee=tee,
        folder=folder,
        release=description.take_fields("kernel").take_string("release"),
        cmdline=description.take_string("cmdline"),
        kernel=parts["vmlinuz"],
        base=parts["base.cpio"],
        firmware=parts[firmware],
        recorded={name: digests.take_string(name) for name in sizes},
    )


def _make_lacking(tee: TeeKind) -> HostError:
    return HostError(
        f"cannot use the guest in {tee}",
        why=f"it was built without a firmware for {tee}",
        next=f"apt-get install {PACKAGES[tee]} (Debian sid has one that fits) and `krunpy guest build`, or "
        f'`krunpy guest build --{tee}-firmware FILE`; tee = "software" does without, NOT CONFIDENTIAL',
    )


def load_description(folder: str) -> Fields:
    """Return the members of a build's guest.json."""
    text = load_bounded(os.path.join(folder, "guest.json"), 1024 * 1024)
    try:
        return Fields(json.loads(text), f"{folder}/guest.json")
    except (ValueError, RecursionError) as error:
        raise FormatError(f"cannot read {folder}/guest.json", why="it is not JSON") from error


def require_unchanged(guest: Guest) -> None:
    """Raise HostError if a part is not what was built: such a guest is booted by nobody who means well."""
    seen = {"vmlinuz": guest.kernel, "base.cpio": guest.base, name_firmware(guest.tee): guest.firmware}
    for name, data in seen.items():
        digest = hashlib.sha256(data).hexdigest()
        if digest != guest.recorded[name]:
            raise HostError(
                f"cannot use the guest's {name}",
                why=f"SHA-256 is {digest}, recorded when it was built {guest.recorded[name]}",
                next="find out who changed it, then run `krunpy guest build`",
            )


def assemble_payload(guest: Guest, manifest: bytes) -> GuestPayload:
    """Return the bytes that boot the workload of this manifest."""
    return GuestPayload(
        firmware=guest.firmware,
        kernel=guest.kernel,
        initrd=guest.base + build_manifest_member(manifest),
        cmdline=guest.cmdline,
    )


def assemble_class_payload(guest: Guest) -> GuestPayload:
    """Return the bytes that boot every workload of a class: its manifest comes over the channel."""
    return GuestPayload(
        firmware=guest.firmware, kernel=guest.kernel, initrd=guest.base, cmdline=guest.cmdline
    )
