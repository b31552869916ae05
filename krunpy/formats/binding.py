"""What ties a challenge, a guest key and a manifest together. Source: docs/protocol.md section 4."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from krunpy.core.octets import Digest32, ReportData

if TYPE_CHECKING:
    from krunpy.core.octets import Nonce, PublicKey32

SIGNATURE_TAG = b"krunpy release signature v1"


def make_report_data(nonce: Nonce, guest_key: PublicKey32, manifest_hash: Digest32) -> ReportData:
    """Return the 64 bytes that the guest has signed by its TEE."""
    tag = b"krunpy report_data v1"
    return ReportData(hashlib.sha512(_prefixed(tag, nonce, guest_key, manifest_hash)).digest())


def make_transcript(nonce: Nonce, guest_key: PublicKey32, manifest_hash: Digest32) -> Digest32:
    """Return the 32 bytes that a release is sealed and signed over."""
    tag = b"krunpy release v1"
    return Digest32(hashlib.sha256(_prefixed(tag, nonce, guest_key, manifest_hash)).digest())


def make_signed_message(transcript: Digest32, sealed: bytes) -> bytes:
    """Return the bytes that the server signs: tag, transcript, sealed."""
    return SIGNATURE_TAG + transcript + sealed


def _prefixed(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(4, "little") + part for part in parts)
