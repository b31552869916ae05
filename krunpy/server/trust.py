"""Which simulated root a server trusts, if any: a file and the digest that it must have.

There is no other way in: no directory that is searched, no variable of the environment, no first use.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

from krunpy.attest.anchors import split_pem
from krunpy.core.errors import FormatError
from krunpy.core.files import load_bounded

_MAX_ROOT = 65536  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedRoot:
    """A software TEE's root. path: PEM or DER; sha256: of the certificate in DER, lower-case hex."""

    path: str
    sha256: str


def load_simulated_root(root: SimulatedRoot) -> bytes:
    """Return the certificate in DER.

    Raises HostError if the file cannot be read, FormatError if it is not the certificate that was pinned.
    """
    contents = load_bounded(root.path, _MAX_ROOT)
    found = split_pem(contents) if contents.startswith(b"-----") else [contents]
    what = f"cannot trust the simulated root {root.path}"
    if len(found) != 1:
        raise FormatError(what, why=f"seen {len(found)} certificates, wanted 1")
    digest = sha256(found[0]).hexdigest()
    if digest != root.sha256:
        raise FormatError(
            what,
            why=f"seen SHA-256 {digest}, wanted {root.sha256}",
            next="pin the root that the software TEE really has, or find out who exchanged the file",
        )
    return found[0]
