"""What a relying party demands of SNP evidence besides the reference values; strict unless told otherwise.

There is no default TCB floor: AMD signs reports of every TCB that it ever released, and which one is good
enough changes with its bulletins and with the machines at hand (the recorded reports of three clouds lie
below the newest floors). `required_advisories` and `min_*_tcb` are the means to set one.

Every field has a value that means something: a set of accepted values, or `Unchecked` with its reason,
which the verdict then shows. Whether simulated evidence is accepted is the server's mode, not a
workload's wish, so no document can set it.

Source: AMD SEV-SNP Firmware ABI (publication 56860), sections 4.3 and 7.3.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from krunpy.attest.advisories import Tee, require_canonical
from krunpy.formats.snp_report import GuestPolicy, PlatformInfo, SigningKey
from krunpy.formats.snp_tcb import Product, Tcb

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class OneOf:
    """Accepted values, and where they come from. An empty set accepts nothing."""

    values: frozenset[bytes]
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unchecked:
    """Any value is accepted, for a reason that the verdict shows."""

    reason: str


Expected = OneOf | Unchecked

NOT_CONFIGURED = Unchecked(reason="the policy names none")

_NO_GUEST_POLICY, _NO_PLATFORM_INFO = GuestPolicy(0), PlatformInfo(0)
# bits of POLICY that weaken a guest's protection: refused unless the policy allows them
_WEAKENING = GuestPolicy.DEBUG | GuestPolicy.MIGRATE_MA | GuestPolicy.CXL_ALLOW


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpPolicy:
    """The demands; the defaults are those of a guest that nobody may debug, migrate or enter at another VMPL.

    accepts_simulated:    for development: a software TEE protects nothing.
    forbidden_policy:     bits of the guest policy that must be clear; required_policy: that must be set.
    min_abi:              (major, minor) that the guest policy must ask for at least.
    min_*_tcb:            floors by product; a product that is not named has none.
    *_platform_info:      bits of PLATFORM_INFO; unknown ones are allowed unless rejected.
    *_mit_vector:         bits that must be set; reports before version 5 have none.
    min_firmware:         (major, minor, build), for the current and the committed firmware.
    rejects_provisional_firmware: current and committed must be the same, so that nothing can be rolled back.
    report_ids:           one guest instance each; migration_agents: REPORT_ID_MA, all ones if there is none.
    denied_*:             chips (64 bytes) and endorsement keys (SHA-256) that are known to be broken.
    *_advisories:         ids of `advisories`: the mitigation must be shown; it must not be seen to be missing.
    advisory_floors:      floors by advisory and product, before those of the table.
    """

    source: str = "the default policy"
    accepts_simulated: bool = False
    forbidden_policy: GuestPolicy = _WEAKENING
    required_policy: GuestPolicy = _NO_GUEST_POLICY
    min_abi: tuple[int, int] = (0, 0)
    vmpls: frozenset[int] = frozenset({0})
    accepts_masked_chip_key: bool = False
    accepts_masked_chip: bool = False
    products: frozenset[Product] = frozenset(Product)
    signing_keys: frozenset[SigningKey] = frozenset({SigningKey.VCEK, SigningKey.VLEK})
    csp_ids: Expected = NOT_CONFIGURED
    min_reported_tcb: Mapping[Product, Tcb] = field(default_factory=dict)
    min_committed_tcb: Mapping[Product, Tcb] = field(default_factory=dict)
    min_launch_tcb: Mapping[Product, Tcb] = field(default_factory=dict)
    required_platform_info: PlatformInfo = _NO_PLATFORM_INFO
    forbidden_platform_info: PlatformInfo = _NO_PLATFORM_INFO
    rejects_unknown_platform_info: bool = False
    required_current_mit_vector: int = 0
    required_launch_mit_vector: int = 0
    min_firmware: tuple[int, int, int] = (0, 0, 0)
    rejects_provisional_firmware: bool = False
    min_guest_svn: int = 0
    family_ids: Expected = NOT_CONFIGURED
    image_ids: Expected = NOT_CONFIGURED
    id_key_digests: Expected = NOT_CONFIGURED
    author_key_digests: Expected = NOT_CONFIGURED
    chip_ids: Expected = NOT_CONFIGURED
    report_ids: Expected = NOT_CONFIGURED
    migration_agents: Expected = NOT_CONFIGURED
    denied_chip_ids: frozenset[bytes] = frozenset()
    denied_keys: frozenset[bytes] = frozenset()
    requires_crl: bool = False
    required_advisories: frozenset[str] = frozenset()
    denied_advisories: frozenset[str] = frozenset()
    advisory_floors: Mapping[str, Mapping[Product, Tcb]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ValueError on the id of an advisory that is not known."""
        for names in (self.required_advisories, self.denied_advisories, self.advisory_floors):
            require_canonical(names, Tee.SNP)
