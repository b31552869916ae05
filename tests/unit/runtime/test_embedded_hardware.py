"""The embedded server where machines are launched in hardware: real evidence against the vendors' pinned roots."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from krunpy.attest.anchors import split_pem
from krunpy.client.server import RefusedError, Registration
from krunpy.core.errors import KrunpyError
from krunpy.core.octets import Digest48, Secret
from krunpy.core.settings import Settings
from krunpy.formats.snp_certs import CertKind, pack_cert_table, pack_evidence
from krunpy.formats.snp_report import parse_report
from krunpy.formats.tdx_quote import parse_tdx_quote
from krunpy.runtime.broker import open_broker
from krunpy.runtime.embedded import embedded_store_of, find_embedded_key
from tests.fakes.broker import DISK_KEY, make_authority
from tests.fakes.guest import FakeGuest, launch, make_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from krunpy.runtime.broker import Broker

VECTORS = Path(
    os.environ.get("KRUNPY_VECTORS") or Path(__file__).resolve().parents[3].parent / "shared" / "vectors"
)
needs_vectors = pytest.mark.skipif(
    not VECTORS.is_dir(), reason="no attestation vectors: set KRUNPY_VECTORS to their folder"
)
NOWHERE = "http://127.0.0.1:1"  # no mirror listens there


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("house")
    return Settings(
        data_dir=str(folder / "data"),
        cache_dir=str(folder / "cache"),
        guest_dir="",
        tee="snp",
        kds_url=NOWHERE,
        pcs_url=NOWHERE,
    )


@pytest.fixture(scope="module")
def broker(settings: Settings) -> Iterator[Broker]:
    with open_broker(settings) as broker:
        yield broker


def attest(broker: Broker, tee: str, value: dict[str, object], evidence: bytes) -> dict[str, object]:
    """Register a value, hand in evidence that was made for another session, and return the record of the refusal."""
    guest = FakeGuest(make_manifest(broker.identity().key, workload=f"for-{tee}", tees=(tee,)))
    broker.client.register(
        f"for-{tee}",
        Registration(
            manifest=guest.manifest,
            disk_key=Secret(DISK_KEY),
            reference_values=({"tee": tee, "inputs": {}, **value},),
        ),
    )
    session = broker.client.challenge(guest.manifest_hash).session
    with pytest.raises(KrunpyError):
        broker.client.attest(
            session=session,
            tee=tee,
            guest_key=guest.public_key,
            manifest_hash=guest.manifest_hash,
            evidence=evidence,
        )
    return broker.client.show_attestation(workload=f"for-{tee}")


def test_it_is_in_mode_production_with_a_store_and_a_key_of_its_own(
    settings: Settings, broker: Broker
) -> None:
    assert broker.client.info().mode == "production"
    assert broker.identity().key == broker.client.info().key == find_embedded_key(settings)
    assert sorted(os.listdir(settings.data_dir)) == ["server-hardware"]
    development = Settings(data_dir=settings.data_dir, cache_dir="", guest_dir="", tee="software")
    assert embedded_store_of(development) != embedded_store_of(settings)
    assert find_embedded_key(development) is None


@needs_vectors
def test_a_real_snp_report_is_verified_up_to_amds_root_and_fails_only_for_its_session(broker: Broker) -> None:
    case = VECTORS / "snp-real/milan-v2-virtee"
    report = (case / "report.bin").read_bytes()
    ask, ark = split_pem((case / "chain.pem").read_bytes())
    table = {CertKind.VCEK: (case / "vek.der").read_bytes(), CertKind.ASK: ask, CertKind.ARK: ark}
    digest = parse_report(report).measurement.hex()

    record = attest(broker, "snp", {"launch_digest": digest}, pack_evidence(report, pack_cert_table(table)))

    assert (record["error"], record["simulated"], record["launch_digest"]) == (
        "report-data-mismatch",
        False,
        digest,
    )
    checks = {check["name"]: check["held"] for check in record["verdict"]["checks"]}
    assert checks["measurement"]
    assert not checks["report-data"]


@needs_vectors
def test_a_real_quote_is_verified_up_to_intels_root_and_lacks_only_collateral(broker: Broker) -> None:
    case = VECTORS / "tdx-real/google-v5-D"
    quote = (case / "quote.bin").read_bytes()
    td = parse_tdx_quote(quote).td
    value = {
        "mrtd": td.mrtd.hex(),
        "rtmrs": [register.hex() for register in td.rtmrs],
        "mrconfigid": Digest48(td.mrconfigid).hex(),
    }

    record = attest(broker, "tdx", value, pack_evidence(quote, b""))

    checks = {check["name"]: check["held"] for check in record["verdict"]["checks"]}
    assert record["simulated"] is False
    assert checks["mrtd"]
    assert checks["rtmr0"]
    assert not checks["report-data"]


@pytest.mark.parametrize(
    ("claimed", "code"), [("software", "tee-not-allowed"), ("snp", "evidence-not-verified")]
)
def test_simulated_evidence_is_never_accepted(broker: Broker, claimed: str, code: str) -> None:
    guest = FakeGuest(make_manifest(broker.identity().key, workload="both", tees=("software", "snp")))
    tee, digest = launch(make_authority(), guest.manifest)
    value = {"tee": "snp", "launch_digest": digest.hex(), "inputs": {}}
    broker.client.register(
        "both",
        Registration(manifest=guest.manifest, disk_key=Secret(DISK_KEY), reference_values=(value,)),
    )
    challenge = broker.client.challenge(guest.manifest_hash)

    with pytest.raises(RefusedError) as caught:
        broker.client.attest(
            session=challenge.session,
            tee=claimed,
            guest_key=guest.public_key,
            manifest_hash=guest.manifest_hash,
            evidence=tee.report(guest.make_report_data(challenge.nonce)),
        )

    assert caught.value.code == code
    assert broker.client.show_workload("both")["released"] == 0
