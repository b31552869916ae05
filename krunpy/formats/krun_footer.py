"""The workload configuration of libkrun's confidential images: krun-sev.json, and the same at the end of disk.img.

    ... LUKS payload | padding | JSON | "KRUN" | length of the JSON, 8 bytes, little-endian

Nothing authenticates either. Source: libkrun 1.19, init.c and resources.rs (TeeConfig); buildah,
internal/mkcw/workload.go.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from krunpy.core.errors import FormatError
from krunpy.formats.narrow import Fields

MAGIC = b"KRUN"
TRAILER_SIZE = 12  # bytes: the magic and the length
CONFIG_LIMIT = 1024 * 1024  # bytes of JSON, as buildah has it
FOOTER_ALIGNMENT = 4096  # bytes; the disk is a multiple of it
TAIL_SIZE = CONFIG_LIMIT + TRAILER_SIZE  # bytes from the end of a disk that hold any footer
_WHAT = "the workload configuration of libkrun"
_U32 = 2**32 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class KrunConfig:
    """What libkrun is told of a confidential workload.

    tee:      "snp", "sev" or "tdx".
    tee_data: a JSON document of the TEE's own, as text; "" if there is none.
    ram_mib:  MiB.
    """

    workload_id: str
    cpus: int
    ram_mib: int
    tee: str
    tee_data: str
    attestation_url: str


def parse_krun_config(data: bytes) -> KrunConfig:
    """Return the configuration; unknown members are ignored, as libkrun does. Raises FormatError."""
    if len(data) > CONFIG_LIMIT:
        raise FormatError(f"cannot read {_WHAT}", why=f"it has {len(data)} bytes, at most {CONFIG_LIMIT}")
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"cannot read {_WHAT}", why="it is not JSON") from error
    fields = Fields(value, _WHAT)
    return KrunConfig(
        workload_id=fields.take_string("workload_id"),
        cpus=fields.take_integer("cpus", minimum=1, maximum=255),
        ram_mib=fields.take_integer("ram_mib", minimum=1, maximum=_U32),
        tee=fields.take_string("tee"),
        tee_data=fields.take_string("tee_data") if fields.has("tee_data") else "",
        attestation_url=fields.take_string("attestation_url") if fields.has("attestation_url") else "",
    )


def encode_krun_config(config: KrunConfig) -> bytes:
    """Return krun-sev.json: all six members, in buildah's order. Raises FormatError if it is over CONFIG_LIMIT."""
    document = {
        "tee": config.tee,
        "tee_data": config.tee_data,
        "workload_id": config.workload_id,
        "cpus": config.cpus,
        "ram_mib": config.ram_mib,
        "attestation_url": config.attestation_url,
    }
    packed = json.dumps(document, separators=(",", ":")).encode()
    if len(packed) > CONFIG_LIMIT:
        raise FormatError(f"cannot write {_WHAT}", why=f"it has {len(packed)} bytes, at most {CONFIG_LIMIT}")
    return packed


def pack_footer(document: bytes) -> bytes:
    """Return what ends a disk: padding, the JSON and the trailer, whole units of FOOTER_ALIGNMENT bytes."""
    footer = document + MAGIC + len(document).to_bytes(8, "little")
    return bytes(-len(footer) % FOOTER_ALIGNMENT) + footer


def parse_footer(tail: bytes) -> bytes | None:
    """Return the JSON in a disk's footer, None if it has none.

    tail: the last TAIL_SIZE bytes of the disk, or all of it. Raises FormatError if its length is wrong.
    """
    trailer = tail[-TRAILER_SIZE:]
    if len(trailer) < TRAILER_SIZE or not trailer.startswith(MAGIC):
        return None
    size = int.from_bytes(trailer[len(MAGIC) :], "little")
    if size > min(CONFIG_LIMIT, len(tail) - TRAILER_SIZE):
        raise FormatError("cannot read the disk's footer", why=f"it says that it has {size} bytes")
    return tail[len(tail) - TRAILER_SIZE - size : len(tail) - TRAILER_SIZE]
