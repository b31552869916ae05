"""Two workloads of one class: one initrd and one launch digest; what tells them apart is HOST_DATA alone."""

from __future__ import annotations

import json
import re

import pytest

pytestmark = [pytest.mark.vm, pytest.mark.root, pytest.mark.slow]
CLASS = ("--manifest-in", "host-data")
FIRST, SECOND = ("echo", "the first speaks"), ("echo", "the second speaks")


@pytest.fixture(scope="module")
def class_lab(make_lab):
    """An installation of its own: `last` is ours."""
    return make_lab("class", config='manifest_in = "host-data"\n')


def measure(lab, rootfs, *words, options=()):
    done = lab.krunpy("measure", rootfs, "--json", *options, "--", *words)
    assert done.code == 0, done
    facts = json.loads(done.out)["data"]
    return facts["manifest_hash"], facts["manifest_in"], facts["reference_values"][0]["launch_digest"]


def test_two_workloads_of_a_class_run_on_one_launch_digest(class_lab, rootfs):
    first, second = (measure(class_lab, rootfs, *words) for words in (FIRST, SECOND))
    own = measure(class_lab, rootfs, *FIRST, options=("--manifest-in", "initrd"))

    assert first[1:] == second[1:]
    assert first[0] != second[0]
    assert (own[0], own[1]) == (first[0], "initrd")  # the same manifest, and another launch digest
    assert own[2] != first[2]

    for words, (manifest_hash, _, digest) in ((FIRST, first), (SECOND, second)):
        done = class_lab.krunpy("run", rootfs, *CLASS, "--", *words)
        assert (done.code, done.out) == (0, words[1] + "\n"), done
        explained = class_lab.krunpy("explain").out
        assert f"manifest {manifest_hash[:16]} is bound by HOST_DATA" in explained
        checks = {line.split()[0]: line for line in explained.splitlines() if line.strip()}
        assert manifest_hash[:20] in checks["host-data"]
        assert digest[:20] in checks["measurement"]


def test_the_setting_is_what_a_run_without_the_option_does(class_lab, rootfs):
    done = class_lab.krunpy("run", rootfs, "--", *FIRST)

    assert (done.code, done.out) == (0, FIRST[1] + "\n"), done
    assert "is bound by HOST_DATA" in class_lab.krunpy("explain").out


def test_a_machine_of_the_class_takes_no_manifest_but_the_one_that_it_was_launched_for(class_lab):
    """The host sends another one: the agent reads HOST_DATA in its own report, and the server is not even asked."""
    before = class_lab.krunpy("attestation", "ls").out

    done = class_lab.krunpy("quickstart", "--tamper", "manifest")

    assert done.code not in (0, None), done
    assert done.out == ""
    assert "host data: the manifest that the host sent is not the one that HOST_DATA names" in done.err
    assert "the disk key was released" not in done.err
    assert class_lab.krunpy("attestation", "ls").out == before


def test_another_initrd_is_refused_by_its_digest_as_everywhere(class_lab):
    done = class_lab.krunpy("quickstart", "--tamper", "initrd")

    assert done.code not in (0, None), done
    assert done.out == ""
    assert "the launch digest is not registered" in done.err
    assert re.search(r"cause: +initrd differs", class_lab.krunpy("explain").out)


def test_a_workload_that_is_registered_for_one_binding_does_not_run_with_the_other(class_lab, rootfs):
    registered = class_lab.krunpy("register", rootfs, "--workload", "bound", "--", *FIRST)
    assert registered.code == 0, registered
    assert re.search(r"manifest in +host_data", registered.out)

    done = class_lab.krunpy("run", rootfs, "--workload", "bound", "--manifest-in", "initrd", "--", *FIRST)

    assert (done.code, done.out) == (125, ""), done
    assert "active with its manifest in host_data, seen initrd" in done.err
