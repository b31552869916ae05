"""Workloads of one class: one launch digest for all, and HOST_DATA or MRCONFIGID says which manifest it is."""

from __future__ import annotations

import pytest

from krunpy.core.octets import HostData
from krunpy.formats.launch_digest import PageType
from krunpy.formats.manifest import make_host_data, make_mrconfigid
from krunpy.formats.snp_certs import pack_evidence
from krunpy.server.refusals import Refusal
from krunpy.tee.software import DEFAULT_POLICY, UnsafeSoftwareTee
from tests.fakes import intel
from tests.fakes.broker import DISK_KEY, OTHER_DISK_KEY, open_reply, require_refused
from tests.fakes.guest import FakeGuest
from tests.unit.server.test_server_tdx import (  # noqa: F401 - fixtures
    make_value,
    source,
    tdx,
)


def launch_class(server, host_data=bytes(32)):
    """Return a machine of the class: the same pages whatever the workload, and what the host chose at its launch."""
    tee = UnsafeSoftwareTee(server.authority)
    tee.launch_start(DEFAULT_POLICY)
    tee.launch_update(PageType.NORMAL, 0x1000, b"class".ljust(4096, b"\0"))
    return tee, tee.launch_finish(HostData(host_data))


def register(server, workload, disk_key=DISK_KEY, **changes):
    manifest = server.make_manifest(workload=workload)
    _, digest = launch_class(server)
    value = {"tee": "software", "launch_digest": digest.hex(), "inputs": {}}
    changes = {"manifest_in": "host_data", "reference_values": [value], **changes}
    reply = server.register(manifest, disk_key=disk_key, **changes)
    assert reply.status == 201, reply.raw
    return FakeGuest(manifest)


def attest(server, guest, host_data):
    """Attest as a guest that says whatever it likes, on a machine with this HOST_DATA."""
    session, nonce = server.challenge(guest)
    tee, _ = launch_class(server, host_data)
    return nonce, server.attest(guest, session, tee.report(guest.make_report_data(nonce)))


def name(guest):
    return make_host_data(guest.manifest_hash)


def failed_checks(server):
    return [check["name"] for check in server.last_record()["verdict"]["checks"] if not check["held"]]


def test_each_workload_of_a_class_gets_its_own_key(server):
    first, second = register(server, "first"), register(server, "second", OTHER_DISK_KEY)

    for guest, key in ((first, DISK_KEY), (second, OTHER_DISK_KEY)):
        nonce, reply = attest(server, guest, name(guest))
        assert open_reply(guest, nonce, reply) == [(1, key)]
    digests = {
        server.admin("GET", f"/v1/workloads/{workload}").json["reference_values"][0]["launch_digest"]
        for workload in ("first", "second")
    }
    assert len(digests) == 1


def test_a_machine_of_the_class_that_was_launched_for_another_workload_is_refused_by_host_data_alone(server):
    """The agent lies: everything that it says is right, and only the host's word at the launch is another's."""
    first, second = register(server, "first"), register(server, "second", OTHER_DISK_KEY)

    _, reply = attest(server, first, name(second))

    require_refused(reply, Refusal.HOST_DATA_MISMATCH)
    assert failed_checks(server) == ["host-data"]
    assert server.last_record()["manifest_in"] == "host_data"


def test_host_data_that_names_nothing_or_a_bit_of_another_manifest_is_refused(server):
    guest = register(server, "first")
    named = name(guest)

    for index in (0, 15, 31):
        wrong = named[:index] + bytes([named[index] ^ 0x80]) + named[index + 1 :]
        assert attest(server, guest, wrong)[1].json["error"] == "host-data-mismatch"
    assert attest(server, guest, bytes(32))[1].json["error"] == "host-data-mismatch"
    assert attest(server, guest, named)[1].status == 200


def test_host_data_does_not_make_up_for_another_launch_digest(server):
    value = {"tee": "software", "launch_digest": "ab" * 48, "inputs": {}}
    guest = register(server, "first", reference_values=[value])

    _, reply = attest(server, guest, name(guest))

    require_refused(reply, Refusal.LAUNCH_DIGEST_UNKNOWN)
    assert failed_checks(server) == ["measurement"]


@pytest.mark.parametrize("changes", [{}, {"manifest_in": "initrd"}])
def test_a_manifest_in_the_initrd_leaves_host_data_open_and_is_what_is_meant_without_a_word(
    server, web, changes
):
    assert server.register(web.manifest, **changes).status == 200
    assert server.admin("GET", "/v1/workloads/web").json["manifest_in"] == "initrd"

    assert server.run_guest(web).status == 200  # its HOST_DATA is 0
    assert server.last_record()["manifest_in"] == "initrd"


@pytest.mark.parametrize("word", ["", "host-data", "HOST_DATA", 1, None])
def test_a_registration_with_another_word_for_where_the_manifest_is_is_refused(server, word):
    assert server.register(server.make_manifest(), manifest_in=word).status == 400


def test_an_active_workload_does_not_change_what_binds_its_manifest(server):
    guest = register(server, "first")

    weaker = server.register(guest.manifest, manifest_in="initrd")
    same = server.register(guest.manifest, manifest_in="host_data")

    assert (weaker.status, same.status) == (409, 200)
    assert "manifest in host_data, seen initrd" in weaker.json["message"]
    assert attest(server, guest, bytes(32))[1].json["error"] == "host-data-mismatch"


def test_an_ended_workload_can_begin_anew_with_another_binding(server):
    guest = register(server, "first", uses=1)
    assert attest(server, guest, name(guest))[1].status == 200

    assert server.register(guest.manifest).json["manifest_in"] == "initrd"


@pytest.mark.parametrize(
    ("mrconfigid", "status"),
    [(make_mrconfigid, 200), (lambda _: bytes(48), 403), (lambda hash_: hash_ + bytes(15) + b"\1", 403)],
)
def test_a_td_of_a_class_is_refused_unless_its_mrconfigid_names_the_manifest(tdx, mrconfigid, status):  # noqa: F811
    manifest = tdx.make_manifest(tees=("tdx",))
    reply = tdx.register(manifest, reference_values=[make_value()], manifest_in="host_data")
    assert reply.status == 201, reply.raw
    guest = FakeGuest(manifest)
    session, nonce = tdx.challenge(guest)
    td = {"report_data": guest.make_report_data(nonce), "mrconfigid": mrconfigid(guest.manifest_hash)}

    reply = tdx.attest(guest, session, pack_evidence(intel.FakePlatform().quote(**td), b""), tee="tdx")

    assert reply.status == status
    if status != 200:
        require_refused(reply, Refusal.HOST_DATA_MISMATCH)
        # beside what only collateral would answer, which is not fetched
        assert "mrconfigid" in failed_checks(tdx)
