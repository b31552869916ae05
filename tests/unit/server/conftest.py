from __future__ import annotations

import pytest

from tests.fakes.broker import make_server
from tests.fakes.forgery import DIGEST
from tests.fakes.guest import FakeGuest
from tests.fakes.libkrun_guest import LibkrunGuest, make_kbs_server


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


@pytest.fixture
def kbs(tmp_path):
    """A server of the reference-kbs dialect."""
    server = make_kbs_server(str(tmp_path / "store"))
    yield server
    server.fake.broker.database.close()


@pytest.fixture
def libkrun(kbs):
    """The guest of its one registered workload, at its image's URL."""
    prefix = kbs.invite()
    assert kbs.register(prefix).status == 200
    return LibkrunGuest(kbs, prefix)
