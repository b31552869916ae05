"""What a container engine adds to a root file system by itself, taken away again.

A directory that podman prepared and the image it came from then give the same tree. The rules, and why:
- the root directory is root:root 0755 without extended attributes: images often have no entry for it, and
  container engines then invent one (podman 4.3: 0555);
- /dev, /proc and /sys are kept, their contents are not: the guest mounts its own there, and engines and
  package tools leave device nodes behind that differ from host to host;
- empty /etc/hosts, /etc/hostname, /etc/resolv.conf, /run/.containerenv and /.dockerenv are places for an
  engine's bind mounts; /etc/mtab as a symlink to the kernel's table is podman's;
- directories that every guest needs to mount something are made if they are missing;
- a directory keeps its time, but the root, /etc, /run and those that are mounted over have none: an engine changes
  them in every container it makes, and so does the agent.
"""

from __future__ import annotations

from krunpy.core.errors import BundleError
from krunpy.image.tree import Node, NodeKind, refuse

ENGINE_FILES = frozenset(
    (b"etc/hosts", b"etc/hostname", b"etc/resolv.conf", b"run/.containerenv", b".dockerenv")
)
MTAB = b"etc/mtab"
MTAB_TARGETS = frozenset((b"/proc/mounts", b"/proc/self/mounts", b"../proc/mounts", b"../proc/self/mounts"))
KERNEL_DIRECTORIES = frozenset((b"dev", b"proc", b"sys"))
TIMELESS_DIRECTORIES = KERNEL_DIRECTORIES | {b"etc", b"run"}
MADE_DIRECTORIES = {
    b"dev": 0o755,
    b"etc": 0o755,
    b"proc": 0o755,
    b"run": 0o755,
    b"sys": 0o755,
    b"tmp": 0o1777,
}


def is_engine_file(path: bytes, size: int) -> bool:
    """Say whether a regular file is only a place for an engine's bind mount."""
    return size == 0 and path in ENGINE_FILES


def is_engine_symlink(path: bytes, target: bytes) -> bool:
    """Say whether a symlink is the mount table that engines add."""
    return path == MTAB and target in MTAB_TARGETS


def normalise_tree(root: Node) -> None:
    """Change a tree in place as the module says.

    Raises BundleError if /dev, /proc or /sys is something else than a directory.
    """
    root.mode, root.uid, root.gid = 0o755, 0, 0
    root.xattrs, root.mtime = {}, 0
    for name in KERNEL_DIRECTORIES:
        node = root.children.get(name)
        if node is not None and node.kind is not NodeKind.DIRECTORY:
            raise refuse("the root file system", name, "is not a directory; the guest mounts its own there")
        if node is not None:
            node.children = {}
    for name in TIMELESS_DIRECTORIES & root.children.keys():
        if root.children[name].kind is NodeKind.DIRECTORY:
            root.children[name].mtime = 0
    for path in ENGINE_FILES | {MTAB}:
        _drop(root, path)
    for name, mode in MADE_DIRECTORIES.items():
        if name not in root.children:
            root.children[name] = Node(kind=NodeKind.DIRECTORY, mode=mode)


def _drop(root: Node, path: bytes) -> None:
    *parents, name = path.split(b"/")
    directory: Node | None = root
    for parent in parents:
        directory = directory.children.get(parent) if directory is not None else None
    node = directory.children.get(name) if directory is not None else None
    if directory is None or node is None:
        return
    is_file = node.kind is NodeKind.FILE and is_engine_file(path, node.size)
    if is_file or (node.kind is NodeKind.SYMLINK and is_engine_symlink(path, node.target)):
        del directory.children[name]


def require_contents(root: Node, what: str) -> None:
    """Raise BundleError if a root file system has nothing in it."""
    if not root.children:
        raise BundleError(f"cannot read {what}", why="it is empty")
