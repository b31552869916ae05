"""What becomes of limits where no cgroup holds them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.root, pytest.mark.slow]
REPOSITORY = Path(__file__).parents[2]


def test_limits_that_hold_nowhere_because_the_engine_wants_no_cgroup_are_shown(host):
    host.configure("sleep", "60", linux={"resources": {"pids": {"limit": 9}, "cpu": {"shares": 2}}})
    null = subprocess.DEVNULL
    words = ["--cgroup-manager", "disabled", "create", "--bundle", str(host.bundle), "c1"]
    subprocess.run(host.argv(*words), stdin=null, stdout=null, stderr=null, timeout=60, check=True)

    words = [sys.executable, "-m", "krunpy.cli.main", "--root", str(host.root), "inspect", "--json", "c1"]
    done = subprocess.run(words, capture_output=True, timeout=60, check=True, cwd=REPOSITORY)

    settings = {item["name"]: item["where"] for item in json.loads(done.stdout)["data"]["settings"]}
    assert settings["linux.resources.pids.limit"] == "not at all"
    assert settings["linux.resources.cpu.shares"] == "not at all"
