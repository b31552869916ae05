"""Issue 2 item 8: two hundred malformed bundles, images and tars, through the command line a user types."""

import os

import pytest

from tests.fakes import hostile
from tests.fakes.commands import LIMIT_S, Bench

MOST_MIB = 400


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("hostile") / "bench")


def convert_all(bench, cases):
    return bench.call_many([(name, ["image", "convert", spec]) for name, spec in cases])


def is_one_error(result):
    lines = result.err.splitlines()
    return (
        result.code == 2
        and result.out == ""
        and len(lines) in (2, 3)
        and lines[0].startswith("krunpy: cannot ")
        and lines[1].startswith("  why:  ")
        and all(line.isprintable() and len(line) < 2100 for line in lines)
    )


def test_every_malformed_source_is_one_clear_error_and_leaves_nothing(bench, tmp_path):
    cases = hostile.list_all(tmp_path)
    assert len(cases) >= 200
    assert len(dict(cases)) == len(cases)

    results = convert_all(bench, cases)

    wrong = {name: result for name, result in results.items() if not is_one_error(result)}
    assert wrong == {}
    assert max(result.seconds for result in results.values()) < LIMIT_S / 4
    assert max(result.peak_mib for result in results.values()) < MOST_MIB
    assert len({result.err for result in results.values()}) > len(results) * 3 / 4, "told in the same words"
    assert bench.images() == []
    assert bench.drafts() == []


def test_a_bomb_is_refused_before_it_has_taken_much_of_anything(bench, tmp_path):
    for name, spec in hostile.list_bombs(tmp_path):
        result = convert_all(bench, [(name, spec)])[name]

        assert is_one_error(result), result
        assert result.seconds < LIMIT_S, name
        assert result.peak_mib < MOST_MIB, name
    assert bench.images() == []
    assert bench.drafts() == []


def test_what_is_odd_but_allowed_stays_inside_the_image(tmp_path):
    bench = Bench(tmp_path / "bench")

    results = convert_all(bench, list(hostile.list_layer_cases(tmp_path, hostile.CONFINED)))

    assert {name: result.err for name, result in results.items()} == dict.fromkeys(results, "")
    assert not os.path.lexists("/etc/krunpy-hostile")
    assert not os.path.lexists("/a")
    assert sorted(os.listdir(bench.directory)) == ["cache", "data", "results.json", "run", "tmp"]


def test_run_says_the_same_as_convert(bench, tmp_path):
    chosen = [case for number, case in enumerate(hostile.list_all(tmp_path)) if number % 40 == 0]

    for name, spec in chosen:
        done = bench.call("run", spec, "--", "sh")

        lines = done.err.splitlines()
        assert done.code in (2, 125), (name, done)
        assert lines[0].startswith("krunpy: cannot "), (name, done)
        assert len(lines) in (2, 3), (name, done)
        assert bench.drafts() == [], name
