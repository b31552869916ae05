"""Published ports, seen as podman shows them to a runtime: bound sockets among the inherited descriptors.

config.json does not name published ports. A rootful podman binds each on the host and leaves the socket to
conmon, which leaves it to the runtime (seen with podman 4.3.1 and conmon 2.1.6).
"""

from __future__ import annotations

import _socket
import os
import stat

_FIRST = 3
_INTERNET = (_socket.AF_INET, _socket.AF_INET6)
_PROTOCOLS = {_socket.SOCK_STREAM: "tcp", _socket.SOCK_DGRAM: "udp"}


def find_inherited_ports() -> list[str]:
    """Return "ADDRESS:PORT/PROTOCOL" for each listening or bound internet socket from descriptor 3 on."""
    found = []
    for name in sorted(os.listdir("/proc/self/fd"), key=int):
        port = _find_port(int(name)) if int(name) >= _FIRST else None
        if port is not None:
            found.append(port)
    return found


def _find_port(descriptor: int) -> str | None:
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode) or not os.get_inheritable(descriptor):
            return None
        copy = _socket.socket(fileno=os.dup(descriptor))
    except OSError:
        return None
    try:
        if copy.family not in _INTERNET or copy.type not in _PROTOCOLS:
            return None
        address, port = copy.getsockname()[:2]
        waits = copy.type == _socket.SOCK_DGRAM or copy.getsockopt(_socket.SOL_SOCKET, _socket.SO_ACCEPTCONN)
        if not port or not waits:
            return None
        shown = f"[{address}]" if ":" in address else address
        return f"{shown}:{port}/{_PROTOCOLS[copy.type]}"
    except OSError:
        return None
    finally:
        copy.close()
