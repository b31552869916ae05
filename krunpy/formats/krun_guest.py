"""What guests of libkrun up to 1.19 can hold: their programs copy into buffers and check no length.

Source: libkrun 1.19, init/tee/kbs_curl.c (full_url) and kbs_crypto.c; RFC 8017, 7.2.
"""

from __future__ import annotations

MAX_KEY_URL = 99  # bytes of the guest's GET: char full_url[100]
GUEST_KEY_SIZE = 256  # bytes: RSA-2048
MAX_PASSPHRASE = GUEST_KEY_SIZE - 11  # bytes that PKCS#1 v1.5 encrypts; the guest has 512


def make_key_url(url: str, workload: str) -> str:
    """Return the URL that the guest asks for its key. url: the attestation URL in its image."""
    return f"{url}/kbs/v0/key/{workload}"
