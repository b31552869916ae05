"""Assemble the initial RAM disk: the agent and the modules (base), then the manifest. Reproducible.

Source: docs/protocol.md section 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from krunpy.formats.cpio import build_cpio, make_directory, make_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from krunpy.guest.modules import Module

_PAGE_SIZE = 4096  # bytes


def build_base(agent: bytes, early: Sequence[Module], late: Sequence[Module]) -> bytes:
    """Return the generic member: /init, /modules/NAME.ko and their load order. Same inputs, same bytes.

    early: what the channel needs; an empty line in the order divides it from the rest, which can wait.
    """
    modules = (*early, *late)
    order = "\n".join(
        [*(f"{module.name}.ko" for module in early), "", *(f"{module.name}.ko" for module in late), ""]
    )
    return build_cpio(
        [
            *(make_directory(name) for name in ("dev", "modules", "proc", "root", "sys")),
            make_file("init", agent, permissions=0o755),
            *(make_file(f"modules/{module.name}.ko", module.contents) for module in modules),
            make_file("modules/order", order.encode()),
        ]
    )


def build_manifest_member(manifest: bytes) -> bytes:
    """Return the second member, which names one workload."""
    return build_cpio([make_file("manifest.json", manifest, permissions=0o444)])


def build_plain_initrd(agent: bytes, manifest: bytes) -> bytes:
    """Return the initrd of a workload for a kernel without modules, whole pages of 4096 bytes; it is not compressed."""
    initrd = build_base(agent, (), ()) + build_manifest_member(manifest)
    return initrd + bytes(-len(initrd) % _PAGE_SIZE)
