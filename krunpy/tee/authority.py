"""The software TEE's own root of trust: made on this machine at first use, valid for 30 days.

It has the shape of AMD's (ARK, ASK: RSA-4096 with PSS; VCEK: P-384), and its names, a critical extension
and its marks say everywhere that it is not hardware. The RSA keys sign one certificate each and are then
thrown away: no file holds them. Nobody trusts this root unless it is named in a configuration.

Source: architecture.md D-5; AMD VCEK Certificate and KDS Interface Specification (publication 57230).
"""

from __future__ import annotations

import base64
import json
import os
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_private_key

from krunpy.core.errors import FormatError, HostError
from krunpy.core.files import load_bounded, lock, make_private_directory, write_atomically
from krunpy.formats.narrow import Fields
from krunpy.formats.snp_certs import CertKind, pack_cert_table, parse_cert_table
from krunpy.formats.snp_simulated import CHIP_ID_PREFIX
from krunpy.formats.snp_tcb import Product, Tcb
from krunpy.formats.x509 import parse_certificate

if TYPE_CHECKING:
    from krunpy.tee.minting import MintedChain

PRODUCT = Product.MILAN  # whose structures the reports have
TCB = Tcb(bootloader=4, tee=0, snp=29, microcode=222)
VALIDITY = timedelta(days=30)

_FILE = "authority.json"
_LARGEST_FILE = 65536  # bytes
_VERSION = 1
_SPARE = timedelta(hours=1)  # a root that ends while a machine starts is renewed before
_EARLY = timedelta(minutes=5)  # clocks of guest, server and host need not agree to the second
_OTHERS = 0o077


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A key that signs reports, and what vouches for it: a GHCB table; `root` is its ARK in DER."""

    key: ec.EllipticCurvePrivateKey
    chip_id: bytes
    certificates: bytes
    root: bytes
    not_before: datetime
    not_after: datetime


def open_authority(directory: str, *, now: datetime) -> Authority:
    """Return this installation's authority, made or renewed if there is none that is valid at `now`.

    directory: made with mode 0700 if missing. Making the two RSA-4096 keys takes some seconds.

    Raises HostError if others can read the key, FormatError if the file is broken.
    """
    path = os.path.join(directory, _FILE)
    authority = _load(path)
    if authority is not None and _is_valid(authority, now):
        return authority
    make_private_directory(directory)
    with lock(path + ".lock"):
        authority = _load(path)  # another process may have made it while we waited
        if authority is None or not _is_valid(authority, now):
            write_atomically(path, _make(now), mode=0o600)
            authority = _load(path)
    if authority is None:
        raise HostError(
            "cannot open the software TEE's authority", why=f"{path} was removed while it was made"
        )
    return authority


def _is_valid(authority: Authority, now: datetime) -> bool:
    return authority.not_before <= now and now + _SPARE <= authority.not_after


def _load(path: str) -> Authority | None:
    """Return the authority in a file, None if there is no file."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HostError(f"cannot read {path}", why=error.strerror or "error") from error
    if mode & _OTHERS:
        raise HostError(
            "cannot open the software TEE's authority",
            why=f"seen mode {mode & 0o777:o} of {path}, wanted 600",
            next=f"remove {path}; a new authority is made at the next run",
        )
    try:
        return _parse(load_bounded(path, _LARGEST_FILE))
    except (FormatError, ValueError, RecursionError, UnsupportedAlgorithm) as error:
        raise FormatError(
            "cannot open the software TEE's authority",
            why=f"{path} is broken: {error}",
            next=f"remove {path}; a new authority is made at the next run",
        ) from error


def _parse(contents: bytes) -> Authority:
    fields = Fields(json.loads(contents), "authority")
    fields.take_integer("version", minimum=_VERSION, maximum=_VERSION)
    certificates = base64.b64decode(fields.take_string("certificates"), validate=True)
    key = load_der_private_key(base64.b64decode(fields.take_string("key"), validate=True), password=None)
    chip_id = fields.take_hex("chip_id", 64)
    fields.require_no_more()
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise FormatError("cannot read the authority", why="its key is not an elliptic curve key")
    blobs = parse_cert_table(certificates).blobs
    if {CertKind.ARK, CertKind.VCEK} - blobs.keys():
        raise FormatError("cannot read the authority", why="its certificate table has no ARK or no VCEK")
    leaf = parse_certificate(blobs[CertKind.VCEK])
    return Authority(
        key=key,
        chip_id=chip_id,
        certificates=certificates,
        root=blobs[CertKind.ARK],
        not_before=leaf.not_before,
        not_after=leaf.not_after,
    )


def _make(now: datetime) -> bytes:
    # 20 ms of imports that opening an authority does not need
    from krunpy.tee.minting import mint_chain

    chip_id = CHIP_ID_PREFIX + secrets.token_bytes(64 - len(CHIP_ID_PREFIX))
    not_before = (now - _EARLY).replace(microsecond=0)
    chain: MintedChain = mint_chain(
        product=PRODUCT, tcb=TCB, chip_id=chip_id, not_before=not_before, not_after=not_before + VALIDITY
    )
    table = pack_cert_table({CertKind.VCEK: chain.vcek, CertKind.ASK: chain.ask, CertKind.ARK: chain.ark})
    document = {
        "version": _VERSION,
        "chip_id": chip_id.hex(),
        "certificates": base64.b64encode(table).decode(),
        "key": base64.b64encode(chain.key).decode(),
    }
    return json.dumps(document).encode()
