import os

import pytest

from krunpy.core.errors import BrokerError
from krunpy.runtime import embedded
from krunpy.runtime.embedded import EmbeddedServer


def test_a_server_that_never_gets_ready_is_not_waited_for_without_end(monkeypatch):
    monkeypatch.setattr(embedded, "READY_TIMEOUT_S", 0.05)
    ready, kept_open = os.pipe()
    server = EmbeddedServer(url="", pid=0, store="/store", _stop=-1, _ready=ready, _messages=-1)
    try:
        with pytest.raises(BrokerError, match=r"not ready after 0\.05 s"):
            server.wait_until_ready()
    finally:
        os.close(ready)
        os.close(kept_open)


def test_a_log_that_has_grown_is_put_aside_and_only_one_is_kept(tmp_path):
    log, old = tmp_path / "server.log", tmp_path / "server.log.1"
    for name, size, aside in (
        ("a", 10, ""),
        ("b", embedded.LOG_LIMIT + 1, "b"),
        ("c", embedded.LOG_LIMIT + 1, "c"),
    ):
        log.write_text(name * size)
        embedded.bound_log(str(log))
        assert log.exists() is (aside == "")
        assert (old.read_text()[:1] if old.exists() else "") == aside
    embedded.bound_log(str(log))  # there is none
