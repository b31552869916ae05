import json
import os
import sys

import pytest

from krunpy.cli import oci
from krunpy.cli.oci_words import REFUSED, VERBS, parse_verb, split_globals
from krunpy.core.errors import UsageError

LAUNCHER = ["/bin/false"]


@pytest.fixture
def call(tmp_path, capfd):
    def run(*words):
        status = oci.run(["--root", str(tmp_path / "root"), *words], {}, LAUNCHER)
        sys.stdout.flush()
        return (status, *capfd.readouterr())

    return run


def make_bundle(tmp_path, **process):
    (tmp_path / "rootfs/bin").mkdir(parents=True, exist_ok=True)
    program = tmp_path / "rootfs/bin/true"
    program.touch()
    program.chmod(0o755)
    config = {
        "ociVersion": "1.0.2-dev",
        "process": {
            "args": ["true"],
            "cwd": "/",
            "user": {"uid": 0, "gid": 0},
            "env": ["PATH=/bin"],
            **process,
        },
        "root": {"path": "rootfs"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    return str(tmp_path)


@pytest.mark.parametrize("verb", [*VERBS, *REFUSED])
def test_engine_calls_are_recognised(verb):
    words = [verb, "--bundle", "x", "c1"] if verb == "run" else [verb, "c1"]

    assert oci.wants(words)
    assert oci.wants(["--log-format=json", "--log", "x", "--cgroup-manager", "disabled", *words])
    assert oci.wants(["--systemd-cgroup", "--debug", "--root=/r", *words])


@pytest.mark.parametrize(
    "words", [[], ["--help"], ["doctor"], ["--json", "doctor"], ["quickstart"], ["run", "--", "x"]]
)
def test_what_people_type_is_left_to_the_other_commands(words):
    assert not oci.wants(words)


def test_run_of_a_source_is_for_people_and_run_of_a_bundle_is_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "image.tar").touch()

    assert not oci.wants(["run", "c1"])
    (tmp_path / "config.json").touch()
    assert oci.wants(["run", "c1"])
    assert not oci.wants(["run", "image.tar"])
    assert not oci.wants(["run", "c1", "--", "sh"])
    assert oci.wants(["run", "-b", ".", "c1"])
    assert oci.wants(["run", "--config=config.json", "c1"])


def test_options_stand_before_or_behind_the_id():
    for words in (
        ["create", "--bundle", "b", "c1", "--pid-file=p"],
        ["create", "c1", "-b", "b", "--pid-file", "p"],
    ):
        parsed = parse_verb(*split_globals(words))

        assert (parsed.arguments, parsed.option("--bundle"), parsed.option("--pid-file")) == (
            ["c1"],
            "b",
            "p",
        )


def test_f_means_what_the_verb_says():
    assert parse_verb(*split_globals(["delete", "-f", "c1"])).has("--force")
    assert parse_verb(*split_globals(["list", "-f", "json"])).option("--format") == "json"
    assert parse_verb(*split_globals(["create", "-f", "x", "c1"])).option("--config") == "x"


def test_a_signal_may_look_like_an_option():
    assert parse_verb(*split_globals(["kill", "--all", "c1", "-9"])).arguments == ["c1", "-9"]


@pytest.mark.parametrize(
    "words", [["start"], ["start", "a", "b"], ["start", "--x", "a"], ["create", "c1", "--bundle"]]
)
def test_a_wrong_command_line_is_refused(words):
    with pytest.raises(UsageError):
        parse_verb(*split_globals(words))


@pytest.mark.parametrize("verb", REFUSED)
def test_a_verb_that_is_refused_says_why(call, verb):
    status, out, err = call(verb, "c1")

    assert status == (255 if verb == "exec" else 1)
    assert out == ""
    assert REFUSED[verb] in err


def test_checkpoint_help_fails_as_podman_probes_it(call):
    assert call("checkpoint", "--help")[0] == 1


def test_version_is_printed(capfd):
    assert oci.run(["--version"], {}, LAUNCHER) == 0
    assert capfd.readouterr().out.startswith("krunpy version ")


def test_an_error_is_one_json_object_in_the_log(call, tmp_path):
    log = tmp_path / "log"
    log.write_text("what an earlier call left")

    status, out, err = call("--log", str(log), "--log-format=json", "start", "c1")

    record = json.loads(log.read_text())
    assert status == 1
    assert record["level"] == "error"
    assert "container does not exist" in record["msg"]
    assert record["msg"] in err
    assert out == ""


def test_a_log_that_cannot_be_written_does_not_hide_the_error(call, tmp_path):
    status, _, err = call("--log", str(tmp_path / "no/such/log"), "start", "c1")

    assert status == 1
    assert "container does not exist" in err


def test_delete_force_of_an_unknown_container_succeeds_in_silence(call):
    assert call("delete", "--force", "c1") == (0, "", "")


def test_a_missing_program_has_the_words_that_podman_turns_into_127(call, tmp_path):
    status, _, err = call("create", "--bundle", make_bundle(tmp_path, args=["nosuch"]), "c1")

    assert status == 1
    assert "executable file not found in $PATH" in err
    assert not (tmp_path / "root").exists()


def test_other_errors_never_have_those_words(call, tmp_path):
    status, _, err = call("create", "--bundle", str(tmp_path / "nowhere"), "c1")

    assert status == 1
    assert "config.json" in err
    for words in ("no such file", "permission denied", "not permitted", "executable file"):
        assert words not in err.lower()


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        (["--console-socket", "/s"], "--console-socket /s is refused"),
        (["--preserve-fds", "2"], "--preserve-fds 2 is refused"),
        (["--preserve-fds", "x"], "wanted a number"),
    ],
)
def test_what_the_command_line_asks_and_cannot_hold_is_refused(call, tmp_path, options, seen):
    status, _, err = call("create", "--bundle", make_bundle(tmp_path), *options, "c1")

    assert status == 1
    assert seen in err
    assert not (tmp_path / "root").exists()


def test_an_unknown_cgroup_manager_is_refused(tmp_path, capfd):
    words = ["--cgroup-manager", "x", "create", "-b", make_bundle(tmp_path), "c1"]

    assert oci.run(words, {}, LAUNCHER) == 1
    assert "cgroupfs, systemd or disabled" in capfd.readouterr().err


def test_features_and_spec_are_json(call, tmp_path):
    assert json.loads(call("features")[1])["linux"]["cgroup"]["v2"] is True
    assert call("spec", "--bundle", str(tmp_path))[0] == 0
    assert json.loads((tmp_path / "config.json").read_text())["process"]["args"]

    status, _, err = call("spec", "--bundle", str(tmp_path))
    assert status == 1
    assert "exists already" in err


def test_an_empty_list_is_an_empty_list(call):
    assert call("list", "--quiet")[1] == ""
    assert json.loads(call("list", "--format", "json")[1]) == []
    assert call("list")[1].startswith("ID")
    assert call("list", "--format", "xml")[0] == 1


def test_help_of_a_verb_is_one_line(call):
    status, out, _ = call("create", "--help")

    assert status == 0
    assert out.startswith("usage: krunpy")
    assert os.linesep in out


def test_a_settings_file_named_before_an_engines_verb_reaches_the_launcher(tmp_path):
    words = parse_verb({"--config": "k.toml"}, ["create", "--bundle", str(tmp_path), "c1"])

    request = oci._request(words, str(tmp_path), {"HOME": "/h"}, LAUNCHER)

    assert oci.wants(["--config", "k.toml", "create", "c1"])
    assert request.environment == {"HOME": "/h", "KRUNPY_CONFIG": os.path.abspath("k.toml")}
