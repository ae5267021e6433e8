"""A sender of py-servicebus 2.19, for its interpreter: ``old_sender_program.py ORDERS``, orders as for sender_program,
and for tests ``timeouts_s`` and ``last_end_s``.

Two Senders of 2.19 in one process spoil each other, whatever threads they have, so each runs in a process of its own,
and waits for one answer at a time. All that its users can do for it is done: a Sender that has raised something else
than its timeout is thrown away for a new one, and after three such in a row the whole process is.
"""

import contextlib
import itertools
import json
import mmap
import os
import random
import signal
import struct
import sys
import threading
import time
from pathlib import Path

from clock import use_clock
from history import History, answer, op_number
from old_driver import CALLS, MESSAGES, Hosts, read_orders
from pace import Pace

from servicebus.sender import Sender

CALLERS, SENDERS = 4, 2
TIMEOUTS_S = (2.0, 10.0)
LAST_END_S = 15.0
OPS_PER_PROCESS = 100_000
BAD_IN_A_ROW = 3
COUNTERS = ("calls", "answered", "failed", "messages", "sent", "refused")


class CallTimeout(Exception):
    """2.19 raises a bare Exception; the history tells them apart by name."""


class NoBrokerAvailable(Exception):
    """As above."""


class InBandError(Exception):
    """An error that 2.19 returns as if it were the result."""


class NoReply(Exception):
    """``call`` has returned None: the reply could not be parsed."""


class Shared:
    """Counters and the word to stop, seen by the parent and all children."""

    def __init__(self, slots):
        self._map = mmap.mmap(-1, 8 + 8 * len(COUNTERS) * slots)
        self._slots = slots

    def count(self, slot, name):
        at = 8 + 8 * (slot * len(COUNTERS) + COUNTERS.index(name))
        struct.pack_into("q", self._map, at, struct.unpack_from("q", self._map, at)[0] + 1)

    def counts(self):
        values = struct.unpack_from(f"{self._slots * len(COUNTERS)}q", self._map, 8)
        return {name: sum(values[number :: len(COUNTERS)]) for number, name in enumerate(COUNTERS)}

    def stop(self):
        self._map[0] = 1

    @property
    def is_stopping(self):
        return self._map[0] == 1


class Child:
    """One Sender in one process."""

    def __init__(self, orders, shared, slot, incarnation):
        self.orders = orders
        self.shared = shared
        self.number = slot
        self.history = History(orders["history"], "sender", f"{orders['number']}.{slot}")
        self.rng = random.Random(f"{orders['seed']}-{orders['number']}-{incarnation}")
        first = incarnation * OPS_PER_PROCESS + 1
        self.ops = itertools.islice(itertools.count(first), OPS_PER_PROCESS)
        self.sender = None
        self.bad = 0
        self.stopping = threading.Event()

    def run(self, step, per_s):
        threading.Thread(target=self._wait_for_the_end, daemon=True).start()
        for _, count in zip(Pace(per_s, self.stopping), self.ops):  # noqa: B905 - whichever ends first
            step(op_number(self.orders["number"], count))
            if self.bad >= BAD_IN_A_ROW:
                break
        self.history.ended()

    def _wait_for_the_end(self):
        while not self.shared.is_stopping:
            time.sleep(0.1)
        self.stopping.set()

    def _sender(self):
        if self.sender is None:
            self.sender = Sender(Hosts(self.orders["configuration"]))
        return self.sender

    def _discard(self):
        self.bad += 1
        with contextlib.suppress(Exception):
            self.sender.close()
        self.sender = None

    def call(self, op):
        service = self._one_of(CALLS)
        timeout_s = self.rng.uniform(*self.orders.get("timeouts_s", TIMEOUTS_S))
        params = self._params(op, service in ("slow", "idem"))
        target = f"{self.rng.choice(self.orders['nodes'])}.work.{service}"
        self.shared.count(self.number, "calls")
        self.history.invoked(op, "call", target, time.monotonic() + timeout_s, idempotent=service == "idem")
        try:
            got = self._sender().call(target, params, timeout_s)
        except Exception as error:
            self.history.failed(op, named(error), t=time.monotonic())
            self.shared.count(self.number, "failed")
            if not isinstance(named(error), CallTimeout):
                self._discard()
            return
        self.bad = 0
        now = time.monotonic()
        if got is None:
            self.history.failed(op, NoReply("None"), t=now)
            self.shared.count(self.number, "failed")
        elif got[1] in ("Token not valid!", f"Cannot Find RPC Service: work.{service}"):
            self.history.failed(op, InBandError(got[1]), t=now)
            self.shared.count(self.number, "failed")
        else:
            self.history.replied(op, got[0], got[1] == answer(op), t=now)
            self.shared.count(self.number, "answered")

    def send(self, op):
        service = self._one_of(MESSAGES)
        target = f"{self.rng.choice(self.orders['nodes'])}.jobs.{service}"
        params = self._params(op, service == "slow")
        self.shared.count(self.number, "messages")
        self.history.invoked(op, "message", target)
        try:
            self._sender().send(target, params)
        except Exception as error:
            self.history.refused(op, named(error), t=time.monotonic())
            self.shared.count(self.number, "refused")
            self._discard()
            return
        self.bad = 0
        self.history.sent(op, t=time.monotonic())
        self.shared.count(self.number, "sent")

    def _params(self, op, is_slow):
        params = {"op": op, "text": "x" * self.rng.randrange(200)}
        if is_slow:
            params["ms"] = self.rng.randrange(20, 400)
        return params

    def _one_of(self, shares):
        return self.rng.choices(list(shares), list(shares.values()))[0]


def named(error):
    """The error under the name that the report knows."""
    text = str(error)
    if type(error) is Exception and text == "Timeout":
        return CallTimeout(text)
    if type(error) is Exception and text.startswith(("Cannot connect to", "Cannot Connect to")):
        return NoBrokerAvailable(text)
    return error


class Parent:
    """Forks the children, forks a new one for each that gives up, and tells the rig what they count."""

    def __init__(self, orders):
        self.orders = orders
        self.shared = Shared(CALLERS + SENDERS)
        self.incarnations = itertools.count()
        self.children = {}

    def run(self):
        base = resources()
        say("ready")
        sys.stdin.readline()
        for slot in range(CALLERS + SENDERS):
            self._fork(slot)
        watcher = threading.Thread(target=self._wait_for_the_end, daemon=True)
        watcher.start()
        while not self.shared.is_stopping:
            self._reap(restart=True)
            self._write_state({"is_over": False})
            time.sleep(0.2)
        deadline = time.monotonic() + self.orders.get("last_end_s", LAST_END_S)
        while self.children and time.monotonic() < deadline:
            self._reap(restart=False)
            time.sleep(0.05)
        for pid in list(self.children):  # a call that hangs, or is late
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        watcher.join()
        self._write_state({"base": base, "end": resources(), "outbox": 0, "is_over": True})

    def _wait_for_the_end(self):
        while sys.stdin.read(1):
            pass
        self.shared.stop()

    def _fork(self, slot):
        incarnation = next(self.incarnations)
        pid = os.fork()
        if pid:
            self.children[pid] = slot
            return
        status = 1
        try:
            child = Child(self.orders, self.shared, slot, incarnation)
            if slot < CALLERS:
                child.run(child.call, self.orders["calls_per_s"] / CALLERS)
            else:
                child.run(child.send, self.orders["messages_per_s"] / SENDERS)
            status = 0
        finally:
            os._exit(status)

    def _reap(self, restart):
        for pid, slot in list(self.children.items()):
            if os.waitpid(pid, os.WNOHANG)[0]:
                del self.children[pid]
                if restart:
                    self._fork(slot)

    def _write_state(self, more):
        path = Path(self.orders["state"])
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps({"counts": self.shared.counts(), "under_way": len(self.children), **more}))
        fresh.replace(path)


def resources():
    links = []
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            links.append(os.readlink(fd))  # noqa: PTH115
    sockets = sum(link.startswith("socket:") for link in links)
    return {"sockets": sockets, "threads": len(list(Path("/proc/self/task").iterdir()))}


def say(text):
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main():
    orders = read_orders()
    use_clock(Path(orders["clock"]))
    Parent(orders).run()


if __name__ == "__main__":
    main()
