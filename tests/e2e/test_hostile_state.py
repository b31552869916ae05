"""What an operator may find one morning: damaged files, nonsense settings, a server that is none. One error each."""

import json
import os
import socket
import threading
import time

import pytest

from tests.fakes.commands import LIMIT_S, Bench, make_guest, make_tree, require_one_error
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


OFFLINE = {"KRUNPY_SERVER_URL": "http://127.0.0.1:1", "KRUNPY_SERVER_KEY": KEY}  # measuring asks it nothing


def measuring(bench):
    return ["measure", str(bench.path("root")), "--", "sh"]


def require_all(results, code, *, has_next=True, word=""):
    """Fail unless each is one error with this exit code, and has the word in it."""
    assert results
    for name, done in results.items():
        require_one_error(done, code, has_next=has_next)
        assert word in done.err, (name, done)
        assert done.seconds < LIMIT_S


def test_a_damaged_guest_json_is_one_error(whole):
    path = whole.path("data/guest/current/guest.json")
    cases = [
        (f"{words[0]} {kind}", words, OFFLINE, {path: contents})
        for kind, contents in BAD_OCTETS.items()
        for words in (["guest", "show"], measuring(whole))
    ]

    require_all(whole.call_many(cases), 2, has_next=False)


def test_a_changed_part_of_the_guest_is_one_error_that_names_it(whole):
    for part in ("vmlinuz", "base.cpio", "firmware.bin"):
        case = (part, measuring(whole), OFFLINE, {whole.path(f"data/guest/current/{part}"): b"changed"})

        require_all(whole.call_many([case]), 4, word=part)


def test_a_missing_guest_is_one_error_that_says_what_to_run(whole):
    whole.path("data/guest/current").rename(whole.path("data/guest/gone"))

    done, run = whole.call(*measuring(whole)), whole.call("run", str(whole.path("root")), "--", "sh")

    whole.path("data/guest/gone").rename(whole.path("data/guest/current"))
    require_one_error(done, 4)
    require_one_error(run, 125)
    assert "krunpy guest build" in done.err
    assert "krunpy guest build" in run.err
    assert whole.drafts() == []


def test_a_damaged_image_json_is_one_error_that_says_what_to_remove(whole):
    name = whole.images()[0]
    path = whole.path(f"cache/images/{name}/image.json")
    cases = [
        (f"{words[1]} {kind}", words, {}, {path: contents})
        for kind, contents in BAD_OCTETS.items()
        for words in (["image", "show", name[:12]], ["image", "convert", f"image:{name}"])
    ]

    require_all(whole.call_many(cases), 2, word=f"krunpy image rm {name}")


def test_a_damaged_image_is_converted_anew(whole):
    for name in whole.images():
        whole.path(f"cache/images/{name}/image.json").write_bytes(b"{")

    done = whole.call("image", "convert", str(whole.path("root")), "--json")

    assert done.code == 0, done
    assert json.loads(done.out)["data"]["id"] in whole.images()


@pytest.mark.parametrize("kind", ["empty", "list", "octets"])
def test_a_damaged_authority_is_one_error_that_names_the_file(whole, kind):
    path = whole.path("data/software-tee/authority.json")

    results = whole.call_many([(kind, ["workload", "ls"], {}, {path: BAD_OCTETS[kind]})])

    require_all(results, 5, word="authority.json")


def test_a_damaged_key_is_one_error_with_a_way_out(whole):
    for name, environment in (("build.secret", OFFLINE), ("server/signing.key", {})):
        path = whole.path(f"data/{name}")
        sizes = (0, 31, 33)
        cases = [(f"{size}", measuring(whole), environment, {path: b"x" * size}) for size in sizes]

        require_all(whole.call_many(cases), 4, word=name)


@pytest.mark.parametrize("name", ["kek", "store.sqlite3", "signing.key"])
def test_a_damaged_store_is_one_error(whole, name):
    files = dict.fromkeys(whole.path("data/server").glob(f"{name}*"), b"garbage" * 100)

    require_all(whole.call_many([(name, ["workload", "ls"], {}, files)]), 5, word=name)


def test_a_damaged_administrators_token_is_one_error(whole):
    path = whole.path("data/server/admin.token")
    tokens = (b"", b"\xff\xfe", b"a\r\nX: y", b"\0", b"x" * 5000)

    require_all(
        whole.call_many([(f"{token!r}", ["workload", "ls"], {}, {path: token}) for token in tokens]), 2
    )


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
    path = whole.path("krunpy.toml")
    words = ["--config", str(path), "image", "ls"]

    require_all(
        whole.call_many([(name, words, {}, {path: text}) for name, text in SETTINGS.items()]),
        2,
        word="krunpy.toml",
    )


def test_a_settings_file_that_cannot_be_read_is_one_error(whole):
    os.mkfifo(whole.path("settings"))
    places = ("/nonexistent", "/", "/dev/zero", str(whole.path("settings")))
    cases = [(place, ["--config", place, "image", "ls"]) for place in places]

    require_all(whole.call_many(cases), 4)
    for place in places:
        require_one_error(whole.call("run", "x", KRUNPY_CONFIG=place), 4)


def test_nonsense_in_the_environment_is_one_error(whole):
    pairs = {"CPUS": ("x", "-1", "²", "9" * 5000), "CACHE_DIR": ("rel",), "ACCEL": ("x",)}
    for name, values in pairs.items():
        cases = [(value, ["image", "ls"], {f"KRUNPY_{name}": value}) for value in values]

        require_all(whole.call_many(cases), 2, word=name.lower())


def test_a_cache_below_a_file_is_one_error(whole):
    require_one_error(whole.call("image", "ls", KRUNPY_CACHE_DIR="/dev/null/x"), 4, has_next=False)


def configured(bench, url, token=b"ab" * 32):
    bench.path("token").write_bytes(token)
    return {
        "KRUNPY_SERVER_URL": url,
        "KRUNPY_SERVER_KEY": KEY,
        "KRUNPY_TOKEN_FILE": str(bench.path("token")),
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
    urls += ["http://127.0.0.1:1/x?y", "http://\udcff"]
    cases = [(url, ["workload", "ls"], configured(whole, url)) for url in urls]

    require_all(whole.call_many(cases), 2, has_next=False, word="URL")
    require_one_error(whole.call("run", "/", "--", "sh", **configured(whole, "x")), 125, has_next=False)


def test_a_server_that_is_not_there_is_one_error(whole):
    settings = configured(whole, "http://127.0.0.1:1")

    require_one_error(whole.call("workload", "ls", **settings), 5)
    require_one_error(whole.call("run", str(whole.path("root")), "--", "sh", **settings), 125)
    assert whole.drafts() == []


def test_a_server_key_that_is_none_is_one_error(whole):
    keys = ("", "x", "00", "zz" * 32, "AB" * 32)
    cases = [(f"key {key}", measuring(whole), {**OFFLINE, "KRUNPY_SERVER_KEY": key}) for key in keys]

    require_all(whole.call_many(cases), 2, word="server_key")


def test_a_token_file_that_cannot_be_used_is_one_error(whole):
    settings = configured(whole, "http://127.0.0.1:1")
    tokens = (b"", b"\xff\xfe", b"a\r\nX: y", b"\0", b"x" * 5000)
    cases = [(f"{item!r}", ["workload", "ls"], settings, {whole.path("token"): item}) for item in tokens]
    require_all(whole.call_many(cases), 2)

    os.mkfifo(whole.path("fifo"))
    places = ("/nonexistent", "/", "/dev/zero", str(whole.path("fifo")))
    cases = [(place, ["workload", "ls"], {**settings, "KRUNPY_TOKEN_FILE": place}) for place in places]
    require_all(whole.call_many(cases), 4)


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


def test_a_server_that_answers_garbage_is_one_error(whole):
    servers = {name: Server(answer) for name, answer in GARBAGE.items()}
    cases = [
        (f"{name}: {word}", word.split(), configured(whole, server.url))
        for name, server in servers.items()
        for word in ("workload ls", "attestation ls", "explain")
    ]

    results = whole.call_many(cases)

    for server in servers.values():
        server.close()
    require_all(results, 5, has_next=False)


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
        assert result.code in (0, 5), result
        assert "Traceback" not in result.err, result
        assert "\x1b" not in result.out + result.err, result


def test_a_server_that_dribbles_is_given_up(whole):
    server = Server(respond({"workloads": []}), 2.0)

    done = whole.call("workload", "ls", **configured(whole, server.url))

    server.close()
    require_one_error(done, 5)


def test_an_image_whose_user_is_nonsense_is_one_error(whole, tmp_path):
    users = ["²", "9" * 5000, "-1", "a:b:c", "nobody", "\x1b[31m"]
    cases = []
    for number, user in enumerate(users):
        layout = Layout([PLAIN], User=user)
        cases.append((user, ["measure", f"oci:{layout.write(tmp_path / str(number))}", "--", "sh"]))
    cases += [(name, ["measure", spec]) for name, spec in list_layer_cases(tmp_path, {"no command": PLAIN})]

    require_all(whole.call_many(cases, **OFFLINE), 2, has_next=False)


def test_doctor_reports_what_is_broken_and_does_not_break(whole):
    damage = {whole.path("data/guest/current/guest.json"): b"{"}

    done = whole.call_many([("doctor", ["doctor"], {"KRUNPY_SERVER_URL": "x"}, damage)])["doctor"]

    assert done.code == 0, done
    assert done.err == ""
    assert "guest" in done.out
    assert " fail " in done.out
