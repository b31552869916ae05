"""Which objects an installed QEMU knows: whether it can launch in a hardware TEE is not told by its version alone."""

from __future__ import annotations

from krunpy.core.proc import run

_TIMEOUT_S = 30


def list_objects(program: str) -> frozenset[str]:
    """Return the types that QEMU's -object takes, as "sev-snp-guest".

    Raises HostError if the program cannot be run or fails.
    """
    output = run([program, "-machine", "none", "-object", "help"], timeout_s=_TIMEOUT_S)
    return frozenset(output.stdout.decode("utf-8", "replace").split())
