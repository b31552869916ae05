"""Appraise TDX claims: compare every one with what was expected, and list every comparison.

It verifies nothing and releases nothing. No check is skipped: where any value is accepted, the verdict
says so and why; where collateral is missing, what needs it is listed as not known.

Source: Intel TDX Module Base Architecture Specification, TDREPORT; Intel API for the Provisioning
Certification Service, TCB status.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from krunpy.attest.appraise_advisories import check_tdx_advisories
from krunpy.attest.appraise_checks import (
    check_bit,
    check_denied,
    check_minimum,
    check_octets,
    check_simulated,
    join_or,
    make_check,
    mark_unknown,
    name_bit,
)
from krunpy.attest.refusal import Stage
from krunpy.attest.tdx_policy import TdAttributes, TdxPolicy
from krunpy.attest.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from krunpy.attest.policy import Expected, OneOf
    from krunpy.attest.tdx_claims import TdxClaims, TdxTcb
    from krunpy.attest.verdict import Check

_ALL_ATTRIBUTES = (1 << 64) - 1
_KNOWN_ATTRIBUTES = sum(TdAttributes)
_QE_ISV_SVN = slice(258, 260)  # of the SGX report that the QE is described by
_HINTS = {
    TdAttributes.DEBUG: "the host can read this TD: launch it without debugging",
    TdAttributes.MIGRATABLE: "the host can move this TD elsewhere: launch it without migration",
    TdAttributes.SEPT_VE_DISABLE: "the host can make its pages fault: launch it with sept-ve-disable=on",
}
_OTHER_VERSION = "quotes of this version do not have it"
_NOT_KNOWN = "not known"


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxExpectations:
    """The reference values of one workload and one challenge.

    report_data, mrtds: the accepted values; there is no way not to check them.
    rtmrs: of RTMR0 to 3; mrconfigids: the accepted values, or why any is accepted.
    """

    report_data: OneOf
    mrtds: OneOf
    rtmrs: tuple[Expected, Expected, Expected, Expected]
    mrconfigids: Expected


def appraise_tdx(claims: TdxClaims, *, expected: TdxExpectations, policy: TdxPolicy) -> Verdict:
    """Return the verdict on verified claims.

    1. Simulated or not, against the server's mode.
    2. TCB: collateral, status, evaluation number, date, revocation.
    3. Reference values: report_data, MRTD, RTMRs, MRCONFIGID; owner and service TD; padding.
    4. The TD's attributes, XFAM, and those of the TDX module.
    5. The least security versions; the platform and its PCK.
    6. Advisories: what the platform is known to be open to.
    """
    return Verdict(
        tee="tdx",
        simulated=claims.simulated,
        checks=(
            check_simulated(simulated=claims.simulated, accepts_simulated=policy.accepts_simulated),
            *_check_tcb(claims, policy),
            *_check_reference_values(claims, expected),
            *_check_owner(claims, policy),
            _check_padding(claims, policy),
            *_check_attributes(claims, policy),
            *_check_xfam(claims, policy),
            *_check_security_versions(claims, policy),
            *_check_platform(claims, policy),
            *_check_identity(claims, policy),
            *check_tdx_advisories(claims, policy),
        ),
    )


def _check_reference_values(claims: TdxClaims, expected: TdxExpectations) -> Iterator[Check]:
    td = claims.quote.td
    yield check_octets(
        "report-data",
        td.report_data,
        expected.report_data,
        "the evidence is for another challenge, guest key or manifest: start the machine again",
    )
    yield check_octets(
        "mrtd", td.mrtd, expected.mrtds, "another firmware was launched, or its pages in another order"
    )
    for index, (rtmr, wanted) in enumerate(zip(td.rtmrs, expected.rtmrs, strict=True)):
        yield check_octets(
            f"rtmr{index}", rtmr, wanted, "something else was booted or configured: replay the event log"
        )
    yield check_octets(
        "mrconfigid", td.mrconfigid, expected.mrconfigids, "the host launched it with another manifest hash"
    )


def _check_owner(claims: TdxClaims, policy: TdxPolicy) -> Iterator[Check]:
    td = claims.quote.td
    yield check_octets("mrowner", td.mrowner, policy.mrowners, "the policy names other owners")
    yield check_octets(
        "mrownerconfig", td.mrownerconfig, policy.mrownerconfigs, "the policy names another configuration"
    )
    hint = "another TD serves this one and can migrate it: allow that one by its hash, or run without it"
    extended = td.extended
    for name, seen in (
        ("mrservicetd", td.mrservicetd),
        ("service-td-at-launch", extended.init_servtd_hash if extended is not None else None),
        ("service-td-now", extended.current_servtd_hash if extended is not None else None),
    ):
        if seen is None:
            yield make_check(name, "none", "any", source=_OTHER_VERSION, held=True)
        else:
            yield check_octets(name, seen, policy.service_tds, hint)


def _check_attributes(claims: TdxClaims, policy: TdxPolicy) -> Iterator[Check]:
    seen = claims.quote.td.td_attributes
    for bit in TdAttributes:
        yield check_bit(
            name_bit("attribute", bit.name),
            is_set=bool(seen & bit),
            forbidden=not policy.allowed_attributes & bit,
            required=bool(policy.required_attributes & bit),
            source=policy.source,
            hint=_HINTS.get(bit, "launch it with other attributes, or change the registered policy"),
        )
    unknown = seen & _ALL_ATTRIBUTES & ~_KNOWN_ATTRIBUTES
    yield make_check(
        "attribute-unknown",
        f"{unknown:#x}",
        "0x0",
        source=policy.source,
        held=not unknown,
        hint="the TD has an attribute that this krunpy does not know: update krunpy",
    )
    module = claims.quote.td.seam_attributes
    yield make_check(
        "seam-attributes",
        module.hex(),
        bytes(len(module)).hex(),
        source=policy.source,
        held=not any(module),
        hint="the TDX module is not one for production",
    )


def _check_padding(claims: TdxClaims, policy: TdxPolicy) -> Check:
    padding = claims.quote.padding
    return make_check(
        "zero-padding",
        f"{padding} bytes",
        "any" if policy.accepts_zero_padding else "0 bytes",
        source=policy.source,
        held=policy.accepts_zero_padding or not padding,
        hint="send the quote without the rest of the buffer that it came in",
    )


def _check_xfam(claims: TdxClaims, policy: TdxPolicy) -> Iterator[Check]:
    seen = claims.quote.td.xfam
    yield make_check(
        "xfam-required",
        f"{seen:#x}",
        f"bits {policy.required_xfam:#x}",
        source=policy.source,
        held=seen & policy.required_xfam == policy.required_xfam,
        hint="launch it with more processor features",
    )
    yield make_check(
        "xfam-allowed",
        f"{seen:#x}",
        f"no bits but {policy.allowed_xfam:#x}",
        source=policy.source,
        held=not seen & ~policy.allowed_xfam,
        hint="launch it with fewer processor features",
    )


def _check_tcb(claims: TdxClaims, policy: TdxPolicy) -> Iterator[Check]:
    """Everything that only Intel's signed collateral can tell; without it each of these is not known."""
    tcb = claims.tcb
    collateral = make_check(
        "collateral",
        "none" if tcb is None else "verified",
        "TCB Info and QE identity",
        source="only Intel's collateral tells whether a platform's keys still mean anything",
        held=tcb is not None,
        hint="give Intel's collateral for this platform: `krunpy collateral fetch`",
    )
    yield replace(mark_unknown(collateral), stage=Stage.COLLATERAL)
    for check in _check_levels(tcb, policy):
        yield mark_unknown(check) if tcb is None else check
    revocation = make_check(
        "revocation",
        "checked" if claims.is_revocation_checked else "not checked",
        "checked" if policy.requires_crl else "any",
        source=policy.source,
        held=claims.is_revocation_checked or not policy.requires_crl,
        hint="give Intel's revocation lists, which are part of the collateral",
    )
    yield mark_unknown(revocation)


def _check_levels(tcb: TdxTcb | None, policy: TdxPolicy) -> Iterator[Check]:
    status = make_check(
        "tcb-status",
        _NOT_KNOWN
        if tcb is None
        else f"{tcb.status} (platform {tcb.platform}, module {tcb.module or 'not listed'}, QE {tcb.qe})",
        join_or(policy.tcb_statuses),
        source=policy.source,
        held=tcb is not None and tcb.status in policy.tcb_statuses,
        hint="update the platform's firmware and TDX module",
    )
    yield replace(status, stage=Stage.TCB)
    yield make_check(
        "tcb-evaluation-number",
        _NOT_KNOWN if tcb is None else str(tcb.evaluation_number),
        f"at least {policy.min_evaluation_number}",
        source=policy.source,
        held=tcb is not None and tcb.evaluation_number >= policy.min_evaluation_number,
        hint="fetch newer collateral: this is from before a TCB recovery that the policy asks for",
    )
    yield make_check(
        "tcb-date",
        _NOT_KNOWN if tcb is None else str(tcb.tcb_date.date()),
        f"at least {policy.min_tcb_date}",
        source=policy.source,
        held=tcb is not None and tcb.tcb_date.date() >= policy.min_tcb_date,
        hint="update the platform's firmware and TDX module",
    )


def _check_security_versions(claims: TdxClaims, policy: TdxPolicy) -> Iterator[Check]:
    quote, hint = claims.quote, "update the platform's firmware and TDX module"
    qe_svn = int.from_bytes(quote.qe_report[_QE_ISV_SVN], "little")
    yield check_minimum("qe-svn", qe_svn, policy.min_qe_svn, source=policy.source, hint=hint)
    yield check_minimum("pce-svn", claims.pck.pce_svn, policy.min_pce_svn, source=policy.source, hint=hint)
    extended = quote.td.extended
    for name, seen in (
        ("tee-tcb-svn", quote.td.tee_tcb_svn),
        # what the TD was launched on stays with it when the platform is updated
        ("tee-tcb-svn-at-launch", extended.init_tee_tcb_svn if extended is not None else None),
    ):
        yield _check_svn(name, seen, policy, hint)


def _check_svn(name: str, seen: bytes | None, policy: TdxPolicy, hint: str) -> Check:
    if seen is None:
        return make_check(name, "none", "any", source=_OTHER_VERSION, held=True)
    return make_check(
        name,
        seen.hex(),
        f"each byte at least {policy.min_tee_tcb_svn.hex()}",
        source=policy.source,
        held=all(level >= least for level, least in zip(seen, policy.min_tee_tcb_svn, strict=True)),
        hint=hint,
    )


_SAID = {None: "not said", True: "yes", False: "no"}


def _check_platform(claims: TdxClaims, policy: TdxPolicy) -> Iterator[Check]:
    """What the PCK certificate says of the platform; dcap-qvl refuses some of it, here a policy may."""
    pck = claims.pck
    for name, seen, is_accepted in (
        ("dynamic-platform", pck.dynamic_platform, policy.accepts_dynamic_platform),
        ("cached-keys", pck.cached_keys, policy.accepts_cached_keys),
        ("smt", pck.smt_enabled, policy.accepts_smt),
    ):
        yield make_check(
            name,
            _SAID[seen],
            "any" if is_accepted else "no",
            source=policy.source,
            held=is_accepted or seen is False,
            hint="use a platform that the policy allows",
        )


def _check_identity(claims: TdxClaims, policy: TdxPolicy) -> Iterator[Check]:
    pck = claims.pck
    denied = "this platform is known to be broken: do not use it"
    for name, seen, accepted, broken in (
        ("fmspc", pck.fmspc, policy.fmspcs, policy.denied_fmspcs),
        ("ppid", pck.ppid, policy.ppids, policy.denied_ppids),
        ("piid", pck.piid, policy.piids, policy.denied_piids),
    ):
        yield check_octets(name, seen, accepted, "the policy allows other platforms")
        yield check_denied(f"{name}-denied", seen, broken, source=policy.source, hint=denied)
    yield check_denied("pck-denied", pck.key_digest, policy.denied_pcks, source=policy.source, hint=denied)
