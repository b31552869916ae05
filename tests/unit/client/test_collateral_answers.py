import contextlib
import json
import socket
import ssl
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from krunpy.client.collateral_check import check_contents
from krunpy.client.collateral_http import Answer, CollateralError, get, parse_retry_after
from krunpy.client.collateral_item import (
    IntelRootCrl,
    PckCa,
    PckCrl,
    TdxTcbInfo,
    Vcek,
    describe_item,
    list_product_items,
    make_vcek,
    name_item,
    parse_item,
)
from krunpy.client.collateral_source import make_path, make_sources, read_answer
from krunpy.client.exchange import parse_url
from krunpy.core.errors import FormatError, UsageError
from krunpy.formats.snp_report import SigningKey
from krunpy.formats.snp_tcb import Product, Tcb
from tests.fakes import amd
from tests.fakes.collateral_samples import (
    CHAIN,
    EVERYTHING,
    MILAN,
    NOW,
    PCK_CRL,
    QE_IDENTITY,
    ROOT_CRL,
    TCB_INFO,
    good_replies,
    path_of,
    roots,
)
from tests.fakes.collateral_server import make_tdx_replies
from tests.fakes.intel_collateral import mint_collateral, mint_crl, tcb_info
from tests.fakes.intel_pki import CA_CERT, FMSPC, PLATFORM_CA, PROCESSOR_CA, ROOT, mint, mint_root, pem
from tests.fakes.intel_pki import name as intel_name


def answer_to(item, collateral=None, **changes):
    """Return a good answer to an item, or one from other collateral, or with some parts changed."""
    replies = good_replies()
    if collateral is not None:
        replies = make_tdx_replies(collateral, fmspc=FMSPC.hex(), ca="platform")
    reply = replies[path_of(item)]
    headers = {name.lower(): value for name, value in reply.headers}
    return replace(Answer(status=200, headers=headers, body=reply.body), **changes)


def check(item, answer):
    return check_contents(item, read_answer(item, answer), roots())


# --- Intel's answers


@pytest.mark.parametrize("item", EVERYTHING, ids=lambda item: type(item).__name__)
def test_a_good_answer_says_when_it_holds(item):
    assert check(item, answer_to(item)).holds_at(NOW)


def test_the_signed_bytes_are_kept_as_they_came():
    spaced = json.dumps(tcb_info(), indent=2).encode()
    contents = read_answer(TCB_INFO, answer_to(TCB_INFO, mint_collateral(info=spaced)))

    assert json.loads(contents)["tcb_info"].encode() == spaced


def test_a_tcb_info_ends_with_its_next_update():
    assert check(TCB_INFO, answer_to(TCB_INFO)).expires == datetime(2026, 6, 19, tzinfo=UTC)


@pytest.mark.parametrize(
    ("item", "changes", "why"),
    [
        (TCB_INFO, {"info": {"fmspc": "00f0f0000002"}}, "FMSPC 00f0f0000002"),
        (TCB_INFO, {"info": {"id": "SGX"}}, 'seen id "SGX"'),
        (TCB_INFO, {"info": {"version": 2}}, "version 2"),
        (TCB_INFO, {"info_signer": "evil"}, "not signed by the signer"),
        (TCB_INFO, {"info": json.dumps(tcb_info())[:-1].encode() + b',"id":"TDX"}'}, "given twice"),
        (QE_IDENTITY, {"identity": {"id": "QE"}}, 'seen id "QE"'),
        (QE_IDENTITY, {"identity_signer": "evil"}, "not signed by the signer"),
        (PCK_CRL, {"pck_crl": mint_crl(ROOT, "ca")}, "wanted one of the PCK platform CA"),
        (PCK_CRL, {"pck_crl": mint_crl(PLATFORM_CA, "evil")}, "not signed by"),
        (ROOT_CRL, {"root_crl": mint_crl(PLATFORM_CA, "root")}, "wanted one of Intel's root"),
        (ROOT_CRL, {"root_crl": mint_crl(ROOT, "evil")}, "not signed by the trusted root"),
    ],
)
def test_collateral_of_something_else_is_refused(item, changes, why):
    answer = answer_to(item, mint_collateral(**changes))

    with pytest.raises(FormatError, match=why):
        check(item, answer)


def test_the_crl_of_the_other_pck_authority_is_refused():
    assert PROCESSOR_CA != PLATFORM_CA

    with pytest.raises(FormatError, match="processor"):
        check(PckCrl(ca=PckCa.PROCESSOR), answer_to(PCK_CRL))


@pytest.mark.parametrize("change", [{"signer": "evil"}, {"issuer": intel_name("Intel SGX Root CB")}])
def test_a_pck_authority_that_the_root_did_not_sign_is_refused(change):
    chain = pem(mint(replace(CA_CERT, **change)), mint_root())
    answer = answer_to(PCK_CRL, replace(mint_collateral(), pck_crl_issuer_chain=chain))

    with pytest.raises(FormatError, match='PCK Platform CA" is not signed by the trusted root'):
        check(PCK_CRL, answer)


@pytest.mark.parametrize(
    ("chain", "why"),
    [
        (lambda: (MILAN.intermediate,), "seen 1 certificates"),
        (lambda: (MILAN.intermediate, amd.mint_root(Product.MILAN, "evil")), "not the one that is trusted"),
        (
            lambda: (amd.FakeChip(kind=SigningKey.VLEK).intermediate, amd.mint_root(Product.MILAN)),
            "VLEK-Milan",
        ),
        (
            lambda: (
                amd.FakeChip(ask={"signer": amd.rsa_key("evil")}).intermediate,
                amd.mint_root(Product.MILAN),
            ),
            "not signed by the trusted root",
        ),
        (
            lambda: (
                amd.FakeChip(ask={"issuer": amd.name("ARK-Genoa")}).intermediate,
                amd.mint_root(Product.MILAN),
            ),
            'wanted "SEV-Milan"',
        ),
    ],
)
def test_another_chain_of_amd_is_refused(chain, why):
    with pytest.raises(FormatError, match=why):
        check(CHAIN, answer_to(CHAIN, body=pem(*chain())))


def test_contents_over_the_limit_are_not_read():
    with pytest.raises(FormatError, match="wanted at most 1048576"):
        check_contents(ROOT_CRL, bytes((1 << 20) + 1), roots())


@pytest.mark.parametrize("item", [TCB_INFO, QE_IDENTITY, PCK_CRL])
def test_an_answer_without_its_issuer_chain_is_refused(item):
    with pytest.raises(FormatError, match="has no header"):
        read_answer(item, answer_to(item, headers={}))


@pytest.mark.parametrize(
    "chain", ["", "garbage", "%00", "-----BEGIN CERTIFICATE-----%0AAAAA%0A-----END CERTIFICATE-----"]
)
def test_a_chain_that_is_none_is_refused(chain):
    with pytest.raises(FormatError):
        check(TCB_INFO, answer_to(TCB_INFO, headers={"tcb-info-issuer-chain": chain}))


def test_a_chain_that_ends_at_another_root_is_refused():
    chain = answer_to(PCK_CRL).headers["sgx-pck-crl-issuer-chain"]

    with pytest.raises(FormatError):
        check(TCB_INFO, answer_to(TCB_INFO, headers={"tcb-info-issuer-chain": chain}))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b'{"tcbInfo":{}',
        b'{"tcbInfo":{},"signature":""}',
        b'{"tcbInfo":{},"signature":"' + b"0" * 128 + b'","more":1}',
        b'{"signature":"' + b"0" * 128 + b'","tcbInfo":{}}',
        b'{"tcbInfo":' + b"[" * 100000,
        b"\xff\xfe",
    ],
)
def test_a_document_of_another_shape_is_refused(body):
    with pytest.raises(FormatError):
        read_answer(TCB_INFO, answer_to(TCB_INFO, body=body))


def test_a_crl_may_come_in_hex_as_intels_caches_send_it():
    der = mint_collateral().pck_crl

    contents = read_answer(PCK_CRL, answer_to(PCK_CRL, body=der.hex().encode()))

    assert json.loads(contents)["pck_crl"] == der.hex()
    with pytest.raises(FormatError, match="neither DER nor hex"):
        read_answer(ROOT_CRL, answer_to(ROOT_CRL, body=b"30zz"))


@pytest.mark.parametrize("item", EVERYTHING, ids=lambda item: type(item).__name__)
@given(body=st.binary(max_size=300), header=st.text(max_size=100))
def test_any_answer_is_refused_or_read(item, body, header):
    headers = dict.fromkeys(answer_to(item).headers, header)

    with pytest.raises(FormatError):
        check(item, answer_to(item, body=body, headers=headers))


@given(at=st.integers(min_value=0), bit=st.integers(0, 7), item=st.sampled_from(EVERYTHING))
def test_no_flipped_bit_is_kept_as_something_else(at, bit, item):
    contents = bytearray(read_answer(item, answer_to(item)))
    good = check_contents(item, bytes(contents), roots())
    contents[at % len(contents)] ^= 1 << bit

    try:
        span = check_contents(item, bytes(contents), roots())
    except FormatError:
        return
    # hex in the other case, or the root's certificate beside a CRL that it does not vouch for alone
    assert span == good
    assert item not in {CHAIN, ROOT_CRL, EVERYTHING[0]}


# --- names


@pytest.mark.parametrize("item", [*EVERYTHING, *list_product_items(Product.TURIN)], ids=name_item)
def test_a_name_can_be_read_back(item):
    assert parse_item(name_item(item)) == item
    assert describe_item(item).isprintable()


@given(
    st.text(max_size=80) | st.from_regex(r"(vcek|tdx-tcb-info)-(milan|turin|rome)-[0-9a-f]{16}-[0-9a-f]{16}")
)
def test_any_name_is_an_item_or_refused(name):
    try:
        assert name_item(parse_item(name)) == name
    except FormatError:
        pass


@pytest.mark.parametrize("name", [f"vcek-milan-{'0' * 16}-{'0' * 16}", f"vcek-turin-{'0' * 128}-{'0' * 16}"])
def test_a_chip_of_another_products_size_has_no_name(name):
    with pytest.raises(FormatError, match="no name of an item"):
        parse_item(name)


def test_a_chip_that_hides_itself_has_no_name():
    with pytest.raises(FormatError, match="not all zero"):
        make_vcek(Product.MILAN, bytes(64), Tcb())


# --- where it is asked for


def test_amd_and_intel_are_asked_over_tls():
    sources = make_sources()

    assert sources.kds == parse_url("https://kdsintf.amd.com")
    assert str(sources.of(IntelRootCrl())) == "https://certificates.trustedservices.intel.com:443"
    assert make_path(IntelRootCrl(), sources) == "/IntelSGXRootCA.der"
    assert make_path(TdxTcbInfo(fmspc=bytes(5) + b"\xab"), sources).endswith("?fmspc=0000000000AB")


def test_a_cache_of_intels_service_is_asked_for_the_root_crl_too():
    sources = make_sources(pcs_url="https://pccs.example:8081")

    assert str(sources.of(IntelRootCrl())) == "https://pccs.example:8081"
    assert make_path(IntelRootCrl(), sources) == "/sgx/certification/v4/rootcacrl"


def test_the_levels_of_a_vcek_are_in_its_query():
    item = Vcek(product=Product.MILAN, hwid=b"\xab" * 64, tcb=Tcb(bootloader=4, snp=20, microcode=115))

    path = make_path(item, make_sources())

    assert path == f"/vcek/v1/Milan/{'ab' * 64}?blSPL=4&teeSPL=0&snpSPL=20&ucodeSPL=115"


@pytest.mark.parametrize("name", ["kds_url", "pcs_url"])
@pytest.mark.parametrize("url", ["http://kds.example", "ftp://kds.example", "kds.example", "https://a/b"])
def test_plain_http_to_another_machine_is_refused(name, url):
    with pytest.raises(UsageError):
        make_sources(**{name: url})


@pytest.fixture
def untrusted_https(tmp_path):
    """An https server whose certificate nobody trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(who)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "server.pem"
    plain = serialization.NoEncryption()
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    file.write_bytes(certificate.public_bytes(encoding) + key.private_bytes(encoding, form, plain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    listener = socket.create_server(("127.0.0.1", 0))

    def run():
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with contextlib.suppress(OSError), connection:
                context.wrap_socket(connection, server_side=True)

    thread = threading.Thread(target=run)
    thread.start()
    yield f"https://127.0.0.1:{listener.getsockname()[1]}"
    listener.close()
    thread.join(10)


def test_a_server_whose_certificate_is_not_trusted_is_not_asked(untrusted_https):
    with pytest.raises(CollateralError, match="its certificate"):
        get(parse_url(untrusted_https), "/", limit=100, timeout_s=5)


@given(st.text(max_size=60))
def test_any_retry_after_is_a_time_or_nothing(text):
    wait_s = parse_retry_after(text, NOW)

    assert wait_s is None or wait_s >= 0
