"""The eight barriers between simulated evidence and real secrets: each rejects it with the seven others off.

What a barrier would stop is let through by all others: made-up roots are trusted as AMD's, certificates and
reports lie without marks, the mode is development, the workload wants no hardware. One barrier is then put
back. The first test of each way shows that without any the key is released, so that the others can fail.
"""

from __future__ import annotations

import subprocess
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from krunpy.attest.anchors import load_amd_anchors, make_anchor
from krunpy.core.errors import FormatError, HostError, UsageError
from krunpy.core.settings import load_settings
from krunpy.formats import snp_simulated
from krunpy.formats.snp_certs import CertKind, parse_cert_table
from krunpy.formats.x509 import parse_certificate
from krunpy.server.listening import ServerOptions, open_listener
from krunpy.server.mode import Mode
from krunpy.server.verifier import Verifier
from tests.fakes.broker import make_authority, make_evidence, make_server
from tests.fakes.forgery import DIGEST, NOBODY, Forgery, present, present_trusted, put

CERTIFICATES = ("ark", "ask", "vcek")


def test_with_every_barrier_off_a_forgery_passes_for_hardware(server, guest):
    reply, _ = present_trusted(server, guest, Forgery())

    assert (reply.status, reply.json["hardware"]) == (200, True)


def test_with_every_barrier_open_simulated_evidence_gets_the_key(server, guest):
    reply = server.run_guest(guest)

    assert (reply.status, reply.json["hardware"], reply.json["simulated"]) == (200, False, True)


# 1: trust anchors


def test_barrier_1_a_root_that_is_not_pinned_is_refused_even_if_nothing_else_shows(server, guest):
    appraiser = Verifier(hardware=load_amd_anchors(), simulated=NOBODY)

    reply, failed = present(put(server, appraiser=appraiser), guest, Forgery())

    assert (reply.status, reply.json["error"], failed) == (403, "evidence-not-verified", "chain-root")
    assert server.last_record()["verdict"]["checks"][0]["stage"] == "chain"


def test_barrier_1_simulated_evidence_is_refused_where_its_root_is_not_pinned(server, guest):
    session, nonce = server.challenge(guest)
    evidence = make_evidence(replace(server, authority=make_authority("two")), guest, nonce)

    reply = server.attest(guest, session, evidence)

    assert (reply.status, reply.json["error"]) == (403, "evidence-not-verified")
    assert server.last_record()["verdict"]["checks"][0]["stage"] == "chain"


# 2: the mode


def test_barrier_2_a_server_in_mode_production_refuses_what_it_could_verify(server, guest):
    reply = put(server, mode=Mode.PRODUCTION).run_guest(guest)

    assert (reply.status, reply.json["error"]) == (403, "tee-not-allowed")
    record = server.last_record()
    assert record["detail"].startswith('seen "software", which a server in mode production')
    assert [check["stage"] for check in record["verdict"]["checks"]] == ["server"]  # nothing was verified


def test_barrier_2_the_mode_counts_again_when_the_claims_are_known(server, guest):
    class Credulous:
        """An appraiser that verifies simulated evidence under the name of hardware."""

        def __init__(self, verifier):
            self._verifier = verifier
            self.allows_tee = bool

        def appraise(self, evidence, wanted):
            return self._verifier.appraise(evidence, replace(wanted, tee="software"))

    credulous = put(server, mode=Mode.PRODUCTION, appraiser=Credulous(server.broker.appraiser))
    digest = server.admin("GET", "/v1/workloads/web").json["reference_values"][-1]["launch_digest"]
    values = [{"tee": "snp", "launch_digest": digest, "inputs": {}}]
    assert server.register(guest.manifest, reference_values=values).status == 200

    reply = credulous.run_guest(guest, tee="snp")

    assert (reply.status, reply.json["error"]) == (403, "tee-not-allowed")
    assert server.last_record()["detail"] == "seen simulated evidence, and the server is in mode production"


def test_barrier_2_a_server_in_mode_production_does_not_start_with_a_simulated_root(tmp_path):
    from krunpy.server.trust import SimulatedRoot

    root = SimulatedRoot(path="root.der", sha256="00" * 32)

    with pytest.raises(UsageError, match="seen mode production, wanted development"):
        open_listener(ServerOptions(data_dir=str(tmp_path), port=0, simulated_root=root))


def test_barrier_2_mode_development_does_not_listen_to_a_network_unless_told_at_length(tmp_path):
    options = ServerOptions(
        data_dir=str(tmp_path), host="0.0.0.0", port=0, mode=Mode.DEVELOPMENT, allows_plain_http=True
    )

    with pytest.raises(UsageError, match="accepts simulated evidence"):
        open_listener(options)
    open_listener(replace(options, accepts_simulated_from_network=True)).close()


def test_barrier_2_mode_development_does_not_open_a_store_with_a_key_for_hardware_only(tmp_path):
    production = make_server(str(tmp_path / "store"), mode=Mode.PRODUCTION)
    manifest = production.make_manifest(tees=("software", "snp"))
    value = {"tee": "snp", "launch_digest": DIGEST.hex(), "inputs": {}}
    assert production.register(manifest, reference_values=[value]).json["require_hardware"] is True

    with pytest.raises(HostError, match="registered for hardware only"):
        make_server(str(tmp_path / "store"))


def test_barrier_2_no_variable_of_the_environment_changes_the_mode():
    import typer

    from krunpy.cli.server import app

    names = ("MODE", "DEVELOPMENT", "SIMULATED_ROOT", "I_ACCEPT_SIMULATED", "SERVER_DEVELOPMENT")
    environment = {"HOME": "/", **{f"KRUNPY_{name}": "development" for name in names}}
    command = typer.main.get_command(app).commands["run"]

    assert load_settings(environment) == load_settings({"HOME": "/"})
    assert [parameter.name for parameter in command.params if parameter.envvar] == []
    assert not command.context_settings.get("auto_envvar_prefix")


# 3: names


def test_barrier_3_a_root_with_a_simulations_name_cannot_be_made_a_hardware_anchor():
    assert make_anchor(Forgery().root, simulated=False)

    with pytest.raises(FormatError, match='seen "SIM-ARK-Milan"'):
        make_anchor(Forgery(names=("ark",)).root, simulated=False)


@pytest.mark.parametrize(
    ("names", "code"),
    [(("ask",), "chain-anchor"), (("vcek",), "chain-names"), (CERTIFICATES, "chain-anchor")],
)
def test_barrier_3_a_simulations_name_is_refused_below_a_trusted_hardware_root(server, guest, names, code):
    reply, failed = present_trusted(server, guest, Forgery(names=names))

    assert (reply.status, failed) == (403, code)


# 4: the critical extension


def test_barrier_4_a_root_with_the_extension_cannot_be_made_a_hardware_anchor():
    with pytest.raises(FormatError, match="mark of simulation"):
        make_anchor(Forgery(extensions=("ark",)).root, simulated=False)


@pytest.mark.parametrize("who", ["ask", "vcek"])
def test_barrier_4_the_extension_is_refused_below_a_trusted_hardware_root(server, guest, who):
    reply, failed = present_trusted(server, guest, Forgery(extensions=(who,)))

    assert (reply.status, failed) == (403, "chain-extension")


def test_barrier_4_a_verifier_of_others_refuses_every_simulated_certificate(tmp_path):
    blobs = parse_cert_table(make_authority().certificates).blobs
    for kind in (CertKind.ARK, CertKind.ASK):
        pem = x509.load_der_x509_certificate(blobs[kind]).public_bytes(Encoding.PEM)
        (tmp_path / f"{kind.name}.pem").write_bytes(pem)
        done = subprocess.run(
            ["openssl", "verify", "-CAfile", str(tmp_path / "ARK.pem"), str(tmp_path / f"{kind.name}.pem")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode != 0
        assert "unhandled critical extension" in done.stdout + done.stderr
    for der in blobs.values():
        mark = parse_certificate(der).extensions[snp_simulated.EXTENSION_OID_BYTES]
        assert mark.is_critical


# 5: signed markers


@pytest.mark.parametrize(
    "marks",
    [
        {"family_id": snp_simulated.FAMILY_ID},
        {"chip_id": snp_simulated.CHIP_ID_PREFIX.ljust(64, b"\x11")},
    ],
)
def test_barrier_5_a_signed_marker_is_refused_under_a_real_root(server, guest, marks):
    reply, failed = present_trusted(server, guest, Forgery(**marks))

    assert (reply.status, failed) == (403, "marks")
