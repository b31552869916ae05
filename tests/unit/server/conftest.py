from __future__ import annotations

import pytest

from tests.fakes.broker import make_server
from tests.fakes.guest import FakeGuest


@pytest.fixture
def server(tmp_path):
    fake = make_server(str(tmp_path / "store"))
    yield fake
    fake.broker.database.close()


@pytest.fixture
def web(server):
    """A registered workload's guest."""
    manifest = server.make_manifest()
    assert server.register(manifest).status == 201
    return FakeGuest(manifest)
