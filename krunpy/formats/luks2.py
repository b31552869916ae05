"""LUKS2: a header that cryptsetup accepts, made from nothing but the volume key, and a reader of headers.

The layout is fixed: two headers of 16 KiB, one keyslot, one crypt segment of fixed size behind 1 MiB. The
keyslot is for tools: its passphrase has 256 bits, so its key derivation is the cheapest that is allowed.
Every salt is derived from the volume key, so a key and a size give one header. This module does not encrypt
the segment. Source: LUKS2 On-Disk Format Specification 1.1.2, cryptsetup 2.6.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import uuid
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from krunpy.core.octets import Secret

if TYPE_CHECKING:
    from collections.abc import Callable

PAYLOAD_OFFSET = 1024 * 1024  # bytes: both headers and the keyslot area
HEADER_SIZE = 16384  # bytes, each of the two headers with its JSON area
BINARY_SIZE = 4096  # bytes, the part before the JSON area
KEY_SIZE = 64  # bytes: AES-256-XTS
SECTOR_SIZE = 4096  # bytes
KEYSLOT_OFFSET = 2 * HEADER_SIZE
STRIPES = 4000
ITERATIONS = 1000  # the least that cryptsetup allows
PRIMARY_MAGIC = b"LUKS\xba\xbe"
SECONDARY_MAGIC = b"SKUL\xba\xbe"
BINARY_HEADER = struct.Struct(">6sHQQ48s32s64s40s48sQ184x64s3584x")
CHECKSUM_OFFSET = 448
CHECKSUM_SIZE = 64  # bytes, of which SHA-256 uses 32

_SPLIT_SIZE = KEY_SIZE * STRIPES  # bytes
_AREA_SIZE = -(-_SPLIT_SIZE // 4096) * 4096  # bytes
_KEYSLOT_SECTOR = 512  # bytes: the keyslot area is always in small sectors
_SALT_SIZE = 32  # bytes
_DIGEST_SIZE = 32  # bytes


def derive_passphrase(key: Secret) -> Secret:
    """Return the passphrase of the keyslot, 64 hex digits, that belongs to a volume key of 64 bytes."""
    return Secret(_derive(key, b"passphrase", 32).hex().encode())


def build_header(key: Secret, payload_size: int) -> bytes:
    """Return the PAYLOAD_OFFSET bytes before the crypt segment.

    key:          volume key, 64 bytes.
    payload_size: bytes of the segment, a multiple of 4096.
    """
    if len(key) != KEY_SIZE or payload_size <= 0 or payload_size % SECTOR_SIZE:
        msg = f"wanted a key of {KEY_SIZE} bytes and whole sectors, seen {len(key)} and {payload_size} bytes"
        raise ValueError(msg)
    metadata = json.dumps(_describe(key, payload_size), separators=(",", ":")).encode()
    primary = _pack_copy(key, metadata, PRIMARY_MAGIC, b"primary salt", 0)
    secondary = _pack_copy(key, metadata, SECONDARY_MAGIC, b"secondary salt", HEADER_SIZE)
    return (primary + secondary + _seal_keyslot(key)).ljust(PAYLOAD_OFFSET, b"\0")


def _derive(key: Secret, purpose: bytes, size: int) -> bytes:
    info = b"krunpy luks2 v1 " + purpose
    return HKDF(algorithm=SHA256(), length=size, salt=None, info=info).derive(key.reveal())


def _describe(key: Secret, payload_size: int) -> dict[str, object]:
    digest_salt = _derive(key, b"digest salt", _SALT_SIZE)
    digest = hashlib.pbkdf2_hmac("sha256", key.reveal(), digest_salt, ITERATIONS, _DIGEST_SIZE)
    return {
        "keyslots": {
            "0": {
                "type": "luks2",
                "key_size": KEY_SIZE,
                "af": {"type": "luks1", "stripes": STRIPES, "hash": "sha256"},
                "area": {
                    "type": "raw",
                    "offset": str(KEYSLOT_OFFSET),
                    "size": str(_AREA_SIZE),
                    "encryption": "aes-xts-plain64",
                    "key_size": KEY_SIZE,
                },
                "kdf": {
                    "type": "pbkdf2",
                    "hash": "sha256",
                    "iterations": ITERATIONS,
                    "salt": _base64(_derive(key, b"keyslot salt", _SALT_SIZE)),
                },
            }
        },
        "tokens": {},
        "segments": {
            "0": {
                "type": "crypt",
                "offset": str(PAYLOAD_OFFSET),
                "size": str(payload_size),
                "iv_tweak": "0",
                "encryption": "aes-xts-plain64",
                "sector_size": SECTOR_SIZE,
            }
        },
        "digests": {
            "0": {
                "type": "pbkdf2",
                "keyslots": ["0"],
                "segments": ["0"],
                "hash": "sha256",
                "iterations": ITERATIONS,
                "salt": _base64(digest_salt),
                "digest": _base64(digest),
            }
        },
        "config": {
            "json_size": str(HEADER_SIZE - BINARY_SIZE),
            "keyslots_size": str(PAYLOAD_OFFSET - KEYSLOT_OFFSET),
        },
    }


def _pack_copy(key: Secret, metadata: bytes, magic: bytes, salt: bytes, offset: int) -> bytes:
    name = uuid.UUID(bytes=_derive(key, b"uuid", 16), version=4)
    binary = BINARY_HEADER.pack(
        magic, 2, HEADER_SIZE, 1, b"", b"sha256", _derive(key, salt, 64), str(name).encode(), b"", offset, b""
    )
    copy = bytearray(binary + metadata.ljust(HEADER_SIZE - BINARY_SIZE, b"\0"))
    copy[CHECKSUM_OFFSET : CHECKSUM_OFFSET + 32] = hashlib.sha256(copy).digest()
    return bytes(copy)


def _seal_keyslot(key: Secret) -> bytes:
    """Return the keyslot area: the volume key, split over STRIPES and encrypted."""
    salt = _derive(key, b"keyslot salt", _SALT_SIZE)
    passphrase = derive_passphrase(key).reveal()
    area_key = hashlib.pbkdf2_hmac("sha256", passphrase, salt, ITERATIONS, KEY_SIZE)
    return seal_key(key, area_key, _derive(key, b"stripes", 64))


def seal_key(key: Secret, area_key: bytes, seed: bytes) -> bytes:
    """Return the area of a key slot, of LUKS1 and LUKS2 alike: the key split over STRIPES, encrypted.

    key, area_key: KEY_SIZE bytes each; seed: of the noise between, secret.
    """
    split = _split_key(key, seed)
    sectors = []
    for index in range(len(split) // _KEYSLOT_SECTOR):
        cipher = Cipher(algorithms.AES(area_key), modes.XTS(index.to_bytes(16, "little")))
        part = split[index * _KEYSLOT_SECTOR : (index + 1) * _KEYSLOT_SECTOR]
        sectors.append(cipher.encryptor().update(part))
    return b"".join(sectors)


def _split_key(key: Secret, seed: bytes) -> bytes:
    """Return the anti-forensic split of LUKS1: all stripes are needed to get the key back."""
    noise = hashlib.shake_256(seed).digest(_SPLIT_SIZE - KEY_SIZE)
    mixed = bytes(KEY_SIZE)
    for start in range(0, len(noise), KEY_SIZE):
        mixed = diffuse(exclusive_or(mixed, noise[start : start + KEY_SIZE]))
    return noise + exclusive_or(mixed, key.reveal())


def diffuse(block: bytes, make_hash: Callable[[bytes], hashlib._Hash] = hashlib.sha256) -> bytes:
    """Return the diffusion step of the split: each digest-sized part hashed with its number before it.

    The last is cut to what is left.
    """
    size = make_hash(b"").digest_size
    parts = [block[start : start + size] for start in range(0, len(block), size)]
    numbered = (index.to_bytes(4, "big") + part for index, part in enumerate(parts))
    return b"".join(make_hash(item).digest() for item in numbered)[: len(block)]


def exclusive_or(left: bytes, right: bytes) -> bytes:
    """Return the bitwise exclusive or of two byte strings of one length."""
    return (int.from_bytes(left, "big") ^ int.from_bytes(right, "big")).to_bytes(len(left), "big")


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()
