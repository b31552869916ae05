"""The options of `krunpy evidence verify`: one table for the two readers of its command line and what it runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

# long name -> field of VerifyWords
TEXTS = {
    "--chain": "chain",
    "--vek": "vek",
    "--collateral": "collateral",
    "--event-log": "event_log",
    "--at": "at",
    "--policy": "policy",
    "--nonce": "nonce",
    "--report-data": "report_data",
}
# reference values: the option that gives one -> length in bytes
SNP_VALUES = {"--measurement": 48, "--host-data": 32}
TDX_VALUES = {
    "--measurement": 48, "--mrconfigid": 48, "--rtmr0": 48, "--rtmr1": 48, "--rtmr2": 48, "--rtmr3": 48,
}  # fmt: skip
VALUES = SNP_VALUES | TDX_VALUES
LISTS = ("--crl", *VALUES)  # may be given several times


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyWords:
    """The command line of `krunpy evidence verify`, as text; an empty string or tuple was not given.

    values: reference values in hex by their option; one that was not given is missing, or has none.
    """

    file: str
    chain: str = ""
    vek: str = ""
    collateral: str = ""
    event_log: str = ""
    crl: tuple[str, ...] = ()
    at: str = ""
    policy: str = ""
    nonce: str = ""
    report_data: str = ""
    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    json: bool = False
