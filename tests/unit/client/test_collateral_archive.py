import base64
import json
from datetime import timedelta
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krunpy.client.collateral_archive import import_archive, pack_archive, parse_archive
from krunpy.client.collateral_item import name_item
from krunpy.core.errors import FormatError
from tests.fakes import amd
from tests.fakes.collateral_samples import (
    CRL,
    EVERYTHING,
    NOW,
    ROOT_CRL,
    VCEK,
    FakeTime,
    good_server,
    make_client,
    open_cache,
    vcek_der,
)


@pytest.fixture
def archive(tmp_path):
    """Return the export of a cache that holds one of everything."""
    with good_server().running() as server:
        client = make_client(tmp_path / "from", server.url)
        return pack_archive([client.fetch(item) for item in EVERYTHING])


def changed(archive, index, **members):
    document = json.loads(archive)
    document["items"][index] |= members
    return json.dumps(document).encode()


def is_empty(cache):
    return cache.list_items() == ()


def test_what_one_host_exports_another_imports(tmp_path, archive):
    cache = open_cache(tmp_path / "to")

    imported = import_archive(cache, archive)

    assert {one.cached.item for one in imported} == set(EVERYTHING)
    assert all(one.is_new for one in imported)
    assert cache.find_fresh(VCEK).contents == vcek_der()
    assert pack_archive([cache.find(item) for item in EVERYTHING]) == archive


def test_importing_twice_changes_nothing(tmp_path, archive):
    cache = open_cache(tmp_path / "to")
    import_archive(cache, archive)

    again = import_archive(cache, archive)

    assert not any(one.is_new for one in again)


@pytest.mark.parametrize("size", [0, 1, 100, -1, -2])
def test_a_truncated_archive_is_refused(tmp_path, archive, size):
    cache = open_cache(tmp_path / "to")

    with pytest.raises(FormatError):
        import_archive(cache, archive[:size] if size >= 0 else archive.rstrip()[:size])
    assert is_empty(cache)


def test_one_bad_item_keeps_all_others_out(tmp_path, archive):
    cache = open_cache(tmp_path / "to")
    evil = amd.mint_crl(signer="evil")
    index = EVERYTHING.index(CRL)
    bad = changed(archive, index, contents=base64.b64encode(evil).decode(), sha256=sha256(evil).hexdigest())

    with pytest.raises(FormatError, match=r"not signed .*nothing was imported"):
        import_archive(cache, bad)
    assert is_empty(cache)


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ({"sha256": "00" * 32}, "SHA-256"),
        ({"contents": "AAAA"}, "SHA-256"),
        ({"contents": "!"}, "not base64"),
        ({"name": "../../etc/passwd"}, "no name of an item"),
        ({"name": "tdx-qe-identity"}, "there twice"),
        ({"name": name_item(VCEK).replace("milan", "genoa")}, "nothing was imported"),
        ({"more": 1}, "unknown members"),
    ],
)
def test_a_damaged_item_is_refused(tmp_path, archive, members, why):
    cache = open_cache(tmp_path / "to")

    with pytest.raises(FormatError, match=why):
        import_archive(cache, changed(archive, 0, **members))
    assert is_empty(cache)


def test_another_schema_is_refused(archive):
    with pytest.raises(FormatError, match="wanted"):
        parse_archive(archive.replace(b"collateral.v1", b"collateral.v2"))


def test_an_archive_cannot_set_a_crl_back(tmp_path, archive):
    cache = open_cache(tmp_path / "to")
    newer = amd.mint_crl(0x77, this_update=NOW - timedelta(days=1))
    cache.keep(CRL, newer)

    imported = {one.cached.item: one for one in import_archive(cache, archive)}

    assert not imported[CRL].is_new
    assert cache.find(CRL).contents == newer
    assert imported[ROOT_CRL].is_new


def test_stale_items_are_imported_and_stay_stale(tmp_path, archive):
    later = FakeTime(now=NOW + timedelta(days=90))
    cache = open_cache(tmp_path / "to", later.clock)

    import_archive(cache, archive)

    assert cache.find_fresh(CRL) is None
    assert cache.find(CRL) is not None
    assert cache.find_fresh(VCEK) is not None


def test_an_item_from_the_future_is_refused_before_anything_is_kept(tmp_path, archive):
    earlier = FakeTime(now=NOW - timedelta(days=20))
    cache = open_cache(tmp_path / "to", earlier.clock)

    with pytest.raises(FormatError, match="it was issued at"):
        import_archive(cache, archive)
    assert is_empty(cache)


@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: json.dumps(text).encode()))
def test_any_bytes_are_an_archive_or_refused(raw):
    with pytest.raises(FormatError):
        parse_archive(raw)
