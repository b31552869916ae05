"""A container's recorded state, its status, and which verb is allowed in which status.

Bytes in, values out: files and processes are `krunpy.runtime.container`'s. Light on purpose: `state`,
`start`, `kill` and `delete` import nothing heavier than this (architecture D-8).
Source: OCI runtime specification 1.2, runtime.md, "State" and "Lifecycle".
"""

from __future__ import annotations

from krunpy.core.errors import FormatError, StateError

TYPE_CHECKING = False  # typing itself costs two milliseconds
if TYPE_CHECKING:
    from collections.abc import Mapping

CREATING = "creating"
CREATED = "created"
RUNNING = "running"
STOPPED = "stopped"
STATUSES = (CREATING, CREATED, RUNNING, STOPPED)

# verb -> statuses in which it is allowed. `delete --force` is allowed in every status.
TRANSITIONS: Mapping[str, tuple[str, ...]] = {
    "start": (CREATED,),
    "kill": (CREATED, RUNNING),
    "delete": (STOPPED,),
    "delete --force": STATUSES,
    "state": STATUSES,
}

OCI_VERSION = "1.2.0"
MAX_ID = 255  # bytes
MAX_RECORD = 64 * 1024  # bytes
_ID_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-.")
_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}


class Record:
    """What `create` wrote down about one container. Never changed afterwards.

    pid:        the shim's process id as the host sees it.
    start_time: field 22 of /proc/PID/stat, in clock ticks since boot: pid and start time name one process.
    created:    RFC 3339, UTC.
    contained:  whether the shim is pid 1 of a namespace of its own, so that everything below dies with it.
    """

    __slots__ = ("bundle", "contained", "created", "id", "pid", "rootfs", "start_time")

    def __init__(  # noqa: PLR0913 - one field each
        self, *, id: str, pid: int, start_time: int, bundle: str, rootfs: str, created: str, contained: bool
    ) -> None:
        self.id = id
        self.pid = pid
        self.start_time = start_time
        self.bundle = bundle
        self.rootfs = rootfs
        self.created = created
        self.contained = contained


def find_state_root(environment: Mapping[str, str]) -> str:
    """Return where containers' states live: $XDG_RUNTIME_DIR/krunpy, or /run/krunpy (crun's rule)."""
    runtime_dir = environment.get("XDG_RUNTIME_DIR", "")
    return f"{runtime_dir}/krunpy" if runtime_dir else "/run/krunpy"


def require_id(container_id: str) -> None:
    """Refuse an ID that could not be a directory's name: 1 to 255 of [A-Za-z0-9_+.-], not . or .."""
    if not 1 <= len(container_id) <= MAX_ID or not _ID_CHARS.issuperset(container_id):
        raise StateError(
            f'cannot use container ID "{container_id[:80]}"',
            why=f"an ID is 1 to {MAX_ID} letters, digits and _ + - .",
        )
    if container_id in (".", ".."):
        raise StateError(f'cannot use container ID "{container_id}"', why="it is a directory's name")


def require_allowed(verb: str, container_id: str, status: str) -> None:
    """Refuse a verb that the table does not allow in this status. Raises StateError."""
    allowed = TRANSITIONS[verb]
    if status not in allowed:
        raise StateError(
            f"cannot {verb} container {container_id}",
            why=f"it is {status}, wanted {' or '.join(allowed)}",
        )


def derive_status(*, has_record: bool, is_alive: bool, has_fifo: bool) -> str:
    """Return the status from what is seen now: the record, the process, the fifo that `start` removes."""
    if not has_record:
        return CREATING
    if not is_alive:
        return STOPPED
    return CREATED if has_fifo else RUNNING


def encode_record(record: Record) -> bytes:
    """Return the record as lines of key=value; backslash and line ends are escaped."""
    fields = {
        "id": record.id,
        "pid": str(record.pid),
        "start_time": str(record.start_time),
        "bundle": record.bundle,
        "rootfs": record.rootfs,
        "created": record.created,
        "contained": "yes" if record.contained else "no",
    }
    lines = (f"{key}={_escape(value)}\n" for key, value in fields.items())
    return "".join(lines).encode("utf-8", "surrogateescape")


def parse_record(contents: bytes) -> Record:
    """Return the record that `encode_record` wrote. Raises FormatError on anything else."""
    what = "cannot read a container's state"
    if len(contents) > MAX_RECORD:
        raise FormatError(what, why=f"it is {len(contents)} bytes, at most {MAX_RECORD}")
    fields: dict[str, str] = {}
    for line in contents.decode("utf-8", "surrogateescape").split("\n"):
        key, equals, value = line.partition("=")
        if equals:
            fields[key] = _unescape(value)
    try:
        return Record(
            id=fields["id"],
            pid=_number(fields["pid"]),
            start_time=_number(fields["start_time"]),
            bundle=fields["bundle"],
            rootfs=fields["rootfs"],
            created=fields["created"],
            contained=fields["contained"] == "yes",
        )
    except KeyError as error:
        raise FormatError(what, why=f"{error} is missing") from None
    except ValueError as error:
        raise FormatError(what, why=str(error)) from None


def encode_state(record: Record, status: str, annotations: bytes) -> str:
    """Return the OCI state as one line of JSON.

    annotations: a JSON object that `create` encoded, or empty.
    """
    pid = f'"pid": {record.pid}, ' if status in (CREATED, RUNNING) else ""
    return (
        f'{{"ociVersion": "{OCI_VERSION}", "id": {quote(record.id)}, "status": "{status}", {pid}'
        f'"bundle": {quote(record.bundle)}, "rootfs": {quote(record.rootfs)}, '
        f'"created": {quote(record.created)}, "annotations": {annotations.decode() or "{}"}}}'
    )


def quote(text: str) -> str:
    """Return `text` as a JSON string in ASCII, without importing json."""
    parts = ['"']
    for char in text:
        code = ord(char)
        if char in '"\\':
            parts.append("\\" + char)
        elif 0x20 <= code < 0x7F:  # noqa: PLR2004 - printable ASCII
            parts.append(char)
        elif code > 0xFFFF:  # noqa: PLR2004 - a surrogate pair, RFC 8259 section 7
            code -= 0x10000
            parts.append(f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}")
        else:
            parts.append(f"\\u{code:04x}")
    return "".join(parts) + '"'


def _escape(value: str) -> str:
    return "".join(_ESCAPES.get(char, char) for char in value)


def _unescape(value: str) -> str:
    first, *rest = value.split("\\\\")
    parts = [part.replace("\\n", "\n").replace("\\r", "\r") for part in (first, *rest)]
    return "\\".join(parts)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):  # noqa: PLR2004 - below 2^64
        msg = f'seen "{text[:40]}", wanted a number'
        raise ValueError(msg)
    return int(text)
