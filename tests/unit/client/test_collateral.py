from datetime import timedelta
from email.utils import format_datetime
from time import monotonic

import pytest

from krunpy.attest.tdx_collateral import verify_collateral
from krunpy.client.collateral_http import CollateralError
from krunpy.client.collateral_item import PckCa, Vcek, Vendor
from krunpy.formats.snp_tcb import Product
from tests.fakes import amd
from tests.fakes.collateral_samples import (
    CRL,
    EVERYTHING,
    NOW,
    ROOT_CRL,
    VCEK,
    FakeTime,
    ask,
    good,
    good_replies,
    good_server,
    make_client,
    open_cache,
    path_of,
    vcek_der,
)
from tests.fakes.collateral_server import CollateralServer, Reply
from tests.fakes.intel_collateral import mint_collateral
from tests.fakes.intel_pki import FMSPC
from tests.fakes.intel_pki import anchors as intel_anchors


def names(item):
    return type(item).__name__


# --- what is fetched


@pytest.mark.parametrize("item", EVERYTHING, ids=names)
def test_an_item_is_fetched_once_and_then_found(tmp_path, item):
    with good_server().running() as server:
        first = make_client(tmp_path, server.url).fetch(item)
        again = make_client(tmp_path, server.url).fetch(item)

    assert server.asked == [path_of(item)]
    assert again.contents == first.contents
    assert first.span.holds_at(NOW)


def test_the_vcek_is_the_servers_bytes(tmp_path):
    cached, _ = ask(tmp_path, good())

    assert cached.contents == vcek_der()


def test_a_turin_chip_is_asked_for_by_eight_bytes_and_its_fmc_level(tmp_path):
    chip = amd.FakeChip(product=Product.TURIN)
    item = Vcek(product=Product.TURIN, hwid=chip.chip_id[:8], tcb=amd.TCB[Product.TURIN])

    der = chip.certificate

    cached, server = ask(tmp_path, Reply(body=der), item=item)

    wanted = "/vcek/v1/Turin/0102030405060708?fmcSPL=1&blSPL=1&teeSPL=1&snpSPL=4&ucodeSPL=84"
    assert server.asked == [wanted]
    assert cached.contents == der


def test_a_turin_certificate_of_another_fmc_level_is_not_kept(tmp_path):
    chip = amd.FakeChip(product=Product.TURIN, add={f"{amd.OID}.3.9": b"\2\1\2"})
    item = Vcek(product=Product.TURIN, hwid=chip.chip_id[:8], tcb=amd.TCB[Product.TURIN])

    error, _ = ask(tmp_path, Reply(body=chip.certificate), item=item)

    assert "fmc 2, wanted 1" in error.why


def test_the_collateral_of_a_quote_is_what_intel_signed(tmp_path):
    with good_server().running() as server:
        collateral = make_client(tmp_path, server.url).fetch_tdx(FMSPC, PckCa.PLATFORM)

    assert collateral.tcb_info == mint_collateral().tcb_info
    assert verify_collateral(collateral, intel_anchors(), NOW).tcb_info.fmspc == FMSPC


def test_a_stale_item_is_fetched_anew(tmp_path):
    newer = amd.mint_crl(this_update=amd.datetime(2026, 6, 20, tzinfo=amd.UTC), next_update=amd.LATER)
    ask(tmp_path, Reply(body=amd.mint_crl()), item=CRL)

    cached, _ = ask(tmp_path, Reply(body=newer), item=CRL, time=FakeTime(now=NOW + timedelta(days=60)))

    assert cached.contents == newer


def test_a_stale_item_is_used_only_where_the_caller_says_so(tmp_path):
    with good_server().running() as server:
        make_client(tmp_path, server.url).fetch(CRL)
    later = FakeTime(now=NOW + timedelta(days=60))
    with CollateralServer().running() as empty:
        client = make_client(tmp_path, empty.url, clock=later.clock)

        with pytest.raises(CollateralError):
            client.fetch(CRL)
        assert client.fetch_or_stale(CRL).contents == good_replies()[path_of(CRL)].body


def test_where_there_is_not_even_a_stale_item_it_could_not_be_checked(tmp_path):
    with CollateralServer().running() as empty, pytest.raises(CollateralError):
        make_client(tmp_path, empty.url).fetch_or_stale(CRL)


# --- patience


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_server_that_is_busy_is_asked_again(tmp_path, status):
    time = FakeTime()

    cached, server = ask(tmp_path, Reply(status=status), Reply(status=status), good(), time=time)

    assert cached.contents == vcek_der()
    assert len(server.asked) == 3
    assert time.waits == [0.5, 1.0]


def test_retry_after_in_seconds_is_respected(tmp_path):
    time = FakeTime()

    ask(tmp_path, Reply(status=429, headers=(("Retry-After", "7"),)), good(), time=time)

    assert time.waits == [7.0]


def test_retry_after_as_a_date_is_respected(tmp_path):
    time = FakeTime()
    date = format_datetime(NOW + timedelta(seconds=11), usegmt=True)

    ask(tmp_path, Reply(status=503, headers=(("Retry-After", date),)), good(), time=time)

    assert time.waits == [11.0]


@pytest.mark.parametrize("text", ["soon", "-5", "1.5", "9" * 400, "Mon, 99 Foo 2026 00:00:00 GMT"])
def test_a_retry_after_that_means_nothing_is_our_own_wait(tmp_path, text):
    time = FakeTime()

    ask(tmp_path, Reply(status=429, headers=(("Retry-After", text),)), good(), time=time)

    assert time.waits == [0.5]


def test_a_wait_longer_than_our_patience_ends_at_once_and_is_remembered(tmp_path):
    time = FakeTime()

    error, server = ask(tmp_path, Reply(status=429, headers=(("Retry-After", "600"),)), good(), time=time)

    assert error.exit_code == 5
    assert (len(server.asked), time.waits) == (1, [])
    left, why = open_cache(tmp_path, time.clock).find_pause(Vendor.AMD)
    assert (left, why) == (600, "status 429")


def test_a_vendor_that_asked_for_a_pause_is_left_alone_for_every_item(tmp_path):
    ask(tmp_path, Reply(status=429, headers=(("Retry-After", "600"),)))

    error, server = ask(tmp_path, good_replies()[path_of(CRL)], item=CRL)

    assert server.asked == []
    assert "not asked again for 600 s more" in error.why
    cached, _ = ask(tmp_path, good_replies()[path_of(ROOT_CRL)], item=ROOT_CRL)
    assert cached.item == ROOT_CRL


def test_after_the_pause_it_is_asked_again(tmp_path):
    ask(tmp_path, Reply(status=429, headers=(("Retry-After", "600"),)))

    cached, _ = ask(tmp_path, good(), time=FakeTime(passed=601))

    assert cached.contents == vcek_der()


def test_no_pause_is_longer_than_an_hour(tmp_path):
    time = FakeTime()

    ask(tmp_path, Reply(status=429, headers=(("Retry-After", "99999999"),)), time=time)

    assert open_cache(tmp_path, time.clock).find_pause(Vendor.AMD)[0] == 3600


def test_waits_grow_and_end(tmp_path):
    time = FakeTime()

    error, server = ask(tmp_path, Reply(status=500), time=time)

    assert time.waits == [0.5, 1, 2, 4, 8, 8]
    assert len(server.asked) == 7
    assert "status 500" in error.why


def test_a_connection_that_breaks_off_is_tried_again(tmp_path):
    cached, server = ask(tmp_path, Reply(body=vcek_der(), cut=300), good())

    assert cached.contents == vcek_der()
    assert len(server.asked) == 2


def test_a_server_that_is_not_there_could_not_be_asked(tmp_path):
    time = FakeTime()

    with pytest.raises(CollateralError) as caught:
        make_client(tmp_path, "http://127.0.0.1:1", clock=time.clock).fetch(VCEK)

    assert caught.value.exit_code == 5
    assert "refused" in caught.value.why


def test_a_server_that_answers_too_slowly_is_not_waited_for(tmp_path):
    error, _ = ask(tmp_path, Reply(delay_s=30, body=vcek_der()), total_s=0.3)

    assert "no whole answer within 0.3 s" in error.why


def test_an_answer_that_drips_is_not_waited_for_byte_by_byte(tmp_path):
    begin = monotonic()

    error, _ = ask(tmp_path, Reply(drip_s=0.05, body=vcek_der()), total_s=0.3)

    assert "no whole answer within 0.3 s" in error.why
    assert monotonic() - begin < 5


@pytest.mark.parametrize("raw", [b"HTTP/1.1 100 Continue\r\n\r\n" * 100, b"A" * 5000, b"\r\n" * 5000])
def test_a_server_that_never_comes_to_its_answer_is_cut_off(tmp_path, raw):
    error, _ = ask(tmp_path, Reply(endless_raw=raw), total_s=0.4)

    assert "over 4096 bytes" in error.why or "not HTTP" in error.why


def test_an_answer_that_does_not_end_is_cut_off_at_its_limit(tmp_path):
    error, server = ask(tmp_path, Reply(endless=True))

    assert "over 4096 bytes" in error.why
    assert len(server.asked) == 1
