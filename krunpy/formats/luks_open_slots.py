"""What it takes to open a LUKS volume: its key slots, how each derives a key, and the digest of the volume key.

`krunpy.formats.luks1_parse` gives these values for LUKS1; the reader for LUKS2 is here, behind the header that
`krunpy.formats.luks2_parse` checks. Nothing here computes anything from a passphrase. Source: LUKS2 On-Disk Format
Specification 1.1.2, sections 3.1 to 3.5.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass

from krunpy.core.errors import FormatError
from krunpy.formats.luks2 import BINARY_SIZE, STRIPES
from krunpy.formats.luks2_parse import Header, parse_header
from krunpy.formats.narrow import Fields

HASHES = {"sha1": 20, "sha256": 32, "sha512": 64}  # bytes of a digest
CIPHER = "aes-xts-plain64"
KEY_SIZES = (32, 64)  # bytes: AES-128-XTS, AES-256-XTS
SLOT_LIMIT = 32
_SALT_LIMIT = 1024  # bytes
_U32 = 2**32 - 1
_U64 = 2**64 - 1
_WHAT = "cannot read the LUKS2 header"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pbkdf2:
    """PBKDF2 with HMAC. hash: one of HASHES."""

    hash: str
    iterations: int
    salt: bytes

    @property
    def cost(self) -> int:
        """Return what a derivation costs, in iterations."""
        return self.iterations

    def __str__(self) -> str:
        return f"pbkdf2-{self.hash}, {self.iterations} iterations"


@dataclass(frozen=True, slots=True, kw_only=True)
class Argon2:
    """Argon2. variant: "argon2i" or "argon2id"; memory in KiB."""

    variant: str
    passes: int
    memory_kib: int
    lanes: int
    salt: bytes

    @property
    def cost(self) -> int:
        """Return what a derivation costs: one pass over 1 KiB is about one iteration of PBKDF2."""
        return self.passes * self.memory_kib

    def __str__(self) -> str:
        return f"{self.variant}, {self.passes} passes over {self.memory_kib} KiB, {self.lanes} lanes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyslot:
    """A volume key, split over stripes and encrypted under a key that a passphrase gives.

    area_offset:   bytes from the start of the device; key_size * STRIPES bytes are there.
    area_key_size: bytes of the key of the area's cipher, which is CIPHER.
    key_size:      bytes of the volume key.
    split_hash:    of the anti-forensic split.
    """

    name: str
    kdf: Pbkdf2 | Argon2
    area_offset: int
    area_key_size: int
    key_size: int
    split_hash: str

    @property
    def area_size(self) -> int:
        """Return the bytes of the area that hold the key."""
        return self.key_size * STRIPES


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """An encrypted volume and the ways to its key.

    offset, size: of the encrypted payload in bytes; size is 0 if it reaches to the end of the device.
    first_sector: number of the payload's first 512-byte sector in the cipher's count.
    digest_kdf:   makes `digest` from the volume key.
    """

    version: int
    uuid: str
    cipher: str
    key_size: int
    offset: int
    size: int
    sector_size: int
    first_sector: int
    keyslots: tuple[Keyslot, ...]
    digest_kdf: Pbkdf2
    digest: bytes


def parse_luks2_volume(data: bytes) -> Volume:
    """Return the volume that a LUKS2 header describes.

    data: at least the header's own size, which is 16 KiB to 4 MiB; more is ignored.

    Raises FormatError if it is damaged, or has what we do not open: integrity tags, an unfinished re-encryption,
    another cipher, a payload under several keys.
    """
    header = parse_header(data)
    if header.cipher != CIPHER:
        raise FormatError(_WHAT, why=f'cipher: seen "{header.cipher[:40]}", wanted {CIPHER}')
    top = Fields(_load(data[BINARY_SIZE : header.header_size]), "the LUKS2 header")
    _require_plain(top)
    segment_name, segment = next(iter(_named(top, "segments")))
    if segment.has("integrity"):
        raise FormatError(_WHAT, why="its segment has integrity tags, which are not read")
    digest, slot_names = _find_digest(top, segment_name)
    slots = tuple(
        _parse_slot(name, fields) for name, fields in sorted(_named(top, "keyslots")) if name in slot_names
    )
    if not slots or len({slot.key_size for slot in slots}) != 1:
        raise FormatError(
            _WHAT, why=f"{len(slots)} key slots belong to its segment, or their keys differ in size"
        )
    return _join(header, slots, digest)


def _join(header: Header, slots: tuple[Keyslot, ...], digest: Fields) -> Volume:
    kdf = _parse_pbkdf2(digest)
    value = _take_base64(digest, "digest")
    if not 16 <= len(value) <= _SALT_LIMIT:  # noqa: PLR2004 - shorter, and other keys would pass for the right one
        raise FormatError(_WHAT, why=f"the digest of its key is {len(value)} bytes")
    return Volume(
        version=2,
        uuid=header.uuid,
        cipher=header.cipher,
        key_size=slots[0].key_size,
        offset=header.offset,
        size=header.size,
        sector_size=header.sector_size,
        first_sector=header.first_sector,
        keyslots=slots,
        digest_kdf=kdf,
        digest=value,
    )


def _load(area: bytes) -> object:
    try:
        return json.loads(area.split(b"\0", 1)[0].decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise FormatError(_WHAT, why="its JSON area is not JSON") from error


def _named(top: Fields, name: str) -> list[tuple[str, Fields]]:
    group = top.take(name)
    if not isinstance(group, dict) or not 1 <= len(group) <= SLOT_LIMIT:
        raise FormatError(_WHAT, why=f"{name}: wanted 1 to {SLOT_LIMIT} of them")
    return [(str(key), Fields(value, f"the LUKS2 {name} {str(key)[:20]}")) for key, value in group.items()]


def _require_plain(top: Fields) -> None:
    config = top.take_fields("config")
    if config.has("requirements"):
        requirements = config.take("requirements")
        wanted = requirements.get("mandatory", ()) if isinstance(requirements, dict) else requirements
        if wanted:
            raise FormatError(_WHAT, why=f"it requires {str(wanted)[:80]}, which is not known here")


def _find_digest(top: Fields, segment: str) -> tuple[Fields, tuple[str, ...]]:
    for _, fields in _named(top, "digests"):
        names = fields.take_strings("keyslots", limit=SLOT_LIMIT)
        if segment in fields.take_strings("segments", limit=SLOT_LIMIT):
            if fields.take_string("type") != "pbkdf2":
                raise FormatError(_WHAT, why="the digest of its key is not pbkdf2")
            return fields, names
    raise FormatError(_WHAT, why="no digest belongs to its segment")


def _parse_slot(name: str, fields: Fields) -> Keyslot:
    where = f"{_WHAT}: key slot {name[:20]}"
    if fields.take_string("type") != "luks2":
        raise FormatError(where, why="it is not of the type luks2")
    key_size = _require_key_size(where, fields.take_integer("key_size", maximum=_U32))
    split = fields.take_fields("af")
    area = fields.take_fields("area")
    if split.take_string("type") != "luks1" or split.take_integer("stripes", maximum=_U32) != STRIPES:
        raise FormatError(where, why=f"its key is not split over {STRIPES} stripes")
    if area.take_string("type") != "raw" or area.take_string("encryption") != CIPHER:
        raise FormatError(where, why=f"its area is not raw under {CIPHER}")
    size, offset = _take_decimal(area, "size"), _take_decimal(area, "offset")
    if size < key_size * STRIPES:
        raise FormatError(where, why=f"its area is {size} bytes, wanted {key_size * STRIPES}")
    return Keyslot(
        name=name,
        kdf=_parse_kdf(fields.take_fields("kdf")),
        area_offset=offset,
        area_key_size=_require_key_size(where, area.take_integer("key_size", maximum=_U32)),
        key_size=key_size,
        split_hash=_take_hash(split),
    )


def _require_key_size(where: str, size: int) -> int:
    if size not in KEY_SIZES:
        raise FormatError(where, why=f"key size: seen {size} bytes, wanted one of {KEY_SIZES}")
    return size


def _parse_kdf(fields: Fields) -> Pbkdf2 | Argon2:
    kind = fields.take_string("type")
    if kind == "pbkdf2":
        return _parse_pbkdf2(fields)
    if kind not in ("argon2i", "argon2id"):
        raise FormatError(_WHAT, why=f'key derivation "{kind[:40]}" is not known')
    return Argon2(
        variant=kind,
        passes=fields.take_integer("time", minimum=1, maximum=_U32),
        memory_kib=fields.take_integer("memory", minimum=1, maximum=_U32),
        lanes=fields.take_integer("cpus", minimum=1, maximum=_U32),
        salt=_take_base64(fields, "salt"),
    )


def _parse_pbkdf2(fields: Fields) -> Pbkdf2:
    return Pbkdf2(
        hash=_take_hash(fields),
        iterations=fields.take_integer("iterations", minimum=1, maximum=_U32),
        salt=_take_base64(fields, "salt"),
    )


def _take_hash(fields: Fields) -> str:
    name = fields.take_string("hash")
    if name not in HASHES:
        raise FormatError(_WHAT, why=f'hash "{name[:40]}" is not one of {", ".join(HASHES)}')
    return name


def _take_base64(fields: Fields, name: str) -> bytes:
    try:
        value = base64.b64decode(fields.take_string(name), validate=True)
    except ValueError as error:
        raise FormatError(_WHAT, why=f'"{name}" is not base64') from error
    if not 8 <= len(value) <= _SALT_LIMIT:  # noqa: PLR2004 - what Argon2 wants at least
        raise FormatError(_WHAT, why=f'"{name}" is {len(value)} bytes, wanted 8 to {_SALT_LIMIT}')
    return value


def _take_decimal(fields: Fields, name: str) -> int:
    text = fields.take_string(name)
    if not (text.isascii() and text.isdigit()) or len(text) > 20 or int(text) > _U64:  # noqa: PLR2004 - digits of 2^64
        raise FormatError(_WHAT, why=f'"{name}" is not a decimal number')
    return int(text)
