"""Where named machines are kept: one file for each, written whole or not at all, and a lock that says that it runs.

NAME.json        the record
NAME.lock        locked by the process that waits for the machine, as long as it runs
.defaults.json   what `krunpy vm config` set
.lock            held for moments, by whoever makes, changes, removes or begins to hold one
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from krunpy.core.errors import FormatError, HostError, StateError
from krunpy.core.files import load_bounded, lock, make_private_directory, write_atomically
from krunpy.runtime.vm_record import (
    RECORD_LIMIT,
    VmDefaults,
    VmRecord,
    describe_record,
    encode_defaults,
    encode_record,
    parse_defaults,
    parse_record,
    require_name,
    require_valid,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_RECORD, _LOCK, _DEFAULTS = ".json", ".lock", ".defaults.json"


class VmStore:
    """The records in one directory."""

    def __init__(self, directory: str, is_alive: Callable[[str], bool]) -> None:
        """Make the directory if it is missing, mode 0700. Raises HostError.

        is_alive: whether a machine of this name runs, though the process that waited for it is gone.
        """
        self._directory = directory
        self._is_alive = is_alive
        make_private_directory(directory)

    def create(self, record: VmRecord) -> bool:
        """Keep a new record; return whether it is new. The same record again is none.

        Raises UsageError on members that cannot be, StateError if the name has another record.
        """
        require_valid(record)
        with self._moment():
            if not os.path.exists(self._path(record.name)):
                self._write(record)
                return True
            kept = self._load(record.name)
        _require_same(kept, replace(record, image=kept.image))
        return False

    def require_free(self, wanted: VmRecord) -> None:
        """Raise StateError as `create` will, before the image and its user are known: they count as equal."""
        if os.path.exists(self._path(require_name(wanted.name))):
            kept = self._load(wanted.name)
            _require_same(
                kept, replace(wanted, image=kept.image, fingerprint=kept.fingerprint, user=kept.user)
            )

    def load(self, name: str) -> VmRecord:
        """Return a record. Raises StateError if there is none of this name, FormatError if its file is damaged."""
        return self._load(require_name(name))

    def list_names(self) -> list[str]:
        """Return all names in order."""
        files = (name for name in os.listdir(self._directory) if not name.startswith("."))
        return sorted(name.removesuffix(_RECORD) for name in files if name.endswith(_RECORD))

    def change(self, name: str, change: Callable[[VmRecord], VmRecord]) -> VmRecord:
        """Return the record that `change` made of one, kept in its place, under another name if it has one.

        Raises StateError if the machine runs, or another one has the new name; UsageError as `create` does.
        """
        with self._moment():
            kept = self.load(name)
            self._require_stopped(name, "change")
            changed = require_valid(change(kept))
            if changed.name != name and os.path.exists(self._path(changed.name)):
                raise StateError(
                    f"cannot rename VM {name}",
                    why=f"there is one named {changed.name}",
                    next=f"`krunpy vm delete {changed.name}` first",
                )
            self._write(changed)
            if changed.name != name:
                self._remove(name)
        return changed

    def delete(self, name: str) -> None:
        """Forget a machine. Raises StateError if there is none, or it runs. A damaged record can be deleted."""
        require_name(name)
        with self._moment():
            if not os.path.exists(self._path(name)):
                raise _make_missing(name)
            self._require_stopped(name, "delete")
            self._remove(name)

    def hold(self, name: str) -> tuple[VmRecord, int]:
        """Return a record and the lock that says that the machine runs, until the descriptor is closed everywhere.

        Raises StateError if it runs already, or there is none.
        """
        with self._moment():
            record = self.load(name)
            self._require_stopped(name, "start")
            descriptor = self._open_lock(name)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return record, descriptor

    def is_running(self, name: str) -> bool:
        """Return whether a machine is held, or lives on without its holder."""
        if self._is_alive(name):
            return True
        try:
            descriptor = os.open(self._path(name, _LOCK), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def load_defaults(self) -> VmDefaults:
        """Return what new machines get. Raises FormatError if the file is damaged."""
        path = f"{self._directory}/{_DEFAULTS}"
        if not os.path.exists(path):
            return VmDefaults()
        return parse_defaults(load_bounded(path, RECORD_LIMIT), path)

    def change_defaults(self, change: Callable[[VmDefaults], VmDefaults]) -> VmDefaults:
        """Return the defaults that `change` made of them, which are kept."""
        with self._moment():
            changed = change(self.load_defaults())
            write_atomically(f"{self._directory}/{_DEFAULTS}", encode_defaults(changed))
        return changed

    @contextlib.contextmanager
    def _moment(self) -> Iterator[None]:
        with lock(f"{self._directory}/{_LOCK}"):
            yield

    def _path(self, name: str, ending: str = _RECORD) -> str:
        return f"{self._directory}/{name}{ending}"

    def _load(self, name: str) -> VmRecord:
        path = self._path(name)
        if not os.path.exists(path):
            raise _make_missing(name)
        try:
            record = parse_record(load_bounded(path, RECORD_LIMIT), path)
            if record.name != name:
                raise FormatError(f"cannot read {path}", why=f"it is the record of {record.name}")
        except FormatError as error:
            error.next = f"`krunpy vm delete {name}` and create it again"
            raise
        return record

    def _write(self, record: VmRecord) -> None:
        write_atomically(self._path(record.name), encode_record(record))

    def _remove(self, name: str) -> None:
        for ending in (_RECORD, _LOCK):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path(name, ending))

    def _open_lock(self, name: str) -> int:
        path = self._path(name, _LOCK)
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise HostError(f"cannot lock {path}", why=(error.strerror or "error").lower()) from error

    def _require_stopped(self, name: str, verb: str) -> None:
        if self.is_running(name):
            raise StateError(
                f"cannot {verb} VM {name}", why="it is running", next=f"end it: krunpy kill vm-{name} TERM"
            )


def _require_same(kept: VmRecord, wanted: VmRecord) -> None:
    differences = _find_differences(kept, wanted)
    if differences:
        raise StateError(
            f"cannot create VM {wanted.name}",
            why=f"there is one of this name with other values: {', '.join(differences)}",
            next=f"`krunpy vm changevm {wanted.name}`, or `krunpy vm delete {wanted.name}` first",
        )


def _find_differences(kept: VmRecord, wanted: VmRecord) -> list[str]:
    """Return what differs, each "member VALUE, wanted VALUE"."""
    pairs = zip(describe_record(kept).items(), describe_record(wanted).values(), strict=True)
    return [f"{name} {_shorten(seen)}, wanted {_shorten(new)}" for (name, seen), new in pairs if seen != new]


def _shorten(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."  # noqa: PLR2004


def _make_missing(name: str) -> StateError:
    return StateError(f"cannot find VM {name}", why="there is none of this name", next="krunpy vm list")
