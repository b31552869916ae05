"""Volumes in the agent, under the sanitizers: what the manifest allows, and directories that no link leads astray."""

from __future__ import annotations

import shutil
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from agent_samples import FULL
from hypothesis import given, settings
from hypothesis import strategies as st

from krunpy.core.errors import FormatError
from krunpy.formats.frames import Mounting, Tag, encode_items, encode_mounting
from krunpy.formats.manifest import MAX_VOLUMES, Overrides, encode_manifest, require_volumes

AGENT = Path(__file__).parents[3] / "images" / "guest" / "agent"
SOURCES = ("volumes.c", "settings.c", "manifest.c", "json.c", "items.c", "fail.c", "names.c")
ALLOWING = replace(FULL, overrides=Overrides(volumes=("/data", "/srv/www")))
DATA = Mounting(tag="vol0", path="/data", is_read_only=False)
PARTS = st.sampled_from(
    ["a", "b", "a-b", "data", "proc", "proc2", "sys", "dev", ".", "..", "", "é", "...", "x" * 4095]
)


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("the guest agent cannot be built: gcc is not installed")
    program = tmp_path_factory.mktemp("volumes") / "driver"
    words = [
        "gcc",
        "-std=gnu11",
        "-D_GNU_SOURCE",
        "-g",
        "-fsanitize=address,undefined",
        f"-I{AGENT}",
        "-o",
        program,
    ]
    words += [Path(__file__).parent / "volumes_driver.c", *(AGENT / name for name in SOURCES)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return program


def _call(driver: Path, *words: str, stdin: bytes = b"") -> tuple[int, list[str]]:
    done = subprocess.run([driver, *words], input=stdin, capture_output=True, check=False, timeout=60)
    assert not done.stderr, done.stderr.decode()
    return done.returncode, done.stdout.decode().splitlines()


def _apply(driver: Path, *items: bytes, allowing: bool = True) -> tuple[int, list[str]]:
    document = encode_manifest(ALLOWING if allowing else FULL)
    run = encode_items([(int(Tag.VOLUME), item) for item in items])
    return _call(driver, "settings", stdin=struct.pack("<I", len(document)) + document + run)


def test_a_volume_that_the_manifest_names_is_taken(driver: Path) -> None:
    code, lines = _apply(driver, encode_mounting(DATA), b"vol1:ro:/srv/www")

    assert (code, lines) == (0, ["vol0 rw /data", "vol1 ro /srv/www"])


@pytest.mark.parametrize("path", ["/data2", "/dat", "/data/x", "/srv"])
def test_a_volume_that_the_manifest_does_not_name_is_a_note(driver: Path, path: str) -> None:
    code, lines = _apply(driver, f"vol0:rw:{path}".encode(), b"vol1:ro:/data")

    assert (code, lines) == (
        0,
        [f"note {path} from the host is not allowed by the manifest", "vol1 ro /data"],
    )


def test_a_manifest_without_volumes_allows_none(driver: Path) -> None:
    code, lines = _apply(driver, encode_mounting(DATA), allowing=False)

    assert (code, lines) == (0, ["note /data from the host is not allowed by the manifest"])


@pytest.mark.parametrize(
    "item",
    [
        b"", b"vol0", b"vol0:rw", b"vol0:rw:", b"vol0:rx:/data", b":rw:/data", b"vol0:rw:data", b"vol0:rw:/data/",
        b"vol0:rw:/data/../etc", b"vol0:rw:/", b"vol0:rw:/proc/x", b"VOL:rw:/data", b"a" * 37 + b":rw:/data",
        b"vol0:rw:/" + b"x" * 5000, b"vol0:rw:/da\0ta",
    ],
)  # fmt: skip
def test_a_malformed_volume_ends_the_machine(driver: Path, item: bytes) -> None:
    code, lines = _apply(driver, item)

    assert code == 1
    assert lines[0].startswith("12 ")


@pytest.mark.parametrize("second", [b"vol1:ro:/data", b"vol0:ro:/srv/www"])
def test_a_path_or_a_tag_that_comes_twice_ends_the_machine(driver: Path, second: bytes) -> None:
    code, lines = _apply(driver, encode_mounting(DATA), second)

    assert (code, lines) == (1, ["12 a host volume is given twice"])


def test_more_volumes_than_a_machine_has_end_it(driver: Path) -> None:
    items = [f"vol{number}:rw:/{number}".encode() for number in range(MAX_VOLUMES + 1)]

    code, lines = _apply(driver, *items)

    assert (code, lines) == (1, [f"12 more than {MAX_VOLUMES} host volumes"])


def _is_fine(paths: tuple[str, ...]) -> bool:
    try:
        return bool(require_volumes(paths))
    except FormatError:
        return False


@settings(max_examples=30)
@given(
    st.lists(
        st.lists(
            st.lists(PARTS, max_size=3).map(lambda parts: "/" + "/".join(parts)),
            max_size=MAX_VOLUMES,
            unique=True,
        ).map(lambda paths: tuple(sorted(paths))),
        min_size=1,
        max_size=200,
    )
)
def test_agent_and_manifest_agree_on_what_is_a_list_of_volumes(
    driver: Path, cases: list[tuple[str, ...]]
) -> None:
    stdin = b"".join(b"".join(path.encode() + b"\0" for path in paths) + b"\0" for paths in cases)

    _, lines = _call(driver, "paths", stdin=stdin)

    assert [line == "fine" for line in lines] == [_is_fine(paths) for paths in cases]


@pytest.mark.parametrize(
    "paths", [("/b", "/a"), ("/a", "/a"), ("/a", "/a-b", "/a/c"), ("/dev",), ("/",), ("a",)]
)
def test_lists_that_no_manifest_has_are_refused_on_both_sides(driver: Path, paths: tuple[str, ...]) -> None:
    stdin = b"".join(path.encode() + b"\0" for path in paths) + b"\0"

    _, lines = _call(driver, "paths", stdin=stdin)

    assert lines != ["fine"]
    assert not _is_fine(paths)


def test_an_empty_list_of_volumes_is_not_the_form_of_a_manifest(driver: Path) -> None:
    document = encode_manifest(FULL).replace(b'"hostname":true}', b'"hostname":true,"volumes":[]}')

    code, lines = _call(driver, "settings", stdin=struct.pack("<I", len(document)) + document)

    assert code == 1
    assert "overrides.volumes is empty" in lines[0]


def test_missing_directories_are_made(driver: Path, tmp_path: Path) -> None:
    (tmp_path / "srv").mkdir()

    code, lines = _call(driver, "target", str(tmp_path), "/srv/www/data")

    assert (code, lines) == (0, [f"{tmp_path}/srv/www/data"])
    assert (tmp_path / "srv/www/data").is_dir()


@pytest.mark.parametrize("link", ["/etc", "..", "real"])
@pytest.mark.parametrize("path", ["/link", "/link/below"])
def test_a_link_in_the_way_is_not_followed(driver: Path, tmp_path: Path, link: str, path: str) -> None:
    root = tmp_path / "root"
    (root / "real").mkdir(parents=True)
    (root / "link").symlink_to(link)

    code, lines = _call(driver, "target", str(root), path)

    assert (code, lines) == (1, ["ENOTDIR"])
    assert not list((root / "real").iterdir())
    assert not (tmp_path / "below").exists()


def test_a_file_in_the_way_is_said(driver: Path, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")

    assert _call(driver, "target", str(tmp_path), "/data") == (1, ["ENOTDIR"])
    assert _call(driver, "target", str(tmp_path), "/data/x") == (1, ["ENOTDIR"])
    assert _call(driver, "target", str(tmp_path), "/" + "x" * 300) == (1, ["ENAMETOOLONG"])
