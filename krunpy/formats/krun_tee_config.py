"""The JSON file that tells libkrun the size of a machine in a TEE. It is not measured, and the guest does not see it.

Source: libkrun src/vmm/src/resources.rs, TeeConfig: all six members are required; the VMM reads three of them.
"""

from __future__ import annotations

import json

MOST_CPUS = 255


def encode_tee_config(*, workload: str, cpus: int, memory_mib: int) -> bytes:
    """Return the file for a machine in SEV-SNP. cpus: 1 to 255.

    What it does not read, attestation among it, is the guest's own matter here and stays empty.
    """
    if not 1 <= cpus <= MOST_CPUS:
        raise ValueError(f"cpus is {cpus}, wanted 1 to {MOST_CPUS}")
    document = {
        "workload_id": workload,
        "cpus": cpus,
        "ram_mib": memory_mib,
        "tee": "snp",
        "tee_data": "",
        "attestation_url": "",
    }
    return json.dumps(document, separators=(",", ":")).encode()
