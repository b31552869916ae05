"""The files of a server's data directory: its signing keys, its key-encryption key and its first token.

A server signs with the key of its mode, and opens that one only: what may be about simulated evidence is
never signed with the key that production's manifests name.

Made on the first start, under the caller's lock; a store that knows a key whose file is gone is not opened.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from krunpy.core.errors import HostError
from krunpy.core.files import load_bounded, write_atomically
from krunpy.core.octets import Secret
from krunpy.server.database import find_meta, set_meta
from krunpy.server.mode import Mode
from krunpy.server.names import ADMIN_TOKEN_FILE, PRODUCTION_KEY_FILE, SIGNING_KEY_FILE
from krunpy.server.release import Signer, SimulatedSigner
from krunpy.server.tokens import Role, add_token, make_token
from krunpy.server.vault import KEK_SIZE, Vault

if TYPE_CHECKING:
    import sqlite3

KEK_FILE = "kek"
_SEED_SIZE = 32  # bytes
# mode -> file, name in the store, what it makes
_SIGNERS: dict[Mode, tuple[str, str, type[Signer]]] = {
    Mode.PRODUCTION: (PRODUCTION_KEY_FILE, "production signing key", Signer),
    Mode.DEVELOPMENT: (SIGNING_KEY_FILE, "signing key", SimulatedSigner),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """The opened keys of one store."""

    signer: Signer
    vault: Vault


def open_keys(connection: sqlite3.Connection, data_dir: str, mode: Mode, *, now_s: int) -> Keys:
    """Return the keys of a store, making those that a new store lacks.

    connection: inside a change of the store, so that keys and store come into being together.

    Raises HostError if a key's file is missing, readable by others, or not the one the store was made with.
    """
    kek = _load_or_make(connection, f"{data_dir}/{KEK_FILE}", KEK_SIZE, "kek")
    file, name, kind = _SIGNERS[mode]
    signer = kind(_load_or_make(connection, f"{data_dir}/{file}", _SEED_SIZE, name))
    vault = Vault(kek)
    _require_same(connection, "kek", vault.name, f"{data_dir}/{KEK_FILE}")
    _require_same(connection, name, signer.public_key, f"{data_dir}/{file}")
    if find_meta(connection, "admin token") is None:
        token = make_token()
        add_token(connection, token, Role.ADMIN, now_s=now_s, expires_at=0)
        write_atomically(f"{data_dir}/{ADMIN_TOKEN_FILE}", token.reveal() + b"\n")
        set_meta(connection, "admin token", b"made")
    return Keys(signer=signer, vault=vault)


def _load_or_make(connection: sqlite3.Connection, path: str, size: int, name: str) -> Secret:
    if not os.path.exists(path):
        if find_meta(connection, name) is not None:
            raise HostError(
                "cannot open the store",
                why=f"its {name} file {path} is missing",
                next="restore it from a backup; without it the store is lost: "
                "move the data directory away and register every workload again",
            )
        write_atomically(path, secrets.token_bytes(size))
    if os.stat(path).st_mode & 0o077:
        raise HostError(
            "cannot open the store",
            why=f"others may read {path}: seen mode {os.stat(path).st_mode & 0o777:o}, wanted 600",
            next=f"chmod 600 {path}, and consider the key known to others",
        )
    value = load_bounded(path, 4096)
    if len(value) != size:
        raise HostError("cannot open the store", why=f"{path} holds {len(value)} bytes, wanted {size}")
    return Secret(value)


def _require_same(connection: sqlite3.Connection, name: str, value: bytes, path: str) -> None:
    known = find_meta(connection, name)
    if known is None:
        set_meta(connection, name, value)
    elif known != value:
        raise HostError(
            "cannot open the store",
            why=f"{path} is not the {name} this store was made with: "
            f"seen {value.hex()[:16]}, wanted {known.hex()[:16]}",
            next="restore the file from a backup",
        )
