import pytest

from krunpy.core.errors import ToolError
from krunpy.oci.config import Hook
from krunpy.runtime.hooks import run_hooks


def hook(script, *, env=(), timeout_s=5, path="/bin/sh"):
    return Hook(path=path, args=("sh", "-c", script), env=env, timeout_s=timeout_s)


def run(tmp_path, *hooks, state="{}"):
    run_hooks(hooks, stage="prestart", state=state, cwd=str(tmp_path))


def test_a_hook_gets_the_state_its_own_environment_and_the_bundle(tmp_path):
    run(
        tmp_path,
        hook("cat > state; env | sort > env; pwd > cwd", env=("PATH=/bin:/usr/bin", "A=b=c")),
        state='{"id": 1}',
    )

    assert (tmp_path / "state").read_text() == '{"id": 1}'
    assert (tmp_path / "cwd").read_text() == f"{tmp_path}\n"
    names = {line.partition("=")[0] for line in (tmp_path / "env").read_text().splitlines()}
    assert names - {"_", "SHLVL", "OLDPWD"} == {"A", "PATH", "PWD"}
    assert "A=b=c" in (tmp_path / "env").read_text()


def test_a_failing_hook_stops_the_ones_behind_it(tmp_path):
    with pytest.raises(ToolError, match="exit code 3: no such luck"):
        run(tmp_path, hook("echo no such luck >&2; exit 3"), hook("echo > second"))

    assert not (tmp_path / "second").exists()


def test_a_hook_that_hangs_is_killed(tmp_path):
    with pytest.raises(ToolError, match="longer than 1 s"):
        run(tmp_path, hook("exec sleep 60", timeout_s=1))


def test_a_hook_that_is_missing_is_named(tmp_path):
    with pytest.raises(ToolError, match="/nonexistent failed"):
        run(tmp_path, hook("", path="/nonexistent"))


def test_a_hook_that_never_reads_and_never_stops_talking_is_bounded(tmp_path):
    script = "i=0; while [ $i -lt 20000 ]; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; i=$((i+1)); done; exit 1"

    with pytest.raises(ToolError) as caught:
        run(tmp_path, hook(script), state="s" * 1_000_000)

    assert len(caught.value.why) < 5000
