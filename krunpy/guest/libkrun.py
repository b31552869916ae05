"""What a guest of libkrun boots from: a small read-only erofs with the agent and, per workload, the manifest.

libkrun's own kernels have no initrd. The volume is the machine's first disk, which nothing but the kernel and the agent
read; the workload's disk is the second. Its bytes are measured like an initrd's, and equal inputs give equal bytes.
"""

from __future__ import annotations

# console: messages of the kernel; rootfstype and root: the volume; nothing of it is the agent's
CMDLINE = (
    "console=hvc0 quiet loglevel=1 panic=-1 reboot=k cryptomgr.notests=1 "
    "root=/dev/vda rootfstype=erofs ro init=/init"
)
# where the agent mounts what it needs before it leaves the volume
_MOUNT_POINTS = (b"dev", b"proc", b"sys", b"run")


def build_boot_volume(agent: bytes, manifest: bytes | None) -> bytes:
    """Return the bytes of the volume, whole blocks of 4096.

    manifest: None for a class of workloads: it comes over the channel.
    """
    # 10 ms of imports that a launch under QEMU does without
    from krunpy.formats.erofs import BLOCK_SIZE
    from krunpy.image.erofs import Layout
    from krunpy.image.tree import Node, NodeKind

    contents = {b"init": (0o755, agent)}
    if manifest is not None:
        contents[b"manifest.json"] = (0o444, manifest)
    root = Node(kind=NodeKind.DIRECTORY, mode=0o755)
    for name in _MOUNT_POINTS:
        root.children[name] = Node(kind=NodeKind.DIRECTORY, mode=0o755)
    for name, (mode, data) in contents.items():
        root.children[name] = Node(kind=NodeKind.FILE, mode=mode, size=len(data), content=data)
    layout = Layout(root)
    volume = bytearray(layout.blocks * BLOCK_SIZE)
    position = 0
    for blocks in layout.pack_metadata():
        volume[position : position + len(blocks)] = blocks
        position += len(blocks)
    for place in layout.list_files():
        start = place.block * BLOCK_SIZE
        volume[start : start + place.size] = place.node.content
    return bytes(volume)
