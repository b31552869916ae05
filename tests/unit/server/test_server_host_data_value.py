"""A registered value may say which HOST_DATA belongs to it, as those of krunpy's own SNP launches do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from krunpy.attest.anchors import Anchors
from krunpy.server.app import make_app
from krunpy.server.mode import Mode
from krunpy.server.verifier import Verifier
from tests.fakes import amd
from tests.fakes.broker import Clock, make_server
from tests.fakes.guest import FakeGuest

DIGEST = b"\x5a" * 48


@pytest.fixture
def snp(tmp_path):
    server = make_server(str(tmp_path / "store"), mode=Mode.PRODUCTION, clock=Clock(amd.NOW.timestamp()))
    verifier = Verifier(hardware=amd.anchors(), simulated=Anchors(hardware={}, simulated={}))
    broker = replace(server.broker, appraiser=verifier)
    yield replace(server, broker=broker, app=make_app(broker))
    server.broker.database.close()


def register(server, **named):
    manifest = server.make_manifest(tees=("snp",))
    guest = FakeGuest(manifest)
    value = {"tee": "snp", "launch_digest": DIGEST.hex(), **named, "inputs": {}}
    return guest, server.register(manifest, reference_values=[value])


def attest(server, guest, host_data):
    session, nonce = server.challenge(guest)
    evidence = amd.FakeChip().payload(
        report_data=guest.make_report_data(nonce), measurement=DIGEST, host_data=host_data
    )
    return server.attest(guest, session, evidence, tee="snp")


def test_the_registered_host_data_alone_gets_the_key(snp):
    wanted = FakeGuest(snp.make_manifest(tees=("snp",))).manifest_hash
    guest, registered = register(snp, host_data=wanted.hex())
    assert registered.json["reference_values"][0]["host_data"] == wanted.hex()

    other, right = attest(snp, guest, bytes(32)), attest(snp, guest, bytes(wanted))

    assert (other.status, other.json["error"]) == (403, "host-data-mismatch")
    assert right.status == 200


def test_a_value_that_names_none_leaves_it_open(snp):
    guest, registered = register(snp)
    assert "host_data" not in registered.json["reference_values"][0]

    assert attest(snp, guest, b"\x01" * 32).status == 200


@pytest.mark.parametrize("host_data", ["", "00", "AA" * 32, None])
def test_a_host_data_of_another_form_is_refused(snp, host_data):
    assert register(snp, host_data=host_data)[1].status == 400
