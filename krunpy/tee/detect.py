"""Which TEE this host can launch guests in, from what its kernel says. It opens no device.

Source: Linux Documentation/virt/kvm/x86/amd-memory-encryption.rst and Documentation/arch/x86/tdx.rst.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SEV_DEVICE = "/dev/sev"
SNP_PARAMETER = "/sys/module/kvm_amd/parameters/sev_snp"
TDX_PARAMETER = "/sys/module/kvm_intel/parameters/tdx"
QUOTE_SOCKET = "/var/run/tdx-qgs/qgs.socket"  # where Intel's packages let the quote generation service listen
ON = frozenset({"Y", "1"})  # as module parameters say it
_LARGEST_PARAMETER = 64  # bytes


class TeeKind(StrEnum):
    """A trusted execution environment, by the word that manifests and the protocol use."""

    SNP = "snp"
    TDX = "tdx"
    SOFTWARE = "software"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostTee:
    """The TEE a host offers; reasons: why not, for each hardware TEE it does not."""

    kind: TeeKind
    reasons: tuple[str, ...]


def find_host_tee(read: Callable[[str], str | None]) -> HostTee:
    """Return the TEE to launch guests in: hardware where the kernel offers it, else the software stand-in.

    read: returns a file's text, "" for a device that exists, None for what does not exist.
    """
    reasons = []
    snp = read(SNP_PARAMETER)
    if snp is None:
        reasons.append(f"snp: {SNP_PARAMETER} does not exist")
    elif snp.strip() not in ON:
        reasons.append(f"snp: seen {snp.strip() or 'nothing'} in {SNP_PARAMETER}, wanted Y")
    elif read(SEV_DEVICE) is None:
        reasons.append(f"snp: {SEV_DEVICE} does not exist")
    else:
        return HostTee(kind=TeeKind.SNP, reasons=())
    tdx = read(TDX_PARAMETER)
    if tdx is None:
        reasons.append(f"tdx: {TDX_PARAMETER} does not exist")
    elif tdx.strip() not in ON:
        reasons.append(f"tdx: seen {tdx.strip() or 'nothing'} in {TDX_PARAMETER}, wanted Y")
    else:
        return HostTee(kind=TeeKind.TDX, reasons=tuple(reasons))
    return HostTee(kind=TeeKind.SOFTWARE, reasons=tuple(reasons))


def read_host_file(path: str, limit: int = _LARGEST_PARAMETER) -> str | None:
    """Return a file's text, "" for a device or what cannot be read, None if it does not exist.

    limit: characters; what follows is cut off.
    """
    if not os.path.exists(path):
        return None
    if not os.path.isfile(path):
        return ""
    try:
        with open(path, encoding="ascii", errors="replace") as stream:
            return stream.read(limit)
    except OSError:
        return ""
