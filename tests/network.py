"""A network of our own: a namespace behind a veth pair, whose packets can be dropped without a word. Linux, root.

A `FaultProxy` in between is simpler, but keeps the two ends apart: what one kernel would send to the other (a reset,
for a connection that it does not know any more) ends at the proxy. Here both kernels talk to each other.

Packets are dropped by a permanent neighbour entry with a wrong address at both ends: every frame then goes to a machine
that does not exist. That needs no packet filter, neither end is notified, and the sockets of both ends stay open.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

__all__ = ["FAR", "NEAR", "NOWHERE", "Network", "may_make_networks"]

_CLONE_NEWNET = 0x40000000
_PREFIX = "servicebus-net-"
_NO_MACHINE = "02:00:00:00:00:01"
# From 198.18.0.0/15, which RFC 2544 sets aside for benchmarks: no route of a real network leads there.
NEAR = "198.18.77.1"
FAR = "198.18.77.2"
NOWHERE = "198.18.77.3"
"""An address on the pair that swallows every packet, always."""


class Network:
    """The far end of a veth pair, as a context. One at a time on a machine, as its addresses are fixed."""

    def __init__(self) -> None:
        self.name = f"{_PREFIX}{os.getpid()}"
        self._near_device = f"sbnear{os.getpid()}"[:15]
        self._far_device = f"sbfar{os.getpid()}"[:15]
        self._macs: dict[str, str] = {}

    def __enter__(self) -> Network:
        _remove_leftovers()
        try:
            self._make()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self._remove()

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """What this thread starts meanwhile lives in the namespace."""
        with Path("/proc/thread-self/ns/net").open() as home, Path("/run/netns", self.name).open() as far:
            _set_namespace(far.fileno())
            try:
                yield
            finally:
                _set_namespace(home.fileno())

    def drop(self) -> None:
        """From now on every packet between the two ends is lost, in both directions."""
        self._neighbours(_NO_MACHINE, _NO_MACHINE)

    def heal(self) -> None:
        self._neighbours(self._macs["near"], self._macs["far"])

    def _make(self) -> None:
        _ip("netns", "add", self.name)
        _ip("link", "add", self._near_device, "type", "veth", "peer", self._far_device, "netns", self.name)
        _ip("address", "add", f"{NEAR}/29", "dev", self._near_device)
        _ip("-n", self.name, "address", "add", f"{FAR}/29", "dev", self._far_device)
        _ip("link", "set", self._near_device, "up")
        _ip("-n", self.name, "link", "set", "lo", "up")
        _ip("-n", self.name, "link", "set", self._far_device, "up")
        self._macs["near"] = Path("/sys/class/net", self._near_device, "address").read_text().strip()
        self._macs["far"] = _ip("-n", self.name, "-brief", "link", "show", self._far_device).split()[2]
        self.heal()
        _ip("neighbour", "replace", NOWHERE, "lladdr", _NO_MACHINE, "dev", self._near_device, "nud", "permanent")

    def _neighbours(self, near_mac: str, far_mac: str) -> None:
        for where, address, mac, device in (
            ([], FAR, far_mac, self._near_device),
            (["-n", self.name], NEAR, near_mac, self._far_device),
        ):
            _ip(*where, "neighbour", "replace", address, "lladdr", mac, "dev", device, "nud", "permanent")

    def _remove(self) -> None:
        # The pair goes with either of its ends; the namespace itself lives on while a process is in it.
        for arguments in (["link", "delete", self._near_device], ["netns", "delete", self.name]):
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip(*arguments)


def _remove_leftovers() -> None:
    """Remove the namespaces of programs that were killed, and with them their pairs."""
    for line in _ip("netns", "list").splitlines():
        name = line.split()[0]
        if name.startswith(_PREFIX) and not Path("/proc", name.removeprefix(_PREFIX)).exists():
            _ip("netns", "delete", name)


def may_make_networks() -> bool:
    """Whether this process may make network namespaces and work in them; in a plain chroot it may only make them."""
    name = f"servicebus-probe-{os.getpid()}"
    try:
        _ip("netns", "add", name)
    except (OSError, subprocess.CalledProcessError):
        return False
    try:
        _ip("-n", name, "link", "show")
    except subprocess.CalledProcessError:
        return False
    finally:
        _ip("netns", "delete", name)
    return True


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def _set_namespace(fd: int) -> None:
    # os.setns() came with Python 3.12.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, _CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
