"""Loopback ports that stay reserved while no process listens on them."""

from __future__ import annotations

import random
import socket
import sys
from pathlib import Path

__all__ = ["LOOPBACK", "free_ports", "port_or_another"]

LOOPBACK = "127.0.0.1"

_LOWEST = 10_240
_RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")

_claims: list[int] = []
"""Descriptors that stay open until this process ends."""


def free_ports(count: int) -> list[int]:
    """*count* different free TCP ports of the loopback address.

    All are below the range that the kernel gives to outgoing connections. A port from that range could be handed to a
    client while the broker that owns it is down, and a client that keeps dialling a port of that range on loopback
    can even be connected to itself; both look like a broker that answers nonsense.

    Nor does another process get one from this function for as long as this process lives, even while the broker that
    owns it is down: several programs with private brokers, or the parallel processes of a test run, stay apart.

    Raises:
        OSError: no free port was found.
    """
    held: list[socket.socket] = []
    try:
        # All stay bound until the last is found, so that no port is given twice.
        while len(held) < count:
            held.append(_bind_one())
        return [sock.getsockname()[1] for sock in held]
    finally:
        for sock in held:
            sock.close()


def port_or_another(wanted: int) -> int:
    """*wanted*, if it is neither in use nor claimed here; else any free one. Raises OSError if there is none."""
    with socket.socket() as sock:
        try:
            sock.bind((LOOPBACK, wanted))
        except OSError:
            return free_ports(1)[0]
        return wanted if _reserve(wanted) else free_ports(1)[0]


def _bind_one() -> socket.socket:
    upper = _first_outgoing_port()
    for _ in range(200):
        port = random.randrange(_LOWEST, upper)
        sock = socket.socket()
        try:
            sock.bind((LOOPBACK, port))
        except OSError:
            sock.close()
            continue
        if _reserve(port):
            return sock
        sock.close()
    raise OSError(f"no free TCP port between {_LOWEST} and {upper} on {LOOPBACK}")


def _reserve(port: int) -> bool:
    """Claim *port* before all who ask here; false if another process, or this one, has done so already.

    The claim is a name without a file, of Linux's abstract sockets: the kernel gives it to one process, and takes it
    back however that process ends. Elsewhere ports are only as safe as their number is large.
    """
    if sys.platform != "linux":
        return True
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        claim.bind(f"\0servicebus-port-{port}")
    except OSError:
        claim.close()
        return False
    _claims.append(claim.detach())
    return True


def _first_outgoing_port() -> int:
    try:
        lower = int(_RANGE_FILE.read_text().split()[0])
    except (OSError, ValueError):
        return 32_768
    return lower if lower > _LOWEST + 2_000 else 32_768
