import os
import signal
import subprocess

from krunpy.runtime.process import find_start_time, is_alive, kill_and_wait, send_signal


def test_a_process_is_known_by_pid_and_start_time():
    start_time = find_start_time(os.getpid())

    assert is_alive(os.getpid(), start_time)
    assert not is_alive(os.getpid(), start_time + 1)


def test_a_name_with_parentheses_does_not_confuse():
    with subprocess.Popen(["sleep", "60"], executable="/bin/sleep") as child:
        start_time = find_start_time(child.pid)
        kill_and_wait(child.pid, start_time, timeout_s=5)

        assert find_start_time(child.pid) is None  # a zombie is not alive
        assert child.wait() == -signal.SIGKILL


def test_a_reused_pid_is_never_signalled():
    with subprocess.Popen(["sleep", "60"]) as child:
        start_time = find_start_time(child.pid)

        assert not send_signal(child.pid, start_time - 1, signal.SIGKILL)
        kill_and_wait(child.pid, start_time - 1, timeout_s=1)
        assert child.poll() is None

        assert send_signal(child.pid, start_time, signal.SIGTERM)
        assert child.wait() == -signal.SIGTERM


def test_a_process_that_is_gone_is_no_error():
    with subprocess.Popen(["true"]) as child:
        child.wait()

    assert find_start_time(child.pid) is None
    assert not send_signal(child.pid, 1, signal.SIGTERM)
    kill_and_wait(child.pid, 1, timeout_s=1)
