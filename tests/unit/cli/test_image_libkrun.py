"""`krunpy image convert --format libkrun-sev`, as it is typed: what it writes, prints, refuses and cleans up."""

from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from krunpy.cli.app import app
from krunpy.core.errors import KrunpyError
from krunpy.core.octets import Secret
from krunpy.image.legacy import open_legacy

if TYPE_CHECKING:
    from pathlib import Path


class Bench:
    """A source, a passphrase and an empty directory to write to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.out = path / "out"
        (path / "root/bin").mkdir(parents=True)
        (path / "root/bin/sh").write_bytes(b"#!" * 5000)
        (path / "key").write_text("a passphrase\n")
        self.out.mkdir()

    def call(self, *words: str, source: str = "", key: bool = True) -> str:
        """Return what a conversion prints. Raises what it raises."""
        command = ["image", "convert", "--format", "libkrun-sev", source or f"dir:{self.path}/root", *words]
        command += ["--passphrase-file", f"{self.path}/key"] if key else []
        done = CliRunner().invoke(app, command)
        if done.exception is not None:
            raise done.exception
        return done.stdout

    def refuse(self, *words: str, source: str = "", key: bool = True) -> str:
        """Return why a conversion is refused; it leaves nothing new behind."""
        before = sorted(os.listdir(self.out))
        with pytest.raises(KrunpyError) as caught:
            self.call(*words, source=source, key=key)
        assert sorted(os.listdir(self.out)) == before
        return caught.value.why


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setenv("KRUNPY_CACHE_DIR", f"{tmp_path}/cache")
    monkeypatch.setenv("KRUNPY_DATA_DIR", f"{tmp_path}/data")
    return Bench(tmp_path)


def test_it_writes_what_was_asked_for_and_says_what(bench: Bench) -> None:
    words = [
        "--disk-only",
        "--cpus",
        "3",
        "--memory",
        "700",
        "--gen",
        "turin",
        "--attestation-url",
        "http://h:1",
    ]
    facts = json.loads(bench.call(f"{bench.out}/i", *words, "--json"))["data"]
    document = json.loads((bench.out / "i/krun-sev.json").read_text())

    assert sorted(os.listdir(bench.out / "i")) == ["disk.img", "krun-sev.json"]
    assert facts["workload_id"] == document["workload_id"]
    assert facts["disk_size"] == (bench.out / "i/disk.img").stat().st_size
    assert (document["cpus"], document["ram_mib"]) == (3, 700)
    assert (document["tee"], document["tee_data"]) == ("snp", '{"gen":"turin"}')
    assert document["attestation_url"] == "http://h:1"


def test_a_passphrase_made_at_random_opens_it_and_only_its_owner_reads_it(bench: Bench) -> None:
    made = bench.path / "made"

    printed = bench.call(f"{bench.out}/i.tar", "--passphrase-out", str(made), key=False)

    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    assert len(bytes.fromhex(made.read_text())) == 32
    assert made.read_text() not in printed
    with open_legacy(f"{bench.out}/i.tar", spool_directory=str(bench.path)) as image:
        image.open(Secret(made.read_bytes()))


def test_a_passphrase_made_at_random_goes_if_its_image_fails(bench: Bench) -> None:
    bench.refuse(f"{bench.out}/none/i", "--passphrase-out", f"{bench.out}/made", key=False)


def test_a_file_in_the_way_of_the_passphrase_stays(bench: Bench) -> None:
    assert "exists" in bench.refuse(f"{bench.out}/i", "--passphrase-out", f"{bench.path}/key", key=False)

    assert (bench.path / "key").read_text() == "a passphrase\n"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((), "nothing says where to"),
        (("OUT", "--integrity-only"), "have no integrity protection"),
        (("OUT", "--passphrase-out", "x"), "both files are named"),
        (("OUT.tar", "--disk-only"), "ends in .tar"),
        (("OUT", "--slop", "much"), "wanted a size"),
        (("OUT", "--attestation-url", "http://" + "h" * 60), "guests of libkrun up to 1.19 hold 99"),
        (("OUT", "--workload-id", "a b"), "letters, digits"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    bench: Bench, words: tuple[str, ...], why: str
) -> None:
    assert why in bench.refuse(*(word.replace("OUT", f"{bench.out}/i") for word in words))


def test_no_passphrase_is_refused(bench: Bench) -> None:
    assert "no file is named" in bench.refuse(f"{bench.out}/i", key=False)


def test_an_image_in_the_cache_is_no_source(bench: Bench) -> None:
    assert "is not unpacked" in bench.refuse(f"{bench.out}/i", source="image:0123")


def test_an_image_of_an_image_is_refused(bench: Bench) -> None:
    bench.call(f"{bench.out}/i")

    why = bench.refuse(f"{bench.out}/j", source=f"oci:{bench.out}/i")

    assert "confidential image of libkrun" in why


@pytest.mark.parametrize(
    "words",
    [
        ("OUTPUT",), ("--passphrase-file", "x"), ("--passphrase-out", "x"), ("--cpus", "2"), ("--memory", "512"),
        ("--workload-id", "x"), ("--attestation-url", "http://h"), ("--slop", "25%"), ("--gen", "milan"),
        ("--disk-only",),
    ],
)  # fmt: skip
def test_words_of_libkrun_are_refused_for_an_image_in_the_cache(bench: Bench, words: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, ["image", "convert", f"dir:{bench.path}/root", *words])

    assert isinstance(done.exception, KrunpyError)
    assert words[0] in done.exception.args[0]
    assert not os.path.exists(bench.path / "cache")
