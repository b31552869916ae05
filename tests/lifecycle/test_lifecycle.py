import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.root, pytest.mark.slow]


@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 0", 0), ("exit 1", 1), ("exit 42", 42), ("exit 127", 127), ("kill -9 $$", 137)],
)
def test_the_exit_status_is_the_workloads(host, script, status):
    host.configure("sh", "-c", script)

    host.run(status=status)
    host.require_clean()


def test_output_and_error_stay_apart(host):
    host.configure("sh", "-c", "echo out; echo err >&2")

    done = host.run()

    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")


def test_a_missing_program_fails_in_create(host):
    host.configure("nosuch")

    done = host.call("create", "--bundle", str(host.bundle), "c1", status=1)

    assert b"executable file not found in $PATH" in done.stderr
    host.require_clean()


def test_a_megabyte_goes_in_and_comes_out(host):
    host.configure("cat")
    data = os.urandom(1 << 20)

    assert host.run(stdin=data).stdout == data


def test_a_workload_that_does_not_read_does_not_block(host):
    host.configure("true")

    host.run(stdin=bytes(1 << 20))


def test_a_slow_reader_gets_everything_and_the_shim_stays_small(host):
    host.configure("dd", "if=/dev/zero", "bs=1M", "count=50")
    argv = host.argv("run", "--bundle", str(host.bundle), "c1")
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        time.sleep(1.5)  # the pipe is full, the machine has to wait
        pid = int(re.search(r"pid=(\d+)", (host.root / "c1/state").read_text())[1])
        peak = int(re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[1])
        count = 0
        while chunk := process.stdout.read1(1 << 16):
            count += len(chunk)

    assert count == 50 << 20
    assert process.returncode == 0
    assert peak < 20 * 1024


def test_a_reader_that_leaves_does_not_hang_the_workload(host):
    host.configure("sh", "-c", "dd if=/dev/zero bs=1M count=20 2>/dev/null; exit 5")
    argv = host.argv("run", "--bundle", str(host.bundle), "c1")
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        process.stdout.read1(10)
        process.stdout.close()

        assert process.wait(30) == 5


def test_the_states_follow_each_other(host):
    host.configure("sleep", "60")
    pid = host.create()
    state = json.loads(host.call("state", "c1").stdout)

    assert (state["status"], state["pid"], state["bundle"]) == ("created", pid, str(host.bundle))
    host.call("delete", "c1", status=1)
    host.call("start", "c1")
    assert host.status() == "running"
    assert b"it is running" in host.call("start", "c1", status=1).stderr
    host.call("delete", "c1", status=1)
    assert b"already exists" in host.call("create", "--bundle", str(host.bundle), "c1", status=1).stderr
    host.call("kill", "c1", "KILL")
    host.wait_for_status("stopped")
    host.call("kill", "c1", "TERM", status=1)
    host.call("delete", "c1")
    host.call("state", "c1", status=1)
    host.require_clean()


def test_create_is_silent_and_the_shim_is_pid_1_of_its_own_namespace(host):
    host.configure("sleep", "60")

    pid = host.create()

    ids = re.search(r"NSpid:\s+(.*)", Path(f"/proc/{pid}/status").read_text())[1].split()
    assert ids == [str(pid), "1"]
    assert os.getsid(pid) == pid
    assert f"krunpy-test-{host.directory.name}" in Path(f"/proc/{pid}/cgroup").read_text()


def test_the_shim_inherits_nothing_but_its_streams(host):
    host.configure("sleep", "60")
    reader, writer = os.pipe()

    pid = host.create(pass_fds=[writer])

    os.close(writer)
    assert os.read(reader, 1) == b""  # nobody else holds the other end
    os.close(reader)
    names = {
        os.readlink(f"/proc/{pid}/fd/{name}").partition(":")[0] for name in os.listdir(f"/proc/{pid}/fd")
    }
    assert names <= {"/dev/null", "pipe", "socket", str(host.root / "c1/start.fifo")}


@pytest.mark.parametrize(("name", "number"), [("TERM", 15), ("USR1", 10), ("34", 34), ("WINCH", 28)])
def test_the_workload_sees_signals(host, name, number):
    script = f"trap 'echo got; exit 7' {number}; echo ready; while :; do sleep 0.05; done"
    host.configure("sh", "-c", script)
    argv = host.argv("run", "--bundle", str(host.bundle), "c1")
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        host.call("kill", "c1", name)

        assert process.stdout.read() == b"got\n"
        assert process.wait(20) == 7


def test_signals_of_the_attached_run_reach_the_workload(host):
    host.configure("sh", "-c", "trap 'exit 9' INT; echo ready; while :; do sleep 0.05; done")
    with subprocess.Popen(host.argv("run", "-b", str(host.bundle), "c1"), stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)

        assert process.wait(20) == 9
    host.require_clean()


def test_term_before_start_ends_the_container_and_tells_the_launcher(host):
    host.configure("sleep", "60")
    host.create()
    host.wait_for((host.root / "c1/launcher.log").exists)

    host.call("kill", "c1", "15")

    host.wait_for_status("stopped")
    assert (host.state / "stopped").exists()


def test_a_signal_right_after_create_is_not_lost(host):
    for _ in range(5):
        host.configure("sleep", "60")
        host.create()
        host.call("kill", "c1", "15")
        host.wait_for_status("stopped")
        host.call("delete", "--force", "c1")


@pytest.mark.parametrize(
    ("fault", "status", "words"),
    [
        ("dies", 125, "kernel panic: not?[2J syncing"),
        ("early_death", 125, "ended without an exit status"),
        ("garbage", 125, "cannot read a frame"),
        ("host_frame", 125, "unknown type 0x86"),
        ("huge", 125, "length 2147483648"),
        ("stream", 125, "stream 7"),
        ("ack", 125, "only 0 were sent"),
        ("started_twice", 125, "STARTED came twice"),
        ("fail", 125, "disk integrity: block 7 is corrupt"),
        ("unknown_fail", 125, "reason 999"),
        ("launcher_fails", 99, "cannot attest"),
        ("launcher_crashes", 125, "RuntimeError: boom"),
        ("launcher_lies", 125, 'message "nonsense"'),
    ],
)
def test_what_goes_wrong_is_one_error_and_a_status(host, fault, status, words):
    host.configure("true", fault=fault)
    host.create()
    host.call("start", "c1")
    host.wait_for_status("stopped")
    failure = json.loads((host.root / "c1/failure.json").read_text())
    host.call("delete", "c1")

    done = host.run(status=status)

    assert words in done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert done.stderr.count(b"krunpy: ") == 1
    assert done.stdout == b""
    assert failure["status"] == status
    assert words in f"{failure['what']}: {failure['why']}"
    host.require_clean()


def test_a_failure_before_start_is_told_after_start(host):
    host.configure("true", fault="launcher_fails")
    host.create()
    host.wait_for((host.root / "c1/launcher.log").exists)
    time.sleep(0.3)

    assert host.status() == "created"
    host.call("start", "c1")

    host.wait_for_status("stopped")
    assert json.loads((host.root / "c1/failure.json").read_text())["status"] == 99


def test_nothing_behind_the_exit_frame_is_printed(host):
    host.configure("true", fault="after_exit")

    assert host.run(status=7).stdout == b""


def test_notes_are_lines_on_stderr_that_cannot_move_the_cursor(host):
    host.configure("true", fault="note")

    assert host.run().stderr == b"krunpy: not?safe\nkrunpy: hostname refused\n"


def _size(path):
    try:
        return path.stat().st_size
    except FileNotFoundError:  # being turned over
        return 0


@pytest.mark.parametrize("fault", ["notes", "console"])
def test_a_guest_that_never_stops_talking_costs_no_memory_and_little_disk(host, fault):
    host.configure("true", fault=fault)
    argv = host.argv("run", "--bundle", str(host.bundle), "c1")
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        time.sleep(2)
        pid = int(re.search(r"pid=(\d+)", (host.root / "c1/state").read_text())[1])
        peak = int(re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[1])
        size = sum(_size(host.root / "c1" / name) for name in ("console.log", "console.log.1"))
        host.call("kill", "c1", "9")
        process.stdout.read()
        process.stderr.read()

        assert process.wait(20) == 137
    assert peak < 20 * 1024
    assert size <= 64 * 1024
    host.require_clean()


def test_hooks_run_where_and_when_the_specification_says(host, tmp_path):
    log = tmp_path / "hooks"
    stages = ("prestart", "createRuntime", "poststart", "poststop")
    script = f"read state; echo $1 $state >> {log}"
    hooks = {stage: [{"path": "/bin/sh", "args": ["sh", "-c", script, "hook", stage]}] for stage in stages}
    host.configure("sleep", "60", hooks=hooks)

    pid = host.create()
    host.call("start", "c1")
    host.call("kill", "c1", "9")
    host.wait_for_status("stopped")
    host.call("delete", "c1")

    lines = [line.split(" ", 1) for line in log.read_text().splitlines()]
    states = {stage: json.loads(text) for stage, text in lines}
    assert [stage for stage, _ in lines] == list(stages)
    assert [states[stage]["status"] for stage in stages] == ["created", "created", "running", "stopped"]
    assert states["prestart"]["pid"] == pid
    assert "pid" not in states["poststop"]


def test_a_failing_hook_of_create_leaves_nothing(host):
    host.configure(
        "true", hooks={"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", "echo no; exit 3"]}]}
    )

    done = host.call("create", "--bundle", str(host.bundle), "c1", status=1)

    assert b"createRuntime hook /bin/sh failed: exit code 3: no" in done.stderr
    host.require_clean()


def test_a_failing_hook_of_start_or_delete_is_a_warning(host):
    bad = [{"path": "/bin/false"}]
    host.configure("sleep", "60", hooks={"poststart": bad, "poststop": bad})
    host.create()

    assert b"warning: poststart hook /bin/false failed" in host.call("start", "c1").stderr
    assert b"warning: poststop hook /bin/false failed" in host.call("delete", "--force", "c1").stderr
    host.require_clean()


def test_a_pids_limit_is_set_around_the_machine(host):
    host.configure(
        "sleep",
        "60",
        linux={"cgroupsPath": f"/krunpy-test-{host.directory.name}/c", "resources": {"pids": {"limit": 77}}},
    )
    host.create()

    limits = [
        path.read_text()
        for path in Path("/sys/fs/cgroup").glob(f"**/krunpy-test-{host.directory.name}/c/pids.max")
    ]
    assert limits == ["77\n"]


def test_no_cgroup_is_touched_when_they_are_disabled(host):
    host.configure("sleep", "60")
    words = ["--cgroup-manager", "disabled", "create", "--bundle", str(host.bundle), "c1"]
    subprocess.run(host.argv(*words), stdin=-3, stdout=-3, stderr=-3, check=True)

    assert not list(Path("/sys/fs/cgroup").glob(f"**/krunpy-test-{host.directory.name}"))
    host.call("delete", "--force", "c1")
    host.require_clean()


def test_two_containers_at_once_and_again_after_a_restart(host):
    host.configure("sleep", "60")
    for _ in range(2):
        for name in ("a", "b"):
            host.create(name)
            host.call("start", name)
        listed = json.loads(host.call("list", "--format", "json").stdout)
        assert [(each["id"], each["status"]) for each in listed] == [("a", "running"), ("b", "running")]
        assert host.call("list", "-q").stdout == b"a\nb\n"
        host.call("kill", "a", "9")
        host.wait_for_status("stopped", "a")
        assert host.status("b") == "running"
        for name in ("a", "b"):
            host.call("delete", "--force", name)
    host.require_clean()


def test_fifty_cycles_leave_nothing(host):
    host.configure("sleep", "60")
    for _ in range(50):
        host.create()
        host.call("start", "c1")
        host.call("kill", "c1", "9")
        host.call("delete", "--force", "c1")
    host.require_clean()
    assert "krunpy-test" not in Path("/proc/net/unix").read_text()


@pytest.mark.parametrize("part", range(20))
def test_a_shim_killed_at_any_moment_is_cleaned_up(host, part):
    host.configure("sleep", "60")
    pid = host.create()
    if part % 2:
        host.call("start", "c1")
    time.sleep(part * 0.015)

    os.kill(pid, signal.SIGKILL)
    host.call("delete", "--force", "c1")

    host.require_clean()


@pytest.mark.parametrize("delay_ms", range(0, 100, 10))
def test_a_create_killed_at_any_moment_is_cleaned_up(host, delay_ms):
    host.configure("sleep", "60")
    words = ["create", "--bundle", str(host.bundle), "c1"]
    null = subprocess.DEVNULL
    with subprocess.Popen(host.argv(*words), stdin=null, stdout=null, stderr=null) as process:
        time.sleep(delay_ms / 1000)
        process.kill()

    host.call("delete", "--force", "c1")

    host.require_clean()


def test_without_a_namespace_of_its_own_the_cgroup_ends_what_the_shim_left(host):
    host.configure("sleep", "60")
    words = ["setpriv", "--bounding-set=-sys_admin", *host.argv("create", "--bundle", str(host.bundle), "c1")]
    subprocess.run(words, stdin=-3, stdout=-3, stderr=-3, check=True)
    assert "contained=no" in (host.root / "c1/state").read_text()
    host.call("start", "c1")
    time.sleep(0.5)

    pid = int(re.search(r"pid=(\d+)", (host.root / "c1/state").read_text())[1])
    os.kill(pid, signal.SIGKILL)
    host.call("delete", "--force", "c1")

    host.require_clean()
