"""podman run, as a user types it, with machines that boot and attest."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
from pathlib import Path

import pytest

pytestmark = [pytest.mark.vm, pytest.mark.root, pytest.mark.slow]
IMAGE = "localhost/e2e-busybox:1"


@pytest.fixture(autouse=True)
def no_container_stays(podman):
    yield
    podman("rm", "-af", "-t", "0")


def shell(podman, script, *options, **more):
    return podman("run", "--rm", *options, IMAGE, "sh", "-c", script, **more)


def test_one_run_has_the_settings_of_the_command_line_and_two_separate_streams(podman):
    script = (
        "echo greeting $GREETING; echo place $(pwd); echo user $(id -u):$(id -g); echo kernel $(uname -r)"
        "; echo host $(hostname); echo complaint >&2; exit 42"
    )
    options = (
        "-e",
        "GREETING=hello you",
        "-w",
        "/srv",
        "-u",
        "1000:1000",
        "--name",
        "e2e-first",
        "-h",
        "box",
    )

    done = shell(podman, script, *options)

    assert done.code == 42, done
    lines = dict(line.split(" ", 1) for line in done.out.splitlines())
    assert lines.pop("kernel") != platform.release()
    assert lines == {"greeting": "hello you", "place": "/srv", "user": "1000:1000", "host": "box"}
    assert done.err == "complaint\n"


def test_a_container_without_options_has_the_default_network_and_the_workload_decides_on_0_and_1(podman):
    assert shell(podman, "exit 0").code == 0
    done = shell(podman, "sh -c 'kill -9 $$'; echo $?; exit 1")
    assert (done.code, done.out) == (1, "137\n"), done


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("/bin/missing", 127, "no such file or directory"),
        ("missing", 127, "executable file not found"),
        ("/etc/not-a-program", 126, "permission denied"),
    ],
)
def test_a_command_that_cannot_be_run_has_the_exit_code_of_a_shell(podman, command, code, words):
    done = podman("run", "--rm", IMAGE, command)

    assert done.code == code, done
    assert words in done.err
    assert done.out == ""


def test_the_guest_itself_says_127_and_126_where_the_host_cannot_look(lab, rootfs):
    missing = lab.krunpy("run", rootfs, "--", "/bin/missing")
    denied = lab.krunpy("run", rootfs, "--", "/etc/not-a-program")

    assert (missing.code, denied.code) == (127, 126), (missing, denied)
    assert "missing" in missing.err
    assert "not-a-program" in denied.err


def test_a_mebibyte_goes_in_and_comes_out_unchanged(podman):
    data = os.urandom(1 << 20)

    done = podman("run", "--rm", "-i", "--network", "none", IMAGE, "cat", stdin=data)

    assert done.code == 0, done
    assert hashlib.sha256(done.stdout).hexdigest() == hashlib.sha256(data).hexdigest()


def test_the_limits_and_file_systems_of_the_command_line_hold_in_the_guest(podman):
    script = (
        "touch /file && echo writable root; touch /scratch/file && echo writable scratch"
        "; dd if=/dev/zero of=/scratch/big bs=64k count=32 2>&1 | grep -c 'No space'"
        "; grep MemTotal /proc/meminfo; cat /proc/net/dev | wc -l"
    )

    done = shell(
        podman, script, "--read-only", "--tmpfs", "/scratch:size=1m", "--memory", "384m", "--network", "none"
    )

    assert done.code == 0, done
    assert "writable root" not in done.out
    assert "Read-only file system" in done.err
    scratch, full, memory, devices = done.out.splitlines()
    assert (scratch, full) == ("writable scratch", "1")
    assert 250_000 < int(memory.split()[1]) <= 384 * 1024
    assert int(devices) == 3, "more than the loopback device"


def test_a_detached_container_lives_as_podman_expects(podman):
    script = "trap 'echo caught; exit 7' TERM; echo up; while :; do sleep 0.1; done"
    run = podman("run", "-d", "--name", "e2e-long", IMAGE, "sh", "-c", script)
    assert run.code == 0, run

    podman.wait_for_log("e2e-long", "up")
    assert "e2e-long" in podman("ps", "--format", "{{.Names}} {{.Status}}").out
    refused = podman("exec", "e2e-long", "true")
    assert refused.code in (125, 126, 255), refused
    assert "exec" in refused.err
    assert podman("stop", "-t", "30", "e2e-long").code == 0
    assert podman("wait", "e2e-long").out == "7\n"
    assert podman("logs", "e2e-long").out == "up\ncaught\n"
    state = json.loads(podman("inspect", "e2e-long").out)[0]["State"]
    assert (state["Status"], state["ExitCode"], state["OOMKilled"]) == ("exited", 7, False)

    assert podman("start", "e2e-long").code == 0
    podman.wait_for_log("e2e-long", "up\ncaught\nup\n")
    assert podman("restart", "-t", "30", "e2e-long").code == 0
    assert podman("kill", "e2e-long").code == 0
    assert podman("wait", "e2e-long").out == "137\n"
    assert podman("start", "e2e-long").code == 0
    assert podman("rm", "-f", "-t", "0", "e2e-long").code == 0
    assert "e2e-long" not in podman("ps", "-a").out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("-v", "/srv:/data"), ("/data", "files of the host are not shared")),
        (("-v", "e2evolume:/data"), ("/data", "volumes are not supported yet")),
        (("-p", "127.0.0.1:18471:80"), ("18471", "run without -p")),
        (("-t",), ("terminal", "run without -t")),
    ],
)
def test_what_is_not_supported_yet_is_refused_by_name_with_the_reason(podman, options, words):
    done = shell(podman, "echo ran", *options)

    assert done.code == 126, done
    for word in words:
        assert word in done.err
    assert "ran" not in done.out


def read_status(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def test_no_machine_is_root_or_the_same_user_as_another(podman):
    script = "echo up; sleep 1000"
    for number in ("1", "2"):
        assert podman("run", "-d", "--name", f"e2e-user{number}", IMAGE, "sh", "-c", script).code == 0
    for number in ("1", "2"):
        podman.wait_for_log(f"e2e-user{number}", "up")

    shims = [
        podman("inspect", "--format", "{{.State.Pid}}", f"e2e-user{number}").out.strip() for number in "12"
    ]
    children = [Path(f"/proc/{pid}/task/{pid}/children").read_text().split() for pid in shims]
    machines = [read_status(pid) for pids in children for pid in pids]
    assert ["qemu" in each["Name"] for each in machines] == [True, True]
    assert len({each["Uid"] for each in machines}) == 2
    for each in machines:
        assert "0" not in (*each["Uid"].split(), *each["Gid"].split(), *each["Groups"].split())
        assert int(each["CapEff"], 16) == int(each["CapPrm"], 16) == 0
    assert podman("rm", "-f", "-t", "0", "e2e-user1", "e2e-user2").code == 0


def test_the_size_of_shm_and_a_closed_manifest_hold_in_the_guest(podman):
    options = ("--shm-size", "3m", "--hostname", "chosen", "--annotation", "io.krunpy.no_host_settings=true")

    done = shell(podman, "grep /dev/shm /proc/mounts; hostname; cat /etc/hosts", *options)

    assert "size=3072k" in done.out, done
    assert "chosen" not in done.out
    assert "chosen" not in done.err


def test_an_annotation_that_an_image_could_have_set_does_not_leave_the_disk_in_the_clear(podman):
    done = shell(podman, "true", "--annotation", "io.krunpy.integrity_only=true")

    assert done.code == 126, done
    assert "whoever made the image could have set it" in done.err


def test_two_containers_run_at_once_and_krunpy_says_what_holds_where(podman, lab):
    for number in ("1", "2"):
        done = podman(
            "run", "-d", "--name", f"e2e-pair{number}", IMAGE, "sh", "-c", f"echo up {number}; sleep 1000"
        )
        assert done.code == 0, done
    for number in ("1", "2"):
        podman.wait_for_log(f"e2e-pair{number}", f"up {number}")

    container = podman("inspect", "--format", "{{.Id}}", "e2e-pair1").out.strip()
    listed, inspected = lab.krunpy("list"), lab.krunpy("inspect", container)
    assert container in listed.out
    for words in (
        r"in the guest +mounts /etc/hosts ",
        r"on the host +linux.cgroupsPath ",
        r"not at all +linux.seccomp ",
    ):
        assert re.search(words, inspected.out), (words, inspected)
    assert podman("rm", "-f", "-t", "0", "e2e-pair1", "e2e-pair2").code == 0
    assert not list(lab.state.iterdir())


def test_stopping_the_engine_in_the_middle_of_a_run_leaves_no_machine(podman, lab):
    words = [
        "podman",
        *podman.options,
        f"--runtime={lab.wrapper}",
        "run",
        "--rm",
        "--name",
        "e2e-cut",
        IMAGE,
        "cat",
    ]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        for _ in range(200):
            if "e2e-cut" in podman("ps", "--format", "{{.Names}}").out:
                break
        process.kill()
    assert podman("rm", "-f", "-t", "0", "e2e-cut").code == 0
    assert not list(lab.state.iterdir())
