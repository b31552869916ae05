"""The host's side of shares: directories, their owners, ports, name servers."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from krunpy.core.errors import HostError
from krunpy.runtime.vm_host import (
    choose_owner,
    describe_shares,
    make_resolv_conf,
    open_directories,
    require_free_ports,
)
from krunpy.runtime.vm_shares import Shares, Volume
from krunpy.vmm.libkrun_spec import Share

if TYPE_CHECKING:
    from pathlib import Path

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make directories of others")


def _share(*volumes: tuple[Path, str, bool]) -> Shares:
    return Shares(
        volumes=tuple(
            Volume(host=str(host), guest=guest, is_read_only=is_read_only)
            for host, guest, is_read_only in volumes
        )
    )


def _choose(shares: Shares) -> tuple[int, int] | None:
    descriptors = open_directories(shares)
    try:
        return choose_owner(shares, descriptors)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _make(path: Path, uid: int, gid: int) -> Path:
    path.mkdir()
    os.chown(path, uid, gid)
    return path


@needs_root
def test_the_machine_runs_as_the_owner_of_what_it_may_write(tmp_path: Path) -> None:
    theirs, roots = _make(tmp_path / "a", 1234, 4321), _make(tmp_path / "b", 0, 0)

    assert _choose(_share((theirs, "/a", False), (roots, "/b", True))) == (1234, 4321)


@needs_root
def test_what_root_owns_and_the_guest_only_reads_needs_nobody(tmp_path: Path) -> None:
    assert _choose(_share((_make(tmp_path / "a", 0, 0), "/a", True))) is None


@needs_root
def test_a_machine_never_runs_as_root(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="root owns it"):
        _choose(_share((_make(tmp_path / "a", 0, 5), "/a", False)))


@needs_root
def test_directories_of_several_owners_are_refused(tmp_path: Path) -> None:
    first, second = _make(tmp_path / "a", 1234, 1), _make(tmp_path / "b", 1234, 2)

    with pytest.raises(HostError, match=r"1234:1, .* 1234:2"):
        _choose(_share((first, "/a", False), (second, "/b", True)))


def test_what_is_no_directory_cannot_be_shared(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    before = len(os.listdir("/proc/self/fd"))

    for name in ("file", "nothing"):
        with pytest.raises(HostError, match="cannot share"):
            open_directories(_share((tmp_path, "/a", True), (tmp_path / name, "/b", True)))

    assert len(os.listdir("/proc/self/fd")) == before


def test_the_machine_is_told_where_its_directories_are_among_the_descriptors(tmp_path: Path) -> None:
    shares = _share((tmp_path, "/a", True), (tmp_path, "/b", False))

    assert describe_shares(shares, first=5) == (
        Share(tag="vol0", directory=5, is_read_only=True),
        Share(tag="vol1", directory=6, is_read_only=False),
    )


def test_a_port_in_use_and_a_port_of_roots_are_refused_before_the_machine_starts() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(HostError, match="address already in use"):
            require_free_ports(Shares(ports=((taken.getsockname()[1], 80),)), is_root=True)
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", encoding="ascii") as stream:
        first = int(stream.read())
    if first > 1:
        with pytest.raises(HostError, match=f"ports below {first} need"):
            require_free_ports(Shares(ports=((first - 1, 80),)), is_root=True)


def test_without_a_network_there_is_no_name_server() -> None:
    assert make_resolv_conf(Shares()) == {}
    assert make_resolv_conf(Shares(has_network=True, dns="9.9.9.9")) == {
        "/etc/resolv.conf": b"nameserver 9.9.9.9\n"
    }
