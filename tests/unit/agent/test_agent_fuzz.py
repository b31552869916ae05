"""A bounded run of the agent's fuzz targets, under the address and undefined behaviour sanitizers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

AGENT = Path(__file__).parents[3] / "images" / "guest" / "agent"
SECONDS = 3  # for each target


@pytest.mark.slow
def test_the_fuzz_targets_find_nothing_in_a_short_run(tmp_path: Path) -> None:
    for name in ("make", "clang"):
        if shutil.which(name) is None:
            pytest.skip(f"the fuzz targets cannot be built: {name} is not installed")
    if not Path("/usr/include/sodium.h").exists():
        pytest.skip("the fuzz targets cannot be built: libsodium-dev is not installed")
    assert all(
        list((AGENT / "fuzz_seeds" / name).iterdir())
        for name in ("fuzz_frames", "fuzz_manifest", "fuzz_items", "fuzz_evidence")
    )

    done = subprocess.run(
        ["make", "-C", str(AGENT), "fuzz-run", f"OUT={tmp_path}", f"SECONDS={SECONDS}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )

    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert done.stderr.count("stat::number_of_executed_units") == 5
