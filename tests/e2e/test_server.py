"""A configured attestation server, in a process of its own: its word counts, and nothing takes its place."""

from __future__ import annotations

import json
import re
import socket
import subprocess

import pytest

from tests.e2e.conftest import wait_until

pytestmark = [pytest.mark.vm, pytest.mark.root, pytest.mark.slow]


class Server:
    """`krunpy server run --development` of one installation, and what another needs to use it."""

    def __init__(self, lab):
        self.lab = lab
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.process = None
        self.key = ""
        self.log = lab.directory / "server.log"

    def start(self):
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [self.lab.program, "server", "run", "--development", "--listen", f"127.0.0.1:{self.port}"],
                env=self.lab.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.key = wait_until(self._find_key, seconds=30, what="the server's first line")

    def _find_key(self):
        found = re.search(r"\b[0-9a-f]{64}\b", self.log.read_text())
        return found and found[0]

    def stop(self):
        self.process.terminate()
        assert self.process.wait(20) == 0, self.log.read_text()

    def config(self, *, token=""):
        lines = [f'server_url = "http://127.0.0.1:{self.port}"', f'server_key = "{self.key}"']
        return "\n".join([*lines, f'token_file = "{token}"'] if token else lines) + "\n"


@pytest.fixture(scope="module")
def owner(make_lab):
    """The installation that runs the server, and registers with a token. Its software TEE is the one trusted."""
    return make_lab("owner", config="")


@pytest.fixture(scope="module")
def server(owner):
    server = Server(owner)
    server.start()
    token = owner.krunpy("server", "token", "create")
    assert token.code == 0, token
    (owner.directory / "token").write_text(token.out)
    (owner.directory / "token").chmod(0o600)
    (owner.directory / "krunpy.toml").write_text(server.config(token=owner.directory / "token"))
    yield server
    if server.process.poll() is None:
        server.stop()


def tokenless(owner, server):
    """Take the token away: this installation may only run what was registered."""
    (owner.directory / "krunpy.toml").write_text(server.config())


def registrar(owner, server):
    (owner.directory / "krunpy.toml").write_text(server.config(token=owner.directory / "token"))


@pytest.mark.usefixtures("server")
def test_with_a_token_a_run_registers_itself_and_works(owner, rootfs):
    done = owner.krunpy("run", rootfs, "--", "echo", "by the configured server")

    assert (done.code, done.out) == (0, "by the configured server\n"), done
    records = json.loads(owner.krunpy("attestation", "ls", "--json").out)["data"]
    assert [record["outcome"] for record in records] == ["released"]


def test_without_a_token_only_what_was_registered_runs_and_only_until_it_is_revoked(owner, server, rootfs):
    registrar(owner, server)
    words = (rootfs, "--", "echo", "registered before")
    registered = owner.krunpy("register", "--json", *words)
    assert registered.code == 0, registered
    workload = json.loads(registered.out)["data"]["workload"]

    tokenless(owner, server)
    allowed = owner.krunpy("run", *words)
    other = owner.krunpy("run", rootfs, "--", "echo", "never registered")
    registrar(owner, server)
    assert owner.krunpy("workload", "revoke", workload).code == 0
    tokenless(owner, server)
    revoked = owner.krunpy("run", *words)
    registrar(owner, server)

    assert (allowed.code, allowed.out) == (0, "registered before\n"), allowed
    assert (other.code, other.out) == (125, ""), other
    assert "workload-unknown" in other.err
    assert (revoked.code, revoked.out) == (125, ""), revoked
    assert "workload-revoked" in revoked.err


def test_a_server_with_another_key_than_the_configured_one_gets_nothing_run(owner, server, rootfs):
    (owner.directory / "krunpy.toml").write_text(
        server.config(token=owner.directory / "token").replace(server.key, "11" * 32)
    )
    done = owner.krunpy("run", rootfs, "--", "echo", "spoken")
    registrar(owner, server)

    assert (done.code, done.out) == (125, ""), done
    assert "key" in done.err


def test_a_guest_of_one_workload_is_refused_the_key_of_another(owner, server, rootfs):
    """The host presents the registered workload's name with another command: another manifest, another digest."""
    registrar(owner, server)
    assert owner.krunpy("register", "--workload", "safe", rootfs, "--", "echo", "harmless").code == 0
    tokenless(owner, server)
    done = owner.krunpy("run", "--workload", "safe", rootfs, "--", "cat", "/etc/passwd")
    registrar(owner, server)

    assert (done.code, done.out) == (125, ""), done
    assert "workload-unknown" in done.err


def test_a_server_that_is_down_is_an_error_and_never_replaced(owner, server, rootfs):
    server.stop()
    try:
        done = owner.krunpy("run", rootfs, "--", "echo", "spoken")
    finally:
        server.start()

    assert (done.code, done.out) == (125, ""), done
    assert f"127.0.0.1:{server.port}" in done.err
    assert owner.krunpy("run", rootfs, "--", "echo", "again").out == "again\n"
