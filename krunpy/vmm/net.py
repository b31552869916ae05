"""What the engine put into the container's network namespace. The one door of `pyroute2`.

Guests have no network yet; `krunpy inspect` says by name which interfaces stay on the host.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from pyroute2 import NetNS
from pyroute2.netlink.exceptions import NetlinkError

from krunpy.core.errors import HostError


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """A network interface: name, MAC address, addresses with prefix length."""

    name: str
    mac: str
    addresses: tuple[str, ...]


def list_interfaces(namespace: str) -> list[Interface]:
    """Return the interfaces of a network namespace given by path.

    Raises HostError if the namespace cannot be entered.
    """
    if not os.path.exists(namespace):
        raise HostError(f"cannot look into network namespace {namespace}", why="it does not exist")
    try:
        with NetNS(namespace, flags=0) as netns:
            addresses: dict[int, list[str]] = {}
            for item in netns.get_addr():
                addresses.setdefault(item["index"], []).append(
                    f"{item.get('IFA_ADDRESS')}/{item['prefixlen']}"
                )
            return [
                Interface(
                    name=str(link.get("IFLA_IFNAME")),
                    mac=str(link.get("IFLA_ADDRESS")),
                    addresses=tuple(addresses.get(link["index"], [])),
                )
                for link in netns.get_links()
            ]
    except (OSError, NetlinkError) as error:
        raise HostError(f"cannot look into network namespace {namespace}", why=str(error)) from error
