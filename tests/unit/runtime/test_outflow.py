import os

import pytest

from krunpy.runtime.outflow import Outlet, SmallLog


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue


def test_a_full_pipe_never_blocks(pipe):
    reader, writer = pipe
    outlet = Outlet(writer)
    outlet.write(b"x" * 1_000_000)
    for _ in range(100):
        outlet.flush()

    assert 0 < outlet.pending() < 1_000_000
    assert not os.get_inheritable(outlet.descriptor)
    assert len(os.read(reader, 1_000_000)) + outlet.pending() == 1_000_000
    os.close(outlet.descriptor)


def test_the_shared_descriptor_keeps_blocking(pipe):
    _, writer = pipe

    outlet = Outlet(writer)

    assert os.get_blocking(writer)
    os.close(outlet.descriptor)


def test_a_reader_that_left_swallows_everything(pipe):
    reader, writer = pipe
    outlet = Outlet(writer)
    os.close(reader)
    outlet.write(b"lost")
    outlet.flush()
    outlet.write(b"lost too")

    assert outlet.is_broken
    assert outlet.pending() == 0
    os.close(outlet.descriptor)


def test_a_log_never_grows_beyond_two_halves(tmp_path):
    log = SmallLog(str(tmp_path / "log"))
    for number in range(5000):
        log.write(b"%d " % number + b"x" * 100 + b"\n")

    sizes = [(tmp_path / name).stat().st_size for name in ("log", "log.1")]
    assert sum(sizes) <= 64 * 1024
    assert b"4999" in (tmp_path / "log").read_bytes()


def test_one_giant_line_is_cut(tmp_path):
    log = SmallLog(str(tmp_path / "log"))
    log.write(b"x" * 10_000_000)

    assert (tmp_path / "log").stat().st_size <= 32 * 1024


def test_the_last_lines_are_safe_to_print(tmp_path):
    log = SmallLog(str(tmp_path / "log"))
    log.write(b"one\n\n\x1b[31mtwo\xff\nthree\n")

    assert log.last_lines(2) == "?[31mtwo\ufffd | three"
