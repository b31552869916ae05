"""The bodies and cookies of the reference-kbs dialect: what libkrun's guest and `buildah mkcw` send. Pure.

The guest's buffers are of fixed size and its own program checks none of them: their limits are kept here.
What the values are worth is for `reference_kbs_attestation`.

Source: libkrun 1.7 to 1.19, init/tee; buildah, internal/mkcw/attest.go; docs/protocol.md section 7.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers

from krunpy.core.errors import FormatError
from krunpy.core.octets import Digest32, LaunchDigest, ReportData, Secret
from krunpy.formats.krun_guest import GUEST_KEY_SIZE, MAX_KEY_URL, MAX_PASSPHRASE, make_key_url
from krunpy.formats.snp_report import REPORT_SIZE
from krunpy.formats.snp_tcb import Product
from krunpy.server.documents import parse_document
from krunpy.server.sessions import SESSION_SIZE

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    from krunpy.formats.narrow import Fields
    from krunpy.server.sessions import Session

COOKIE = "session_id"
_VERSION = "0.0.0"
_NONCE_SIZE = 16  # bytes: the guest's buffer ends in no NUL of its own, so 32 digits as reference-kbs has
_EXPONENT, _EXPONENT_TEXT = 65537, "AQAB"
_WORKLOAD_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_REPORT = re.compile(f"[0-9A-Fa-f]{{{2 * REPORT_SIZE}}}")
_DIGEST = re.compile(f"[0-9A-Fa-f]{{{2 * LaunchDigest.size}}}")
# buildah's SNP_CONFIG bits; oci2cw sends SEV's higher ones for every TEE, and they mean nothing here
_SMT, _MIGRATE_MA, _DEBUG, _ALL_BITS = 1, 4, 8, 63
_MAX_FIRMWARE = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class TeeKey:
    """The guest's RSA-2048 key, and the two texts that report_data is made from."""

    public: RSAPublicKey
    modulus: str
    exponent: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KbsEvidence:
    """What an attest body holds. report: 1184 bytes, unverified; generation: what the guest's image says."""

    key: TeeKey
    report: bytes
    generation: str

    def find_product(self) -> Product | None:
        """Return the product that the image names: its text may be followed by what was in the guest's buffer."""
        return next(
            (product for product in Product if self.generation.startswith(product.value.lower())), None
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class KbsRegistration:
    """One checked registration. policy: what tee_config demands, in the words of docs/policy.md.

    ignored: what tee_config would allow and this server never does.
    """

    workload: str
    launch_digest: LaunchDigest
    passphrase: Secret
    policy: dict[str, object]
    ignored: tuple[str, ...]


def is_kbs_id(text: str) -> bool:
    """Return whether a text can name a workload of this dialect: 1 to 64 of [A-Za-z0-9._-], first no sign."""
    return _WORKLOAD_ID.fullmatch(text) is not None


def require_kbs_id(text: str) -> str:
    """Return the text if it can name a workload of this dialect, else raise FormatError."""
    if not is_kbs_id(text):
        raise FormatError(
            "cannot use the workload id",
            why=f'seen "{text[:80]}", wanted 1 to 64 of [A-Za-z0-9._-], first a letter or digit',
        )
    return text


def require_short_url(url: str, workload: str) -> None:
    """Raise FormatError if the guest could not ask for a key below an attestation URL."""
    length = len(make_key_url(url, workload))
    if length > MAX_KEY_URL:
        raise FormatError(
            "cannot use the attestation URL",
            why=f"with the workload id the guest's request is {length} characters long, "
            f"its buffer takes {MAX_KEY_URL}",
            next="choose a shorter id with --workload-id, or a shorter host name",
        )


def hash_name(workload: str) -> Digest32:
    """Return what stands for a workload of this dialect where others have a manifest hash."""
    return Digest32(hashlib.sha256(b"krunpy reference-kbs workload v1" + workload.encode()).digest())


def make_kbs_report_data(nonce: str, key: TeeKey) -> ReportData:
    """Return REPORT_DATA over the texts as they were sent."""
    texts = nonce + key.modulus + key.exponent
    return ReportData(hashlib.sha512(texts.encode()).digest())


def make_nonce(session: Session) -> str:
    """Return a session's nonce as the guest gets it: 32 hex digits."""
    return session.nonce[:_NONCE_SIZE].hex()


def encode_session(session: Session) -> str:
    """Return a session as the cookie's value, 86 characters: the guest's buffer takes 99."""
    return base64.urlsafe_b64encode(session.id + session.manifest_hash).rstrip(b"=").decode()


def take_session(cookies: tuple[str, ...]) -> tuple[bytes, Digest32]:
    """Return session and name hash from the Cookie headers; libkrun's guest sends the same one twice.

    Raises FormatError unless they hold one session.
    """
    pairs = (pair.strip().partition("=") for header in cookies for pair in header.split(";"))
    values = {value for name, _, value in pairs if name == COOKIE}
    what = "cannot read the session"
    if len(values) != 1:
        raise FormatError(what, why=f"seen {len(values)} different cookies {COOKIE}, wanted one")
    (text,) = values
    try:
        raw = base64.b64decode(text + "==", altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise FormatError(what, why="it is none that this server gave out") from error
    if len(raw) != SESSION_SIZE + Digest32.size:
        raise FormatError(what, why="it is none that this server gave out")
    return raw[:SESSION_SIZE], Digest32(raw[SESSION_SIZE:])


def parse_auth(body: bytes) -> str:
    """Return the workload id of an auth body. Raises FormatError on anything but what a guest of SNP sends."""
    fields = _parse(body)
    tee, version = fields.take_string("tee"), fields.take_string("version")
    parameters = fields.take_string("extra-params")
    fields.require_no_more()
    if tee != "snp":
        raise FormatError("cannot serve this TEE", why=f'seen "{tee[:40]}", wanted "snp"')
    if version != _VERSION:
        raise FormatError("cannot serve this version", why=f'seen "{version[:40]}", wanted "{_VERSION}"')
    inner = _parse_text(parameters)
    workload = require_kbs_id(inner.take_string("workload_id"))
    inner.require_no_more()
    return workload


def parse_evidence_body(body: bytes) -> KbsEvidence:
    """Return what an attest body holds. Raises FormatError on anything but what a guest of SNP sends."""
    fields = _parse(body)
    key = _parse_key(fields.take_fields("tee-pubkey"))
    inner = _parse_text(fields.take_string("tee-evidence"))
    fields.require_no_more()
    generation, report = inner.take_string("gen"), inner.take_string("report")
    chain = inner.take_string("cert_chain")
    inner.require_no_more()
    if chain != "[]":
        raise FormatError("cannot read cert_chain", why='wanted "[]": certificates are fetched by the server')
    if not _REPORT.fullmatch(report):
        raise FormatError("cannot read the report", why=f"wanted {REPORT_SIZE} bytes in hex")
    return KbsEvidence(key=key, report=bytes.fromhex(report), generation=generation)


def parse_kbs_registration(body: bytes) -> KbsRegistration:
    """Return the registration that a body holds; of the passphrase nothing is in any message.

    Raises FormatError if a member is missing, unknown or out of range.
    """
    fields = _parse(body)
    workload = require_kbs_id(fields.take_string("workload_id"))
    digest = fields.take_string("launch_measurement")
    passphrase = _parse_passphrase(fields.take("passphrase"))
    bits, firmware = _parse_config(fields.take_string("tee_config"))
    fields.require_no_more()
    if not _DIGEST.fullmatch(digest):
        raise FormatError(
            "cannot use the launch measurement",
            why=f"seen {len(digest)} characters, wanted {2 * LaunchDigest.size} hex digits: SEV-SNP's",
            next="SEV and SEV-ES are not served: convert the image for snp",
        )
    policy: dict[str, object] = {"allow_smt": bool(bits & _SMT)}
    if any(firmware):
        policy["min_firmware"] = [*firmware, 0]
    ignored = {"debugging": _DEBUG, "a migration agent": _MIGRATE_MA}
    return KbsRegistration(
        workload=workload,
        launch_digest=LaunchDigest(bytes.fromhex(digest)),
        passphrase=passphrase,
        policy=policy,
        ignored=tuple(name for name, bit in ignored.items() if bits & bit),
    )


def _parse(body: bytes) -> Fields:
    return parse_document(body.removesuffix(b"\0"))  # one NUL more is how C counts a string


def _parse_text(text: str) -> Fields:
    """Return the members of a JSON object that came as a string; half a surrogate pair is no UTF-8."""
    return _parse(text.encode("utf-8", "surrogatepass"))


def _parse_key(fields: Fields) -> TeeKey:
    algorithm = fields.take_string("alg")
    modulus, exponent = fields.take_string("k-mod"), fields.take_string("k-exp")
    fields.require_no_more()
    what = "cannot use the guest's key"
    if algorithm != "RSA":
        raise FormatError(what, why=f'seen "{algorithm[:40]}", wanted "RSA"')
    if exponent != _EXPONENT_TEXT:
        raise FormatError(
            what, why=f'seen exponent "{exponent[:40]}", wanted "{_EXPONENT_TEXT}": {_EXPONENT}'
        )
    raw = _decode(modulus)
    number = int.from_bytes(raw)
    if len(raw) != GUEST_KEY_SIZE or number.bit_length() != 8 * GUEST_KEY_SIZE:
        raise FormatError(
            what,
            why=f"seen {len(raw)} bytes, wanted {GUEST_KEY_SIZE} with the first bit set: RSA-{8 * GUEST_KEY_SIZE}",
        )
    if number % 2 == 0:
        raise FormatError(what, why="its modulus is even")
    public = RSAPublicNumbers(_EXPONENT, number).public_key()
    return TeeKey(public=public, modulus=modulus, exponent=exponent)


def _decode(text: str) -> bytes:
    try:
        value = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise FormatError("cannot use the guest's key", why="it is not base64") from error
    if base64.b64encode(value).decode() != text:
        raise FormatError("cannot use the guest's key", why="it is base64 in another than its one form")
    return value


def _parse_passphrase(value: object) -> Secret:
    what = "cannot use the passphrase"
    if not isinstance(value, str):
        raise FormatError(what, why="it is no text")
    try:
        passphrase = value.encode()
    except UnicodeEncodeError:
        raise FormatError(what, why="it is not UTF-8") from None  # that error holds it
    if not 0 < len(passphrase) <= MAX_PASSPHRASE or 0 in passphrase:
        raise FormatError(what, why=f"wanted 1 to {MAX_PASSPHRASE} bytes without NUL")
    return Secret(passphrase)


def _parse_config(text: str) -> tuple[int, tuple[int, int]]:
    fields = _parse_text(text)
    flags, firmware = fields.take_fields("flags"), fields.take_fields("minfw")
    fields.require_no_more()
    bits = flags.take_integer("bits", maximum=_ALL_BITS)
    major, minor = (firmware.take_integer(name, maximum=_MAX_FIRMWARE) for name in ("major", "minor"))
    flags.require_no_more()
    firmware.require_no_more()
    return bits, (major, minor)
