"""What a machine shares with its host: parsing, what cannot be, and who may ask for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krunpy.core.errors import BundleError, HostError, UsageError
from krunpy.formats.frames import Mounting, Tag, encode_mounting, parse_items
from krunpy.guest.payload import GuestPayload, VmmKind
from krunpy.oci.annotations import parse_annotations, require_no_own
from krunpy.runtime.request import HostSettings
from krunpy.runtime.vm_shares import (
    Shares,
    Volume,
    add_parameters,
    annotate_shares,
    make_shares,
    parse_port,
    parse_volume,
    read_shares,
    require_possible,
)
from krunpy.tee.detect import TeeKind

FULL = make_shares(
    volumes=[Volume(host="/srv/a:b", guest="/data"), Volume(host="/x", guest="/app", is_read_only=True)],
    ports=[(8080, 80), (8443, 443)],
    dns="9.9.9.9",
)
PAYLOAD = GuestPayload(firmware=b"", kernel=b"k", initrd=b"i", cmdline="quiet")


@pytest.mark.parametrize(
    ("text", "volume"),
    [
        ("/a:/b", Volume(host="/a", guest="/b")),
        ("/a:/b:ro", Volume(host="/a", guest="/b", is_read_only=True)),
        ("/a:/b:rw", Volume(host="/a", guest="/b")),
        ("/a:b:/c", Volume(host="/a:b", guest="/c")),
        ("/a b:/c/d é", Volume(host="/a b", guest="/c/d é")),
    ],
)
def test_a_volume_is_two_absolute_paths(text: str, volume: Volume) -> None:
    assert parse_volume(text) == volume


@pytest.mark.parametrize(
    "text",
    [
        "", "/a", "a:/b", "/a:b", "/a:/", "/a:/b/", "/a://b", "/a:/b/../c", "/a:/proc/x", "/a:/dev", "/a:/sys",
        "/a:/b:rx", "/a\n:/b", "/a:/b\udcff", "/a:/b\0", "/" + "x" * 5000 + ":/b", "/a:/" + "x" * 5000,
    ],
)  # fmt: skip
def test_what_is_not_a_volume_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="cannot use the volume"):
        parse_volume(text)


@pytest.mark.parametrize(
    "text", ["", "80", "80:", ":80", "0:80", "80:0", "65536:80", "80:80:80", "-1:80", "²:80", " 80:80"]
)
def test_what_is_not_a_port_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="wanted HOST:GUEST"):
        parse_port(text)


@given(st.text())
def test_any_text_is_a_volume_or_a_usage_error(text: str) -> None:
    try:
        volume = parse_volume(text)
    except UsageError:
        return
    assert volume.host.startswith("/")
    assert volume.guest.startswith("/")


def test_shares_survive_the_way_through_annotations() -> None:
    assert read_shares(parse_annotations(annotate_shares(FULL))) == FULL
    assert annotate_shares(Shares()) == {}


def test_a_port_brings_the_network() -> None:
    assert make_shares(ports=[(8080, 80)]).has_network
    assert not make_shares(volumes=[Volume(host="/a", guest="/b")]).has_network


@pytest.mark.parametrize(
    "wishes",
    [
        {"volumes": [Volume(host="/a", guest="/b"), Volume(host="/c", guest="/b")]},
        {"volumes": [Volume(host="/a", guest="/b"), Volume(host="/c", guest="/b/c")]},
        {"volumes": [Volume(host="/a", guest=f"/{number}") for number in range(9)]},
        {"ports": [(80, 1), (80, 2)]},
        {"ports": [(number, 1) for number in range(1, 66)]},
        {"dns": "9.9.9.9"},
        {"has_network": True, "dns": "name.example"},
        {"has_network": True, "dns": "1.1.1.1\nsearch x"},
    ],
)
def test_shares_that_are_at_odds_are_refused(wishes: dict) -> None:
    with pytest.raises(UsageError):
        make_shares(**wishes)


@pytest.mark.parametrize("name", sorted(annotate_shares(FULL)))
def test_only_krunpy_itself_may_ask_for_shares(name: str) -> None:
    with pytest.raises(BundleError, match="only krunpy's own commands may set it"):
        require_no_own({name: annotate_shares(FULL)[name]})


@pytest.mark.parametrize("name", sorted(annotate_shares(FULL)))
def test_an_annotation_that_cannot_be_is_a_bundle_error(name: str) -> None:
    with pytest.raises(BundleError):
        read_shares(parse_annotations({**annotate_shares(FULL), name: "\0"}))


def test_shares_need_libkrun_and_the_software_tee() -> None:
    require_possible(FULL, VmmKind.LIBKRUN, TeeKind.SOFTWARE)
    require_possible(Shares(), VmmKind.QEMU, TeeKind.SNP)
    with pytest.raises(HostError, match="machines of QEMU have not"):
        require_possible(FULL, VmmKind.QEMU, TeeKind.SOFTWARE)
    with pytest.raises(HostError, match="network"):
        require_possible(Shares(has_network=True), VmmKind.QEMU, TeeKind.SOFTWARE)
    with pytest.raises(HostError, match="for snp"):
        require_possible(FULL, VmmKind.LIBKRUN, TeeKind.SNP)


def test_the_network_is_in_the_measured_command_line_and_nothing_else_is() -> None:
    assert add_parameters(PAYLOAD, FULL).cmdline == "quiet tsi_hijack"
    assert add_parameters(PAYLOAD, Shares(volumes=FULL.volumes)) == PAYLOAD


def test_run_tells_the_agent_of_every_volume() -> None:
    items = parse_items(HostSettings(volumes=FULL.mountings).encode(stdin_is_empty=False))

    assert items == [(Tag.VOLUME, b"vol0:rw:/data"), (Tag.VOLUME, b"vol1:ro:/app")]
    assert encode_mounting(Mounting(tag="t", path="/é", is_read_only=True)) == "t:ro:/é".encode()
