"""QEMU's words for an SEV-SNP launch.

Source: QEMU 9.1 qapi/qom.json (SevSnpGuestProperties), docs/system/i386/amd-memory-encryption.rst.
"""

from __future__ import annotations

from binascii import b2a_base64
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from krunpy.vmm.spec import SnpLaunch

OBJECT = "sev-snp-guest"  # from QEMU 9.1 on


def build_snp_object(launch: SnpLaunch, name: str) -> str:
    """Return the value of -object.

    kernel-hashes puts what is booted into the launch digest: a firmware without room for the hashes is refused by QEMU.
    """
    words = [
        f"{OBJECT},id={name}",
        f"cbitpos={launch.c_bit}",
        f"reduced-phys-bits={launch.reduced_phys_bits}",
        f"policy={launch.policy:#x}",
        "kernel-hashes=on",
        f"host-data={_encode(launch.host_data)}",
    ]
    if launch.id_block is not None:
        words += [
            f"id-block={_encode(launch.id_block.block)}",
            f"id-auth={_encode(launch.id_block.auth)}",
            f"author-key-enabled={'on' if launch.id_block.has_author_key else 'off'}",
        ]
    return ",".join(words)


def _encode(value: bytes) -> str:
    return b2a_base64(value, newline=False).decode("ascii")
