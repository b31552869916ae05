"""What an engine may hand to `krunpy create`: exit 1, one JSON object in --log, and nothing made."""

import json
import os

import pytest

from tests.fakes.commands import Bench, make_tree
from tests.fakes.hostile import GIB, JSON, OTHER

ENGINE_WORDS = (
    "no such file",
    "permission denied",
    "not permitted",
    "executable file",
)  # they mean 126 and 127
PROCESS = {
    "args": ["sh"],
    "cwd": "/",
    "user": {"uid": 0, "gid": 0},
    "env": ["PATH=/bin"],
}
GOOD = {"ociVersion": "1.0.2-dev", "process": PROCESS, "root": {"path": "rootfs"}}
CHANGES = {
    "version missing": {"ociVersion": None},
    "version 2": {"ociVersion": "2.0.0"},
    "version text": {"ociVersion": "x" * 10000},
    "no process": {"process": None},
    "process a list": {"process": []},
    "args empty": {"process": {**PROCESS, "args": []}},
    "args a string": {"process": {**PROCESS, "args": "sh"}},
    "args of numbers": {"process": {**PROCESS, "args": [1]}},
    "arg with a zero byte": {"process": {**PROCESS, "args": ["sh", "a\0b"]}},
    "arg a surrogate": {"process": {**PROCESS, "args": ["sh", "\ud800"]}},
    "cwd relative": {"process": {**PROCESS, "cwd": "x"}},
    "uid negative": {"process": {**PROCESS, "user": {"uid": -1, "gid": 0}}},
    "uid huge": {"process": {**PROCESS, "user": {"uid": 1 << 70, "gid": 0}}},
    "uid a fraction": {"process": {**PROCESS, "user": {"uid": 0.5, "gid": 0}}},
    "terminal": {"process": {**PROCESS, "terminal": True}},
    "env of numbers": {"process": {**PROCESS, "env": [1]}},
    "rlimit text": {"process": {**PROCESS, "rlimits": [{"type": "RLIMIT_NOFILE", "soft": "1", "hard": 1}]}},
    "capabilities a list": {"process": {**PROCESS, "capabilities": ["CAP_CHOWN"]}},
    "no root": {"root": None},
    "root a number": {"root": {"path": 5}},
    "root nowhere": {"root": {"path": "/nonexistent/krunpy"}},
    "root a circle": {"root": {"path": "circle"}},
    "root too long": {"root": {"path": "x" * 10000}},
    "root with a zero byte": {"root": {"path": "a\0b"}},
    "root a surrogate": {"root": {"path": "\ud800"}},
    "mounts an object": {"mounts": {}},
    "mount of a directory": {"mounts": [{"destination": "/x", "type": "bind", "source": "/etc"}]},
    "mount nowhere": {"mounts": [{"type": "tmpfs"}]},
    "linux a list": {"linux": []},
    "cgroups path leads out": {"linux": {"cgroupsPath": "/../../../x"}},
    "cgroups path a number": {"linux": {"cgroupsPath": 5}},
    "device": {"linux": {"devices": [{"path": "/dev/x", "type": "b", "major": 8, "minor": 0}]}},
    "sysctl": {"linux": {"sysctl": {"kernel.x": "1"}}},
    "resources a list": {"linux": {"resources": []}},
    "memory text": {"linux": {"resources": {"memory": {"limit": "x"}}}},
    "namespace a number": {"linux": {"namespaces": [5]}},
    "user namespace": {"linux": {"namespaces": [{"type": "user"}]}},
    "annotations a list": {"annotations": []},
    "annotation a number": {"annotations": {"a": 1}},
    "annotation unknown": {"annotations": {"io.krunpy.frob": "1"}},
    "cpus too many": {"annotations": {"io.krunpy.cpus": "9999"}},
    "cpus in other digits": {"annotations": {"io.krunpy.cpus": "²"}},
    "hooks a list": {"hooks": []},
    "hook without a path": {"hooks": {"prestart": [{}]}},
    "hook relative": {"hooks": {"prestart": [{"path": "x"}]}},
    "hook nowhere": {"hooks": {"createRuntime": [{"path": "/nonexistent/hook"}]}},
    "hostname a number": {"hostname": 5},
    "unknown top setting": {"vm": {"hypervisor": {"path": "/x"}}},
}


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path / "bench")
    bundle = made.path("bundle")
    make_tree(bundle / "rootfs")
    (bundle / "circle").symlink_to("circle")
    yield made
    if made.drafts():
        made.call("delete", "--force", "c1")


def create(bench, raw, *words, environment=None):
    """Call `create` as an engine does, and return its message; it must have failed and left nothing."""
    log = bench.path("log.json")
    (bench.path("bundle") / "config.json").unlink(missing_ok=True)
    if raw is not None:
        (bench.path("bundle") / "config.json").write_bytes(raw)

    done = bench.call(
        *("--log", str(log), "--log-format", "json", "--cgroup-manager", "disabled"),
        *(
            "create",
            "--bundle",
            str(bench.path("bundle")),
            "--pid-file",
            str(bench.path("pid")),
            *words,
            "c1",
        ),
        **(environment or {}),
    )

    assert done.code == 1, done
    assert done.out == ""
    assert "Traceback" not in done.err, done
    record = json.loads(log.read_text())
    assert record["level"] == "error"
    assert record["msg"]
    assert record["msg"] in done.err
    assert len(done.err.splitlines()) == 1, done
    assert len(done.err) < 4000
    assert done.seconds < 5
    assert not bench.path("pid").exists()
    assert bench.drafts() == []
    return record["msg"]


@pytest.mark.parametrize("name", JSON)
def test_a_config_that_is_no_document_is_one_json_error(bench, name):
    create(bench, JSON[name])


@pytest.mark.parametrize("name", CHANGES)
def test_a_wrong_setting_is_one_json_error_without_the_words_engines_act_on(bench, name):
    message = create(bench, json.dumps({**GOOD, **CHANGES[name]}).encode())

    assert not [words for words in ENGINE_WORDS if words in message.lower()]


def test_a_config_of_a_gigabyte_a_fifo_a_directory_and_none(bench):
    config = bench.path("bundle") / "config.json"

    assert "config.json" in create(bench, None)
    config.touch()
    os.truncate(config, GIB)
    for words in (["--config", str(config)],):
        config.rename(bench.path("huge"))
        words[1] = str(bench.path("huge"))
        assert f"{GIB} bytes" in create(bench, b"{}", *words)
    os.mkfifo(bench.path("fifo"))
    assert "not a regular file" in create(bench, b"{}", "--config", str(bench.path("fifo")))
    assert "not a regular file" in create(bench, b"{}", "--config", str(bench.directory))


def test_a_missing_program_keeps_the_words_that_mean_127(bench):
    message = create(bench, json.dumps({**GOOD, "process": {**PROCESS, "args": [OTHER]}}).encode())

    assert "executable file not found in $PATH" in message


def test_a_state_root_that_is_a_file_is_one_json_error(bench):
    bench.path("run/krunpy").write_text("in the way")

    log = bench.path("log.json")
    (bench.path("bundle") / "config.json").write_text(json.dumps(GOOD))
    for verb in (
        ["create", "--bundle", str(bench.path("bundle"))],
        ["state"],
        ["start"],
        ["kill"],
        ["delete"],
    ):
        done = bench.call("--log", str(log), "--log-format", "json", *verb, "c1")

        assert done.code == 1, done
        assert "Traceback" not in done.err
        assert json.loads(log.read_text())["level"] == "error"


@pytest.mark.parametrize(
    "raw", [b"", b"pid=x", b"\xff\0" * 100, b"x" * 100_000], ids=["empty", "pid", "octets", "long"]
)
@pytest.mark.parametrize("verb", ["state", "start", "kill", "delete", "list", "inspect"])
def test_a_damaged_record_is_no_traceback(bench, verb, raw):
    container = bench.path("run/krunpy/c1")
    container.mkdir(parents=True)
    (container / "state").write_bytes(raw)

    done = bench.call(verb, *(["c1"] if verb != "list" else []))

    assert done.code == (0 if verb == "list" else 2 if verb == "inspect" else 1), done
    assert "Traceback" not in done.err, done
    assert len(done.err.splitlines()) <= 3


@pytest.mark.parametrize("name", ["config.json", "timings.json", "failure.json"])
@pytest.mark.parametrize(
    "raw", [b"{", b"[]", b"\xff", b"[" * 100_000], ids=["cut", "list", "octets", "nested"]
)
def test_inspect_of_a_damaged_container_is_one_error(bench, name, raw):
    container = bench.path("run/krunpy/c1")
    container.mkdir(parents=True)
    (container / name).write_bytes(raw)

    done = bench.call("inspect", "c1")

    assert done.code == 2, done
    assert "Traceback" not in done.err, done
    assert len(done.err.splitlines()) == 3, done
