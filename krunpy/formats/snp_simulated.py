"""The marks that the software TEE puts on everything it signs.

They are here, below both sides, so that the maker and the verifier name the same ones. A verifier of
real hardware refuses any of them; none is a secret.
"""

from __future__ import annotations

from krunpy.formats.der import encode_oid

FAMILY_ID = b"KRUNPY-SIMULATED"  # 16 bytes, in every simulated report
CHIP_ID_PREFIX = b"SIM"
ORGANIZATION = "krunpy SIMULATED TEE (not hardware)"
COMMON_NAME_PREFIX = "SIM-"
# A random UUID of our own under 2.25; critical, so that other verifiers refuse the certificate too.
EXTENSION_OID = "2.25.36160292057154277333399618221212290634"
EXTENSION_OID_BYTES = encode_oid(EXTENSION_OID)
EXTENSION_VALUE = b"\x05\x00"  # NULL
