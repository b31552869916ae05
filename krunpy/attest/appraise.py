"""Appraise SNP claims: compare every one with what was expected, and list every comparison.

It verifies nothing and releases nothing. No check is skipped: where any value is accepted, the verdict
says so and why.

Source: AMD SEV-SNP Firmware ABI (publication 56860), sections 4.3 and 7.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from hmac import compare_digest
from typing import TYPE_CHECKING

from krunpy.attest.policy import Expected, OneOf, SnpPolicy, Unchecked
from krunpy.attest.refusal import Stage
from krunpy.attest.verdict import Check, Verdict
from krunpy.formats.snp_report import VMPL_OF_HOST, GuestPolicy, PlatformInfo
from krunpy.formats.snp_tcb import Tcb

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from krunpy.attest.verify import SnpClaims
    from krunpy.formats.snp_tcb import Product

_SHOWN = 4  # values of a set that a verdict spells out
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
    """
    return Verdict(
        tee="snp",
        simulated=claims.simulated,
        checks=(
            _check_simulated(claims, policy),
            *_check_reference_values(claims, expected),
            *_check_guest(claims, policy),
            *_check_platform(claims, policy),
            *_check_endorsement(claims, policy),
            *_check_chip(claims, policy),
            *_check_id_block(claims, policy),
        ),
    )


def _check(name: str, seen: str, wanted: str, *, source: str, held: bool, hint: str = "") -> Check:
    return Check(
        name=name,
        stage=Stage.POLICY,
        seen=seen,
        wanted=wanted,
        source=source,
        held=held,
        hint="" if held else hint,
    )


def _check_simulated(claims: SnpClaims, policy: SnpPolicy) -> Check:
    return _check(
        "not-simulated-here",
        "software TEE" if claims.simulated else "hardware",
        "hardware or software TEE" if policy.accepts_simulated else "hardware",
        source="the server's mode",
        held=policy.accepts_simulated or not claims.simulated,
        hint="a software TEE protects nothing; only a server in development mode accepts it",
    )


def _check_octets(name: str, seen: bytes, expected: Expected, hint: str) -> Check:
    if isinstance(expected, Unchecked):
        return _check(name, seen.hex(), "any", source=expected.reason, held=True)
    values = sorted(expected.values)
    # every value is compared, each in constant time
    held = sum(compare_digest(seen, value) for value in values) > 0
    shown = ", ".join(value.hex() for value in values[:_SHOWN])
    more = f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
    wanted = f"one of {shown}{more}" if len(values) > 1 else shown or "no value is registered"
    return _check(name, seen.hex(), wanted, source=expected.source, held=held, hint=hint)


def _check_reference_values(claims: SnpClaims, expected: Expectations) -> Iterator[Check]:
    report = claims.report
    yield _check_octets(
        "report-data",
        report.report_data,
        expected.report_data,
        "the evidence is for another challenge, guest key or manifest: start the machine again",
    )
    yield _check_octets(
        "measurement",
        report.measurement,
        expected.launch_digests,
        "another kernel, initrd, command line, firmware or vCPU count was launched: `krunpy explain last`",
    )
    yield _check_octets(
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
        name = f"policy-{str(bit.name).lower().replace('_', '-')}"
        is_set = bool(report.policy & bit)
        if policy.forbidden_policy & bit:
            wanted, held = "0", not is_set
        elif policy.required_policy & bit:
            wanted, held = "1", is_set
        else:
            wanted, held = "any", True
        hint = _POLICY_HINTS.get(bit, "launch it with another guest policy, or change the registered policy")
        yield _check(name, str(int(is_set)), wanted, source=policy.source, held=held, hint=hint)
    yield _check(
        "policy-abi",
        _dotted(report.abi_version),
        f"at least {_dotted(policy.min_abi)}",
        source=policy.source,
        held=report.abi_version >= policy.min_abi,
        hint="launch it with a guest policy that asks for a newer firmware ABI",
    )
    yield _check(
        "vmpl",
        "host" if report.vmpl == VMPL_OF_HOST else str(report.vmpl),
        _listed(policy.vmpls),
        source=policy.source,
        held=report.vmpl in policy.vmpls,
        hint="the report was not asked for at the privilege level that the workload was registered for",
    )
    yield _check(
        "guest-svn",
        str(report.guest_svn),
        f"at least {policy.min_guest_svn}",
        source=policy.source,
        held=report.guest_svn >= policy.min_guest_svn,
        hint="sign the guest's ID block again with a newer security version",
    )


def _check_floor(
    name: str, seen: Tcb, floors: Mapping[Product, Tcb], claims: SnpClaims, policy: SnpPolicy
) -> Check:
    floor = floors.get(claims.product, Tcb())
    return _check(
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
        yield _check(
            name,
            _dotted(firmware),
            f"at least {_dotted(policy.min_firmware)}",
            source=policy.source,
            held=firmware >= policy.min_firmware,
            hint="update the SEV firmware",
        )
    yield from _check_platform_info(report.platform_info, policy)
    for name, seen, required in (
        ("mitigations-current", report.current_mit_vector, policy.required_current_mit_vector),
        ("mitigations-launch", report.launch_mit_vector, policy.required_launch_mit_vector),
    ):
        yield _check(
            name,
            f"{seen:#x}",
            f"bits {required:#x}",
            source=policy.source,
            held=seen & required == required,
            hint="update the platform's firmware",
        )


def _check_platform_info(seen: int, policy: SnpPolicy) -> Iterator[Check]:
    for bit in PlatformInfo:
        name = f"platform-{str(bit.name).lower().replace('_', '-')}"
        is_set = bool(seen & bit)
        if policy.forbidden_platform_info & bit:
            wanted, held = "0", not is_set
        elif policy.required_platform_info & bit:
            wanted, held = "1", is_set
        else:
            wanted, held = "any", True
        hint = "change the platform's firmware settings, or the registered policy"
        yield _check(name, str(int(is_set)), wanted, source=policy.source, held=held, hint=hint)
    unknown = seen & ~_KNOWN_PLATFORM_INFO
    yield _check(
        "platform-unknown",
        f"{unknown:#x}",
        "0x0" if policy.rejects_unknown_platform_info else "any",
        source=policy.source,
        held=not (unknown and policy.rejects_unknown_platform_info),
        hint="the platform says something that this krunpy does not know: update krunpy",
    )


def _check_endorsement(claims: SnpClaims, policy: SnpPolicy) -> Iterator[Check]:
    signer = claims.report.signing_key
    yield _check(
        "product",
        claims.product,
        _listed(policy.products),
        source=policy.source,
        held=claims.product in policy.products,
        hint="run the workload on a processor that its policy allows",
    )
    yield _check(
        "signing-key",
        signer.name,
        _listed(key.name for key in policy.signing_keys),
        source=policy.source,
        held=signer in policy.signing_keys,
        hint="the policy allows another kind of endorsement key",
    )
    if claims.csp_id is None:
        yield _check("csp-id", "none", "any", source="a VCEK names no cloud provider", held=True)
    else:
        yield _check_octets(
            "csp-id", claims.csp_id.encode(), policy.csp_ids, "the policy allows other clouds"
        )
    yield _check(
        "key-denied",
        claims.key_digest.hex(),
        f"none of {len(policy.denied_keys)} denied",
        source=policy.source,
        held=claims.key_digest not in policy.denied_keys,
        hint="this key is known to be broken: do not use its chip",
    )
    yield _check(
        "revocation",
        "checked" if claims.is_revocation_checked else "not checked",
        "checked" if policy.requires_crl else "any",
        source=policy.source,
        held=claims.is_revocation_checked or not policy.requires_crl,
        hint="give the server AMD's revocation list",
    )


def _check_chip(claims: SnpClaims, policy: SnpPolicy) -> Iterator[Check]:
    report = claims.report
    yield _check(
        "mask-chip-key",
        str(int(report.masks_chip_key)),
        "any" if policy.accepts_masked_chip_key else "0",
        source=policy.source,
        held=policy.accepts_masked_chip_key or not report.masks_chip_key,
        hint="turn MASK_CHIP_KEY off on the host",
    )
    yield _check_octets("chip-id", report.chip_id, policy.chip_ids, "the policy allows other chips")
    yield _check(
        "chip-denied",
        report.chip_id.hex(),
        f"none of {len(policy.denied_chip_ids)} denied",
        source=policy.source,
        held=report.chip_id not in policy.denied_chip_ids,
        hint="this chip is known to be broken: do not use it",
    )


def _check_id_block(claims: SnpClaims, policy: SnpPolicy) -> Iterator[Check]:
    report = claims.report
    hint = "launch it with the ID block that the policy names"
    yield _check_octets("family-id", report.family_id, policy.family_ids, hint)
    yield _check_octets("image-id", report.image_id, policy.image_ids, hint)
    yield _check_octets("id-key", report.id_key_digest, policy.id_key_digests, hint)
    yield _check_author_key(claims, policy)


def _check_author_key(claims: SnpClaims, policy: SnpPolicy) -> Check:
    """AUTHOR_KEY_DIGEST means something only where AUTHOR_KEY_EN is set."""
    if not claims.report.has_author_key and isinstance(policy.author_key_digests, OneOf):
        return _check(
            "author-key",
            "AUTHOR_KEY_EN 0",
            "AUTHOR_KEY_EN 1",
            source=policy.author_key_digests.source,
            held=False,
            hint="launch it with an ID block that an author key has signed",
        )
    digest = claims.report.author_key_digest
    return _check_octets(
        "author-key", digest, policy.author_key_digests, "its ID key is signed by another author"
    )


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(str(number) for number in numbers)


def _listed(values: object) -> str:
    return " or ".join(sorted(str(value) for value in values))  # type: ignore[attr-defined]
