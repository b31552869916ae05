"""What was fetched, kept for good: contents by their SHA-256, found by the name of the item.

    collateral/objects/SHA256   the contents of an item; never changed
    collateral/index/NAME.json  which object an item is, and when it was fetched
    collateral/locks/NN         held while an item is fetched or kept; items share 64 of them
    collateral/paused-VENDOR    until when a vendor is not to be asked again, and why

What is read back is checked as when it came, so that a damaged file is a missing one. Nothing is fetched here.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING

from krunpy.client.collateral_check import LARGEST_CONTENTS, Roots, Span, check_contents
from krunpy.client.collateral_http import CollateralError
from krunpy.client.collateral_item import describe_item, name_item, parse_item
from krunpy.core.errors import FormatError, HostError
from krunpy.core.files import load_bounded, make_private_directory, write_atomically
from krunpy.formats.tdx_json import parse_signed_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from krunpy.client.collateral_item import Item, Vendor
    from krunpy.formats.narrow import Fields

LONGEST_PAUSE_S = 3600.0
_LOCKS = 64
_LARGEST_ENTRY = 4096  # bytes
_LATEST = 1 << 40  # seconds since 1970
_POLL_S = 0.05
_SUFFIX = ".json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cached:
    """An item that was kept, with its contents and when they hold."""

    item: Item
    contents: bytes
    span: Span
    fetched_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Time as a value: the date with its zone, seconds that never jump, and how to wait some."""

    now: Callable[[], datetime]
    monotonic: Callable[[], float]
    sleep: Callable[[float], None]


class CollateralCache:
    """The cache in one directory; safe for threads and processes at once."""

    def __init__(self, directory: str, *, roots: Roots, clock: Clock) -> None:
        """Make the directories that are missing, mode 0700.

        Raises HostError if they cannot be made.
        """
        self.roots = roots
        self.clock = clock
        self._directory = directory
        for name in ("objects", "index", "locks"):
            make_private_directory(f"{directory}/{name}")

    def find(self, item: Item) -> Cached | None:
        """Return an item, fresh or stale; None if there is none, or it is damaged."""
        try:
            return self._load(item)
        except (FormatError, HostError):
            return None

    def find_fresh(self, item: Item) -> Cached | None:
        """Return an item that holds now."""
        cached = self.find(item)
        return cached if cached is not None and cached.span.holds_at(self.clock.now()) else None

    def check(self, item: Item, contents: bytes) -> Span:
        """Return when contents hold that might be kept.

        Raises FormatError if they are not those of the item, or were issued in the future.
        """
        span, now = check_contents(item, contents, self.roots), self.clock.now()
        if span.issued > now:  # it would keep out every issue until then
            raise FormatError(
                "cannot use the collateral",
                why=f"it was issued at {span.issued:%Y-%m-%d %H:%M}, and now it is {now:%Y-%m-%d %H:%M}",
                next="check the clock of this host",
            )
        return span

    def keep(self, item: Item, contents: bytes) -> Cached:
        """Keep an item that was just fetched or imported, and return what is now kept. Hold it meanwhile.

        That is the one we had, if it was issued later: nobody sets us back to an older CRL.

        Raises FormatError as `check`, HostError if it cannot be written.
        """
        span = self.check(item, contents)
        current = self.find(item)
        if current is not None and current.span.issued > span.issued:
            return current
        digest, now = sha256(contents).hexdigest(), self.clock.now()
        write_atomically(f"{self._directory}/objects/{digest}", contents)
        entry = {"object": digest, "fetched_at": int(now.timestamp())}
        write_atomically(self._entry_path(name_item(item)), json.dumps(entry).encode())
        return Cached(item=item, contents=contents, span=span, fetched_at=now)

    def list_items(self) -> tuple[tuple[Item, Cached | None], ...]:
        """Return all items in the order of their names; None stands for a damaged one."""
        found: list[tuple[Item, Cached | None]] = []
        for file_name in sorted(os.listdir(f"{self._directory}/index")):
            if file_name.endswith(_SUFFIX):  # else it is being written
                with contextlib.suppress(FormatError):
                    item = parse_item(file_name.removesuffix(_SUFFIX))
                    found.append((item, self.find(item)))
        return tuple(found)

    @contextlib.contextmanager
    def hold(self, item: Item, *, patience_s: float) -> Iterator[None]:
        """Keep everyone else from fetching or keeping an item while the block runs.

        Raises CollateralError if somebody else holds it for longer than patience_s.
        """
        shard = sha256(name_item(item).encode()).digest()[0] % _LOCKS
        path = f"{self._directory}/locks/{shard:02d}"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise HostError(f"cannot lock {path}", why=(error.strerror or "error").lower()) from error
        try:
            deadline = self.clock.monotonic() + patience_s
            while not _try_lock(descriptor):
                if self.clock.monotonic() >= deadline:
                    raise CollateralError(
                        f"cannot get the {describe_item(item)}",
                        why=f"another process has been at it for {patience_s:g} s",
                        next=f"see who holds {path}",
                    )
                self.clock.sleep(_POLL_S)
            yield
        finally:
            os.close(descriptor)

    def pause(self, vendor: Vendor, *, wait_s: float, why: str) -> None:
        """Have a vendor not asked again for some seconds, an hour at most, by anyone who uses this cache."""
        until = self.clock.now().timestamp() + min(wait_s, LONGEST_PAUSE_S)
        document = {"until": int(until), "why": why[:500]}
        write_atomically(f"{self._directory}/paused-{vendor}", json.dumps(document).encode())

    def find_pause(self, vendor: Vendor) -> tuple[float, str] | None:
        """Return how many seconds more a vendor is not to be asked, and why; None if it may be."""
        try:
            fields = _read_entry(f"{self._directory}/paused-{vendor}")
            until, why = fields.take_integer("until", maximum=_LATEST), fields.take_string("why")
        except (FormatError, HostError):
            return None
        left = until - self.clock.now().timestamp()
        return (left, why) if 0 < left <= LONGEST_PAUSE_S else None

    def _load(self, item: Item) -> Cached:
        fields = _read_entry(self._entry_path(name_item(item)))
        digest = fields.take_hex("object", 32).hex()
        fetched_at = fields.take_integer("fetched_at", maximum=_LATEST)
        contents = load_bounded(f"{self._directory}/objects/{digest}", LARGEST_CONTENTS)
        if sha256(contents).hexdigest() != digest:
            raise FormatError("cannot read the cache", why=f"object {digest} is damaged")
        return Cached(
            item=item,
            contents=contents,
            span=check_contents(item, contents, self.roots),
            fetched_at=datetime.fromtimestamp(fetched_at, UTC),
        )

    def _entry_path(self, name: str) -> str:
        return f"{self._directory}/index/{name}{_SUFFIX}"


def _read_entry(path: str) -> Fields:
    return parse_signed_json(load_bounded(path, _LARGEST_ENTRY), "the cache")


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
