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
