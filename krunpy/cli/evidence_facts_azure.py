"""What Azure adds to a hardware report, for people: the runtime data, and the quote of the virtual TPM."""

from __future__ import annotations

from typing import TYPE_CHECKING

from krunpy.cli.evidence_facts import Fact, Section
from krunpy.formats.tpm_quote import parse_tpm_quote

if TYPE_CHECKING:
    from krunpy.formats.evidence_azure import AzureEvidence


def describe_runtime(evidence: AzureEvidence) -> Section:
    """Return what the HCL says of the machine and of its virtual TPM's key."""
    runtime = evidence.hcl.runtime
    facts = [
        Fact(name="encoding version", value=str(evidence.version)),
        Fact(name="HCL report version", value=str(evidence.hcl.version)),
        Fact(
            name="attestation key",
            value=f"{runtime.modulus:x}",
            meaning=f"RSA, {runtime.modulus.bit_length()} bits",
        ),
    ]
    if runtime.user_data is not None:
        facts.append(Fact(name="user-data", value=runtime.user_data.hex(), meaning="chosen by the guest"))
    facts += [Fact(name=name, value=value) for name, value in runtime.configuration.items()]
    return Section(title="runtime data, whose hash is report_data", facts=tuple(facts))


def describe_vtpm(evidence: AzureEvidence) -> Section:
    """Return what the virtual TPM signed. Raises FormatError if that is no quote."""
    quote = parse_tpm_quote(evidence.message)
    facts = [
        Fact(name="extra_data", value=quote.extra_data.hex(), meaning="the challenge"),
        Fact(name="signer", value=quote.signer.hex(), meaning="qualified name of the attestation key"),
        Fact(
            name="clock",
            value=f"{quote.clock_ms} ms",
            meaning=f"{quote.resets} resets, {quote.restarts} restarts since",
        ),
        Fact(name="firmware_version", value=f"{quote.firmware_version:#x}"),
        Fact(name="signature", value=evidence.signature.hex()),
    ]
    for selection in quote.selections:
        indices = ", ".join(str(index) for index in selection.indices)
        facts.append(Fact(name="selection", value=indices, meaning=f"of the bank {selection.algorithm:#06x}"))
    facts.append(Fact(name="pcr_digest", value=quote.pcr_digest.hex()))
    facts += [Fact(name=f"pcr{index}", value=value.hex()) for index, value in enumerate(evidence.pcrs)]
    return Section(title="quote of the virtual TPM", facts=tuple(facts))
