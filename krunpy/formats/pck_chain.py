"""Read the PEM certificate chains of Intel's attestation: in quotes, and beside signed collateral.

The text must be the one that its certificates are written as, byte for byte: nothing signs the text
itself, and a quote of which no byte can be changed has no second form. No certificate is verified here.

Source: RFC 7468, section 3 (strict); Intel TDX DCAP Quoting Library API, appendix A.3, certification data.
"""

from __future__ import annotations

import base64
import binascii

from krunpy.core.errors import FormatError

LARGEST_CHAIN = 16384  # bytes
MOST_CERTIFICATES = 4
_BEGIN, _END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
_LINE = 64  # characters of base64 in a full line


def _refuse(why: str) -> FormatError:
    return FormatError("cannot read the certificate chain", why=why)


def encode_pem(der: bytes, newline: bytes = b"\n") -> bytes:
    """Return a certificate in PEM, without a newline at the end."""
    text = base64.b64encode(der)
    lines = [text[at : at + _LINE] for at in range(0, len(text), _LINE)]
    return newline.join([_BEGIN, *lines, _END])


def _decode(block: bytes) -> bytes:
    """Return the certificate between BEGIN and END, if these are there: writing it again tells."""
    try:
        return base64.b64decode(b"".join(block[len(_BEGIN) : -len(_END)].split()), validate=True)
    except binascii.Error as error:
        raise _refuse("a certificate is not base64") from error


def parse_pem_chain(text: bytes) -> tuple[bytes, ...]:
    """Return the certificates of a chain in DER, in the order of the text: one to four.

    text: at most 16 KiB; lines of 64 characters that end in LF, or all in CR LF; the last may end in neither.
    One NUL may follow a last newline.

    Raises FormatError if it is anything else.
    """
    if len(text) > LARGEST_CHAIN:
        raise _refuse(f"seen {len(text)} bytes, wanted at most {LARGEST_CHAIN}")
    newline = b"\r\n" if b"\r\n" in text else b"\n"
    ends_in_nul = text.endswith(newline + b"\0")  # elsewhere it would be a second form of the newline
    body = text[: -1 if ends_in_nul else None].removesuffix(newline)
    blocks = [part + _END for part in body.split(_END + newline)]
    blocks[-1] = blocks[-1].removesuffix(_END)
    if len(blocks) > MOST_CERTIFICATES:
        raise _refuse(f"seen {len(blocks)} certificates, wanted at most {MOST_CERTIFICATES}")
    chain = tuple(_decode(block) for block in blocks)
    if newline.join(encode_pem(der, newline) for der in chain) != body:
        raise _refuse("its bytes are not the ones that its certificates are written as")
    return chain
