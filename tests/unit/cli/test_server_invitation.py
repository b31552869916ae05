"""`krunpy server invitation`: what is printed, what is kept, what is refused."""

from __future__ import annotations

import json
import sqlite3
from typing import TYPE_CHECKING

import pytest

from tests.fakes.commands import Bench
from tests.fakes.libkrun_guest import PASSPHRASE, LibkrunGuest, make_kbs_server

if TYPE_CHECKING:
    from pathlib import Path

URL = "http://192.168.122.1:8470"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "bench")


def _call(bench: Bench, store: str, *lines: tuple[str, ...]) -> list:
    cases = [
        (str(number), ["server", "invitation", *words, "--data-dir", store])
        for number, words in enumerate(lines)
    ]
    return list(bench.call_many(cases).values())


def test_an_invitation_registers_a_workload_and_is_listed(bench: Bench, tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    kbs = make_kbs_server(store)
    policy = tmp_path / "policy.json"
    policy.write_text('{"require_crl": false}')
    (made, free) = _call(
        bench, store, ("create", URL, "--workload", "web", "--policy", str(policy)), ("create", URL + "/")
    )
    assert made.code == 0, made
    url = made.out.strip()
    assert url.startswith(f"{URL}/r/")
    assert (made.err, free.code) == ("", 0)
    longest = 99 - len(f"{free.out.strip()}/kbs/v0/key/")
    assert f"at most {longest} characters" in free.err

    prefix = url.removeprefix(URL)
    assert kbs.register(prefix, workload_id="db").status == 409
    assert kbs.register(prefix).status == 200
    assert LibkrunGuest(kbs, prefix).run() == PASSPHRASE

    (listed, table) = _call(bench, store, ("ls", "--json"), ("ls",))
    found = json.loads(listed.out)["data"]
    assert sorted((item["workload"], item["used_at"] > 0) for item in found) == [("", False), ("web", True)]
    assert "any" in table.out
    assert url.rpartition("/")[2] not in listed.out + table.out
    name = next(item["id"] for item in found if not item["used_at"])
    (removed, again) = _call(bench, store, ("rm", name), ("rm", name))
    assert (removed.code, again.code) == (0, 1)
    assert kbs.fake.admin("GET", "/v1/workloads/web").json["policy"] == {
        "allow_smt": True,
        "require_crl": False,
    }
    kbs.fake.broker.database.close()


def test_what_no_guest_could_use_is_refused(bench: Bench, tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    make_kbs_server(store).fake.broker.database.close()
    bad = tmp_path / "policy.json"
    bad.write_text('{"of_tomorrow": 1}')
    worse = tmp_path / "worse.json"
    worse.write_text("{")

    done = _call(
        bench,
        store,
        ("create", "192.168.122.1:8470"),
        ("create", URL + "/path"),
        ("create", "http://" + "a" * 70),
        ("create", URL, "--workload", "w" * 60),
        ("create", URL, "--workload", "../x"),
        ("create", URL, "--policy", str(bad)),
        ("create", URL, "--policy", str(worse)),
    )

    assert [case.code for case in done] == [2] * 7, done
    assert [case.out for case in done] == [""] * 7
    with sqlite3.connect(tmp_path / "store" / "store.sqlite3") as connection:
        assert connection.execute("SELECT count(*) FROM invitations").fetchone() == (0,)


def test_without_a_store_there_is_nobody_to_invite_to(bench: Bench, tmp_path: Path) -> None:
    (done,) = _call(bench, str(tmp_path / "none"), ("create", URL))

    assert done.code == 4
    assert "start the server once" in done.err
