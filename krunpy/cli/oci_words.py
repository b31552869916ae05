"""The OCI command line: global options, verbs, and each verb's options. Parsing only; nothing is run here.

Hand-written because argparse costs more than a whole `state` (podman.md section 4).
Source: the calls of podman, conmon, containerd and crun's own tests, podman.md sections 2 and 3.
"""

from __future__ import annotations

from krunpy.core.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

VALUE, FLAG = True, False
GLOBAL_OPTIONS: Mapping[str, bool] = {
    "--root": VALUE,
    "--config": VALUE,
    "--log": VALUE,
    "--log-format": VALUE,
    "--log-level": VALUE,
    "--cgroup-manager": VALUE,
    "--rootless": VALUE,
    "--systemd-cgroup": FLAG,
    "--debug": FLAG,
}
_CREATE: Mapping[str, bool] = {
    "--bundle": VALUE,
    "--config": VALUE,
    "--pid-file": VALUE,
    "--console-socket": VALUE,
    "--preserve-fds": VALUE,
    "--no-pivot": FLAG,
    "--no-new-keyring": FLAG,
    "--no-subreaper": FLAG,
}
# verb -> (options, smallest and largest number of arguments, usage)
VERBS: Mapping[str, tuple[Mapping[str, bool], int, int, str]] = {
    "create": (_CREATE, 1, 1, "[--bundle DIR] [--pid-file FILE] ID"),
    "start": ({}, 1, 1, "ID"),
    "state": ({}, 1, 1, "ID"),
    "kill": ({"--all": FLAG, "--signal": VALUE}, 1, 2, "[--all] ID [SIGNAL]"),
    "delete": ({"--force": FLAG}, 1, 1, "[--force] ID"),
    "list": ({"--quiet": FLAG, "--format": VALUE}, 0, 0, "[--quiet | --format table|json]"),
    "features": ({}, 0, 0, ""),
    "spec": ({"--bundle": VALUE, "--rootless": FLAG}, 0, 0, "[--bundle DIR]"),
    "run": (
        {**_CREATE, "--detach": FLAG, "--keep": FLAG},
        1,
        1,
        "--bundle DIR [--detach] [--keep] [--pid-file FILE] ID",
    ),
}
_SHORT = {
    "-b": "--bundle",
    "-f": "--config",
    "-a": "--all",
    "-s": "--signal",
    "-q": "--quiet",
    "-d": "--detach",
    "-h": "--help",
    "-v": "--version",
}
_SHORT_BY_VERB = {"delete": {"-f": "--force"}, "list": {"-f": "--format"}}

# Verbs that engines may call and krunpy refuses: verb -> reason.
REFUSED: Mapping[str, str] = {
    "exec": "the guest runs only the measured command; a second one from the host would not be measured",
    "pause": "pausing a machine is not supported yet",
    "resume": "pausing a machine is not supported yet",
    "update": "a machine's size is part of its launch digest",
    "ps": "the host cannot see the guest's processes",
    "events": "the host cannot see the guest's use of memory and CPU",
    "checkpoint": "a confidential machine's memory cannot be saved",
    "restore": "a confidential machine's memory cannot be saved",
}


class Words:
    """A parsed command line: global options, verb, the verb's options, arguments."""

    __slots__ = ("arguments", "globals", "options", "verb")

    def __init__(
        self, *, globals: dict[str, str], verb: str, options: dict[str, str], arguments: list[str]
    ) -> None:
        self.globals = globals
        self.verb = verb
        self.options = options
        self.arguments = arguments

    def option(self, name: str) -> str:
        """Return the value of an option of the verb, empty if it was not given."""
        return self.options.get(name, "")

    def has(self, name: str) -> bool:
        """Return whether an option of the verb was given."""
        return name in self.options


def split_globals(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return the global options, and the rest that begins with the verb. Raises UsageError."""
    found: dict[str, str] = {}
    at = 0
    while at < len(words) and words[at].startswith("-"):
        at = _take(words, at, GLOBAL_OPTIONS, {}, found)
    return found, list(words[at:])


def parse_verb(given: dict[str, str], rest: Sequence[str]) -> Words:
    """Return the command line whose globals have been split off; rest begins with a verb of VERBS.

    Options may stand before and behind the ID. Raises UsageError.
    """
    verb = rest[0]
    known, least, most, usage = VERBS[verb]
    options: dict[str, str] = {}
    arguments: list[str] = []
    at = 1
    while at < len(rest):
        word = rest[at]
        if word == "--":
            arguments += rest[at + 1 :]
            break
        if word.startswith("-") and len(word) > 1 and not (verb == "kill" and arguments):
            at = _take(rest, at, {**known, "--help": FLAG}, _SHORT_BY_VERB.get(verb, {}), options)
            continue
        arguments.append(word)
        at += 1
    if "--help" not in options and not least <= len(arguments) <= most:
        raise UsageError(f"cannot {verb}", why=f"{len(arguments)} arguments", next=f"krunpy {verb} {usage}")
    return Words(globals=given, verb=verb, options=options, arguments=arguments)


def _take(
    words: Sequence[str], at: int, known: Mapping[str, bool], short: Mapping[str, str], into: dict[str, str]
) -> int:
    """Take one option at words[at] into a mapping; return where the next word is."""
    name, equals, value = words[at].partition("=")
    name = short.get(name, _SHORT.get(name, name))
    if name not in known:
        raise UsageError(f"cannot use option {words[at][:60]}", why="there is no such option")
    if not known[name]:
        into[name] = value or "yes"
        return at + 1
    if not equals:
        if at + 1 >= len(words):
            raise UsageError(f"cannot use option {name}", why="its value is missing")
        value = words[at + 1]
        at += 1
    into[name] = value
    return at + 1
