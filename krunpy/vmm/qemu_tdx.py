"""QEMU's words for a TDX launch.

Source: QEMU 10.1 qapi/qom.json (TdxGuestProperties), docs/system/i386/tdx.rst.
"""

from __future__ import annotations

import json
from binascii import b2a_base64
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from krunpy.vmm.spec import TdxLaunch

OBJECT = "tdx-guest"  # from QEMU 10.1 on
# With a PMU the TD's attributes have PERFMON set, and a quote would differ between hosts.
CPU = "host,pmu=off"
# TDX lets KVM emulate the local APIC only, and has no way for a legacy interrupt controller.
ACCEL = "kvm,kernel-irqchip=split"
MACHINE = "pic=off"


def build_tdx_object(launch: TdxLaunch, name: str) -> str:
    """Return the value of -object: JSON, since its other form has no word for a socket's members."""
    words = {
        "qom-type": OBJECT,
        "id": name,
        "mrconfigid": b2a_base64(launch.mrconfigid, newline=False).decode("ascii"),
        "sept-ve-disable": True,
        "quote-generation-socket": {"type": "unix", "path": launch.quote_socket},
    }
    return json.dumps(words, separators=(",", ":"))
