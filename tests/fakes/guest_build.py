"""A built guest whose parts are small, with the firmware of the hardware TEEs that a test names."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from krunpy.guest.build import _install, describe_krun_sev
from krunpy.guest.bundle import prepare_parts
from krunpy.guest.payload import KRUN_SEV_FIRMWARE, KRUN_SEV_KERNEL, name_firmware
from krunpy.tee.detect import TeeKind
from tests.fakes.firmware import build_sev_firmware
from tests.fakes.krun_sev import KERNEL
from tests.fakes.pe import build_pe
from tests.fakes.qboot import make_qboot
from tests.fakes.tdvf import build_tdvf

if TYPE_CHECKING:
    from pathlib import Path

FITTING = {
    TeeKind.SNP: build_sev_firmware(),
    TeeKind.TDX: build_tdvf([(0, 0x2000, 0xFFFFE000, 0x2000, 0, 1)]),
}


def build_guest(folder: Path, *kinds: str, krun_sev: bool = False, agent: bytes = b"agent") -> None:
    """Install a guest below a folder. krun_sev: with what machines of libkrun boot in SEV-SNP."""
    parts = {
        "agent": agent,
        "base.cpio": b"base",
        "vmlinuz": build_pe([b"kernel" * 100], setup=True),
        "firmware.bin": bytes(8192),
    }
    parts |= {name_firmware(TeeKind(kind)): FITTING[TeeKind(kind)] for kind in kinds}
    described: dict[str, object] = {}
    if krun_sev:
        kept = prepare_parts(KERNEL, make_qboot(0x10009A3), origin="libkrunfw-sev.so.5")
        parts |= {KRUN_SEV_KERNEL: kept.kernel.contents, KRUN_SEV_FIRMWARE: kept.qboot}
        described["krun_sev"] = describe_krun_sev(kept)
    description: dict[str, object] = {
        "cmdline": "quiet",
        "kernel": {"release": "6.12"},
        **described,
        "modules": [],
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in parts.items()},
        "bytes": {name: len(data) for name, data in parts.items()},
    }
    _install(str(folder), parts, description)
