"""The TEE by its name, on a host that has no hardware for it."""

from __future__ import annotations

import os

import pytest

from krunpy.tee.detect import TeeKind, find_host_tee, read_host_file

pytestmark = [pytest.mark.vm, pytest.mark.root]


@pytest.mark.skipif(
    find_host_tee(read_host_file).kind is not TeeKind.SOFTWARE, reason="this host has a hardware TEE"
)
@pytest.mark.parametrize(
    ("tee", "missing"), [("snp", "/dev/sev does not exist"), ("tdx", "tdx does not exist")]
)
def test_hardware_that_is_not_there_is_one_clear_error_and_leaves_nothing_behind(
    make_lab, rootfs, tee: str, missing: str
) -> None:
    lab = make_lab(f"tee-{tee}")

    done = lab.krunpy("run", "--tee", tee, rootfs, "--", "/bin/true")

    assert (done.code, done.out) == (125, "")
    assert done.err.count("krunpy: ") == 1
    assert f"cannot launch a machine in {tee}" in done.err
    assert missing in done.err
    assert lab.processes() == []
    assert not lab.state.exists() or os.listdir(lab.state) == []
    assert lab.images() == []
    assert not lab.data.exists()
    assert not [name for name in os.listdir(lab.directory) if name.startswith("krunpy-bundle")]


def test_software_by_its_name_runs(make_lab, rootfs) -> None:
    lab = make_lab("tee-software")

    done = lab.krunpy("run", "--tee", "software", rootfs, "--", "/bin/echo", "it ran")

    assert (done.code, done.out) == (0, "it ran\n")
