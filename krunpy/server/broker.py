"""The server without its sockets: the store, the keys, the appraiser and the clock, as one frozen value."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from krunpy.attest.verdict import SIMULATED_HEADING
from krunpy.core.errors import HostError
from krunpy.core.files import lock, make_private_directory
from krunpy.server.database import Database
from krunpy.server.keys import open_keys
from krunpy.server.mode import Mode
from krunpy.server.sessions import Challenger
from krunpy.server.throttle import REFUSED_ATTEMPTS, Throttle
from krunpy.server.workloads import find_hardware_only, forget_ended

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping

    from krunpy.server.appraiser import Appraiser
    from krunpy.server.release import Signer
    from krunpy.server.throttle import ThrottleLimits
    from krunpy.server.vault import Vault

DATABASE_FILE = "store.sqlite3"
LOCK_FILE = "lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerLimits:
    """Bounds on what is kept. records_kept: of each outcome; refused: attempts that leave a record."""

    records_kept: int = 10_000
    refused: ThrottleLimits = REFUSED_ATTEMPTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """Everything a handler needs. now_s: the clock, seconds since 1970. note: takes one event for the log."""

    database: Database
    signer: Signer
    vault: Vault
    challenger: Challenger
    refused: Throttle
    appraiser: Appraiser
    mode: Mode
    now_s: Callable[[], float]
    note: Callable[[Mapping[str, object]], None]
    limits: BrokerLimits = field(default_factory=BrokerLimits)

    def note_simulated(self, message: str) -> None:
        """Warn in the log that something rests on simulated evidence."""
        self.note({"event": "warning", "message": f"{SIMULATED_HEADING}: {message}"})


def open_broker(
    data_dir: str,
    *,
    appraiser: Appraiser,
    mode: Mode,
    now_s: Callable[[], float],
    note: Callable[[Mapping[str, object]], None],
    limits: BrokerLimits | None = None,
) -> Broker:
    """Return the server over the store in a directory, made with mode 0700 if it is missing.

    Several processes may open the same directory at once.

    Raises HostError if the store or one of its keys is missing, damaged or readable by others, or if it holds
    what only hardware may have and the mode accepts simulated evidence.
    """
    make_private_directory(data_dir)
    with lock(os.path.join(data_dir, LOCK_FILE)):
        database = Database(os.path.join(data_dir, DATABASE_FILE))
        try:
            with database.change() as connection:
                keys = open_keys(connection, data_dir, mode, now_s=int(now_s()))
                forget_ended(connection, now_s=int(now_s()))
                _require_mode(connection, mode, data_dir)
        except BaseException:
            database.close()
            raise
    limits = limits or BrokerLimits()
    return Broker(
        database=database,
        signer=keys.signer,
        vault=keys.vault,
        challenger=Challenger(keys.vault.session_key),
        refused=Throttle(now_s, limits.refused),
        appraiser=appraiser,
        mode=mode,
        now_s=now_s,
        note=note,
        limits=limits,
    )


def _require_mode(connection: sqlite3.Connection, mode: Mode, data_dir: str) -> None:
    workload = find_hardware_only(connection) if mode is Mode.DEVELOPMENT else None
    if workload is not None:
        raise HostError(
            f"cannot open the store {data_dir} in mode development",
            why=f'it holds the key of workload "{workload}", which was registered for hardware only',
            next="use another data directory: simulated evidence and real secrets do not share one",
        )
