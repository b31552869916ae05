"""`krunpy vm` up to the machine itself: what is kept, what is shown, and what is refused before anything starts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.fakes.commands import Bench, make_tree

if TYPE_CHECKING:
    from pathlib import Path

SHARES = ("-v", "/tmp:/data:ro", "--port", "18080:80", "--dns", "9.9.9.9")
FULL = ("--cpus", "2", "--mem", "256", "-w", "/srv", "-e", "A=b", *SHARES)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = Bench(tmp_path / "bench")
    make_tree(made.path("root"))
    return made


def _call(bench: Bench, *lines: tuple[str, ...]) -> list:
    cases = [(str(number), ["vm", *words]) for number, words in enumerate(lines)]
    return list(bench.call_many(cases).values())


def _create(bench: Bench, *words: str, command: tuple[str, ...] = ("sh",)) -> tuple[str, ...]:
    return ("create", f"dir:{bench.path('root')}", *words, "--", *command)


def test_what_was_created_is_listed_and_shown(bench: Bench) -> None:
    made, listed, shown, table = _call(
        bench,
        _create(bench, "--name", "web", *FULL),
        ("list", "--json"),
        ("inspect", "web", "--json"),
        ("list",),
    )

    assert (made.code, made.out) == (0, "web\n"), made
    kept = json.loads(shown.out)["data"]
    assert kept == {
        "args": ["sh"], "cpus": 2, "dns": "9.9.9.9", "env": ["A=b"],
        "fingerprint": kept["fingerprint"], "gid": 0, "groups": [], "image": kept["image"],
        "memory_mib": 256, "name": "web", "network": True, "ports": ["18080:80"], "running": False,
        "source": f"dir:{bench.path('root')}", "uid": 0, "volumes": ["/tmp:/data:ro"], "workdir": "/srv",
    }  # fmt: skip
    assert json.loads(listed.out)["data"] == [kept]
    assert "/tmp:/data:ro" in table.out
    assert (bench.path("data/vms/web.json").stat().st_mode & 0o777) == 0o600


def test_the_same_once_more_is_fine_and_other_values_are_refused(bench: Bench) -> None:
    _, again, other, command = _call(
        bench,
        _create(bench, "--name", "web"),
        _create(bench, "--name", "web"),
        _create(bench, "--name", "web", "--cpus", "3"),
        _create(bench, "--name", "web", command=("ls",)),
    )

    assert (again.code, again.out) == (0, "web\n"), again
    assert other.code == command.code == 1
    assert "cpus 1, wanted 3" in other.err
    assert "args ['sh'], wanted ['ls']" in command.err


def test_a_machine_is_changed_renamed_and_deleted(bench: Bench) -> None:
    *_, first, second, gone, none = _call(
        bench,
        _create(bench, "--name", "web", *SHARES),
        (
            "changevm",
            "web",
            "--new-name",
            "www",
            "--cpus",
            "4",
            "--remove-volumes",
            "-v",
            "/srv:/x",
            "--mem",
            "300",
        ),
        ("inspect", "www", "--json"),
        ("changevm", "www", "--remove-ports"),
        ("delete", "www"),
        ("list",),
    )
    changed = json.loads(first.out)["data"]

    assert changed["volumes"] == ["/srv:/x:rw"]
    assert (changed["cpus"], changed["memory_mib"], changed["ports"]) == (4, 300, ["18080:80"])
    assert second.code == 2  # it has a name server, and no network any more
    assert "--network" in second.err
    assert (gone.code, gone.out) == (0, "www\n")
    assert (none.code, none.out) == (0, "")


def test_defaults_are_for_machines_that_say_nothing(bench: Bench) -> None:
    _, _, one, two = _call(
        bench,
        ("config", "--cpus", "3", "--dns", "9.9.9.9"),
        _create(bench, "--name", "one", "--network", "--mem", "256"),
        ("inspect", "one", "--json"),
        _create(bench, "--name", "two"),
    )

    kept = json.loads(one.out)["data"]
    assert (kept["cpus"], kept["dns"], kept["memory_mib"]) == (3, "9.9.9.9", 256)
    assert two.code == 0, two  # it has no network, so no name server either


def test_shares_are_refused_under_qemu_before_anything_starts(bench: Bench) -> None:
    _, volume, _, network = _call(
        bench,
        _create(bench, "--name", "a", "-v", "/tmp:/data"),
        ("start", "a", "--vmm", "qemu"),
        _create(bench, "--name", "b", "--network"),
        ("start", "b", "--vmm", "qemu"),
    )

    assert volume.code == network.code == 4
    assert "cannot share directories" in volume.err
    assert "cannot give the machine a network" in network.err
    assert "--vmm libkrun" in network.err


def test_wrong_values_are_one_usage_error_each_and_keep_nothing(bench: Bench) -> None:
    wrong = {
        "name": ("--name", "../x"),
        "volume": ("-v", "relative:/data"),
        "volume of the system": ("-v", "/tmp:/proc/x"),
        "two volumes in one place": ("-v", "/tmp:/a", "-v", "/srv:/a"),
        "port": ("--port", "80"),
        "two ports in one place": ("--port", "80:1", "--port", "80:2"),
        "dns without network": ("--dns", "9.9.9.9"),
        "dns": ("--network", "--dns", "x"),
        "workdir": ("-w", "x"),
        "env": ("-e", "=x"),
        "env of zero bytes": ("-e", "A=\0"),
        "workdir in no encoding": ("-w", "/\udcff"),
    }

    results = bench.call_many(
        [(name, ["vm", *_create(bench, *words)]) for name, words in wrong.items()]
        + [("no command", ["vm", "create", f"dir:{bench.path('root')}"])]
    )

    for name, result in results.items():
        assert result.code == 2, (name, result)
        assert result.err.startswith("krunpy: cannot "), (name, result)
    assert not list(bench.path("data/vms").glob("*.json"))


def test_a_record_that_somebody_damaged_hides_no_other(bench: Bench) -> None:
    _call(bench, _create(bench, "--name", "web"))
    bench.path("data/vms/bad.json").write_text("{")

    table, start, gone = _call(bench, ("list",), ("start", "bad"), ("delete", "bad"))

    assert table.code == 0
    assert "damaged" in table.out
    assert "web" in table.out
    assert start.code == 2
    assert "krunpy vm delete bad" in start.err
    assert gone.code == 0


def test_a_machine_whose_image_was_pruned_and_whose_source_changed_does_not_start(bench: Bench) -> None:
    _call(bench, _create(bench, "--name", "web"))
    bench.call_many([("prune", ["image", "prune"])])
    (bench.path("root") / "new").write_text("")
    (other,) = _call(bench, ("start", "web", "--tee", "software"))

    assert other.code == 1, other
    assert "is another one now" in other.err
