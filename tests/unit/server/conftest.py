from __future__ import annotations

import pytest

from tests.fakes.broker import make_server
from tests.fakes.forgery import DIGEST
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


@pytest.fixture
def guest(server):
    """A guest whose workload takes a key from anything: the server's registration demands no hardware."""
    manifest = server.make_manifest(tees=("software", "snp"))
    value = {"tee": "snp", "launch_digest": DIGEST.hex(), "inputs": {}}
    software = server.register(manifest).json["reference_values"]
    assert server.register(manifest, reference_values=[value, *software]).status == 200
    return FakeGuest(manifest)
