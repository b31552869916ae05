"""Assemble the initial RAM disk: the agent and the modules (base), then the manifest. Reproducible.

Source: docs/protocol.md section 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from krunpy.formats.cpio import build_cpio, make_directory, make_file

if TYPE_CHECKING:
    from krunpy.guest.modules import Module


def build_base(agent: bytes, modules: list[Module]) -> bytes:
    """Return the generic member: /init, /modules/NAME.ko and their load order. Same inputs, same bytes."""
    order = "".join(f"{module.name}.ko\n" for module in modules)
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
