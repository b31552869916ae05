"""What people type wrong: every command's help, options in wrong places, absurd arguments, names of nothing."""

import json

import pytest

import krunpy
from tests.fakes.commands import Bench, make_guest, make_tree, require_one_error

GROUPS = (
    "image",
    "workload",
    "attestation",
    "server",
    "server token",
    "server invitation",
    "guest",
    "guest kernel",
    "hook",
    "evidence",
    "collateral",
    "vm",
)
COMMANDS = (
    "quickstart", "run", "register", "measure", "explain", "inspect", "doctor", "image convert", "image ls",
    "image show", "image rm", "image prune", "workload ls", "workload show", "workload revoke", "attestation ls",
    "attestation show", "server run", "server token create", "server token ls", "server token rm", "guest build",
    "server invitation create", "server invitation ls", "server invitation rm",
    "guest show", "guest fetch-kernel", "guest kernel build",
    "hook precreate", "hook poststop", "evidence show", "evidence verify",
    "image inspect", "image unpack", "image import",
    "collateral status", "collateral fetch", "collateral export", "collateral import",
    "vm create", "vm start", "vm list", "vm inspect", "vm changevm", "vm delete", "vm config",
)  # fmt: skip
VERBS = ("create", "start", "state", "kill", "delete", "list", "features", "spec")


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    made = Bench(tmp_path_factory.mktemp("hostile") / "bench")
    make_tree(made.path("root"))
    make_guest(made.path("data/guest"))
    return made


def test_help_of_every_command_succeeds(bench):
    cases = [(name, [*name.split(), "--help"]) for name in ("", *GROUPS, *COMMANDS)]

    results = bench.call_many(cases)

    for name, result in results.items():
        assert result.code == 0, result
        assert result.out.startswith("Usage: krunpy"), name
        assert result.err == "", name


def test_the_list_of_commands_is_complete():
    import typer.main

    from krunpy.cli.app import app

    def list_names(command, prefix=""):
        for name, below in getattr(command, "commands", {}).items():
            yield from list_names(below, f"{prefix}{name} ")
        if not hasattr(command, "commands"):
            yield prefix.strip()

    assert sorted(list_names(typer.main.get_command(app))) == sorted(COMMANDS)


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_succeeds(bench, verb):
    done = bench.call(verb, "--help")

    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("usage: krunpy")


def test_a_wrong_command_line_is_a_usage_error(bench):
    lines = [
        "frob", "--frob", "image frob", "image ls --frob", "--json image ls", "image --json ls", "run",
        "run --frob x", "run x --cpus 999", "run x --cpus x", "run x --memory -1", "image rm", "image show",
        "attestation ls --limit 0", "attestation ls --limit x", "doctor --require x", "doctor x", "inspect",
        "explain a b", "image prune --unused-hours -1", "register x --uses -1", "server token rm",
        "server token create --days -1", "workload show", "--config", "evidence", "evidence show",
        "evidence verify x --at x", "evidence verify x --frob", "collateral fetch --fmspc x", "collateral import",
        "vm", "vm frob", "vm create", "vm create x --cpus 0", "vm create x --mem 1", "vm start", "vm delete a b",
        "vm changevm", "vm config x",
    ]  # fmt: skip

    results = bench.call_many([(line, line.split()) for line in lines])

    for line, result in results.items():
        assert result.code == 2, result
        assert result.out == "", line
        assert "Traceback" not in result.err, result
        assert result.err.startswith(("Usage: krunpy", "krunpy: ", "Error: ")), result


def test_absurd_values_are_one_error_each(bench):
    tree = str(bench.path("root"))
    with_tree = {
        "env without a value": ["-e", "X"],
        "env without a name": ["-e", "=X"],
        "user unknown": ["-u", "nobody"],
        "user beyond 32 bits": ["-u", "99999999999"],
        "user in other digits": ["-u", "²"],
        "tmpfs": ["--tmpfs", "x"],
        "workload": ["--workload", "../x"],
        "workdir": ["-w", "x"],
        "cpus none": ["--cpus", "0"],
        "cpus too many": ["--cpus", "1..9999999"],
        "cpus no number": ["--cpus", "²"],
        "env in no encoding": ["-e", "A=\udcff"],
        "env of zero bytes": ["-e", "A=\0"],
    }
    cases = [(name, ["measure", tree, *words, "--", "sh"]) for name, words in with_tree.items()]
    cases += [
        ("no command", ["measure", tree]),
        ("argument in no encoding", ["measure", tree, "--", "\udcff"]),
        ("arguments too long", ["measure", tree, "--", *["x" * 100_000] * 5]),
        ("tamper", ["quickstart", "--tamper", "x"]),
        ("listen", ["server", "run", "--listen", "x"]),
        ("listen on no port", ["server", "run", "--listen", "127.0.0.1:99999"]),
        ("role", ["server", "token", "create", "--role", "x"]),
        ("image id", ["image", "show", "../.."]),
        ("source", ["image", "convert", "x" * 100_000]),
        ("source with a line end", ["image", "convert", "dir:a\nb\x1b[31m"]),
        ("source of zero bytes", ["image", "convert", "dir:a\0b"]),
        ("a bundle of zero bytes", ["image", "convert", "bundle:a\0b"]),
        ("an image id for nothing", ["measure", "image:zzzz", "--", "sh"]),
        ("attestation", ["explain", "../x"]),
        ("workload's name", ["workload", "show", "../.."]),
    ]

    offline = {"KRUNPY_SERVER_URL": "http://127.0.0.1:1", "KRUNPY_SERVER_KEY": "00" * 32}
    results = bench.call_many(cases, **offline)

    for name, result in results.items():
        lines = result.err.splitlines()
        assert result.code in (2, 125), (name, result)
        assert lines[0].startswith("krunpy: cannot "), (name, result)
        assert len(lines) in (2, 3), (name, result)
        assert all(line.isprintable() and len(line) < 2100 for line in lines), (name, result)
        assert result.seconds < 5, (name, result)
    assert bench.drafts() == []


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["explain"], 1),
        (["attestation", "show"], 1),
        (["explain", "nope"], 1),
        (["workload", "show", "nope"], 1),
        (["workload", "revoke", "nope"], 1),
    ],
)
def test_what_was_never_made_cannot_be_shown(bench, words, code):
    require_one_error(bench.call(*words), code)


@pytest.mark.parametrize(
    "words", [["inspect", "nope"], ["image", "show", "abcd"], ["image", "rm", "abcd"]], ids=" ".join
)
def test_what_is_not_here_cannot_be_shown(bench, words):
    require_one_error(bench.call(*words), 1, has_next=False)


@pytest.mark.parametrize("verb", ["start", "state", "kill", "delete"])
@pytest.mark.parametrize("name", ["nope", "../..", "", "a/b", "x" * 300, b"\xff", "\x1b[31m"], ids=ascii)
def test_an_oci_verb_on_nothing_is_one_line_and_exit_1(bench, verb, name):
    done = bench.call(verb, name)

    assert done.code == 1
    assert done.err.startswith("krunpy: ")
    assert "Traceback" not in done.err
    assert len(done.err.splitlines()) == 1


def test_arguments_and_environment_in_no_encoding_are_no_traceback(bench):
    for words in (["image", "convert", b"dir:\xff"], ["inspect", b"\xff"]):
        for locale in ("C.UTF-8", "xx_YY.ISO-8859-1"):
            done = bench.call(*words, LC_ALL=locale, GARBAGE=b"\xff\xfe")

            assert done.code in (1, 2), done
            assert "Traceback" not in done.err, done


def add_json(words):
    end = words.index("--") if "--" in words else len(words)
    return [*words[:end], "--json", *words[end:]]


def test_json_output_of_every_command_parses_and_says_what_it_is(bench):
    tree = str(bench.path("root"))
    commands = {
        "image": ["image", "convert", tree],
        "images": ["image", "ls"],
        "measurement": ["measure", tree, "--", "sh"],
        "registration": ["register", tree, "--workload", "w", "--", "sh"],
        "workloads": ["workload", "ls"],
        "workload": ["workload", "show", "w"],
        "attestations": ["attestation", "ls"],
        "tokens": ["server", "token", "ls"],
        "guest": ["guest", "show"],
        "doctor": ["doctor"],
        "pruned": ["image", "prune", "--unused-hours", "9999"],
    }

    results = bench.call_many([(kind, add_json(words)) for kind, words in commands.items()])

    for kind, result in results.items():
        assert result.code == 0, result
        document = json.loads(result.out)
        assert list(document) == ["schema", "krunpy_version", "data"]
        assert document["schema"] == f"krunpy.{kind}.v1"
        assert document["krunpy_version"] == krunpy.__version__
        assert result.err == "", kind


def test_an_error_of_a_command_that_prints_json_prints_none(bench):
    for words in (["image", "show", "abcd"], ["explain"], ["inspect", "nope"], ["workload", "show", "nope"]):
        done = bench.call(*words, "--json")

        assert done.code in (1, 5)
        assert done.out == ""


def test_a_reader_that_goes_away_is_no_traceback(bench):
    done = bench.call("image", "ls", "--json", before=("sh", "-c", '"$@" | :', "sh"))

    assert done.err == ""


def test_a_full_standard_output_is_one_error(bench):
    done = bench.call("image", "ls", "--json", before=("sh", "-c", 'exec "$@" >/dev/full', "sh"))

    require_one_error(done, 4, has_next=False)
    assert "no space left" in done.err
