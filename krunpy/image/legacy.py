"""A confidential workload image of libkrun, as buildah, oci2cw and krunpy make it: found, taken out, opened.

Such an image is a root file system that holds disk.img, an encrypted ext4, and krun-sev.json; or the disk alone. What
is copied to a file without a name is the disk as it is, encrypted; what is decrypted stays in memory. This
module judges nothing (`krunpy.image.legacy_report` does).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from krunpy.core.errors import BundleError, UsageError
from krunpy.formats.ext4_parse import SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE, is_ext4
from krunpy.formats.krun_footer import CONFIG_LIMIT, TAIL_SIZE, parse_footer
from krunpy.formats.luks_open import HEAD_SIZE, find_obstacle, is_luks, open_volume, parse_volume
from krunpy.image.blob import Region, open_region
from krunpy.image.ext4_source import Ext4Source
from krunpy.image.legacy_config import CONFIG_PATH, load_image_config
from krunpy.image.luks_reader import LuksReader
from krunpy.image.outer import DISK_PATH, KRUN_PATH
from krunpy.image.source import open_source
from krunpy.image.tree import NodeKind, find_node, read_path

if TYPE_CHECKING:
    from krunpy.core.octets import Secret
    from krunpy.formats.luks_open_slots import Volume
    from krunpy.image.tree import Source

_DOMAIN = b"krunpy libkrun disk fingerprint v1\0"
_WHAT = "cannot use the source as a confidential image of libkrun"
_CONVERT = "cryptsetup luksConvertKey --pbkdf pbkdf2 disk.img, on a copy, makes a slot that opens here"


@dataclass(slots=True, kw_only=True)
class LegacyImage:
    """An image whose disk lies in an open file. Use it as a context manager.

    disk:     the disk as it is stored.
    document: the contents of krun-sev.json; None for a disk alone.
    names:    of the image's root directory; empty for a disk alone.
    footer:   the JSON at the disk's end; None if it has none.
    volume:   of LUKS; None if the disk is not encrypted.
    """

    disk: Region
    document: bytes | None
    names: tuple[bytes, ...]
    footer: bytes | None = field(init=False)
    volume: Volume | None = field(init=False)

    def __post_init__(self) -> None:
        head = self.disk.read(0, HEAD_SIZE)
        self.footer = parse_footer(self.disk.read(max(0, self.disk.size - TAIL_SIZE), TAIL_SIZE))
        self.volume = parse_volume(head) if is_luks(head) else None
        if self.volume is None and not is_ext4(head[: SUPERBLOCK_OFFSET + SUPERBLOCK_SIZE]):
            why = f"{self.disk.name} begins neither as LUKS nor as ext4"
            raise BundleError(_WHAT, why=why)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.disk.descriptor)

    def fingerprint(self) -> str:
        """Return the digest of the stored disk, hex. It reads all of it."""
        found = hashlib.sha256(_DOMAIN)
        for piece in self.disk.pieces():
            found.update(piece)
        return found.hexdigest()

    def open(self, passphrase: Secret | None) -> Ext4Source:
        """Return the root file system with the configuration in it; it serves as long as this image is open.

        Raises UsageError if the passphrase is missing or wrong, FormatError or BundleError for what is inside.
        """
        state = _state(self.disk.descriptor)

        def finish() -> None:
            if _state(self.disk.descriptor) != state:
                raise BundleError("cannot read the image", why="the source changed while it was read")

        volume = LuksReader(self.disk, self.volume, self._unlock(passphrase)) if self.volume else self.disk
        source = Ext4Source(volume, fingerprint=self.fingerprint, finish=finish, close=_nothing)
        source.config = load_image_config(source)
        source.tree.children.pop(CONFIG_PATH, None)
        return source

    def _unlock(self, passphrase: Secret | None) -> Secret:
        assert self.volume is not None
        if passphrase is None:
            raise UsageError(
                f"cannot open {self.disk.name}", why="it is encrypted", next="add --passphrase-file FILE"
            )
        key = open_volume(self.volume, self.disk.read, passphrase)
        if key is not None:
            return key
        obstacles = [
            f"slot {slot.name}: {why}" for slot in self.volume.keyslots if (why := find_obstacle(slot))
        ]
        why = "the passphrase opens none of its key slots"
        if obstacles:
            raise UsageError(
                f"cannot open {self.disk.name}",
                why=f"{why}; not tried: {'; '.join(obstacles)}"[:600],
                next=_CONVERT,
            )
        raise UsageError(f"cannot open {self.disk.name}", why=why)


def open_legacy(spec: str, *, spool_directory: str) -> LegacyImage:
    """Return the confidential image that a source is.

    spec: as `open_source` takes it, a directory that holds disk.img, or the path of a disk.
    spool_directory: where the disk is copied to, without a name, if it lies inside an image.

    Raises UsageError, BundleError or FormatError if there is none.
    """
    directory = spec.removeprefix("dir:")
    if os.path.isfile(f"{directory}/disk.img") and not os.path.exists(f"{directory}/oci-layout"):
        document = None
        with contextlib.suppress(FileNotFoundError), open(f"{directory}/krun-sev.json", "rb") as stream:
            document = stream.read(CONFIG_LIMIT + 1)
        names = tuple(sorted(os.fsencode(name) for name in os.listdir(directory)))
        return _make(open_region(f"{directory}/disk.img", f"{directory}/disk.img"), document, names)
    if os.path.isfile(spec) and _is_disk(spec):
        return _make(open_region(spec, spec), None, ())
    source = open_source(spec)
    try:
        return _take_out(source, spool_directory)
    finally:
        source.close()


def _make(disk: Region, document: bytes | None, names: tuple[bytes, ...]) -> LegacyImage:
    try:
        return LegacyImage(disk=disk, document=document, names=names)
    except BaseException:
        os.close(disk.descriptor)
        raise


def _is_disk(path: str) -> bool:
    with open(path, "rb") as stream:
        head = stream.read(SUPERBLOCK_OFFSET + SUPERBLOCK_SIZE)
    return is_luks(head) or is_ext4(head)


def _take_out(source: Source, spool_directory: str) -> LegacyImage:
    node = find_node(source.tree, DISK_PATH)
    document = read_path(source, KRUN_PATH, CONFIG_LIMIT)
    if node is None or node.kind is not NodeKind.FILE or document is None:
        raise BundleError(_WHAT, why="its root holds no files disk.img and krun-sev.json")
    with tempfile.TemporaryFile(dir=spool_directory) as spool:
        os.ftruncate(spool.fileno(), node.size)
        for each, offset, piece in source.stream():
            if each is node:
                spool.seek(offset)
                spool.write(piece)
        spool.flush()
        source.finish()
        disk = Region(
            descriptor=os.dup(spool.fileno()), start=0, size=node.size, name="disk.img of the image"
        )
    return _make(disk, document, tuple(sorted(source.tree.children)))


def _state(descriptor: int) -> tuple[int, int, int]:
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _nothing() -> None:
    """Close nothing: the image is closed by whoever opened it."""
