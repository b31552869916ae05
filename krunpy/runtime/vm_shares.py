"""What a machine of libkrun shares with its host: directories, TCP ports, and the host's network.

All of it is the host's: a directory holds untrusted data, a connection ends at whom the host chooses. The values are
parsed here, from the command line and from krunpy's own annotations; `vm_host` looks at the host.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from krunpy.core.errors import BundleError, FormatError, HostError, UsageError
from krunpy.formats.frames import Mounting
from krunpy.formats.manifest import require_volumes
from krunpy.guest.payload import VmmKind
from krunpy.oci import annotations as names
from krunpy.tee.detect import TeeKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from krunpy.guest.payload import GuestPayload
    from krunpy.oci.annotations import Wishes

TSI = "tsi_hijack"  # the kernel parameter of libkrunfw that makes the guest's internet sockets the host's
MAX_PORTS = 64
_MAX_PORT = 65535
_MAX_PATH = 4095  # bytes
_MODES = ("ro", "rw")


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A directory of the host, by its absolute path, and where the guest has it."""

    host: str
    guest: str
    is_read_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Everything that is shared; nothing by default. ports: (host, guest), TCP. dns: empty for the host's servers.

    The n-th volume has the virtiofs tag vol{n}. Ports come with the network: libkrun has one switch for both.
    """

    volumes: tuple[Volume, ...] = ()
    ports: tuple[tuple[int, int], ...] = ()
    has_network: bool = False
    dns: str = ""

    def __bool__(self) -> bool:
        return bool(self.volumes or self.has_network)

    @property
    def guest_paths(self) -> tuple[str, ...]:
        """Where the guest may mount them: what the manifest allows, in its order."""
        return tuple(sorted(volume.guest for volume in self.volumes))

    @property
    def mountings(self) -> tuple[Mounting, ...]:
        """What RUN tells the agent about the volumes."""
        return tuple(
            Mounting(tag=name_tag(index), path=volume.guest, is_read_only=volume.is_read_only)
            for index, volume in enumerate(self.volumes)
        )


def name_tag(index: int) -> str:
    """Return the virtiofs tag of a volume."""
    return f"vol{index}"


def make_shares(
    *,
    volumes: Sequence[Volume] = (),
    ports: Sequence[tuple[int, int]] = (),
    has_network: bool = False,
    dns: str = "",
) -> Shares:
    """Return shares that can be. Raises UsageError if two are at odds, or there are too many."""
    try:
        require_volumes(tuple(sorted(volume.guest for volume in volumes)))
    except FormatError as error:
        raise UsageError("cannot share these directories", why=error.why) from error
    hosts = [host for host, _ in ports]
    if len(ports) > MAX_PORTS or len(set(hosts)) != len(hosts):
        raise UsageError(
            "cannot publish these ports",
            why=f"one port of the host is there twice, or there are more than {MAX_PORTS}",
        )
    has_network = has_network or bool(ports)
    if dns and not has_network:
        raise UsageError(
            "cannot use --dns", why="the machine has no network", next="add --network, or a --port"
        )
    if dns:
        _require_address(dns)
    return Shares(volumes=tuple(volumes), ports=tuple(ports), has_network=has_network, dns=dns)


def parse_volume(text: str) -> Volume:
    """Return the volume that HOST:GUEST[:ro|rw] means. Raises UsageError."""
    rest, _, mode = text.rpartition(":")
    rest, mode = (rest, mode) if mode in _MODES else (text, "rw")
    host, _, guest = rest.rpartition(":")
    if not host.startswith("/") or not text.isprintable() or len(host.encode()) > _MAX_PATH:
        raise UsageError(
            f'cannot use the volume "{text[:80]}"', why="wanted HOST:GUEST[:ro], both absolute paths"
        )
    try:
        require_volumes((guest,))
    except FormatError as error:
        raise UsageError(f'cannot use the volume "{text[:80]}"', why=error.why) from error
    return Volume(host=host, guest=guest, is_read_only=mode == "ro")


def parse_port(text: str) -> tuple[int, int]:
    """Return (host, guest) of HOST:GUEST. Raises UsageError."""
    parts = text.split(":")
    if len(parts) != 2 or not all(map(_is_port, parts)):  # noqa: PLR2004
        raise UsageError(
            f'cannot publish the port "{text[:40]}"',
            why=f"wanted HOST:GUEST, each a number of 1 to {_MAX_PORT}",
        )
    return int(parts[0]), int(parts[1])


def annotate_shares(shares: Shares) -> dict[str, str]:
    """Return the annotations that stand for shares; `read_shares` reads them."""
    volumes = [f"{item.host}:{item.guest}:{'ro' if item.is_read_only else 'rw'}" for item in shares.volumes]
    wanted = {
        names.VOLUMES: "\n".join(volumes),
        names.PORTS: " ".join(f"{host}:{guest}" for host, guest in shares.ports),
        names.NETWORK: "true" if shares.has_network else "",
        names.DNS: shares.dns,
    }
    return {name: value for name, value in wanted.items() if value}


def read_shares(wishes: Wishes) -> Shares:
    """Return what krunpy's own annotations share. Raises BundleError."""
    try:
        return make_shares(
            volumes=[parse_volume(text) for text in wishes.volumes.split("\n")] if wishes.volumes else (),
            ports=[parse_port(text) for text in wishes.ports.split(" ")] if wishes.ports else (),
            has_network=wishes.network,
            dns=wishes.dns or "",
        )
    except UsageError as error:
        raise BundleError(error.what, why=error.why) from error


def require_possible(shares: Shares, vmm: VmmKind, tee: TeeKind) -> None:
    """Refuse shares that a machine of this VMM in this TEE cannot have. Raises HostError."""
    if not shares:
        return
    what = "cannot share directories" if shares.volumes else "cannot give the machine a network"
    if vmm is not VmmKind.LIBKRUN:
        raise HostError(
            what,
            why="krunpy does so by virtiofs and TSI, which libkrun has and its machines of QEMU have not",
            next="use --vmm libkrun",
        )
    if tee is not TeeKind.SOFTWARE:
        raise HostError(
            what,
            why=f"the kernels of libkrun for {tee} have no virtiofs, and no channel that could be trusted with it",
            next="leave volumes and ports out; or --tee software, NOT CONFIDENTIAL",
        )


def add_parameters(payload: GuestPayload, shares: Shares) -> GuestPayload:
    """Return the payload with what its kernel has to be told: the network, in the measured command line."""
    if not shares.has_network:
        return payload
    return replace(payload, cmdline=f"{payload.cmdline} {TSI}")


def _is_port(text: str) -> bool:
    return (
        text.isascii() and text.isdigit() and len(text) <= len(str(_MAX_PORT)) and 1 <= int(text) <= _MAX_PORT
    )


def _require_address(text: str) -> None:
    import ipaddress  # 4 ms, for those who name one

    try:
        ipaddress.ip_address(text)
    except ValueError as error:
        raise UsageError(f'cannot use the name server "{text[:60]}"', why="wanted an IP address") from error
