"""What guests of libkrun can hold, and how much room stays free: refused or taken when the image is made."""

from __future__ import annotations

from dataclasses import replace

import pytest

from krunpy.core.errors import UsageError
from krunpy.core.octets import Secret
from krunpy.formats.krun_guest import MAX_KEY_URL
from krunpy.image.libkrun_sev_config import require_config, require_passphrase
from krunpy.image.libkrun_sev_slop import MINIMUM_SIZE, parse_slop
from tests.fakes.libkrun_sev import CONFIG

WORDS = "/kbs/v0/key/"


def test_a_url_that_just_fits_the_guest_s_buffer_is_taken() -> None:
    url = "http://" + "h" * (MAX_KEY_URL - len("http://") - len(WORDS) - len("wl"))

    require_config(replace(CONFIG, attestation_url=url, workload_id="wl"))
    with pytest.raises(UsageError) as caught:
        require_config(replace(CONFIG, attestation_url=url + "h", workload_id="wl"))

    assert f"is {MAX_KEY_URL + 1} bytes" in caught.value.why


def test_room_for_a_derived_workload_id_is_counted() -> None:
    url = "http://" + "h" * (MAX_KEY_URL - len("http://") - len(WORDS) - 32)

    require_config(replace(CONFIG, attestation_url=url))
    with pytest.raises(UsageError, match="attestation URL"):
        require_config(replace(CONFIG, attestation_url=url + "h"))


@pytest.mark.parametrize(
    "url", ["http://h", "https://h:8000", "http://[fe80::1]:1/a/b", "http://10.0.0.1:8000"]
)
def test_a_url_of_a_server_is_taken(url: str) -> None:
    require_config(replace(CONFIG, attestation_url=url))


@pytest.mark.parametrize(
    "url",
    [
        "http://", "h:80", "ftp://h", "http://h/", "http://h?a", "http://h#a", 'http://h"', "http://h\\", "http://h\n",
        "http://h x", "http://\xe9", "HTTP://h",
    ],
)  # fmt: skip
def test_what_is_no_url_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="attestation URL"):
        require_config(replace(CONFIG, attestation_url=url))


@pytest.mark.parametrize("name", ["a", "A.b_c-1", "f" * 255])
def test_a_workload_id_is_taken(name: str) -> None:
    require_config(replace(CONFIG, workload_id=name))


@pytest.mark.parametrize("name", ["-a", "a b", "a/b", 'a"', "a\n", "\xe9", "f" * 256, "../a"])
def test_a_workload_id_that_would_not_reach_the_server_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="workload id"):
        require_config(replace(CONFIG, workload_id=name))


def test_a_passphrase_that_fits_is_taken() -> None:
    require_passphrase(Secret(b"x" * 245))
    require_passphrase(Secret("pass wörd".encode()))


@pytest.mark.parametrize("value", [b"", b"x" * 246, b"xxxxxxxx\0b", b"xxxxxxxx\nb", b"xxxxxxxx\xff"])
def test_a_passphrase_that_would_not_reach_the_guest_is_refused_without_being_shown(value: bytes) -> None:
    with pytest.raises(UsageError) as caught:
        require_passphrase(Secret(value))

    assert "xxxx" not in caught.value.why


@pytest.mark.parametrize(
    ("text", "free"),
    [
        ("25%", 25 << 20), ("200%", 200 << 20), ("64MB", 64 << 20), ("25%+64MB", 89 << 20), ("64MB + 25%", 89 << 20),
        ("1g", 1 << 30), ("0%", 0), ("5%+5%", 10 << 20), ("4096", 4096), ("1b", 4096), ("1KiB+1kb", 4096),
    ],
)  # fmt: skip
def test_slop_is_counted_of_100_mib(text: str, free: int) -> None:
    assert parse_slop(text).count_free(100 << 20) == free


def test_a_small_image_has_room_all_the_same() -> None:
    assert parse_slop("0%").count_free(1 << 20) == MINIMUM_SIZE - (1 << 20)


@pytest.mark.parametrize("text", ["", "%", "-5%", "x", "25%+", "64 MB", "1.5%", "9" * 99 + "%", "64MB%"])
def test_what_is_no_slop_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="cannot read the slop"):
        parse_slop(text)
