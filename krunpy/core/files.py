"""Files that are written whole or not at all, private directories, and locks."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from typing import TYPE_CHECKING

from krunpy.core.errors import FormatError, HostError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def make_private_directory(path: str) -> None:
    """Make a directory and its missing parents, each of mode 0700. Raises HostError."""
    try:
        if os.path.isdir(path):
            return
        parent = os.path.dirname(path)
        if parent and parent != path:
            make_private_directory(parent)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
    except (OSError, ValueError) as error:
        raise HostError(f"cannot make directory {path}", why=_reason(error)) from error
    if not os.path.isdir(path):
        raise HostError(f"cannot make directory {path}", why="a file of this name is in the way")


def write_atomically(path: str, contents: bytes | Iterable[bytes], *, mode: int = 0o600) -> None:
    """Replace a file by new contents, in one piece or several: temporary name beside it, fsync, rename.

    Raises HostError if the file system refuses; the old file is then untouched.
    """
    # not the pid: launchers live in process namespaces of their own, where all have the same few numbers
    temporary = f"{path}.{os.urandom(8).hex()}.new"
    try:
        write_new(temporary, contents, mode=mode)
        try:
            os.rename(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise HostError(f"cannot write {path}", why=_reason(error)) from error


def write_new(path: str, contents: bytes | Iterable[bytes], *, mode: int = 0o600) -> None:
    """Make a file that was not there, of one piece or several, and bring it to the disk; if that fails, remove it.

    Raises OSError.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with open(descriptor, "wb") as stream:
            stream.writelines((contents,) if isinstance(contents, bytes) else contents)
            stream.flush()
            os.fsync(descriptor)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise


def write_all(descriptor: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    """Write all of it at an offset in bytes. Raises OSError."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view = view[written:]
        offset += written


def sync_directory(path: str) -> None:
    """Bring the names in a directory to the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load_bounded(path: str, limit: int) -> bytes:
    """Return the contents of a regular file of at most `limit` bytes.

    Raises FormatError if it is longer, HostError if it cannot be read.
    """
    try:
        # O_NONBLOCK: a fifo in the file's place must not make us wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        with open(descriptor, "rb") as stream:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise HostError(f"cannot read {path}", why="it is not a regular file")
            contents = stream.read(limit + 1)
    except (OSError, ValueError) as error:
        raise HostError(f"cannot read {path}", why=_reason(error)) from error
    if len(contents) > limit:
        raise FormatError(f"cannot read {path}", why=f"it is longer than {limit} bytes")
    return contents


@contextlib.contextmanager
def lock(path: str, *, shared: bool = False) -> Iterator[int]:
    """Hold an advisory lock on a file (made if missing) while the block runs, which is given its descriptor."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise HostError(f"cannot lock {path}", why=_reason(error)) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _reason(error: OSError | ValueError) -> str:
    """Return the system's word for an error in lower case."""
    return ((error.strerror if isinstance(error, OSError) else None) or "not a path").lower()


def errno_name(error: OSError) -> str:
    """Return the symbol of an errno: "ENOSPC"."""
    return errno.errorcode.get(error.errno or 0, "E?")
