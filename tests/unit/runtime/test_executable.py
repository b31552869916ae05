import os

import pytest

from krunpy.runtime.executable import ExecutableError, require_executable

ENV = ["PATH=/sbin:/bin", "A=b"]


@pytest.fixture
def rootfs(tmp_path):
    root = tmp_path / "rootfs"
    (root / "usr/bin").mkdir(parents=True)
    (root / "etc").mkdir()
    (root / "usr/bin/sh").write_bytes(b"")
    (root / "usr/bin/sh").chmod(0o755)
    (root / "etc/passwd").write_bytes(b"")
    (root / "bin").symlink_to("/usr/bin")
    (root / "usr/bin/up").symlink_to("../../../../../usr/bin/sh")
    (root / "usr/bin/loop").symlink_to("loop")
    (root / "usr/bin/out").symlink_to(tmp_path / "outside")
    (tmp_path / "outside").write_bytes(b"")
    (tmp_path / "outside").chmod(0o755)
    return str(root)


@pytest.mark.parametrize("program", ["sh", "/bin/sh", "/usr/bin/sh", "up", "./bin/sh", "../bin/sh"])
def test_a_program_is_found_through_links_inside_the_root(rootfs, program):
    require_executable(rootfs, [program], ENV, "/")


@pytest.mark.parametrize("program", ["nosuch", "/nosuch", "loop", "out", "/usr/bin/out"])
def test_a_missing_program_has_the_words_that_engines_know(rootfs, program):
    with pytest.raises(ExecutableError, match="executable file not found in"):
        require_executable(rootfs, [program], ENV, "/")


@pytest.mark.parametrize("program", ["/etc/passwd", "/etc", "./etc/passwd"])
def test_a_file_that_is_no_program_has_the_words_that_engines_know(rootfs, program):
    with pytest.raises(ExecutableError, match="permission denied"):
        require_executable(rootfs, [program], ENV, "/")


def test_the_last_path_variable_counts(rootfs):
    with pytest.raises(ExecutableError):
        require_executable(rootfs, ["sh"], ["PATH=/bin", "PATH=/etc"], "/")


def test_without_a_path_variable_the_usual_one_is_searched(rootfs):
    require_executable(rootfs, ["sh"], [], "/")


def test_a_relative_program_starts_at_the_working_directory(rootfs):
    require_executable(rootfs, ["./sh"], ENV, "/usr/bin")
    assert os.path.exists(rootfs)
