"""The JSON file of libkrun's launches in a TEE."""

import json

import pytest

from krunpy.formats.krun_tee_config import encode_tee_config


def test_it_has_the_six_members_that_libkrun_requires():
    document = json.loads(encode_tee_config(workload="w", cpus=255, memory_mib=4096))

    assert document == {
        "workload_id": "w",
        "cpus": 255,
        "ram_mib": 4096,
        "tee": "snp",
        "tee_data": "",
        "attestation_url": "",
    }


@pytest.mark.parametrize("cpus", [0, 256])
def test_a_number_of_cpus_that_libkrun_cannot_hold_is_refused(cpus):
    with pytest.raises(ValueError, match="wanted 1 to 255"):
        encode_tee_config(workload="w", cpus=cpus, memory_mib=512)
