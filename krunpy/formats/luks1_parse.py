"""Read a LUKS1 header: cipher, payload and key slots, as `krunpy.formats.luks_open` takes them.

It opens nothing. Source: LUKS1 On-Disk Format Specification 1.2.3, section 2.
"""

from __future__ import annotations

import struct

from krunpy.core.errors import FormatError
from krunpy.formats.luks2 import STRIPES
from krunpy.formats.luks_open_slots import CIPHER, HASHES, KEY_SIZES, Keyslot, Pbkdf2, Volume

HEADER_SIZE = 592  # bytes
MAGIC = b"LUKS\xba\xbe"
SECTOR_SIZE = 512  # bytes; every offset counts them
SLOTS = 8
HEADER = struct.Struct(">6sH32s32s32sII20s32sI40s")
SLOT = struct.Struct(">II32sII")
ENABLED = 0x00AC71F3
DISABLED = 0x0000DEAD
_WHAT = "cannot read the LUKS1 header"


def parse_luks1_volume(data: bytes) -> Volume:
    """Return the volume that a LUKS1 header describes; slots that are not in use are left out.

    data: at least HEADER_SIZE bytes; more is ignored.

    Raises FormatError if it is damaged, or under another cipher than aes-xts-plain64.
    """
    if len(data) < HEADER_SIZE:
        raise FormatError(_WHAT, why=f"seen {len(data)} bytes, wanted {HEADER_SIZE}")
    magic, version, cipher, mode, hash_name, payload, key_size, digest, salt, iterations, uuid = (
        HEADER.unpack_from(data)
    )
    if magic != MAGIC or version != 1:
        raise FormatError(_WHAT, why="it does not begin as one")
    name = f"{_text(cipher)}-{_text(mode)}"
    if name != CIPHER:
        raise FormatError(_WHAT, why=f'cipher: seen "{name}", wanted {CIPHER}')
    if key_size not in KEY_SIZES:
        raise FormatError(_WHAT, why=f"key size: seen {key_size} bytes, wanted one of {KEY_SIZES}")
    hash_text = _text(hash_name)
    if hash_text not in HASHES:
        raise FormatError(_WHAT, why=f'hash "{hash_text}" is not one of {", ".join(HASHES)}')
    if not iterations:
        raise FormatError(_WHAT, why="the digest of its key has 0 iterations")
    return Volume(
        version=1,
        uuid=_text(uuid),
        cipher=CIPHER,
        key_size=key_size,
        offset=payload * SECTOR_SIZE,
        size=0,
        sector_size=SECTOR_SIZE,
        first_sector=0,
        keyslots=_parse_slots(data, hash_text, key_size, payload * SECTOR_SIZE),
        digest_kdf=Pbkdf2(hash=hash_text, iterations=iterations, salt=salt),
        digest=digest,
    )


def _parse_slots(data: bytes, hash_name: str, key_size: int, payload: int) -> tuple[Keyslot, ...]:
    slots = []
    for index in range(SLOTS):
        state, iterations, salt, area, stripes = SLOT.unpack_from(data, HEADER.size + index * SLOT.size)
        if state == DISABLED:
            continue
        where = f"{_WHAT}: key slot {index}"
        if state != ENABLED:
            raise FormatError(where, why=f"state: seen {state:#x}, wanted {ENABLED:#x} or {DISABLED:#x}")
        if not iterations or stripes != STRIPES:
            raise FormatError(
                where, why=f"seen {iterations} iterations and {stripes} stripes, wanted {STRIPES} stripes"
            )
        start = area * SECTOR_SIZE
        if start < HEADER_SIZE or start + key_size * STRIPES > payload:
            raise FormatError(
                where, why=f"its area at {start} does not lie between the header and the payload"
            )
        slots.append(
            Keyslot(
                name=str(index),
                kdf=Pbkdf2(hash=hash_name, iterations=iterations, salt=salt),
                area_offset=start,
                area_key_size=key_size,
                key_size=key_size,
                split_hash=hash_name,
            )
        )
    return tuple(slots)


def _text(field: bytes) -> str:
    value = field.split(b"\0", 1)[0]
    try:
        return value.decode("ascii")
    except UnicodeDecodeError as error:
        raise FormatError(_WHAT, why="one of its names is not ASCII") from error
