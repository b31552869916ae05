"""What a confidential image of libkrun tells its host and guest, checked against what guests up to 1.19 can hold.

Those guests copy strings into buffers on the stack without looking at their lengths. What would not fit is refused
here, when the image is made. Source: libkrun 1.19, init/init.c and init/tee/kbs_curl.c.
"""

from __future__ import annotations

import json
import re
from enum import StrEnum
from typing import TYPE_CHECKING

from krunpy.core.errors import UsageError
from krunpy.formats.krun_guest import MAX_KEY_URL, MAX_PASSPHRASE, make_key_url

if TYPE_CHECKING:
    from krunpy.core.octets import Secret
    from krunpy.formats.krun_footer import KrunConfig

TEE = "snp"
STRING_MAX = 255  # bytes of a string in krun-sev.json
DERIVED_ID_SIZE = 32  # characters of a workload id that is made here
_WORKLOAD_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_URL = re.compile(r"https?://[!$%&'()*+,./:;=@\[\]_~A-Za-z0-9-]+(?<!/)")


class Generation(StrEnum):
    """A processor generation, as libkrun's guests name it to their server."""

    MILAN = "milan"
    GENOA = "genoa"
    TURIN = "turin"


def encode_tee_data(generation: Generation) -> str:
    """Return the JSON text that stands as tee_data for SEV-SNP."""
    return json.dumps({"gen": str(generation)}, separators=(",", ":"))


def require_config(config: KrunConfig) -> None:
    """Raise UsageError unless guests of libkrun can hold a configuration. An empty workload id will be derived."""
    name = config.workload_id or "0" * DERIVED_ID_SIZE
    if not _WORKLOAD_ID.fullmatch(name) or len(name) > STRING_MAX:
        raise UsageError(
            f"cannot use the workload id {name[:80]!r}",
            why=f"wanted 1 to {STRING_MAX} letters, digits, dots, dashes and underscores, a letter or digit first",
        )
    url = config.attestation_url
    if not url:
        return
    if not _URL.fullmatch(url):
        raise UsageError(
            f"cannot use the attestation URL {url[:120]!r}",
            why="wanted http:// or https://, then a host and a path without query, and no slash at the end",
        )
    size = len(make_key_url(url, name))
    if size > MAX_KEY_URL:
        raise UsageError(
            "cannot use the attestation URL",
            why=f"with /kbs/v0/key/ and the workload id, {len(name)} characters, it is {size} bytes; guests of libkrun "
            f"up to 1.19 hold {MAX_KEY_URL}",
            next="choose a shorter URL, or a shorter id with --workload-id",
        )


def require_passphrase(passphrase: Secret) -> None:
    """Raise UsageError unless a passphrase reaches a guest of libkrun unchanged."""
    value = passphrase.reveal()
    reasons = {
        "it is empty": not value,
        f"it is {len(value)} bytes, a server can send {MAX_PASSPHRASE}": len(value) > MAX_PASSPHRASE,
        "it holds a zero byte or a line feed, where the guest's cryptsetup stops reading": b"\0" in value
        or b"\n" in value,
    }
    for why, is_wrong in reasons.items():
        if is_wrong:
            raise UsageError("cannot use the passphrase", why=why)
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        raise UsageError(
            "cannot use the passphrase", why="it is not UTF-8, and servers take it as a JSON string"
        ) from None
