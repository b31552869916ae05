"""Evidence that should be kept out: in AMD's shape, by somebody else's keys, with marks of simulation or without."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

from krunpy.attest.anchors import Anchor, Anchors
from krunpy.attest.signatures import load_root_key
from krunpy.formats import snp_simulated
from krunpy.formats.snp_certs import CertKind, pack_cert_table, pack_evidence
from krunpy.formats.snp_tcb import Product
from krunpy.formats.x509 import parse_certificate
from krunpy.server.app import make_app
from krunpy.server.verifier import Verifier
from tests.fakes import amd

DIGEST = b"\x5a" * 48
NOBODY = Anchors(hardware={}, simulated={})


@dataclass(frozen=True, kw_only=True)
class Forgery:
    """Evidence in AMD's shape by somebody else's keys, with as many of the marks of simulation as it is told.

    names, extensions: the certificates that bear the simulation's name, its critical extension.
    """

    names: tuple[str, ...] = ()
    extensions: tuple[str, ...] = ()
    family_id: bytes = bytes(16)
    chip_id: bytes = bytes(range(1, 65))

    def _name(self, who):
        common_name = {"ark": "ARK-Milan", "ask": "SEV-Milan", "vcek": "SEV-VCEK"}[who]
        if who in self.names:
            return amd.name(snp_simulated.COMMON_NAME_PREFIX + common_name, snp_simulated.ORGANIZATION)
        return amd.name(common_name)

    def _mint(self, who, issuer, **more):
        mark = (snp_simulated.EXTENSION_OID, snp_simulated.EXTENSION_VALUE, True)
        key = amd.ec_key("leaf") if who == "vcek" else amd.rsa_key(who)
        extensions = (*more.pop("extensions", ()), *([mark] if who in self.extensions else []))
        return amd.Cert(
            subject=self._name(who),
            issuer=self._name(issuer),
            key=key,
            signer=amd.rsa_key(issuer),
            extensions=extensions,
            **more,
        ).der()

    @functools.cached_property
    def root(self):
        return self._mint("ark", "ark", is_ca=True, cert_sign=True)

    def payload(self, report_data):
        chip = amd.FakeChip()
        levels = amd.levels(amd.TCB[Product.MILAN], Product.MILAN) | {f"{amd.OID}.4": self.chip_id}
        table = {
            CertKind.VCEK: self._mint(
                "vcek", "ask", extensions=tuple((oid, value, False) for oid, value in levels.items())
            ),
            CertKind.ASK: self._mint("ask", "ark", is_ca=True, cert_sign=True),
            CertKind.ARK: self.root,
        }
        report = chip.report(
            report_data=report_data, measurement=DIGEST, family_id=self.family_id, chip_id=self.chip_id
        )
        return pack_evidence(chip.sign(report), pack_cert_table(table))

    def trusted_as_hardware(self):
        """The root as a hardware one, made by hand: what the trust anchors would refuse is skipped."""
        certificate = parse_certificate(self.root)
        anchor = Anchor(
            product=Product.MILAN,
            der=self.root,
            key=load_root_key(certificate.public_key),
            subject=certificate.subject.der,
            not_before=certificate.not_before,
            not_after=certificate.not_after,
            simulated=False,
            intermediates={},
        )
        return Anchors(hardware={Product.MILAN: anchor}, simulated={})


def put(server, **changes):
    """Return the server with parts of its broker exchanged."""
    broker = replace(server.broker, **changes)
    return replace(server, broker=broker, app=make_app(broker))


def present(server, guest, forgery):
    """Hand a forgery in as hardware's; return the reply and the failed check."""
    session, nonce = server.challenge(guest)
    reply = server.attest(guest, session, forgery.payload(guest.make_report_data(nonce)), tee="snp")
    failed = [check for check in server.last_record()["verdict"]["checks"] if not check["held"]]
    return reply, failed[0]["name"] if failed else ""


def present_trusted(server, guest, forgery):
    appraiser = Verifier(hardware=forgery.trusted_as_hardware(), simulated=NOBODY)
    return present(put(server, appraiser=appraiser), guest, forgery)
