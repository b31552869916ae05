"""Appraise SNP claims: compare every one with what was expected, and list every comparison.

It verifies nothing and releases nothing. No check is skipped: where any value is accepted, the verdict
says so and why.

Source: AMD SEV-SNP Firmware ABI (publication 56860), sections 4.3 and 7.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from krunpy.attest.appraise_advisories import check_snp_advisories
from krunpy.attest.appraise_checks import (
    check_bit,
    check_denied,
    check_minimum,
    check_octets,
    check_simulated,
    join_dotted,
    join_or,
    make_check,
    mark_unknown,
    name_bit,
)
from krunpy.attest.policy import Expected, OneOf, SnpPolicy
from krunpy.attest.verdict import Verdict
from krunpy.formats.snp_report import VMPL_OF_HOST, GuestPolicy, PlatformInfo
from krunpy.formats.snp_tcb import Tcb

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from krunpy.attest.verdict import Check
    from krunpy.attest.verify import SnpClaims
    from krunpy.formats.snp_tcb import Product

_KNOWN_PLATFORM_INFO = sum(PlatformInfo)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectations:
    """The reference values of one workload and one challenge.

    report_data, launch_digests: the accepted values; there is no way not to check them.
    host_data: the accepted values, or why any is accepted.
    """

    report_data: OneOf
    launch_digests: OneOf
    host_data: Expected


def appraise(claims: SnpClaims, *, expected: Expectations, policy: SnpPolicy) -> Verdict:
    """Return the verdict on verified claims.

    1. Simulated or not, against the server's mode.
    2. Reference values: report_data, launch digest, host_data.
    3. Guest policy, VMPL and what the guest says of itself.
    4. Platform: TCB floors, firmware, platform info, mitigations.
    5. Identity: product, signing key, cloud, revocation; the chip; the ID block.
    6. Advisories: what the platform is known to be open to.
    """
    return Verdict(
        tee="snp",
        simulated=claims.simulated,
        checks=(
            check_simulated(simulated=claims.simulated, accepts_simulated=policy.accepts_simulated),
            *_check_reference_values(claims, expected),
            *_check_guest(claims, policy),
            *_check_platform(claims, policy),
            *_check_endorsement(claims, policy),
            *_check_chip(claims, policy),
            *_check_id_block(claims, policy),
            *check_snp_advisories(claims, policy),
        ),
    )


def _check_reference_values(claims: SnpClaims, expected: Expectations) -> Iterator[Check]:
    report = claims.report
    yield check_octets(
        "report-data",
        report.report_data,
        expected.report_data,
        "the evidence is for another challenge, guest key or manifest: start the machine again",
    )
    yield check_octets(
        "measurement",
        report.measurement,
        expected.launch_digests,
        "another kernel, initrd, command line, firmware or vCPU count was launched: `krunpy explain last`",
    )
    yield check_octets(
        "host-data", report.host_data, expected.host_data, "the host launched it with another manifest hash"
    )


_POLICY_BITS = tuple(bit for bit in GuestPolicy if bit is not GuestPolicy.RESERVED_ONE)
_POLICY_HINTS = {
    GuestPolicy.DEBUG: "the host can read this guest: launch it without debugging",
    GuestPolicy.MIGRATE_MA: "the host can move this guest elsewhere: launch it without a migration agent",
}


def _check_guest(claims: SnpClaims, policy: SnpPolicy) -> Iterator[Check]:
    report = claims.report
    for bit in _POLICY_BITS:
        yield check_bit(
            name_bit("policy", bit.name),
            is_set=bool(report.policy & bit),
            forbidden=bool(policy.forbidden_policy & bit),
            required=bool(policy.required_policy & bit),
            source=policy.source,
            hint=_POLICY_HINTS.get(
                bit, "launch it with another guest policy, or change the registered policy"
            ),
        )
    yield make_check(
        "policy-abi",
        join_dotted(report.abi_version),
        f"at least {join_dotted(policy.min_abi)}",
        source=policy.source,
        held=report.abi_version >= policy.min_abi,
        hint="launch it with a guest policy that asks for a newer firmware ABI",
    )
    yield make_check(
        "vmpl",
        "host" if report.vmpl == VMPL_OF_HOST else str(report.vmpl),
        join_or(policy.vmpls),
        source=policy.source,
        held=report.vmpl in policy.vmpls,
        hint="the report was not asked for at the privilege level that the workload was registered for",
    )
    yield check_minimum(
        "guest-svn",
        report.guest_svn,
        policy.min_guest_svn,
        source=policy.source,
        hint="sign the guest's ID block again with a newer security version",
    )
    yield check_octets("report-id", report.report_id, policy.report_ids, "another guest instance is running")
    yield check_octets(
        "migration-agent",
        report.report_id_ma,
        policy.migration_agents,
        "launch it without a migration agent, or with the one that the policy names",
    )


def _check_floor(
    name: str, seen: Tcb, floors: Mapping[Product, Tcb], claims: SnpClaims, policy: SnpPolicy
) -> Check:
    floor = floors.get(claims.product, Tcb())
    return make_check(
        name,
        str(seen),
        f"at least {floor}",
        source=policy.source,
        held=seen.is_at_least(floor),
        hint="update the platform's firmware and microcode, commit them, and launch the guest again",
    )


def _check_platform(claims: SnpClaims, policy: SnpPolicy) -> Iterator[Check]:
    report = claims.report
    yield _check_floor("tcb-reported", claims.reported_tcb, policy.min_reported_tcb, claims, policy)
    yield _check_floor("tcb-committed", claims.committed_tcb, policy.min_committed_tcb, claims, policy)
    yield _check_floor("tcb-launch", claims.launch_tcb, policy.min_launch_tcb, claims, policy)
    for name, firmware in (
        ("firmware-current", report.current_firmware),
        ("firmware-committed", report.committed_firmware),
    ):
        yield make_check(
            name,
            join_dotted(firmware),
            f"at least {join_dotted(policy.min_firmware)}",
            source=policy.source,
            held=firmware >= policy.min_firmware,
            hint="update the SEV firmware",
        )
    yield _check_provisional(claims, policy)
    yield from _check_platform_info(report.platform_info, policy)
    for name, seen, required in (
        ("mitigations-current", report.current_mit_vector, policy.required_current_mit_vector),
        ("mitigations-launch", report.launch_mit_vector, policy.required_launch_mit_vector),
    ):
        yield make_check(
            name,
            f"{seen:#x}",
            f"bits {required:#x}",
            source=policy.source,
            held=seen & required == required,
            hint="update the platform's firmware",
        )


def _check_provisional(claims: SnpClaims, policy: SnpPolicy) -> Check:
    """Firmware that is not committed can be rolled back, and an older TCB then be reported."""
    report = claims.report
    is_committed = (
        report.current_firmware == report.committed_firmware and claims.current_tcb == claims.committed_tcb
    )
    return make_check(
        "firmware-provisional",
        "committed" if is_committed else "provisional",
        "committed" if policy.rejects_provisional_firmware else "any",
        source=policy.source,
        held=is_committed or not policy.rejects_provisional_firmware,
        hint="commit the firmware on the host (SNP_COMMIT)",
    )


def _check_platform_info(seen: int, policy: SnpPolicy) -> Iterator[Check]:
    for bit in PlatformInfo:
        yield check_bit(
            name_bit("platform", bit.name),
            is_set=bool(seen & bit),
            forbidden=bool(policy.forbidden_platform_info & bit),
            required=bool(policy.required_platform_info & bit),
            source=policy.source,
            hint="change the platform's firmware settings, or the registered policy",
        )
    unknown = seen & ~_KNOWN_PLATFORM_INFO
    yield make_check(
        "platform-unknown",
        f"{unknown:#x}",
        "0x0" if policy.rejects_unknown_platform_info else "any",
        source=policy.source,
        held=not (unknown and policy.rejects_unknown_platform_info),
        hint="the platform says something that this krunpy does not know: update krunpy",
    )


def _check_endorsement(claims: SnpClaims, policy: SnpPolicy) -> Iterator[Check]:
    signer = claims.report.signing_key
    yield make_check(
        "product",
        claims.product,
        join_or(policy.products),
        source=policy.source,
        held=claims.product in policy.products,
        hint="run the workload on a processor that its policy allows",
    )
    yield make_check(
        "signing-key",
        signer.name,
        join_or(key.name for key in policy.signing_keys),
        source=policy.source,
        held=signer in policy.signing_keys,
        hint="the policy allows another kind of endorsement key",
    )
    if claims.csp_id is None:
        yield make_check("csp-id", "none", "any", source="a VCEK names no cloud provider", held=True)
    else:
        yield check_octets("csp-id", claims.csp_id.encode(), policy.csp_ids, "the policy allows other clouds")
    yield check_denied(
        "key-denied",
        claims.key_digest,
        policy.denied_keys,
        source=policy.source,
        hint="this key is known to be broken: do not use its chip",
    )
    yield mark_unknown(
        make_check(
            "revocation",
            "checked" if claims.is_revocation_checked else "not checked",
            "checked" if policy.requires_crl else "any",
            source=policy.source,
            held=claims.is_revocation_checked or not policy.requires_crl,
            hint="give the server AMD's revocation list",
        )
    )


def _check_chip(claims: SnpClaims, policy: SnpPolicy) -> Iterator[Check]:
    report = claims.report
    yield make_check(
        "mask-chip-key",
        str(int(report.masks_chip_key)),
        "any" if policy.accepts_masked_chip_key else "0",
        source=policy.source,
        held=policy.accepts_masked_chip_key or not report.masks_chip_key,
        hint="turn MASK_CHIP_KEY off on the host",
    )
    yield check_octets("chip-id", report.chip_id, policy.chip_ids, "the policy allows other chips")
    yield check_denied(
        "chip-denied",
        report.chip_id,
        policy.denied_chip_ids,
        source=policy.source,
        hint="this chip is known to be broken: do not use it",
    )


def _check_id_block(claims: SnpClaims, policy: SnpPolicy) -> Iterator[Check]:
    report = claims.report
    hint = "launch it with the ID block that the policy names"
    yield check_octets("family-id", report.family_id, policy.family_ids, hint)
    yield check_octets("image-id", report.image_id, policy.image_ids, hint)
    yield check_octets("id-key", report.id_key_digest, policy.id_key_digests, hint)
    yield _check_author_key(claims, policy)


def _check_author_key(claims: SnpClaims, policy: SnpPolicy) -> Check:
    """AUTHOR_KEY_DIGEST means something only where AUTHOR_KEY_EN is set."""
    if not claims.report.has_author_key and isinstance(policy.author_key_digests, OneOf):
        return make_check(
            "author-key",
            "AUTHOR_KEY_EN 0",
            "AUTHOR_KEY_EN 1",
            source=policy.author_key_digests.source,
            held=False,
            hint="launch it with an ID block that an author key has signed",
        )
    digest = claims.report.author_key_digest
    return check_octets(
        "author-key", digest, policy.author_key_digests, "its ID key is signed by another author"
    )
