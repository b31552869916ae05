"""`krunpy evidence` without typer: the same options, and nothing that is not understood."""

import pytest
import typer.main

from krunpy.cli import evidence_words
from krunpy.cli.app import app
from krunpy.cli.app import main as run_app
from krunpy.cli.evidence_options import LISTS, TEXTS, VALUES, VerifyWords
from krunpy.cli.evidence_words import parse_show, parse_verify


def options(verb: str) -> dict[str, str]:
    command = typer.main.get_command(app).commands["evidence"].commands[verb]
    return {
        word: parameter.name
        for parameter in command.params
        if parameter.param_type_name == "option"
        for word in parameter.opts
        if word != "--help"
    }


def test_it_knows_exactly_the_options_of_the_commands() -> None:
    assert options("verify").keys() == {*TEXTS, *LISTS, "--json"}
    assert options("verify").items() >= TEXTS.items()
    assert options("show") == {"--json": "json"}


def test_a_whole_command_line_is_read() -> None:
    wanted = parse_verify(
        "--chain c --vek=v - --collateral j --event-log l --crl a --crl=b --at t --policy p --nonce 00 --report-data 01"
        " --measurement m --measurement=n --rtmr3 r --json".split()
    )

    assert wanted == VerifyWords(
        file="-", chain="c", vek="v", collateral="j", event_log="l", crl=("a", "b"), at="t", policy="p", nonce="00",
        report_data="01", values={"--measurement": ("m", "n"), "--rtmr3": ("r",)}, json=True,
    )  # fmt: skip


@pytest.mark.parametrize("option", VALUES)
def test_both_forms_read_the_same_reference_value(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["verify", "missing", option, "00", option, "zz"]

    lean = evidence_words.run_words(words)
    said = capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        run_app(["evidence", *words])

    assert (lean, ended.value.code) == (2, 2)
    assert said.startswith(f"krunpy: cannot read {option}\n")
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["a", "b"],
        ["--help"],
        ["a", "--unknown", "b"],
        ["a", "--vek"],
        ["a", "--vek="],
        ["a", "--", "b"],
        ["a", "-v"],
        ["a", "--json=1"],
    ],
)
def test_what_is_not_understood_is_left_to_typer(words: list[str]) -> None:
    assert parse_verify(words) is None
    assert parse_show(words) is None


@pytest.mark.parametrize("words", [[], ["show"], ["verify"], ["other", "file"], ["--help"]])
def test_other_verbs_are_left_to_typer(words: list[str]) -> None:
    assert evidence_words.run_words(words) is None
