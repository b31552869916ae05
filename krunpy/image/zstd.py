"""Uncompress zstd: with the standard library of Python 3.14, else through the `zstd` program.

The program reads one pipe and writes another, so no plaintext touches a disk.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from typing import TYPE_CHECKING

from krunpy.core import proc
from krunpy.core.errors import FormatError, HostError, KrunpyError
from krunpy.image.tree import CHUNK_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT_S = 3600.0  # the slowest layer
PIPE_SIZE = 1024 * 1024  # bytes
SET_PIPE_SIZE = 1031  # F_SETPIPE_SZ; named in fcntl on most builds of Python only


def unzstd(pieces: Iterator[bytes]) -> Iterator[tuple[bytes, int]]:
    """Yield (uncompressed bytes, compressed bytes taken so far) of a zstd file.

    Raises FormatError if it is damaged or cut off, HostError if nothing here can uncompress it.
    """
    if sys.version_info >= (3, 14):
        return _with_library(pieces)
    if proc.find_program("zstd") is None:
        why = "a layer is compressed with zstd, and neither Python 3.14 nor the program zstd is here"
        raise HostError("cannot read the image", why=why, next="install the package zstd")
    return _with_program(pieces)


def _with_library(pieces: Iterator[bytes]) -> Iterator[tuple[bytes, int]]:  # pragma: no cover - Python 3.14
    from compression import zstd  # type: ignore[import-not-found,unused-ignore]

    taken = 0
    frame = zstd.ZstdDecompressor()
    for piece in pieces:
        taken += len(piece)
        data = piece
        while data or not (frame.eof or frame.needs_input):
            if frame.eof:
                frame = zstd.ZstdDecompressor()
            try:
                out = frame.decompress(data, CHUNK_SIZE)
            except zstd.ZstdError as error:
                raise FormatError("not a zstd file", why=str(error).lower()) from None
            if out:
                yield out, taken
            data = frame.unused_data if frame.eof else b""
    if not frame.eof:
        raise FormatError("not a zstd file", why="it is cut off")


def _with_program(pieces: Iterator[bytes]) -> Iterator[tuple[bytes, int]]:
    job = _Job(pieces)
    try:
        while out := os.read(job.output, CHUNK_SIZE):
            yield out, job.taken
        job.join()
    finally:
        job.close()


class _Job:
    """The program, the thread that waits for it and the thread that feeds it."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.taken = 0
        self._pieces = pieces
        self._errors: list[BaseException] = []
        source, self._feed = os.pipe()
        self.output, sink = os.pipe()
        with contextlib.suppress(OSError):
            import fcntl

            fcntl.fcntl(self.output, SET_PIPE_SIZE, PIPE_SIZE)
        self._threads = (
            threading.Thread(target=self._run, args=(source, sink), daemon=True),
            threading.Thread(target=self._write, daemon=True),
        )
        for thread in self._threads:
            thread.start()

    def _run(self, source: int, sink: int) -> None:
        # --force: read and write what is no regular file; --no-sparse: never seek in the output.
        argv = ["zstd", "-d", "-q", "--force", "--no-sparse", "-o", f"/dev/fd/{sink}", f"/dev/fd/{source}"]
        try:
            proc.run(argv, timeout_s=TIMEOUT_S, pass_fds=(source, sink))
        except KrunpyError as error:
            self._errors.append(FormatError("not a zstd file", why=error.why))
        finally:
            os.close(source)
            os.close(sink)

    def _write(self) -> None:
        try:
            for piece in self._pieces:
                self.taken += len(piece)
                data = memoryview(piece)
                while data:
                    data = data[os.write(self._feed, data) :]
        except BrokenPipeError:
            pass
        except Exception as error:  # noqa: BLE001 - carried to the reader's thread, which raises it
            self._errors.insert(0, error)
        finally:
            os.close(self._feed)

    def join(self) -> None:
        """Wait for both threads, and raise what went wrong in them."""
        for thread in self._threads:
            thread.join()
        if self._errors:
            raise self._errors[0]

    def close(self) -> None:
        """Let go of the output; a program that still writes ends of it."""
        os.close(self.output)
        for thread in self._threads:
            thread.join()
