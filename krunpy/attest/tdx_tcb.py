"""Evaluate the TCB of a platform: from security versions to one status, by Intel's tables.

Pure arithmetic over collateral that was verified. The status is a claim, not a verdict; what no level covers
is refused, since nobody vouches for it.

Source: Intel SGX DCAP Quote Verification Library, EvaluateTcb.cpp and TDRelaunchCheck.cpp (steps 4.1.2.5.2);
Intel API for the Provisioning Certification Service, version 4, determining the TCB level.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from krunpy.attest.refusal import Refusal, Stage
from krunpy.attest.tdx_claims import PckIdentity, TcbStatus, TdxTcb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from krunpy.formats.tdx_levels import IsvLevel, LevelStatus
    from krunpy.formats.tdx_qe import QeIdentity
    from krunpy.formats.tdx_tcb_info import ModuleIdentity, TcbInfo

_RELAUNCH = {TcbStatus.TD_RELAUNCH_ADVISED, TcbStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED}
_PLATFORM_STATUSES = frozenset(set(TcbStatus) - _RELAUNCH)
_ISV_STATUSES = frozenset({TcbStatus.UP_TO_DATE, TcbStatus.OUT_OF_DATE, TcbStatus.REVOKED})
_OUT_OF_DATE = {  # what a platform's status becomes when its module or QE is out of date
    TcbStatus.UP_TO_DATE: TcbStatus.OUT_OF_DATE,
    TcbStatus.SW_HARDENING_NEEDED: TcbStatus.OUT_OF_DATE,
    TcbStatus.CONFIGURATION_NEEDED: TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
    TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED: TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
}
_LAUNCHED_OLD = {TcbStatus.OUT_OF_DATE, TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED}
_CONFIGURATION_NEEDED = {
    TcbStatus.CONFIGURATION_NEEDED,
    TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED,
    TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Evaluation:
    """The statuses of one TEE TCB SVN, and the levels they come from."""

    status: TcbStatus
    platform: TcbStatus
    module: TcbStatus | None
    qe: TcbStatus
    levels: tuple[LevelStatus, ...]


def _refuse(code: str, why: str) -> Refusal:
    return Refusal(Stage.TCB, code, why=why)


def _read_status(level: LevelStatus, known: frozenset[TcbStatus], what: str) -> TcbStatus:
    if level.status not in known:
        raise _refuse("tcb-status", f'seen status "{level.status[:40]}" of the {what}, which is not known')
    return TcbStatus(level.status)


def find_module(info: TcbInfo, svn: bytes) -> ModuleIdentity | None:
    """Return the identity of the TDX module that a TEE TCB SVN names; None for major version 0.

    svn: 16 bytes; the first is the module's minor version, the second its major version.

    Raises Refusal (stage tcb) if Intel does not name the module.
    """
    if svn[1] == 0:
        return None
    name = f"TDX_{svn[1]:02X}"
    for identity in info.module_identities:
        if identity.id.upper() == name:
            return identity
    raise _refuse("tcb-module", f"seen TDX module {name}, which the TCB Info does not name")


def _match_platform(info: TcbInfo, pck: PckIdentity, svn: bytes) -> LevelStatus:
    start = 2 if svn[1] > 0 else 0  # a module with an identity of its own has levels of its own
    for level in info.levels:
        if (
            _is_at_least(pck.components, level.components)
            and pck.pce_svn >= level.pce_svn
            and _is_at_least(svn[start:], level.tdx_components[start:])
        ):
            return level.status
    raise _refuse("tcb-platform", f"the platform reaches no TCB level of FMSPC {info.fmspc.hex()}")


def _is_at_least(seen: bytes, wanted: bytes) -> bool:
    return all(have >= need for have, need in zip(seen, wanted, strict=True))


def _match_isv(levels: Sequence[IsvLevel], isv_svn: int, what: str) -> LevelStatus:
    for level in levels:
        if isv_svn >= level.isv_svn:
            return level.status
    raise _refuse("tcb-svn", f"seen version {isv_svn} of the {what}, which reaches no TCB level")


def _converge(platform: TcbStatus, others: Sequence[TcbStatus]) -> TcbStatus:
    if TcbStatus.REVOKED in others:
        return TcbStatus.REVOKED
    if TcbStatus.OUT_OF_DATE in others:
        return _OUT_OF_DATE.get(platform, platform)
    return platform


def _evaluate(info: TcbInfo, identity: QeIdentity, pck: PckIdentity, svn: bytes, qe_svn: int) -> _Evaluation:
    """Return the statuses of a platform whose TEE TCB SVN is `svn`.

    1. The platform's is that of the first level that all its components and its PCESVN reach.
    2. The module's is that of the first level that its minor version reaches, if it has an identity.
    3. The QE's is that of the first level that its version reaches.
    4. An outdated or revoked module or QE makes the platform so.
    """
    # 1
    levels = [_match_platform(info, pck, svn)]
    platform = _read_status(levels[0], _PLATFORM_STATUSES, "platform")
    # 2
    module = None
    named = find_module(info, svn)
    if named is not None:
        levels.append(_match_isv(named.levels, svn[0], "TDX module"))
        module = _read_status(levels[-1], _ISV_STATUSES, "TDX module")
    # 3
    levels.append(_match_isv(identity.levels, qe_svn, "QE"))
    qe = _read_status(levels[-1], _ISV_STATUSES, "QE")
    # 4
    status = _converge(platform, [qe] if module is None else [module, qe])
    return _Evaluation(status=status, platform=platform, module=module, qe=qe, levels=tuple(levels))


def _advise_relaunch(launched: TcbStatus, current: TcbStatus) -> TcbStatus:
    if launched not in _LAUNCHED_OLD or current not in _OUT_OF_DATE:
        return launched
    if launched in _CONFIGURATION_NEEDED or current in _CONFIGURATION_NEEDED:
        return TcbStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED
    return TcbStatus.TD_RELAUNCH_ADVISED


def evaluate_tcb(
    info: TcbInfo, identity: QeIdentity, pck: PckIdentity, svns: tuple[bytes, bytes | None], qe_svn: int
) -> TdxTcb:
    """Return the status of a platform.

    svns: TEE_TCB_SVN at the TD's launch and, from TD report 1.5 on, TEE_TCB_SVN_2, of now; 16 bytes each.

    1. The platform is evaluated with the versions at the TD's launch (`_evaluate`).
    2. If that is out of date, and with the versions of now it is not, a relaunch of the TD is advised.

    Raises Refusal (stage tcb) if no level or identity covers it, or a status is not known.
    """
    launch_svn, current_svn = svns
    # 1
    launched = _evaluate(info, identity, pck, launch_svn, qe_svn)
    # 2
    status = launched.status
    if current_svn is not None:
        current = _evaluate(info, identity, pck, current_svn, qe_svn)
        status = _advise_relaunch(status, current.status)
    return TdxTcb(
        status=status,
        platform=launched.platform,
        module=launched.module,
        qe=launched.qe,
        advisory_ids=frozenset(name for level in launched.levels for name in level.advisory_ids),
        tcb_date=min(level.date for level in launched.levels),
        evaluation_number=min(info.evaluation_number, identity.evaluation_number),
    )
