"""TDX evidence and missing collateral: from a registration to a release, and what could not be checked."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from krunpy.attest.anchors import Anchors
from krunpy.formats.snp_certs import pack_cert_table, pack_evidence, parse_cert_table, parse_evidence
from krunpy.formats.tdx_collateral import pack_tdx_collateral
from krunpy.server.app import make_app
from krunpy.server.collateral import BoundedSource
from krunpy.server.mode import Mode
from krunpy.server.verifier import Verifier
from tests.fakes import amd, intel, intel_pki
from tests.fakes.broker import DISK_KEY, Clock, make_evidence, make_server, open_reply
from tests.fakes.guest import FakeGuest
from tests.fakes.intel_collateral import level, mint_collateral, tcb_info

TD = intel.TD
OTHER = b"\x77" * 48
DIGEST = b"\x5a" * 48


class Source:
    """A cache with what it is given, that counts how often it was asked."""

    def __init__(self, *, tdx=None, vcek=None):
        self.tdx, self.vcek, self.asked = tdx, vcek, 0

    def complete_snp(self, payload, product):
        assert product is None
        self.asked += 1
        raw, table = parse_evidence(payload)
        return self.vcek and pack_evidence(
            raw, pack_cert_table({**parse_cert_table(table).blobs, **self.vcek})
        )

    def find_crls(self, payload):
        del payload
        self.asked += 1
        return ()

    def find_tdx(self, payload):
        del payload
        self.asked += 1
        return self.tdx


def make_value(**changes):
    return {
        "tee": "tdx",
        "mrtd": TD["mrtd"].hex(),
        "rtmrs": [TD[f"rtmr{index}"].hex() for index in range(4)],
        "mrconfigid": "",
        "inputs": {},
        **changes,
    }


def make_tdx_server(path, source):
    server = make_server(str(path), mode=Mode.PRODUCTION, clock=Clock(intel_pki.NOW.timestamp()))
    verifier = Verifier(
        hardware=amd.anchors(),
        simulated=Anchors(hardware={}, simulated={}),
        intel=intel_pki.anchors(),
        collateral=source,
    )
    broker = replace(server.broker, appraiser=verifier)
    return replace(server, broker=broker, app=make_app(broker))


@pytest.fixture
def source():
    return Source(tdx=pack_tdx_collateral(mint_collateral()))


@pytest.fixture
def tdx(tmp_path, source):
    return make_tdx_server(tmp_path / "store", source)


def register(server, *values, policy=None):
    manifest = server.make_manifest(tees=("tdx", "snp"))
    reply = server.register(manifest, reference_values=list(values), policy=policy or {})
    assert reply.status == 201, reply.raw
    return FakeGuest(manifest)


def attest_td(server, guest, **changes):
    session, nonce = server.challenge(guest)
    td = {"report_data": guest.make_report_data(nonce), **changes}
    payload = pack_evidence(intel.FakePlatform().quote(**td), b"")
    return nonce, server.attest(guest, session, payload, tee="tdx")


def test_a_td_with_the_registered_registers_gets_its_key(tdx):
    guest = register(tdx, make_value())

    nonce, reply = attest_td(tdx, guest)

    assert open_reply(guest, nonce, reply) == [(1, DISK_KEY)]
    assert (reply.json["hardware"], reply.json["simulated"], reply.json["issuer"]) == (True, False, "krunpy")
    record = tdx.last_record()
    assert (record["tee"], record["launch_digest"]) == ("tdx", TD["mrtd"].hex())
    assert {"mrtd", "rtmr0", "rtmr3", "tcb-status"} <= {
        check["name"] for check in record["verdict"]["checks"]
    }
    assert record["reference_values"] == [make_value()]


@pytest.mark.parametrize("register_name", ["mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"])
def test_a_td_with_another_register_is_refused(tdx, register_name):
    guest = register(tdx, make_value())

    _, reply = attest_td(tdx, guest, **{register_name: OTHER})

    assert (reply.status, reply.json["error"]) == (403, "launch-digest-unknown")


def test_registers_of_two_reference_values_do_not_mix(tdx):
    mixed = make_value(mrtd=OTHER.hex(), rtmrs=[OTHER.hex()] * 4)
    guest = register(tdx, make_value(), mixed)

    _, whole = attest_td(tdx, guest)
    _, reply = attest_td(tdx, guest, mrtd=OTHER)

    assert whole.status == 200
    assert (reply.status, reply.json["error"]) == (403, "launch-digest-unknown")


@pytest.mark.parametrize(("registered", "status"), [(bytes(48), 200), (OTHER, 403)])
def test_a_registered_mrconfigid_counts(tdx, registered, status):
    guest = register(tdx, make_value(mrconfigid=registered.hex()))

    assert attest_td(tdx, guest)[1].status == status


def test_a_quote_for_another_session_is_refused(tdx):
    guest = register(tdx, make_value())

    _, reply = attest_td(tdx, guest, report_data=bytes(64))

    assert reply.json["error"] == "report-data-mismatch"


def test_a_td_that_the_host_can_debug_is_refused_and_the_policys_section_for_tdx_counts(tdx):
    guest = register(tdx, make_value(), policy={"tdx": {"require_sept_ve_disable": True}})
    weak = (1 << 28 | 1).to_bytes(8, "little")

    assert attest_td(tdx, guest)[1].status == 200
    assert attest_td(tdx, guest, td_attributes=weak)[1].json["error"] == "policy-refused"
    assert attest_td(tdx, guest, td_attributes=bytes(8))[1].json["error"] == "policy-refused"


def test_a_policy_that_cannot_be_read_whole_is_refused_at_registration(tdx):
    manifest = tdx.make_manifest(tees=("tdx",))

    reply = tdx.register(manifest, reference_values=[make_value()], policy={"tdx": {"of_tomorrow": 1}})

    assert reply.status == 400


@pytest.mark.parametrize(
    "changes",
    [
        {"rtmrs": []},
        {"rtmrs": [OTHER.hex()] * 3},
        {"rtmrs": [OTHER.hex()] * 5},
        {"rtmrs": [OTHER.hex()[:-2]] * 4},
        {"rtmrs": [OTHER.hex().upper().replace("7", "A")] * 4},
        {"mrconfigid": "00"},
        {"mrtd": ""},
        {"launch_digest": OTHER.hex()},
    ],
)
def test_a_reference_value_that_leaves_a_register_open_is_refused(tdx, changes):
    manifest = tdx.make_manifest(tees=("tdx",))

    assert tdx.register(manifest, reference_values=[make_value(**changes)]).status == 400


def test_without_collateral_a_quote_could_not_be_checked_and_is_neither_trusted_nor_refused(tmp_path):
    source = Source()
    server = make_tdx_server(tmp_path / "store", source)
    guest = register(server, make_value())

    _, reply = attest_td(server, guest)

    assert (reply.status, reply.json["error"]) == (503, "could-not-check")
    assert server.last_record()["id"] == reply.json["attestation"]
    assert server.last_record()["verdict"]["could_not_check"] is True
    assert source.asked == 1
    assert len(reply.raw) < 200


def test_collateral_is_not_asked_for_on_account_of_a_quote_that_is_refused_without(tdx, source):
    guest = register(tdx, make_value())

    attest_td(tdx, guest, mrtd=OTHER)
    session, _ = tdx.challenge(guest)
    tdx.attest(guest, session, pack_evidence(b"\0" * 1000, b""), tee="tdx")

    assert source.asked == 0


def test_an_outdated_platform_is_refused_and_not_unknown(tmp_path):
    levels = [{**entry, **level("OutOfDate")} for entry in tcb_info()["tcbLevels"]]
    source = Source(tdx=pack_tdx_collateral(mint_collateral(info={"tcbLevels": levels})))
    server = make_tdx_server(tmp_path / "store", source)
    guest = register(server, make_value())

    assert attest_td(server, guest)[1].json["error"] == "policy-refused"


def _attest_bare(server, guest):
    """Hand in an SNP report without its VCEK."""
    session, nonce = server.challenge(guest)
    whole = amd.FakeChip().payload(report_data=guest.make_report_data(nonce), measurement=DIGEST)
    raw, table = parse_evidence(whole)
    blobs = {kind: der for kind, der in parse_cert_table(table).blobs.items() if kind.name != "VCEK"}
    return server.attest(guest, session, pack_evidence(raw, pack_cert_table(blobs)), tee="snp")


def test_a_report_without_its_vcek_is_completed_from_the_source(tmp_path):
    from krunpy.formats.snp_certs import CertKind

    source = Source(vcek={CertKind.VCEK: amd.FakeChip().certificate})
    server = make_tdx_server(tmp_path / "store", source)
    guest = register(server, {"tee": "snp", "launch_digest": DIGEST.hex(), "inputs": {}})

    assert _attest_bare(server, guest).status == 200
    assert source.asked == 1


def test_amd_is_asked_nothing_for_software_evidence_without_certificates(tmp_path):
    source = Source()
    server = make_server(str(tmp_path / "store"))
    verifier = Verifier(
        hardware=amd.anchors(),
        simulated=Anchors(hardware={}, simulated={}).add_simulated_root(server.authority.root),
        collateral=source,
    )
    broker = replace(server.broker, appraiser=verifier)
    server = replace(server, broker=broker, app=make_app(broker))
    manifest = server.make_manifest()
    assert server.register(manifest).status == 201
    guest = FakeGuest(manifest)
    session, nonce = server.challenge(guest)
    report, _ = parse_evidence(make_evidence(server, guest, nonce))

    reply = server.attest(guest, session, pack_evidence(report, b""))

    assert (reply.status, reply.json["error"]) == (503, "could-not-check")
    assert source.asked == 0


def test_a_report_whose_vcek_cannot_be_had_could_not_be_checked(tmp_path):
    server = make_tdx_server(tmp_path / "store", Source())
    guest = register(server, {"tee": "snp", "launch_digest": DIGEST.hex(), "inputs": {}})

    reply = _attest_bare(server, guest)

    assert (reply.status, reply.json["error"]) == (503, "could-not-check")


def test_a_slow_source_does_not_hold_every_thread():
    entered, leave = threading.Semaphore(0), threading.Event()

    class Slow(Source):
        def find_tdx(self, payload):
            entered.release()
            leave.wait(10)
            return payload

    bounded = BoundedSource(Slow(), most_at_once=2)
    threads = [threading.Thread(target=bounded.find_tdx, args=(b"x",)) for _ in range(2)]
    for thread in threads:
        thread.start()
        entered.acquire(timeout=10)

    assert bounded.find_tdx(b"x") is None
    leave.set()
    for thread in threads:
        thread.join()
    assert bounded.find_tdx(b"x") == b"x"


def test_a_server_that_cannot_check_is_exit_status_5():
    from krunpy.client.server import ServerClient

    document = {"error": "could-not-check", "message": "m", "attestation": "A"}
    error = ServerClient("http://127.0.0.1:1")._explain(503, document, "/v1/attest")

    assert error.exit_code == 5
    assert "could not check the evidence" in error.what
