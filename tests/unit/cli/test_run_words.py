import inspect

import pytest
import typer.main

from krunpy.cli import run_words
from krunpy.cli.app import app
from krunpy.cli.context import make_globals
from krunpy.cli.run import TeeWish, VmmWish, run
from krunpy.cli.run_plan import prepare_run
from krunpy.cli.run_words import parse_run
from krunpy.core.settings import CHOICES
from krunpy.runtime.plan import Plan


def test_it_knows_exactly_the_options_of_the_command():
    command = typer.main.get_command(app).commands["run"]
    options = {
        word: parameter.name
        for parameter in command.params
        if parameter.param_type_name == "option"
        for word in parameter.opts
    }
    options.pop("--help", None)

    known = run_words.TEXTS | run_words.LISTS | run_words.NUMBERS | run_words.FLAGS

    assert known == options
    assert set(known.values()) < set(inspect.signature(run).parameters)


def test_a_whole_command_line_becomes_a_plan():
    wanted = parse_run(
        "--env A=1 -e B=2 --tmpfs=/tmp -w /srv --user 7:8 --entrypoint /bin/x --workload w1 --hostname h --name n"
        " --cpus 2 --memory=256 --integrity-only --read-only --manifest-in host-data image:ab -- ls -la --env".split()
    )

    assert wanted is not None
    assert wanted.name == "n"
    assert wanted.plan == Plan(
        source="image:ab",
        args=("ls", "-la", "--env"),
        env=("A=1", "B=2"),
        tmpfs=("/tmp",),
        cwd="/srv",
        user="7:8",
        entrypoint="/bin/x",
        workload="w1",
        hostname="h",
        cpus=2,
        memory_mib=256,
        integrity_only=True,
        read_only=True,
        manifest_in="host-data",
    )


def test_options_may_follow_the_source_but_not_the_dashes():
    wanted = parse_run(["dir", "--read-only", "--", "--read-only"])

    assert wanted is not None
    assert wanted.plan == Plan(source="dir", args=("--read-only",), read_only=True)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--help"],
        ["dir", "--unknown"],
        ["dir", "-la"],
        ["dir", "--env"],
        ["dir", "-e=A=1"],
        ["dir", "--cpus", "two"],
        ["dir", "--cpus", "65"],
        ["dir", "--memory", "-1"],
        ["dir", "--integrity-only=yes"],
        ["dir", "--tee", "sgx"],
        ["dir", "--tee"],
        ["dir", "--manifest-in", "host_data"],
        [
            "--",
        ],
    ],
)
def test_whatever_it_does_not_understand_is_left_to_typer(words):
    assert parse_run(words) is None


@pytest.mark.parametrize("tee", ["", "auto", "software", "snp", "tdx"])
def test_the_tee_reaches_the_launcher_in_place_of_the_setting(tee, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("KRUNPY_TEE", "tdx")
    (tmp_path / "root").mkdir()
    words = [*(["--tee", tee] if tee else []), f"dir:{tmp_path / 'root'}", "--", "/x"]

    wanted = parse_run(words)
    assert wanted is not None
    _, environment = prepare_run(make_globals(root="", config=""), wanted.plan, "id", tee=wanted.tee)

    assert wanted.tee == tee
    assert environment["KRUNPY_TEE"] == (tee or "tdx")


def test_the_words_for_a_tee_and_a_vmm_are_those_of_the_settings():
    assert set(TeeWish) == set(CHOICES["tee"])
    assert set(VmmWish) == set(CHOICES["vmm"])
    for option in ("tee", "vmm"):
        for word in ("", *CHOICES[option]):
            assert getattr(run_words.parse_run([f"--{option}", word, "SOURCE"]), option) == word
        assert run_words.parse_run([f"--{option}", "other", "SOURCE"]) is None
