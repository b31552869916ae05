"""URLs and responses, without a socket."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krunpy.client.exchange import parse_response, parse_url
from krunpy.core.errors import FormatError, UsageError


def _http(body):
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://ann:geheim@kbs:8181", '"http://…@kbs:8181"'),
        ("https://ann:geh@eim@kbs", '"https://…@kbs"'),
        ("ann:geheim@kbs", '"…@kbs"'),
        ("http://ann:geheim?x@kbs", '"http://…@kbs"'),
        ("https://kbs/?token=geheim", '"https://kbs/…"'),
        ("https://kbs#geheim", '"https://kbs…"'),
        ("http://" + "ann:geheim" * 20 + "@kbs", '"http://…@kbs"'),
    ],
)
def test_no_credential_of_a_bad_url_is_in_the_message(url, shown):
    with pytest.raises(UsageError) as failure:
        parse_url(url)

    assert "geh" not in str(failure.value)
    assert shown in failure.value.why


@pytest.mark.parametrize(
    ("url", "is_private"),
    [
        ("http://127.0.0.1:1", True), ("http://localhost:1", True), ("http://[::1]:1", True),
        ("https://kbs", True),
        ("http://127.0.0.1.evil.example", False), ("http://localhost.evil.example", False),
        ("http://10.0.0.1", False),
        ("http://[::2]:1", False),
    ],
)  # fmt: skip
def test_what_counts_as_this_machine(url, is_private):
    assert parse_url(url).is_private is is_private


@pytest.mark.parametrize(
    "url",
    [
        "", "127.0.0.1:1", "ftp://x", "http://", "http://x:0", "http://x:99999", "http://user@x", "http://x/path",
        "http://x\r\nHost: y", "unix:/x",
    ],
)  # fmt: skip
def test_what_is_no_url_of_a_server_is_refused(url):
    with pytest.raises(UsageError):
        parse_url(url)


@given(st.binary(max_size=400), st.booleans())
def test_any_bytes_are_a_response_or_refused(data, has_ended):
    with contextlib.suppress(FormatError):
        parse_response(data, has_ended=has_ended)


@given(st.binary(max_size=200), st.integers(0, 600))
def test_a_response_is_complete_at_its_last_byte_and_not_before(body, cut):
    whole = _http(body)

    assert parse_response(whole, has_ended=False).body == body
    if cut < len(whole):
        assert parse_response(whole[:cut], has_ended=False) is None
