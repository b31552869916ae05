import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krunpy.core.errors import FormatError
from krunpy.formats.cpio import build_cpio, make_directory, make_file, parse_cpio

names = st.text("abcdefghij-_.0123", min_size=1, max_size=40)


@given(st.lists(st.tuples(names, st.binary(max_size=200)), max_size=6, unique_by=lambda item: item[0]))
def test_an_archive_reads_back_as_it_was_built(files):
    members = [make_file(name, contents) for name, contents in files]

    assert parse_cpio(build_cpio(members)) == members


@given(st.binary(max_size=400))
def test_any_bytes_give_members_or_a_format_error(data):
    try:
        parse_cpio(data)
    except FormatError:
        pass


@given(st.binary(max_size=300))
def test_a_damaged_archive_gives_members_or_a_format_error(noise):
    archive = bytearray(build_cpio([make_file("a", b"hello")]))
    archive[: len(noise)] = noise

    try:
        parse_cpio(bytes(archive))
    except FormatError:
        pass


def test_two_archives_in_a_row_are_one_tree():
    both = build_cpio([make_directory("d")]) + build_cpio([make_file("d/f", b"x")])

    assert [member.path for member in parse_cpio(both)] == ["d", "d/f"]


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio(1) is not installed")
def test_the_cpio_program_unpacks_the_archive(tmp_path):
    archive = build_cpio([make_directory("d"), make_file("d/f", b"x" * 5000, permissions=0o755)])

    subprocess.run(["cpio", "-id", "--quiet"], input=archive, cwd=tmp_path, check=True)

    assert (tmp_path / "d/f").read_bytes() == b"x" * 5000
    assert (tmp_path / "d/f").stat().st_mode & 0o777 == 0o755
