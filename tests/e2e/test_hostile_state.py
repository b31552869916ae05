"""What an operator may find one morning: damaged files, nonsense settings, a server that is none. One error each."""

import json
import os
import shutil
import socket
import threading
import time

import pytest

from tests.fakes.commands import Bench, make_guest, make_tree, require_one_error
from tests.fakes.hostile import JSON, PLAIN, Layout, list_layer_cases

BAD_OCTETS = {
    "empty": b"",
    "cut": b"{",
    "list": b"[]",
    "null": b"null",
    "octets": b"\xff\0",
    "nested": b"[" * 50_000,
}
KEY = "00" * 32


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Make an installation that has measured one workload."""
    made = Bench(tmp_path_factory.mktemp("hostile") / "bench")
    make_tree(made.path("root"))
    os.utime(made.path("root/bin/sh"), (1, 1))
    make_guest(made.path("data/guest"))
    done = made.call("register", str(made.path("root")), "--workload", "w", "--", "sh")
    assert done.code == 0, done
    return made


def measure(bench, **more):
    return bench.call("measure", str(bench.path("root")), "--", "sh", **more)


class Damaged:
    """A file with other contents, until the block ends."""

    def __init__(self, path, contents):
        self.path, self.contents = path, contents

    def __enter__(self):
        self.kept = self.path.read_bytes() if self.path.exists() else None
        self.path.write_bytes(self.contents)

    def __exit__(self, *_):
        self.path.unlink()
        if self.kept is not None:
            self.path.write_bytes(self.kept)
            self.path.chmod(0o600)


@pytest.mark.parametrize("kind", BAD_OCTETS)
def test_a_damaged_guest_json_is_one_error(whole, kind):
    with Damaged(whole.path("data/guest/current/guest.json"), BAD_OCTETS[kind]):
        for words in (["guest", "show"], ["measure", str(whole.path("root")), "--", "sh"]):
            require_one_error(whole.call(*words), 2, has_next=False)


@pytest.mark.parametrize("part", ["vmlinuz", "base.cpio", "firmware.bin"])
def test_a_changed_part_of_the_guest_is_one_error_that_names_it(whole, part):
    with Damaged(whole.path(f"data/guest/current/{part}"), b"changed"):
        done = measure(whole)

        require_one_error(done, 4)
        assert part in done.err


def test_a_missing_guest_is_one_error_that_says_what_to_run(whole):
    whole.path("data/guest/current").rename(whole.path("data/guest/gone"))

    done, run = measure(whole), whole.call("run", str(whole.path("root")), "--", "sh")

    whole.path("data/guest/gone").rename(whole.path("data/guest/current"))
    require_one_error(done, 4)
    require_one_error(run, 125)
    assert "krunpy guest build" in done.err
    assert "krunpy guest build" in run.err
    assert whole.drafts() == []


@pytest.mark.parametrize("kind", BAD_OCTETS)
def test_a_damaged_image_json_is_one_error_and_a_run_makes_the_image_anew(whole, kind):
    name = whole.images()[0]
    path = whole.path(f"cache/images/{name}/image.json")

    with Damaged(path, BAD_OCTETS[kind]):
        for words in (["image", "show", name[:12]], ["image", "convert", f"image:{name}"]):
            done = whole.call(*words)
            require_one_error(done, 2)
            assert f"krunpy image rm {name}" in done.err
    with Damaged(path, BAD_OCTETS[kind]):
        assert whole.call("image", "ls", "--json").code == 0
        assert whole.call("image", "prune", "--unused-hours", "999").code == 0
    assert measure(whole).code == 0


@pytest.mark.parametrize("kind", BAD_OCTETS)
def test_a_damaged_authority_is_one_error_that_names_the_file(whole, kind):
    with Damaged(whole.path("data/software-tee/authority.json"), BAD_OCTETS[kind]):
        whole.path("data/software-tee/authority.json").chmod(0o600)

        done = whole.call("workload", "ls")

        require_one_error(done, 5)
        assert "authority.json" in done.err


@pytest.mark.parametrize("size", [0, 31, 33, 100_000])
@pytest.mark.parametrize("name", ["build.secret", "server/signing.key"])
def test_a_damaged_key_is_one_error_with_a_way_out(whole, name, size):
    with Damaged(whole.path(f"data/{name}"), b"x" * size):
        whole.path(f"data/{name}").chmod(0o600)

        done = measure(whole)

        require_one_error(done, 2 if size == 100_000 else 4, has_next=size != 100_000)
        assert name in done.err


@pytest.mark.parametrize("name", ["kek", "store.sqlite3", "signing.key"])
def test_a_damaged_store_is_one_error(whole, name):
    shutil.copytree(whole.path("data/server"), whole.path("kept"))
    for path in whole.path("data/server").glob(f"{name}*"):
        path.write_bytes(b"garbage" * 100)

    done = whole.call("workload", "ls")

    shutil.rmtree(whole.path("data/server"))
    whole.path("kept").rename(whole.path("data/server"))
    require_one_error(done, 5)
    assert name in done.err


@pytest.mark.parametrize("token", [b"", b"\xff\xfe", b"a\r\nX: y", b"\0", b"x" * 5000], ids=ascii)
def test_a_damaged_administrators_token_is_no_traceback(whole, token):
    with Damaged(whole.path("data/server/admin.token"), token):
        done = whole.call("workload", "ls")

    assert done.code in (2, 4, 5), done
    assert "Traceback" not in done.err, done


SETTINGS = {
    "no TOML": b"x",
    "not UTF-8": b"\xff",
    "nested": b"a=" + b"[" * 50_000,
    "2 MiB": b"#" * (2 << 20),
    "unknown": b"frob=1",
    "a table": b"[x]\ny=1",
    "cpus text": b"cpus='x'",
    "cpus none": b"cpus=0",
    "cpus too many": b"cpus=99999999999999999999",
    "cpus true": b"cpus=true",
    "memory too small": b"memory_mib=1",
    "time-out none": b"boot_timeout_s=0",
    "accel": b"accel='frob'",
    "a list": b"data_dir=[1]",
    "relative": b"cache_dir='rel'",
    "zero byte": b'cache_dir="/a\\u0000b"',
}


def test_nonsense_in_the_settings_file_is_one_error_each(whole):
    for name, contents in SETTINGS.items():
        path = whole.path("krunpy.toml")
        path.write_bytes(contents)

        done = whole.call("--config", str(path), "image", "ls")

        require_one_error(done, 2)
        assert "krunpy.toml" in done.err, name


def test_a_settings_file_that_cannot_be_read_is_one_error(whole):
    os.mkfifo(whole.path("settings"))

    for place in ("/nonexistent", "/", "/dev/zero", str(whole.path("settings"))):
        require_one_error(whole.call("--config", place, "image", "ls"), 4)
        require_one_error(whole.call("run", "x", KRUNPY_CONFIG=place), 4)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CPUS", "x"),
        ("CPUS", "-1"),
        ("CPUS", "²"),
        ("CPUS", "9" * 5000),
        ("CACHE_DIR", "rel"),
        ("ACCEL", "x"),
    ],
)
def test_nonsense_in_the_environment_is_one_error(whole, name, value):
    done = whole.call("image", "ls", **{f"KRUNPY_{name}": value})

    require_one_error(done, 2)
    assert name.lower() in done.err


def test_a_cache_below_a_file_is_one_error(whole):
    require_one_error(whole.call("image", "ls", KRUNPY_CACHE_DIR="/dev/null/x"), 4, has_next=False)


def configured(bench, url, token="ab" * 32, **more):
    bench.path("token").write_bytes(token if isinstance(token, bytes) else token.encode())
    return {
        "KRUNPY_SERVER_URL": url,
        "KRUNPY_SERVER_KEY": KEY,
        "KRUNPY_TOKEN_FILE": str(bench.path("token")),
        **more,
    }


def test_a_server_url_that_is_none_is_one_error(whole):
    urls = [
        "x",
        "http://",
        "ftp://x",
        "http://x:99999",
        "http://x:y",
        "http://[::1",
        "http://\n",
        "http://a b",
        "//x",
    ]
    for url in [*urls, "http://127.0.0.1:1/x?y", b"http://\xff"]:
        done = whole.call("workload", "ls", **configured(whole, url))

        require_one_error(done, 2, has_next=False)
        assert "URL" in done.err


def test_a_server_that_is_not_there_is_one_error(whole):
    settings = configured(whole, "http://127.0.0.1:1")

    require_one_error(whole.call("workload", "ls", **settings), 5)
    require_one_error(whole.call("run", str(whole.path("root")), "--", "sh", **settings), 125)
    assert whole.drafts() == []


@pytest.mark.parametrize("key", ["", "x", "00", "zz" * 32, "AB" * 32], ids=lambda key: key[:4] or "none")
def test_a_server_key_that_is_none_is_one_error(whole, key):
    settings = {**configured(whole, "http://127.0.0.1:1"), "KRUNPY_SERVER_KEY": key}

    require_one_error(measure(whole, **settings), 2)


def test_a_token_file_that_cannot_be_used_is_one_error(whole):
    for token in (b"", b"\xff\xfe", b"a\r\nX: y", b"\0", b"x" * 5000):
        done = whole.call("workload", "ls", **configured(whole, "http://127.0.0.1:1", token))
        require_one_error(done, 2)
    os.mkfifo(whole.path("fifo"))
    for place in ("/nonexistent", "/", "/dev/zero", str(whole.path("fifo"))):
        settings = {**configured(whole, "http://127.0.0.1:1"), "KRUNPY_TOKEN_FILE": place}
        require_one_error(whole.call("workload", "ls", **settings), 4)


@pytest.mark.root
def test_an_unreadable_token_file_is_one_error(whole):
    settings = configured(whole, "http://127.0.0.1:1")
    whole.path("token").chmod(0)
    powerless = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")

    done = whole.call("workload", "ls", before=powerless, **settings)

    whole.path("token").chmod(0o600)
    require_one_error(done, 4)
    assert "permission denied" in done.err


class Server:
    """Answers every request with the same octets, the last of them slowly if asked."""

    def __init__(self, answer, pause_s=0.0):
        self._answer, self._pause_s = answer, pause_s
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=16)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer_one, args=(connection,), daemon=True).start()

    def _answer_one(self, connection):
        try:
            with connection:
                connection.recv(65536)
                if not self._pause_s:
                    connection.sendall(self._answer)
                    return
                for octet in self._answer:
                    connection.send(bytes([octet]))
                    time.sleep(self._pause_s)
        except OSError:
            return

    def close(self):
        self._listener.close()


def respond(body, status="200 OK", head=""):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(raw)}\r\n{head}\r\n".encode() + raw


GARBAGE = {
    "nothing": b"",
    "noise": bytes(range(1, 256)) * 20,
    "500": respond(b"oops", "500 Internal Server Error"),
    "500 in JSON": respond({"error": "x" * 5000, "message": "\x1b[31m\n\n"}, "500 X"),
    "redirect": respond(b"", "301 X", "Location: http://127.0.0.1:1/\r\n"),
    "HTML": respond(b"<html>"),
    **{f"JSON {name}": respond(raw) for name, raw in JSON.items() if name != "5 MiB"},
    "3 MiB": respond(b"x" * (3 << 20)),
    "endless": b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n{",
    "endless head": b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 100_000,
    "items are numbers": respond({"workloads": [1], "attestations": [1]}),
    "items are no list": respond({"workloads": {}, "attestations": "x"}),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_a_server_that_answers_garbage_is_one_error(whole, name):
    server = Server(GARBAGE[name])

    results = whole.call_many(
        [(word, word.split()) for word in ("workload ls", "attestation ls", "explain")],
        **configured(whole, server.url),
    )

    server.close()
    for result in results.values():
        lines = result["err"].splitlines()
        assert result["code"] == 5, result
        assert lines[0].startswith("krunpy: "), result
        assert len(lines) in (2, 3), result
        assert all(line.isprintable() and len(line) < 2100 for line in lines), result


RECORDS = {
    "digests": {
        "attestations": [{}], "id": 5, "workload": "w", "error": "launch-digest-unknown", "launch_digest": "zz",
        "reference_values": [1, {"inputs": 5}], "verdict": {"checks": [1, {}]}, "manifest": 5,
    },
    "inputs": {
        "attestations": [{}], "id": "\x1b]0;x\x07", "workload": "w", "error": "launch-digest-unknown",
        "launch_digest": "00" * 48, "reference_values": [1, {"inputs": {}}, {"inputs": 5}], "verdict": [],
        "manifest": "@@", "message": "\x1b[2J", "created_at": -5, "updated_at": 10**30,
    },
    "checks": {
        "attestations": [{"id": None, "time": 5}], "id": "x", "error": "nonce",
        "verdict": {"checks": [{"name": 5, "held": False, "hint": ["x"], "seen": "\x1b[1m" * 50}]},
        "workloads": [{"id": "\x1b[31m\n", "status": None, "updated_at": 10**18, "uses_left": []}],
    },
}  # fmt: skip


@pytest.mark.parametrize("name", RECORDS)
def test_records_that_are_none_are_no_traceback_and_never_reach_the_terminal_raw(whole, name):
    server = Server(respond(RECORDS[name]))
    words = ("workload ls", "workload show w", "workload revoke w", "attestation ls", "attestation show", "explain",
             "explain x", "doctor")  # fmt: skip

    results = whole.call_many([(word, word.split()) for word in words], **configured(whole, server.url))

    server.close()
    for result in results.values():
        assert result["code"] in (0, 5), result
        assert "Traceback" not in result["err"], result
        assert "\x1b" not in result["out"] + result["err"], result


def test_a_server_that_dribbles_is_given_up(whole):
    server = Server(respond({"workloads": []}), 2.0)

    done = whole.call("workload", "ls", **configured(whole, server.url))

    server.close()
    require_one_error(done, 5)


def test_an_image_whose_user_is_nonsense_is_one_error(whole, tmp_path):
    users = ["²", "9" * 5000, "-1", "a:b:c", "nobody", ":", "\x1b[31m"]
    cases = []
    for number, user in enumerate(users):
        layout = Layout([PLAIN], User=user)
        cases.append((user, ["measure", f"oci:{layout.write(tmp_path / str(number))}", "--", "sh"]))
    cases += [(name, ["measure", spec]) for name, spec in list_layer_cases(tmp_path, {"no command": PLAIN})]

    results = whole.call_many(cases)

    for result in results.values():
        assert result["code"] == 2, result
        assert len(result["err"].splitlines()) in (2, 3), result
        assert result["err"].replace("\n", "").isprintable(), result


def test_doctor_reports_what_is_broken_and_does_not_break(whole):
    with Damaged(whole.path("data/guest/current/guest.json"), b"{"):
        done = whole.call("doctor", KRUNPY_SERVER_URL="x")

    assert done.code == 0, done
    assert done.err == ""
    assert "guest" in done.out
    assert " fail " in done.out
