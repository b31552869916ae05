"""Where a confidential image of libkrun goes: a directory with the disk, an OCI image layout, or a tar of one.

All is written under a temporary name beside the destination, which appears complete or not at all. What this module
writes is public: the disk comes to it encrypted. Times and owners in it are 0.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tarfile
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from krunpy.core.errors import HostError, UsageError
from krunpy.core.files import sync_directory, write_all, write_new
from krunpy.image.libkrun_sev_entrypoint import build_entrypoint
from krunpy.image.outer import DISK_PATH, KRUN_PATH
from krunpy.oci.layout import blob_path
from krunpy.oci.layout_write import make_documents
from krunpy.oci.manifest import ImageConfig

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_CONFIG = ImageConfig(entrypoint=("/entrypoint",))
_TAR_BLOCK = 512  # bytes
_TAR_END = bytes(2 * _TAR_BLOCK)
_STEP = 1024 * 1024  # bytes hashed at once
_DISK, _KRUN = DISK_PATH.decode(), KRUN_PATH.decode()


class Form(Enum):
    """What is written: disk.img and krun-sev.json, an OCI image layout, or a tar of one."""

    DISK_ONLY = "disk"
    LAYOUT = "layout"
    ARCHIVE = "archive"


@dataclass(slots=True)
class Output:
    """An image under way at a temporary path."""

    form: Form
    path: str
    descriptor: int = -1
    offset: int = 0
    size: int = 0

    def open_disk(self, document: bytes, size: int) -> tuple[int, int]:
        """Reserve room and return (descriptor, offset in bytes) where disk.img is written.

        document: krun-sev.json; size: of disk.img in bytes, whole units of 4096. Raises OSError.
        """
        before = b"" if self.form is Form.DISK_ONLY else _pack_layer_start(document, size)
        name = {Form.DISK_ONLY: f"{self.path}/{_DISK}", Form.LAYOUT: f"{self.path}/layer"}.get(
            self.form, self.path
        )
        if self.form is not Form.ARCHIVE:
            os.mkdir(self.path, 0o700)
        if self.form is Form.DISK_ONLY:
            write_new(f"{self.path}/{_KRUN}", document)
        start = _TAR_BLOCK if self.form is Form.ARCHIVE else 0
        after = b"" if self.form is Form.DISK_ONLY else _TAR_END
        self.offset, self.size = start, len(before) + size + len(after)
        self.descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.posix_fallocate(self.descriptor, 0, start + self.size)
        write_all(self.descriptor, before, start)
        return self.descriptor, start + len(before)

    def finish(self) -> None:
        """Write what depends on the finished disk. Raises OSError."""
        if self.form is not Form.DISK_ONLY:
            digest = f"sha256:{self._digest_layer()}"
            documents = make_documents(_CONFIG, layer_digest=digest, layer_size=self.size)
            if self.form is Form.LAYOUT:
                os.makedirs(f"{self.path}/blobs/sha256", 0o700)
                os.rename(f"{self.path}/layer", f"{self.path}/{blob_path(digest)}")
                for name, contents in documents.items():
                    write_new(f"{self.path}/{name}", contents)
            else:
                self._append(blob_path(digest), documents)
        os.fsync(self.descriptor)

    def _digest_layer(self) -> str:
        found = hashlib.sha256()
        for position in range(0, self.size, _STEP):
            found.update(os.pread(self.descriptor, min(_STEP, self.size - position), self.offset + position))
        return found.hexdigest()

    def _append(self, layer: str, documents: Mapping[str, bytes]) -> None:
        """Write the header before the layer, and the documents behind it."""
        header = tarfile.TarInfo(layer)
        header.size, header.mode = self.size, 0o644
        write_all(self.descriptor, header.tobuf(tarfile.GNU_FORMAT), 0)
        rest = b"".join(
            _pack_header(name, len(contents), 0o644) + _pad(contents) for name, contents in documents.items()
        )
        write_all(self.descriptor, rest + _TAR_END, self.offset + self.size)


@contextlib.contextmanager
def make_output(path: str, form: Form) -> Iterator[Output]:
    """Give an output that becomes `path` when the block ends, and is removed if it fails.

    Raises UsageError if the path is there already, HostError if the file system refuses.
    """
    target = os.path.abspath(path)
    _require_new(target)
    temporary = f"{os.path.dirname(target)}/.{os.path.basename(target)}.{os.urandom(8).hex()}.new"
    output = Output(form, temporary)
    try:
        yield output
        output.finish()
        _require_new(target)
        os.rename(temporary, target)
        sync_directory(os.path.dirname(target))
    except OSError as error:
        raise HostError(f"cannot write {path}", why=(error.strerror or str(error)).lower()) from error
    finally:
        if output.descriptor >= 0:
            os.close(output.descriptor)
        if os.path.isdir(temporary):
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _require_new(path: str) -> None:
    if os.path.lexists(path):
        raise UsageError(
            f"cannot write {path}", why="it is there already", next="remove it, or choose another name"
        )


def _pack_layer_start(document: bytes, disk_size: int) -> bytes:
    """Return the layer up to the contents of disk.img."""
    directory = tarfile.TarInfo("tmp/")
    directory.type, directory.mode = tarfile.DIRTYPE, 0o1777
    entrypoint = build_entrypoint()
    return b"".join(
        (
            _pack_header("entrypoint", len(entrypoint), 0o755) + _pad(entrypoint),
            _pack_header(_KRUN, len(document), 0o600) + _pad(document),
            directory.tobuf(tarfile.PAX_FORMAT),
            _pack_header(_DISK, disk_size, 0o600),
        )
    )


def _pack_header(name: str, size: int, mode: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, mode
    return entry.tobuf(tarfile.PAX_FORMAT)


def _pad(contents: bytes) -> bytes:
    return contents + bytes(-len(contents) % _TAR_BLOCK)
