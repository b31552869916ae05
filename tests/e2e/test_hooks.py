"""The optional hooks of hooks/, called by podman: the work is done before the runtime is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = [pytest.mark.vm, pytest.mark.root, pytest.mark.slow]
HOOKS = Path(__file__).parents[2] / "hooks"
IMAGE = "localhost/e2e-busybox:1"


@pytest.fixture
def hooks_dir(lab, tmp_path):
    """Return the definitions of hooks/, with the wrapper in the place of the installed scripts' krunpy."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/krunpy").symlink_to(lab.wrapper)
    folder = tmp_path / "hooks.d"
    folder.mkdir()
    for stage in ("precreate", "poststop"):
        script = (HOOKS / f"krunpy-{stage}").read_text()
        assert "PATH=" in script
        target = tmp_path / f"krunpy-{stage}"
        target.write_text(script.replace("PATH=$PATH", f"PATH={tmp_path}/bin:$PATH"))
        target.chmod(0o755)
        definition = json.loads((HOOKS / f"krunpy-{stage}.json").read_text())
        definition["hook"]["path"] = str(target)
        (folder / f"{stage}.json").write_text(json.dumps(definition))
    return folder


def registrations(lab):
    return {item["id"]: item for item in json.loads(lab.krunpy("workload", "ls", "--json").out)["data"]}


def test_a_run_with_the_hooks_uses_the_one_registration_that_the_hook_made(podman, lab, hooks_dir):
    before = registrations(lab)

    done = podman(
        "run",
        "--rm",
        "--network",
        "none",
        IMAGE,
        "echo",
        "through the hooks",
        options=("--hooks-dir", str(hooks_dir)),
    )

    assert (done.code, done.out) == (0, "through the hooks\n"), done
    (name,) = registrations(lab).keys() - before.keys()
    assert registrations(lab)[name]["uses_left"] == 0


def test_the_end_of_one_container_leaves_another_its_registration(podman, lab, hooks_dir):
    before = registrations(lab)
    options = ("--hooks-dir", str(hooks_dir))
    command = (IMAGE, "echo", "twice")

    assert podman("create", "--name", "e2e-waits", *command, options=options).code == 0
    assert podman("init", "e2e-waits", options=options).code == 0
    (name,) = registrations(lab).keys() - before.keys()
    assert podman("run", "--rm", *command, options=options).out == "twice\n"

    assert registrations(lab)[name]["uses_left"] == 1
    done = podman("start", "-a", "e2e-waits", options=options)
    assert (done.code, done.out) == (0, "twice\n"), done
    assert registrations(lab)[name]["uses_left"] == 0
    assert podman("rm", "-f", "-t", "0", "e2e-waits", options=options).code == 0


def test_a_container_that_never_ran_gives_its_registration_back(podman, lab, hooks_dir):
    before = registrations(lab)
    options = ("--hooks-dir", str(hooks_dir))

    assert podman("create", "--name", "e2e-never", IMAGE, "echo", "never", options=options).code == 0
    assert podman("init", "e2e-never", options=options).code == 0
    (name,) = registrations(lab).keys() - before.keys()
    assert registrations(lab)[name]["uses_left"] == 1
    assert podman("rm", "-f", "-t", "0", "e2e-never", options=options).code == 0

    left = registrations(lab).get(name)
    assert left is None or left["uses_left"] == 0
