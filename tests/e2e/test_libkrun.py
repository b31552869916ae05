"""The real libkrun, in an emulated machine that has a working /dev/kvm: tests/nested. One machine runs all jobs."""

from __future__ import annotations

import re

import pytest

from tests.nested.joblist import RUNS, TAMPERS

pytestmark = [pytest.mark.vm, pytest.mark.root]


def test_an_encrypted_attested_workload_runs_five_times_alike(nested):
    runs = [nested[f"run {number}"] for number in range(RUNS)]

    assert [run["code"] for run in runs] == [42] * RUNS, runs
    assert {run["out"] for run in runs} == {runs[0]["out"]}
    assert runs[0]["out"].startswith("marker 6."), runs[0]
    assert all("aside" in run["err"] for run in runs)


@pytest.mark.parametrize("kind", TAMPERS)
def test_what_the_host_changed_runs_nothing_and_gets_its_own_reason(nested, kind):
    done = nested[f"tamper {kind}"]

    assert done["code"] not in (0, 42), done
    assert "marker" not in done["out"]
    assert TAMPERS[kind] in done["err"], done["err"]


def test_a_signal_is_the_workloads_own_business(nested):
    assert (nested["term"]["code"], nested["term"]["out"]) == (5, "up\ncaught\n"), nested["term"]


def test_podman_runs_it_with_output_and_status(nested):
    done = nested["podman"]

    assert done["code"] == 42, done
    assert done["out"].startswith("marker 6."), done


def test_the_same_runs_in_qemu_under_kvm(nested):
    done = nested["qemu"]

    assert done["code"] == 42, done
    assert done["out"].startswith("marker ")
    assert done["out"] != nested["run 0"]["out"]  # another kernel


def test_the_library_called_wrongly_is_an_error_each_time_and_never_the_end_of_the_caller(nested):
    done = nested["binding"]  # tests/e2e/test_libkrun_binding.py

    assert done["code"] == 0, done["out"] + done["err"]
    assert re.search(r"^\d{2} passed in ", done["out"], re.MULTILINE), done["out"]


def test_nothing_is_left(nested):
    assert nested["left over"]["out"].split() == ["0"], nested["left over"]
