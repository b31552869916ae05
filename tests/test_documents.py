"""The documents say what the program does: man page, README, changelog, and the links between them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import krunpy
from krunpy.cli.oci_words import GLOBAL_OPTIONS, REFUSED, VERBS
from krunpy.core.errors import KrunpyError
from krunpy.oci.annotations import MEANINGS
from krunpy.oci.state import TRANSITIONS
from krunpy.runtime.tamper import Tamper

HOUSE = Path(__file__).parent.parent
MAN = (HOUSE / "docs" / "man" / "krunpy.1.md").read_text()
README = (HOUSE / "README.md").read_text()


def _walk(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield the path and the command of every leaf that --help shows. typer carries a click of its own."""
    if children := getattr(command, "commands", None):
        for name, child in children.items():
            if not child.hidden:
                yield from _walk(child, (*path, name))
    else:
        yield " ".join(path), command


def _commands() -> dict[str, Any]:
    from krunpy.cli.app import app

    found = dict(_walk(typer.main.get_command(app)))
    assert len(found) > 15
    return found


def _described() -> set[str]:
    """Return the commands that have an entry in the man page: **krunpy WORDS** at the start of a line."""
    found = re.findall(r"^\*\*krunpy ([a-z][a-z -]*[a-z])\*\*", MAN, re.MULTILINE)
    assert len(found) == len(set(found))
    return set(found)


def test_the_man_page_describes_every_command_and_no_other() -> None:
    assert _described() == set(_commands()) | set(VERBS)


def test_the_man_page_names_every_option() -> None:
    options = {name for verb in VERBS.values() for name in verb[0]} | set(GLOBAL_OPTIONS)
    for command in _commands().values():
        for parameter in command.params:
            options |= {
                name for name in (*parameter.opts, *parameter.secondary_opts) if name.startswith("--")
            }

    missing = sorted(name for name in options - {"--help"} if f"**{name}**" not in MAN)

    assert not missing


def test_the_man_page_names_no_option_that_does_not_exist() -> None:
    options = {name for verb in VERBS.values() for name in verb[0]} | set(GLOBAL_OPTIONS)
    options |= {"--help", "--version"}
    for command in (*_commands().values(), _root()):
        for parameter in command.params:
            options |= {*parameter.opts, *parameter.secondary_opts}

    assert set(re.findall(r"\*\*(--[a-z-]+)\*\*", MAN)) <= options


def _root() -> Any:
    from krunpy.cli.app import app

    return typer.main.get_command(app)


@pytest.mark.parametrize("name", [*MEANINGS, *REFUSED, *Tamper])
def test_the_man_page_names_annotations_refused_verbs_and_ways_to_tamper(name: str) -> None:
    assert re.search(rf"\b{re.escape(name)}\b", MAN)


def test_the_man_page_prints_the_table_of_states() -> None:
    rows = dict(re.findall(r"^\| ([a-z -]+) \| ([a-z, ]+) \|$", MAN.split("# STATES")[1], re.MULTILINE))

    assert rows == {"verb": "allowed while"} | {
        verb: ", ".join(states) for verb, states in TRANSITIONS.items()
    }


def test_the_man_page_lists_the_exit_codes() -> None:
    classes = [KrunpyError]
    for one in classes:
        classes += one.__subclasses__()
    own = {one.exit_code for one in classes if one.__module__ == "krunpy.core.errors"}

    assert {int(code) for code in re.findall(r"^\*\*(\d+)\*\*", MAN, re.MULTILINE)} >= own | {8}


def test_the_readme_has_exactly_two_commands_to_set_up() -> None:
    section = README.split("## Set up", 1)[1].split("\n## ", 1)[0]

    blocks = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)

    assert blocks == ["make demo\nmake test\n"]


def test_the_readme_says_what_is_not_protected_on_its_first_screen() -> None:
    first_screen = "\n".join(README.splitlines()[:30])

    assert "NOT CONFIDENTIAL" in first_screen
    assert "docs/limits.md" in first_screen


def test_no_document_waits_for_its_text() -> None:
    waiting = [
        path
        for path in HOUSE.glob("**/*.md")
        if ".venv" not in path.parts and "PLACEHOLDER" in path.read_text()
    ]

    assert not waiting


def test_the_changelog_tells_of_this_version() -> None:
    assert f"## {krunpy.__version__}" in (HOUSE / "CHANGELOG.md").read_text()


@pytest.mark.parametrize(
    "document", [*sorted(path.name for path in (HOUSE / "docs").glob("*.md")), "README.md"]
)
def test_links_inside_the_project_lead_somewhere(document: str) -> None:
    path = HOUSE / document if document == "README.md" else HOUSE / "docs" / document
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text())

    assert not [link for link in links if not (path.parent / link).exists()]
