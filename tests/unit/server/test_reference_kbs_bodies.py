"""The bodies of the reference-kbs dialect, and nothing else than what libkrun sends."""

from __future__ import annotations

import base64
import json

import pytest

from krunpy.server.refusals import MESSAGES
from tests.fakes.libkrun_guest import LibkrunGuest, encode_number, require_malformed


def test_the_answers_have_the_form_that_the_client_can_take(libkrun):
    challenge = libkrun.auth()
    granted = libkrun.attest()
    key = libkrun.fetch()

    assert challenge.json == {"nonce": libkrun.nonce, "extra-params": ""}
    assert len(libkrun.nonce) == 32
    assert (granted.status, granted.raw, granted.headers["content-length"]) == (200, b"", "0")
    assert key.headers["content-length"] == "514"
    assert key.raw[:1] == key.raw[-1:] == b'"'
    assert len(bytes.fromhex(json.loads(key.raw))) == 256
    assert all("transfer-encoding" not in reply.headers for reply in (challenge, granted, key))


def test_one_nul_more_after_a_body_or_the_evidence_is_how_c_counts(libkrun):
    auth = b'{"extra-params":"{\\"workload_id\\":\\"web\\"}\\u0000","tee":"snp","version":"0.0.0"}\0'
    assert libkrun.call("POST", "auth", auth).status == 200
    libkrun.auth()
    body = json.loads(libkrun.make_attest_body())
    body["tee-evidence"] += "\0"

    assert libkrun.attest(json.dumps(body).encode() + b"\0").raw == b""


@pytest.mark.parametrize("cookies", [(), ("session_id=x",), ("other=1",), ("session_id=" + "A" * 86 + "=",)])
def test_a_request_without_a_session_is_malformed(kbs, libkrun, cookies):
    path = libkrun.prefix + "/kbs/v0"

    require_malformed(kbs.call("POST", f"{path}/attest", libkrun.make_attest_body(), cookies=cookies))
    require_malformed(kbs.call("GET", f"{path}/key/web", cookies=cookies))


def test_two_different_sessions_in_one_request_are_malformed(kbs, libkrun):
    other = LibkrunGuest(kbs)
    libkrun.auth()
    other.auth()
    cookies = (f"session_id={libkrun.session}", f"session_id={other.session}")

    require_malformed(kbs.call("POST", "/kbs/v0/attest", libkrun.make_attest_body(), cookies=cookies))


@pytest.mark.parametrize(
    "changes",
    [
        {"alg": "EC"},
        {"k-exp": encode_number(3)},
        {"k-exp": "AAEAAQ=="},
        {"k-mod": encode_number((1 << 2047) + 2)},
        {"k-mod": encode_number((1 << 2046) + 1)},
        {"k-mod": encode_number((1 << 3071) + 1)},
        {"k-mod": base64.b64encode(b"\0" + b"\xff" * 256).decode()},
        {"k-mod": "!" * 344},
        {"k-mod": "/" * 341 + "9=="},
        {"report": "ab" * 1183},
        {"report": "zz" * 1184},
        {"cert_chain": "[1]"},
    ],
)
def test_an_attest_body_that_no_client_sends_is_malformed_and_uses_nothing_up(libkrun, changes):
    libkrun.auth()

    require_malformed(libkrun.attest(libkrun.make_attest_body(**changes)))

    assert libkrun.attest().raw == b""


def test_unknown_members_of_an_attest_body_are_malformed(libkrun):
    libkrun.auth()
    body = json.loads(libkrun.make_attest_body())
    for changed in (
        {**body, "more": 1},
        {**body, "tee-pubkey": {**body["tee-pubkey"], "kty": "RSA"}},
        {**body, "tee-evidence": body["tee-evidence"][:-1] + ',"more":1}'},
        {**body, "tee-evidence": json.loads(body["tee-evidence"])},
        {**body, "tee-evidence": "\ud800"},
    ):
        require_malformed(libkrun.attest(json.dumps(changed).encode()))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b'{"extra-params":"{\\"workload_id\\":\\"web\\"}","tee":"sev","version":"0.0.0"}',
        b'{"extra-params":"{\\"workload_id\\":\\"web\\"}","tee":"tdx","version":"0.0.0"}',
        b'{"extra-params":"{\\"workload_id\\":\\"web\\"}","tee":"snp","version":"0.1.0"}',
        b'{"extra-params":"{\\"workload_id\\":\\"web\\"}","tee":"snp","version":"0.0.0","more":1}',
        b'{"extra-params":"{\\"workload_id\\":\\"web\\",\\"build\\":1}","tee":"snp","version":"0.0.0"}',
        b'{"extra-params":"{\\"workload_id\\":\\"../x\\"}","tee":"snp","version":"0.0.0"}',
        b'{"extra-params":{"workload_id":"web"},"tee":"snp","version":"0.0.0"}',
        b'{"extra-params":"{\\"workload_id\\":\\"web\\"}","tee":"snp","version":"0.0.0"}\0\0',
    ],
)
def test_an_auth_body_that_no_client_sends_is_malformed(kbs, body):
    reply = kbs.call("POST", "/kbs/v0/auth", body)

    require_malformed(reply)
    assert "set-cookie" not in reply.headers


def test_every_refusal_fits_the_clients_buffer():
    from krunpy.server.http import make_error
    from krunpy.server.reference_kbs import to_text

    for refusal, message in MESSAGES.items():
        text = to_text(make_error(403, refusal.value, f"{message} (attestation {'0' * 26})")).body
        assert len(text) < 200
        assert text.endswith(b"0)")
    assert len(to_text(make_error(400, "malformed", "ä" * 500)).body) == 199
