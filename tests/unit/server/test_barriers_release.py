"""The last three of the eight barriers (see test_barriers): types, output, and that nothing is shipped."""

from __future__ import annotations

import base64
import re
from dataclasses import fields
from importlib import resources
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_der_private_key

from krunpy.attest.evidence import read_snp_evidence
from krunpy.attest.verify import HardwareClaims, SimulatedClaims, verify_snp
from krunpy.core.octets import Secret
from krunpy.formats import snp_simulated
from krunpy.formats.frames import FailReason
from krunpy.server.mode import Mode
from krunpy.server.refusals import Refusal
from krunpy.server.release import (
    Recipient,
    Signer,
    SimulatedSigner,
    make_release,
    make_simulated_release,
)
from krunpy.server.verifier import make_appraiser
from tests.fakes import amd
from tests.fakes.broker import DISK_KEY, make_evidence, make_server, open_reply
from tests.fakes.forgery import DIGEST, NOBODY, Forgery, present_trusted, put
from tests.fakes.guest import FakeGuest, GuestRefusesError


def _claims(server, guest):
    """Verified claims of both kinds: hardware's, simulation's."""
    _, nonce = server.challenge(guest)
    forgery, now = Forgery(), amd.NOW
    now = now.fromtimestamp(server.clock(), now.tzinfo)
    hardware = verify_snp(
        read_snp_evidence(forgery.payload(guest.make_report_data(nonce))),
        anchors=forgery.trusted_as_hardware(),
        now=now,
    )
    roots = NOBODY.add_simulated_root(server.authority.root)
    simulated = verify_snp(read_snp_evidence(make_evidence(server, guest, nonce)), anchors=roots, now=now)
    return hardware, simulated


def test_barrier_6_a_workload_that_requires_hardware_is_not_released_to_a_simulation(server, guest):
    with server.broker.database.change() as connection:  # a server in mode development refuses to be asked
        connection.execute("UPDATE workloads SET requires_hardware=1")

    reply = server.run_guest(guest)
    hardware, _ = present_trusted(server, guest, Forgery())

    assert (reply.status, reply.json["error"]) == (403, "hardware-required")
    assert server.admin("GET", "/v1/workloads/web").json["require_hardware"] is True
    assert hardware.status == 200


def test_barrier_6_the_two_kinds_of_claims_are_two_types_and_neither_is_released_as_the_other(server, guest):
    hardware, simulated = _claims(server, guest)
    recipient = Recipient(
        nonce=server.challenge(guest)[1], guest_key=guest.public_key, manifest_hash=guest.manifest_hash
    )
    signer, key = server.broker.signer, Secret(DISK_KEY)
    values = {field.name: getattr(simulated, field.name) for field in fields(simulated)}
    assert (type(hardware), type(simulated)) == (HardwareClaims, SimulatedClaims)

    assert make_release(hardware, signer, key, recipient).sealed
    assert make_simulated_release(simulated, signer, key, recipient).sealed
    with pytest.raises(TypeError, match="takes hardware's claims, seen SimulatedClaims"):
        make_release(simulated, signer, key, recipient)
    with pytest.raises(TypeError, match="takes SimulatedClaims, seen HardwareClaims"):
        make_simulated_release(hardware, signer, key, recipient)
    with pytest.raises(TypeError, match="come from verify_snp alone"):
        HardwareClaims(**values | {"simulated": False, "proof": object()})


@pytest.mark.parametrize(("mode", "says"), [(Mode.DEVELOPMENT, True), (Mode.PRODUCTION, False)])
def test_barrier_6_a_registration_that_contradicts_the_mode_is_refused(tmp_path, mode, says):
    server = make_server(str(tmp_path / "store"), mode=mode)
    manifest = server.make_manifest(tees=("software", "snp"))
    value = {"tee": "snp", "launch_digest": DIGEST.hex(), "inputs": {}}

    refused = server.register(manifest, reference_values=[value], require_hardware=says)
    accepted = server.register(manifest, reference_values=[value], require_hardware=not says)

    assert (refused.status, accepted.status) == (400, 201)
    assert accepted.json["require_hardware"] is not says
    assert re.search("hardware only", refused.json["message"])


def test_barrier_7_a_server_with_productions_key_signs_nothing_about_a_simulation(server, guest):
    reply = put(server, signer=Signer(Secret(bytes(32)))).run_guest(guest)

    assert (reply.status, reply.json["error"]) == (403, "tee-not-allowed")
    assert 'signs as "krunpy"' in server.last_record()["detail"]


def test_barrier_7_what_a_simulation_gets_is_refused_by_a_guest_of_production(server, tmp_path):
    production = make_server(str(tmp_path / "store"), mode=Mode.PRODUCTION)
    assert production.broker.signer.public_key != server.broker.signer.public_key
    real = FakeGuest(production.make_manifest(tees=("software", "snp")))
    impostor = FakeGuest(server.make_manifest(tees=("software", "snp")), key=real.key)
    assert server.register(impostor.manifest).status == 201
    session, nonce = server.challenge(impostor)
    reply = server.attest(impostor, session, make_evidence(server, impostor, nonce))
    assert open_reply(impostor, nonce, reply) == [(1, DISK_KEY)]

    with pytest.raises(GuestRefusesError) as refused:
        open_reply(real, nonce, reply)

    assert refused.value.reason is FailReason.SERVER_SIGNATURE


def test_barrier_7_every_output_about_a_simulation_says_so(server, guest, tmp_path):
    production = make_server(str(tmp_path / "store"), mode=Mode.PRODUCTION)
    server.notes.clear()

    reply, info = server.run_guest(guest), server.call("GET", "/v1/info")

    record = server.last_record()
    for document in (reply.json, record):
        assert (document["hardware"], document["simulated"]) == (False, True)
        assert document["issuer"] == "krunpy SIMULATED TEE (not hardware)"
    assert (info.json["issuer"], production.call("GET", "/v1/info").json["issuer"]) == (
        "krunpy SIMULATED TEE (not hardware)",
        "krunpy",
    )
    assert {answer.headers["x-krunpy-simulated"] for answer in (reply, info)} == {"true"}
    (warning,) = [note for note in server.notes if note["event"] == "warning"]
    assert warning["message"] == f"SIMULATED - NOT CONFIDENTIAL: attestation {record['id']} was released"


def test_barrier_7_a_refused_simulation_is_warned_of_as_well(server, guest):
    server.notes.clear()
    server.register(guest.manifest, policy={"min_tcb": {"snp": 255}})

    reply = server.run_guest(guest)

    assert (reply.status, reply.headers["x-krunpy-simulated"]) == (403, "true")
    assert [note for note in server.notes if note["event"] == "warning"]


def test_barrier_7_productions_key_is_no_simulated_signer(server, tmp_path):
    production = make_server(str(tmp_path / "other"), mode=Mode.PRODUCTION)

    assert type(production.broker.signer) is Signer
    assert type(server.broker.signer) is SimulatedSigner
    assert not (tmp_path / "other" / "signing.key").exists()


@pytest.mark.parametrize("tee", ["software", "snp"])
def test_barrier_8_a_production_server_refuses_simulated_evidence_under_either_name(tmp_path, tee):
    production = make_server(str(tmp_path / "store"), mode=Mode.PRODUCTION)
    manifest = production.make_manifest(tees=("software", "snp"))
    guest = FakeGuest(manifest)
    session, nonce = production.challenge(guest)
    evidence = make_evidence(production, guest, nonce)
    digest = read_snp_evidence(evidence).report.measurement.hex()
    value = {"tee": "snp", "launch_digest": digest, "inputs": {}}
    assert production.register(manifest, reference_values=[value]).status == 201

    reply = production.attest(guest, session, evidence, tee=tee)

    refusal = {"software": Refusal.TEE_NOT_ALLOWED, "snp": Refusal.EVIDENCE_NOT_VERIFIED}[tee]
    assert (reply.status, reply.json["error"]) == (403, refusal.value)
    assert production.last_record()["hardware"] is False


def test_barrier_8_a_production_verifier_refuses_at_the_chain(server, guest):
    _, nonce = server.challenge(guest)
    evidence = make_evidence(server, guest, nonce)
    wanted = _wanted(server, guest, nonce)

    appraisal = make_appraiser(b"").appraise(evidence, wanted)

    assert appraisal.claims is None
    assert [check["stage"] for check in appraisal.verdict["checks"]] == ["chain"]


def _wanted(server, guest, nonce):
    from krunpy.formats.manifest import ManifestIn
    from krunpy.server.appraiser import Wanted

    return Wanted(
        tee="snp",
        report_data=guest.make_report_data(nonce),
        manifest_hash=guest.manifest_hash,
        manifest_in=ManifestIn.INITRD,
        product=None,
        reference_values=(),
        policy={},
        now_s=server.clock(),
    )


def _find_secrets(directory):
    """Return the files below that hold a private key, or a certificate with the simulation's marks."""
    pem = re.compile(rb"-----BEGIN ([A-Z ]+)-----([A-Za-z0-9+/=\s]+)-----END")
    blob = re.compile(rb"[A-Za-z0-9+/]{80,}={0,2}")
    found = []
    for path in sorted(Path(str(directory)).rglob("*")):
        if not path.is_file() or "__pycache__" in path.parts:
            continue
        contents = path.read_bytes()
        texts = [b"".join(match[1].split()) for match in pem.findall(contents)] + blob.findall(contents)
        octets = [contents, *(_decode(text) for text in texts)]
        if any(name.endswith(b"PRIVATE KEY") for name, _ in pem.findall(contents)) or any(
            _is_private_key(value) or snp_simulated.EXTENSION_OID_BYTES in value for value in octets
        ):
            found.append(path.name)
    return found


def _decode(text):
    try:
        return base64.b64decode(text)
    except ValueError:
        return b""


def _is_private_key(value):
    try:
        load_der_private_key(value, password=None)
    except (ValueError, TypeError):
        return False
    return True


def test_barrier_8_the_package_holds_no_private_key_and_no_simulated_root(tmp_path):
    from krunpy.tee.authority import open_authority

    package = resources.files("krunpy")
    authority = open_authority(str(tmp_path), now=amd.NOW)
    (tmp_path / "root.der").write_bytes(authority.root)
    (tmp_path / "root.pem").write_bytes(
        x509.load_der_x509_certificate(authority.root).public_bytes(Encoding.PEM)
    )

    assert _find_secrets(tmp_path) == ["authority.json", "root.der", "root.pem"]
    assert len(list(Path(str(package)).rglob("*.pem"))) >= 9
    assert _find_secrets(package) == []
