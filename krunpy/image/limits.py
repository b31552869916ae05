"""The bounds on everything a stranger's image can ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from krunpy.image.tree import refuse

if TYPE_CHECKING:
    from collections.abc import Mapping

GIB = 1024 * 1024 * 1024  # bytes
NAME_MAX = 255  # bytes, one component; Linux
PATH_MAX = 4096  # bytes, a whole name or the target of a symlink; Linux
XATTR_VALUE_MAX = 65535  # bytes; erofs stores the length in 16 bits
XATTR_TOTAL_MAX = 65536  # bytes, names and values of one inode
ID_MAX = 0xFFFFFFFE  # uid and gid; 0xffffffff means "no change"
MTIME_MAX = (
    1 << 63
) // 1_000_000_000  # seconds: what fits in 63 bits of nanoseconds, as container engines have it


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much one source may hold.

    entries: names, and headers of archives.
    depth:   components of a path.
    total:   bytes of all files, and of all layers uncompressed.
    ratio:   uncompressed to compressed, once layers give more than ratio_from bytes. Honest ones are below 20;
             gzip reaches 1030, so that a bomb of this ratio costs its sender what it costs us.
    """

    entries: int = 500_000
    depth: int = 64
    total: int = 64 * GIB
    ratio: int = 200
    ratio_from: int = GIB


DEFAULT_LIMITS = Limits()


def clamp_mtime(seconds: int) -> int:
    """Return a time that every file system holds: those before 1970 or after 2262 become 0, as in podman."""
    return seconds if 0 <= seconds <= MTIME_MAX else 0


def require_name(name: bytes, path: bytes) -> None:
    """Raise BundleError unless one component of a path is one a file system can hold."""
    if len(name) > NAME_MAX:
        raise refuse(
            "a name", path, f"has a component of {len(name)} bytes, at most {NAME_MAX} can be stored"
        )
    if b"\0" in name:
        raise refuse("a name", path, "holds a zero byte")


def require_xattrs(xattrs: Mapping[bytes, bytes], path: bytes) -> None:
    """Raise BundleError unless the extended attributes of one inode can be stored."""
    total = 0
    for name, value in xattrs.items():
        if not name or len(name) > NAME_MAX or b"\0" in name:
            raise refuse(
                "an extended attribute", path, f"has a name of {len(name)} bytes, wanted 1 to {NAME_MAX}"
            )
        if len(value) > XATTR_VALUE_MAX:
            why = f"has one of {len(value)} bytes, at most {XATTR_VALUE_MAX} can be stored"
            raise refuse("an extended attribute", path, why)
        total += len(name) + len(value)
    if total > XATTR_TOTAL_MAX:
        why = f"has {total} bytes of them, at most {XATTR_TOTAL_MAX} can be stored"
        raise refuse("extended attributes", path, why)


KEPT_XATTRS = (b"user.", b"trusted.")
KEPT_XATTR_NAMES = (b"security.capability", b"system.posix_acl_access", b"system.posix_acl_default")
# Private notes of overlayfs and fuse-overlayfs, about a stack of directories that the image is no longer.
DROPPED_XATTRS = (b"trusted.overlay.", b"user.overlay.", b"user.fuseoverlayfs.", b"user.containers.")


def is_kept_xattr(name: bytes) -> bool:
    """Say whether an extended attribute belongs to the image.

    security.selinux and its like are labels of the machine that unpacked the image, never its content.
    """
    if name.startswith(KEPT_XATTRS):
        return not name.startswith(DROPPED_XATTRS)
    return name in KEPT_XATTR_NAMES
