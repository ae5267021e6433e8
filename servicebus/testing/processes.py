"""Processes found by the mark in their environment, watched and ended by pid.

Every process of a private broker (the Erlang machine, its epmd, a rabbitmqctl under way) carries ``MARK`` with the
broker's folder. Reading it back from ``/proc`` finds all of them, whatever their parent is by now, and can never hit a
process that took over an old pid.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

__all__ = ["MARK", "end_marked", "is_alive", "is_frozen", "listeners", "marked_processes", "wait_dead"]

_LISTENING = "0A"
"""TCP_LISTEN of the kernel's tables, linux/include/net/tcp_states.h."""

MARK = "SERVICEBUS_BROKER_DIR"


def is_alive(pid: int) -> bool:
    """Whether the process runs or is frozen; one that is dead but not yet reaped by its parent does not count."""
    return _state(pid) not in ("", "Z", "X")


def is_frozen(pid: int) -> bool:
    """Whether the process is stopped by a signal."""
    return _state(pid) == "T"


def wait_dead(pid: int, timeout_s: float) -> bool:
    """Wait until the process is gone; false if it still lives after *timeout_s*."""
    deadline = time.monotonic() + timeout_s
    while is_alive(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def listeners(pid: int) -> set[tuple[str, int]]:
    """Where the process itself listens for TCP: addresses as the kernel writes them (hexadecimal), and ports.

    Empty for one that is dead or another user's.
    """
    try:
        own = {str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()}
    except OSError:
        return set()
    found = set()
    for table in (f"/proc/{pid}/net/tcp", f"/proc/{pid}/net/tcp6"):
        with contextlib.suppress(FileNotFoundError):  # the process ended, or the kernel has no IPv6
            for line in Path(table).read_text().splitlines()[1:]:
                _, local, _, state, _, _, _, _, _, inode, *_ = line.split()
                if state == _LISTENING and f"socket:[{inode}]" in own:
                    address, _, port = local.partition(":")
                    found.add((address, int(port, 16)))
    return found


def marked_processes(folder: Path) -> list[int]:
    """The pids of all processes that belong to the broker in *folder*, or to any broker in a folder below it."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and _belongs(entry, folder)]


def end_marked(folder: Path, timeout_s: float = 5.0) -> None:
    """Kill everything that belongs to *folder*, and look again until nothing is left (a fork may slip through once)."""
    deadline = time.monotonic() + timeout_s
    while pids := marked_processes(folder):
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if time.monotonic() > deadline:
            return
        time.sleep(0.01)


def _state(pid: int) -> str:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return ""
    # The name in parentheses may hold spaces and parentheses itself; the state follows the last one.
    return stat.rpartition(")")[2].split()[0]


def _belongs(entry: Path, folder: Path) -> bool:
    try:
        environment = (entry / "environ").read_bytes()
    except OSError:  # gone meanwhile, or not ours to read
        return False
    prefix = f"{MARK}={folder}".encode()
    return any(item == prefix or item.startswith(prefix + b"/") for item in environment.split(b"\0"))
