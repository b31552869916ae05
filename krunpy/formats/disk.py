"""The layout of the one disk that a guest sees, as documents describe it. Source: docs/protocol.md section 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from krunpy.core.errors import FormatError
from krunpy.core.octets import Digest32

if TYPE_CHECKING:
    from krunpy.formats.canonical import Json
    from krunpy.formats.narrow import Fields

BLOCK_SIZE = 4096  # bytes
CIPHERS = ("aes-xts-plain64", "none")
_U64 = 2**64 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """The layout of the one disk: sizes in bytes, blocks of 4096 bytes."""

    data_blocks: int
    hash_start_block: int
    root_hash: Digest32
    salt: Digest32
    cipher: str
    key_size: int
    payload_offset: int
    payload_size: int
    block_size: int = BLOCK_SIZE
    sector_size: int = BLOCK_SIZE
    filesystem: str = "erofs"


def describe_disk(disk: Disk) -> dict[str, Json]:
    """Return the disk as JSON values."""
    return {
        "block_size": disk.block_size,
        "cipher": disk.cipher,
        "data_blocks": disk.data_blocks,
        "filesystem": disk.filesystem,
        "hash_start_block": disk.hash_start_block,
        "key_size": disk.key_size,
        "payload_offset": disk.payload_offset,
        "payload_size": disk.payload_size,
        "root_hash": disk.root_hash.hex(),
        "salt": disk.salt.hex(),
        "sector_size": disk.sector_size,
    }


def parse_disk(fields: Fields) -> Disk:
    """Return the disk that a document describes. Raises FormatError if a member is missing, unknown or wrong."""
    disk = Disk(
        block_size=fields.take_integer("block_size", minimum=BLOCK_SIZE, maximum=BLOCK_SIZE),
        cipher=fields.take_string("cipher"),
        data_blocks=fields.take_integer("data_blocks", minimum=1, maximum=2**48),
        filesystem=fields.take_string("filesystem"),
        hash_start_block=fields.take_integer("hash_start_block", minimum=1, maximum=2**48),
        key_size=fields.take_integer("key_size", maximum=64),
        payload_offset=fields.take_integer("payload_offset", maximum=_U64),
        payload_size=fields.take_integer("payload_size", minimum=BLOCK_SIZE, maximum=_U64),
        root_hash=Digest32(fields.take_hex("root_hash", 32)),
        salt=Digest32(fields.take_hex("salt", 32)),
        sector_size=fields.take_integer("sector_size", minimum=BLOCK_SIZE, maximum=BLOCK_SIZE),
    )
    fields.require_no_more()
    covered = disk.data_blocks * BLOCK_SIZE
    reasons = {
        f'cipher "{disk.cipher[:40]}" is not one of {", ".join(CIPHERS)}': disk.cipher not in CIPHERS,
        f'file system "{disk.filesystem[:40]}" is not erofs': disk.filesystem != "erofs",
        "the key size does not fit the cipher": disk.key_size != (0 if disk.cipher == "none" else 64),
        "the payload is not whole blocks": disk.payload_offset % BLOCK_SIZE != 0
        or disk.payload_size % BLOCK_SIZE != 0,
        "the payload reaches past the covered area": disk.payload_offset + disk.payload_size > covered,
        "the hash tree lies inside the covered area": disk.hash_start_block <= disk.data_blocks,
        "there is a payload offset without a cipher": disk.cipher == "none" and disk.payload_offset != 0,
    }
    for why, is_wrong in reasons.items():
        if is_wrong:
            raise FormatError(f"cannot read {fields.where}", why=why)
    return disk
