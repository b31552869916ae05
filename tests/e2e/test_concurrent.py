"""Many at once: one conversion for all who wait for it, and four machines that all attest."""

from __future__ import annotations

import json

import pytest

pytestmark = [pytest.mark.vm, pytest.mark.root, pytest.mark.slow]


def finish(processes):
    """Return (exit code, stdout, stderr) of each."""
    return [(process.wait(120), *process.communicate(timeout=120)) for process in processes]


def test_eight_conversions_of_one_source_do_the_work_once(make_lab, rootfs):
    lab = make_lab("eight")

    done = finish([lab.start("image", "convert", rootfs) for _ in range(8)])

    assert [code for code, *_ in done] == [0] * 8, done
    assert len({out for _, out, _ in done}) == 1, done
    (image,) = lab.images()
    assert sorted(path.name for path in image.iterdir()) == sorted(
        {path.name for path in image.iterdir()} - {"tmp"}
    )
    assert not list((lab.cache / "tmp").iterdir())


def test_four_machines_at_once_all_attest_and_run(make_lab, rootfs):
    lab = make_lab("four")
    assert lab.krunpy("image", "convert", rootfs).code == 0

    done = finish([lab.start("run", rootfs, "--", "echo", f"machine {number}") for number in range(4)])

    assert [(code, out) for code, out, _ in done] == [(0, f"machine {n}\n".encode()) for n in range(4)], done
    records = json.loads(lab.krunpy("attestation", "ls", "--json").out)
    assert "released" in json.dumps(records)
    assert json.dumps(records).count('"released"') == 4
