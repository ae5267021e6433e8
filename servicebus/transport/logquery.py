"""Asking the log server how it is."""

from __future__ import annotations

import os
import socket
import time
from typing import Any

from servicebus.errors import ConnectFailed, EnvelopeError
from servicebus.transport.loglink import resolve
from servicebus.wire.logrecord import Datagram, DatagramKind, Signer, decode_datagram, decode_object, encode_datagram

__all__ = ["ask_statistics"]

ASK_AGAIN_S = 0.2


def ask_statistics(host: str, port: int, signer: Signer | None, timeout_s: float) -> dict[str, Any]:
    """What the log server has counted so far.

    Raises:
        ConnectFailed: no process listens on the port (kind ``refused``), or none answered in time (kind ``silent``), as
            a server with another secret does not.
    """
    family, sockaddr = resolve(host, port)
    deadline = time.monotonic() + timeout_s
    sender = os.urandom(8).hex().encode()
    with socket.socket(family, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect(sockaddr)
            while (left_s := deadline - time.monotonic()) > 0:
                asking.settimeout(min(ASK_AGAIN_S, left_s))
                asking.send(
                    encode_datagram(Datagram(DatagramKind.STATS, sender, number=int(time.time() * 1000)), signer)
                )
                found = _hear(asking, sender, signer)
                if found is not None:
                    return found
        except OSError as error:
            kind = "refused" if isinstance(error, ConnectionRefusedError) else "unreachable"
            raise ConnectFailed(f"{host}:{port}", f"no log server: {error.strerror}", kind=kind) from error
    reason = f"the log server gave no answer in {timeout_s:g} s; do both sides have the same secret?"
    raise ConnectFailed(f"{host}:{port}", reason, kind="silent")


def _hear(asking: socket.socket, sender: bytes, signer: Signer | None) -> dict[str, Any] | None:
    try:
        answer = decode_datagram(asking.recv(65536), signer)
    except (TimeoutError, EnvelopeError):
        return None
    if answer.kind is not DatagramKind.COUNTS or answer.sender != sender:
        return None
    return decode_object(answer.body)
