"""LUKS1: a header that cryptsetup, luksy and buildah accept, made from a key, a passphrase and a seed.

One key slot of eight is in use; its area and all others lie where cryptsetup puts them. Everything that is random
elsewhere (salts, UUID, the noise of the split key) comes from the seed, so that the same three give the same header.
This module does not encrypt the payload. Source: LUKS1 On-Disk Format Specification 1.2.3, sections 2 and 4.
"""

from __future__ import annotations

import hashlib
import uuid

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from krunpy.core.octets import Secret
from krunpy.formats.luks1_parse import DISABLED, ENABLED, HEADER, MAGIC, SECTOR_SIZE, SLOT, SLOTS
from krunpy.formats.luks2 import KEY_SIZE, STRIPES, seal_key

PAYLOAD_OFFSET = 2 * 1024 * 1024  # bytes, as cryptsetup aligns it
ITERATIONS = 1000  # the least that cryptsetup allows: enough for a secret of 256 bits
SEED_SIZE = 32  # bytes

_SALT_SIZE = 32  # bytes
_DIGEST_SIZE = 20  # bytes
_FIRST_AREA = 8  # sectors from the start
_AREA_SECTORS = -(-KEY_SIZE * STRIPES // 4096) * 4096 // SECTOR_SIZE


def derive(seed: Secret, purpose: bytes, size: int) -> bytes:
    """Return bytes for one purpose from a seed that is uniform. size: at most 8160 bytes."""
    return HKDFExpand(algorithm=SHA256(), length=size, info=b"krunpy luks1 v1 " + purpose).derive(
        seed.reveal()
    )


def derive_key(seed: Secret) -> Secret:
    """Return the volume key of a seed, KEY_SIZE bytes."""
    return Secret(derive(seed, b"volume key", KEY_SIZE))


def build_header(seed: Secret, passphrase: Secret, iterations: int) -> bytes:
    """Return the PAYLOAD_OFFSET bytes before the payload, which is under `derive_key(seed)` in sectors of 512 bytes.

    seed:       SEED_SIZE bytes, secret, used for one payload only.
    iterations: of PBKDF2 that the passphrase's slot costs, at least ITERATIONS.
    """
    if len(seed) != SEED_SIZE or iterations < ITERATIONS:
        msg = f"wanted a seed of {SEED_SIZE} bytes and {ITERATIONS} iterations, seen {len(seed)} and {iterations}"
        raise ValueError(msg)
    key = derive_key(seed)
    salt = derive(seed, b"digest salt", _SALT_SIZE)
    digest = hashlib.pbkdf2_hmac("sha256", key.reveal(), salt, ITERATIONS, _DIGEST_SIZE)
    name = uuid.UUID(bytes=derive(seed, b"uuid", 16), version=4)
    header = HEADER.pack(
        MAGIC, 1, b"aes", b"xts-plain64", b"sha256", PAYLOAD_OFFSET // SECTOR_SIZE, KEY_SIZE, digest, salt, ITERATIONS,
        str(name).encode(),
    )  # fmt: skip
    slot_salt = derive(seed, b"slot salt", _SALT_SIZE)
    slots = [SLOT.pack(ENABLED, iterations, slot_salt, _FIRST_AREA, STRIPES)]
    slots += [
        SLOT.pack(DISABLED, 0, b"", _FIRST_AREA + index * _AREA_SECTORS, STRIPES) for index in range(1, SLOTS)
    ]
    area_key = hashlib.pbkdf2_hmac("sha256", passphrase.reveal(), slot_salt, iterations, KEY_SIZE)
    area = seal_key(key, area_key, derive(seed, b"stripes", 64))
    start = (header + b"".join(slots)).ljust(_FIRST_AREA * SECTOR_SIZE, b"\0")
    return (start + area).ljust(PAYLOAD_OFFSET, b"\0")
