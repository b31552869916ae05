"""Open a LUKS volume with a passphrase: derive, decrypt, merge, compare.

1. A slot whose key derivation costs too much, or is not known here, is left out.
2. The passphrase gives the key of the slot's area.
3. The area decrypts to the stripes, whose merge is a candidate.
4. The candidate is the volume key if its digest is the header's.

Nothing here reads a device: the caller hands in the areas. Source: LUKS1 On-Disk Format Specification 1.2.3,
sections 2.4 and 4; LUKS2 specification 1.1.2, section 4.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from krunpy.core.errors import FormatError
from krunpy.core.octets import Secret
from krunpy.formats.luks1_parse import HEADER_SIZE as LUKS1_HEADER_SIZE
from krunpy.formats.luks1_parse import MAGIC, parse_luks1_volume
from krunpy.formats.luks2 import diffuse, exclusive_or
from krunpy.formats.luks_open_slots import Argon2, Keyslot, Pbkdf2, Volume, parse_luks2_volume

if TYPE_CHECKING:
    from collections.abc import Callable

COST_LIMIT = 20_000_000  # of one slot, in iterations: 10 s of one core that hashes fast
TOTAL_COST_LIMIT = 60_000_000  # of all slots that are tried
MEMORY_LIMIT = 1024 * 1024  # KiB, of one Argon2; what cryptsetup takes at most
LANES_LIMIT = 64
HEAD_SIZE = 4 * 1024 * 1024  # bytes from the device's start that hold any header
_AREA_SECTOR = 512  # bytes: a key slot's area is always in small sectors


def is_luks(data: bytes) -> bool:
    """Say whether a device begins as a LUKS volume of either version."""
    return data.startswith(MAGIC)


def parse_volume(data: bytes) -> Volume:
    """Return the volume that the header at the start of a device describes, LUKS1 or LUKS2.

    data: the first HEAD_SIZE bytes, or the whole device if it is smaller. Raises FormatError.
    """
    if not is_luks(data) or len(data) < LUKS1_HEADER_SIZE:
        raise FormatError("cannot read the LUKS header", why="it does not begin as one")
    return parse_luks1_volume(data) if data[6:8] == b"\0\1" else parse_luks2_volume(data)


def find_obstacle(slot: Keyslot) -> str:
    """Return why a slot is not tried, empty if it is."""
    kdf = slot.kdf
    if isinstance(kdf, Argon2):
        if kdf.variant != "argon2id":
            return f"its key derivation is {kdf.variant}"
        if kdf.memory_kib > MEMORY_LIMIT or kdf.lanes > LANES_LIMIT or kdf.memory_kib < 8 * kdf.lanes:
            return (
                f"it wants {kdf.memory_kib} KiB of memory in {kdf.lanes} lanes, at most {MEMORY_LIMIT} KiB and "
                f"{LANES_LIMIT} lanes are given, at least 8 KiB a lane"
            )
    if kdf.cost > COST_LIMIT:
        return f"its key derivation costs {kdf.cost} iterations, at most {COST_LIMIT} are done"
    return ""


def open_volume(volume: Volume, read: Callable[[int, int], bytes], passphrase: Secret) -> Secret | None:
    """Return the volume key, or None if no slot that is tried opens with the passphrase.

    read: gives bytes of the device from an offset and a size.

    Raises FormatError if the digest, or all slots together, cost more than the limits.
    """
    slots = [slot for slot in volume.keyslots if not find_obstacle(slot)]
    total = sum(slot.kdf.cost + volume.digest_kdf.cost for slot in slots)
    if volume.digest_kdf.cost > COST_LIMIT or total > TOTAL_COST_LIMIT:
        raise FormatError(
            "cannot open the LUKS volume",
            why=f"trying its key slots costs {total} iterations, at most {TOTAL_COST_LIMIT} are done",
        )
    for slot in slots:
        key = _try_slot(slot, read(slot.area_offset, slot.area_size), passphrase)
        digest = _derive(volume.digest_kdf, key, len(volume.digest))
        if hmac.compare_digest(digest, volume.digest):
            return Secret(key)
    return None


def _try_slot(slot: Keyslot, area: bytes, passphrase: Secret) -> bytes:
    if len(area) != slot.area_size:
        raise FormatError(
            f"cannot open key slot {slot.name[:20]}", why=f"its area is cut off after {len(area)} bytes"
        )
    area_key = _derive(slot.kdf, passphrase.reveal(), slot.area_key_size)
    stripes = bytearray()
    for index in range(0, len(area), _AREA_SECTOR):
        tweak = (index // _AREA_SECTOR).to_bytes(16, "little")
        cipher = Cipher(algorithms.AES(area_key), modes.XTS(tweak))
        stripes += cipher.decryptor().update(area[index : index + _AREA_SECTOR])
    return merge_key(bytes(stripes), slot.key_size, slot.split_hash)


def _derive(kdf: Pbkdf2 | Argon2, secret: bytes, size: int) -> bytes:
    if isinstance(kdf, Pbkdf2):
        return hashlib.pbkdf2_hmac(kdf.hash, secret, kdf.salt, kdf.iterations, size)
    argon = Argon2id(
        salt=kdf.salt, length=size, iterations=kdf.passes, lanes=kdf.lanes, memory_cost=kdf.memory_kib
    )
    return argon.derive(secret)


def merge_key(split: bytes, key_size: int, hash_name: str) -> bytes:
    """Return the key of an anti-forensic split. split: whole stripes of key_size bytes; hash_name: one of HASHES."""
    mixed = bytes(key_size)
    last = len(split) - key_size
    for start in range(0, last, key_size):
        mixed = diffuse(exclusive_or(mixed, split[start : start + key_size]), getattr(hashlib, hash_name))
    return exclusive_or(mixed, split[last:])
