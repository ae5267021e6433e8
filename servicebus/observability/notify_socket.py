"""NotifySocket: the socket of systemd, in a unit of ``Type=notify`` or ``notify-reload``.

The protocol is a datagram of ``NAME=value`` lines, sd_notify(3). Its few lines stand here, because the libraries for it
are either bindings that need a compiler, or were left years ago.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, MutableMapping
from contextlib import suppress

__all__ = ["NotifySocket", "reloading"]


class NotifySocket:
    """For one thread. Without ``$NOTIFY_SOCKET`` it is false, and does nothing.

    Args:
        environment: its variables for this are taken out: what this process starts is not the unit's main process.
    """

    def __init__(self, environment: MutableMapping[str, str] = os.environ, now: Callable[[], float] = time.monotonic):
        self.path = environment.pop("NOTIFY_SOCKET", "")
        self._watchdog_s = _watchdog_s(environment)
        self._now = now
        self._watchdog_at = 0.0

    def __repr__(self) -> str:
        return f"<NotifySocket {self.path or 'none'}>"

    def __bool__(self) -> bool:
        return bool(self.path)

    def send(self, *lines: str) -> None:
        """Send all lines in one datagram; raises nothing."""
        if not self.path or not lines:
            return
        address = "\0" + self.path[1:] if self.path.startswith("@") else self.path
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
            sending.setblocking(False)  # a manager that is slow to read is told again, and must not hold up the caller
            sending.sendto("\n".join(lines).encode(), address)

    def watchdog(self) -> list[str]:
        """The line for the watchdog when it is due, four times as often as the unit asks for; else none."""
        now = self._now()
        if not self._watchdog_s or now < self._watchdog_at:
            return []
        self._watchdog_at = now + self._watchdog_s / 4
        return ["WATCHDOG=1"]


def reloading() -> list[str]:
    """The lines that begin a reload, which ``READY=1`` ends."""
    return ["RELOADING=1", f"MONOTONIC_USEC={int(time.monotonic() * 1_000_000)}"]


def _watchdog_s(environment: MutableMapping[str, str]) -> float:
    """How often the watchdog wants to hear of us at least; 0 for never."""
    given, pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
    is_for_us = given.isdigit() and pid in ("", str(os.getpid()))
    return int(given) / 1_000_000 if is_for_us else 0.0
