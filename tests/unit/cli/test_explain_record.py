"""What `krunpy explain` says first of an attestation's record."""

import pytest

from krunpy.cli.explain import print_record

RELEASED = {"tee": "snp", "outcome": "released", "id": "a1", "workload": "w", "checks": []}
UNBOUND = "no manifest is bound"


def test_a_release_without_a_manifest_says_that_the_disk_is_not_named(capsys):
    print_record(RELEASED | {"manifest_hash": ""})

    assert UNBOUND in capsys.readouterr().out


@pytest.mark.parametrize(
    "changed",
    [{"manifest_hash": "ab" * 32, "manifest_in": "initrd"}, {"outcome": "refused", "error": "x"}],
)
def test_other_records_do_not_say_so(capsys, changed):
    print_record(RELEASED | changed)

    assert UNBOUND not in capsys.readouterr().out
