"""A named machine of `krunpy vm`: what was asked for when it was made, and its form on disk. Reads no files."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from krunpy.core.errors import FormatError, UsageError
from krunpy.formats.manifest import MAX_VOLUMES
from krunpy.formats.narrow import Fields
from krunpy.runtime.vm_shares import MAX_PORTS, Shares, Volume, make_shares, parse_port, parse_volume

RECORD_LIMIT = 1024 * 1024  # bytes
MAX_CPUS = 64
MIN_MEMORY_MIB, MAX_MEMORY_MIB = 128, 1 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_ITEMS = 4096
_MAX_ID = 2**32 - 2


@dataclass(frozen=True, slots=True, kw_only=True)
class VmRecord:
    """One named machine.

    source: as it was given, paths absolute. image: ID of the image it was converted to, 64 hex digits.
    fingerprint: of the source, as `image.tree.Source` has it: a conversion of the same source has another ID each time.
    user:   uid, gid and additional gids of the image's user. workdir, args: empty for the image's.
    shares: explicit wishes; without --network its ports alone bring one, and take it away with them.
    """

    name: str
    source: str
    image: str
    fingerprint: str
    user: tuple[int, int, tuple[int, ...]]
    cpus: int
    memory_mib: int
    workdir: str = ""
    env: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    volumes: tuple[Volume, ...] = ()
    ports: tuple[tuple[int, int], ...] = ()
    network: bool = False
    dns: str = ""

    @property
    def shares(self) -> Shares:
        """What the machine shares with the host. Raises UsageError if that cannot be."""
        return make_shares(volumes=self.volumes, ports=self.ports, has_network=self.network, dns=self.dns)


@dataclass(frozen=True, slots=True, kw_only=True)
class VmDefaults:
    """What new machines get where nothing is said; 0 and empty: the settings', the host's name servers."""

    cpus: int = 0
    memory_mib: int = 0
    dns: str = ""


def require_name(name: str) -> str:
    """Return the name if a machine can have it. Raises UsageError."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f'cannot use the name "{name[:80]}"',
            why="wanted 1 to 63 letters, digits and _ . -, a letter or digit first",
        )
    return name


def require_valid(record: VmRecord) -> VmRecord:
    """Return a record whose members can be. Raises UsageError."""
    require_name(record.name)
    _ = record.shares
    if record.workdir and (not record.workdir.startswith("/") or not _is_text(record.workdir)):
        raise UsageError(
            f'cannot use the working directory "{record.workdir[:80]}"', why="wanted an absolute path"
        )
    if any(not _is_text(text) for text in (*record.env, *record.args)):
        raise UsageError("cannot use the command or its variables", why="one is not UTF-8, or holds NUL")
    for item in record.env:
        if item.find("=") < 1:
            raise UsageError(f'cannot set "{item[:40]}"', why="wanted NAME=VALUE")
    return record


def _is_text(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= char <= "\udfff" for char in text)


def describe_record(record: VmRecord) -> dict[str, object]:
    """Return a record as JSON values."""
    uid, gid, groups = record.user
    return {
        "args": list(record.args),
        "cpus": record.cpus,
        "dns": record.dns,
        "env": list(record.env),
        "fingerprint": record.fingerprint,
        "gid": gid,
        "groups": list(groups),
        "image": record.image,
        "memory_mib": record.memory_mib,
        "name": record.name,
        "network": record.network,
        "ports": [f"{host}:{guest}" for host, guest in record.ports],
        "source": record.source,
        "uid": uid,
        "volumes": [describe_volume(volume) for volume in record.volumes],
        "workdir": record.workdir,
    }


def describe_volume(volume: Volume) -> str:
    """Return a volume as `parse_volume` reads it."""
    return f"{volume.host}:{volume.guest}:{'ro' if volume.is_read_only else 'rw'}"


def encode_record(record: VmRecord) -> bytes:
    """Return the bytes of a record's file."""
    return (
        json.dumps({"version": 1, **describe_record(record)}, indent=1, ensure_ascii=False).encode() + b"\n"
    )


def parse_record(data: bytes, where: str) -> VmRecord:
    """Return the record that `encode_record` wrote. where: the file's name, for messages.

    Raises FormatError on other bytes, and on members that cannot be.
    """
    fields = _load_fields(data, where)
    fields.take_integer("version", minimum=1, maximum=1)
    try:
        record = _parse_members(fields)
        fields.require_no_more()
        return require_valid(record)
    except UsageError as error:
        raise FormatError(f"cannot read {where}", why=f"{error.what}: {error.why}") from error


def _parse_members(fields: Fields) -> VmRecord:
    uid, gid = (fields.take_integer(name, maximum=_MAX_ID) for name in ("uid", "gid"))
    return VmRecord(
        name=fields.take_string("name"),
        source=fields.take_string("source"),
        image=fields.take_hex("image", 32).hex(),
        fingerprint=fields.take_string("fingerprint"),
        user=(uid, gid, fields.take_integers("groups", limit=1024, maximum=_MAX_ID)),
        cpus=fields.take_integer("cpus", minimum=1, maximum=MAX_CPUS),
        memory_mib=fields.take_integer("memory_mib", minimum=MIN_MEMORY_MIB, maximum=MAX_MEMORY_MIB),
        workdir=fields.take_string("workdir"),
        env=fields.take_strings("env", limit=_ITEMS),
        args=fields.take_strings("args", limit=_ITEMS),
        volumes=tuple(parse_volume(text) for text in fields.take_strings("volumes", limit=MAX_VOLUMES)),
        ports=tuple(parse_port(text) for text in fields.take_strings("ports", limit=MAX_PORTS)),
        network=fields.take_bool("network"),
        dns=fields.take_string("dns"),
    )


def encode_defaults(defaults: VmDefaults) -> bytes:
    """Return the bytes of the defaults' file."""
    return json.dumps(describe_defaults(defaults)).encode() + b"\n"


def describe_defaults(defaults: VmDefaults) -> dict[str, object]:
    """Return the defaults as JSON values."""
    return {"cpus": defaults.cpus, "dns": defaults.dns, "memory_mib": defaults.memory_mib}


def parse_defaults(data: bytes, where: str) -> VmDefaults:
    """Return the defaults that `encode_defaults` wrote. Raises FormatError on other bytes."""
    fields = _load_fields(data, where)
    defaults = VmDefaults(
        cpus=fields.take_integer("cpus", maximum=MAX_CPUS),
        memory_mib=fields.take_integer("memory_mib", maximum=MAX_MEMORY_MIB),
        dns=fields.take_string("dns"),
    )
    fields.require_no_more()
    return defaults


def _load_fields(data: bytes, where: str) -> Fields:
    try:
        return Fields(json.loads(data.decode()), where)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"cannot read {where}", why="it is not JSON in UTF-8") from error
