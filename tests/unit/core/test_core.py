import os
import threading
import time

import pytest

from krunpy.core.errors import FormatError, HostError, ToolError, UsageError
from krunpy.core.files import load_bounded, lock, write_atomically
from krunpy.core.octets import Digest32, LaunchDigest, Secret
from krunpy.core.proc import run
from krunpy.core.settings import load_settings


def test_octets_of_another_length_are_refused():
    for value in (b"", bytes(31), bytes(33)):
        with pytest.raises(ValueError, match="32 bytes"):
            Digest32(value)
    with pytest.raises(ValueError, match="lower case"):
        LaunchDigest.from_hex("AA" * 48)


def test_a_secret_never_prints():
    secret = Secret(b"hunter2hunter2")

    assert "hunter2" not in f"{secret} {secret!r}"
    assert secret == Secret(b"hunter2hunter2")
    assert secret != Secret(b"other")


def test_a_program_gets_a_clean_environment_and_its_input():
    os.environ["KRUNPY_LEAK"] = "1"
    try:
        output = run(["sh", "-c", "env; cat"], timeout_s=10, stdin=b"x" * 200_000)
    finally:
        del os.environ["KRUNPY_LEAK"]

    assert b"KRUNPY_LEAK" not in output.stdout
    assert output.stdout.endswith(b"x" * 200_000)


def test_a_failing_program_is_quoted():
    with pytest.raises(ToolError, match="exit code 3: no such luck"):
        run(["sh", "-c", "echo no such luck >&2; exit 3"], timeout_s=10)


def test_a_program_that_hangs_is_killed_with_its_children():
    before = time.monotonic()
    with pytest.raises(ToolError, match=r"longer than 0\.3 s"):
        run(["sh", "-c", "sleep 30 & sleep 30"], timeout_s=0.3)
    assert time.monotonic() - before < 10


def test_a_program_that_floods_is_stopped():
    with pytest.raises(ToolError, match="printed more than"):
        run(["sh", "-c", "yes"], timeout_s=30)


def test_a_missing_program_is_named():
    with pytest.raises(HostError, match="krunpy-no-such"):
        run(["krunpy-no-such"], timeout_s=1)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "f"
    write_atomically(str(path), b"one")
    write_atomically(str(path), b"two")

    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["f"]
    with pytest.raises(HostError):
        write_atomically(str(tmp_path / "no/f"), b"x")


def test_processes_of_one_number_in_two_namespaces_do_not_meet_in_a_temporary_file(tmp_path):
    path = tmp_path / "f"
    (tmp_path / f"f.{os.getpid()}.new").write_bytes(b"of another launcher, or of one that was killed")

    write_atomically(str(path), b"ours")

    assert path.read_bytes() == b"ours"


def test_a_long_file_is_refused_without_reading_it_all(tmp_path):
    path = tmp_path / "big"
    with open(path, "wb") as stream:
        stream.truncate(1 << 40)

    with pytest.raises(FormatError, match="longer than 100"):
        load_bounded(str(path), 100)


def test_a_lock_keeps_the_second_out(tmp_path):
    order = []
    path = str(tmp_path / "lock")

    def second():
        with lock(path):
            order.append("second")

    with lock(path):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.05)
        order.append("first")
    thread.join()

    assert order == ["first", "second"]


def test_settings_come_from_the_file_and_then_from_variables(tmp_path):
    config = tmp_path / "k.toml"
    config.write_text('memory_mib = 300\naccel = "tcg"\n')

    settings = load_settings({"KRUNPY_MEMORY_MIB": "400"}, config_file=str(config))

    assert (settings.memory_mib, settings.accel) == (400, "tcg")
    assert settings.guest_dir == f"{settings.data_dir}/guest"


@pytest.mark.parametrize("text", ["memory = 1", 'memory_mib = "x"', "memory_mib = true", "not toml"])
def test_wrong_settings_are_named(tmp_path, text):
    config = tmp_path / "k.toml"
    config.write_text(text)

    with pytest.raises(UsageError):
        load_settings({}, config_file=str(config))
