"""A sender of the rig, a process of its own: several loads, each operation of which is told to the history.

``python -m tests.chaos.sender_program ORDERS``, where ORDERS is a file of JSON: ``number``, ``configuration`` (of
servicebus), ``history`` (folder), ``clock`` (file), ``plant``, ``nodes``, ``calls_per_s``, ``messages_per_s``,
``events_per_s``, ``streams_per_s``, ``plain_per_s``, ``bridged_host`` (name), ``outbox`` (path), ``log`` (port and
secret, or null), ``wiretap`` (path of a socket), ``state`` (path), ``seed``, ``poison``.

It says ``ready`` on its standard output when it has counted what it has before the load, begins with a line on its
standard input, stops when that ends, waits for what is under way, and writes what it counted to *state*.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import random
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from servicebus.client.channels import LinkChannels
from servicebus.client.link import Link
from servicebus.client.request import PendingRequest
from servicebus.configuration import Configuration
from servicebus.protocol.interface import OutgoingPublish
from servicebus.sender import Sender
from servicebus.wire.envelope import Kind
from servicebus.wire.events import EVENTS
from tests.chaos.call_load import ASYNC_SHARE, CALLERS, CallLoad
from tests.chaos.clock import use_clock
from tests.chaos.event_load import PUBLISHERS, EventLoad
from tests.chaos.history import History
from tests.chaos.message_load import SENDERS, MessageLoad
from tests.chaos.pace import Pace
from tests.chaos.plain_load import PlainLoad
from tests.chaos.plants import plant
from tests.chaos.run_delay import RunDelay
from tests.chaos.stream_load import READERS, StreamLoad

Threads = Iterator[tuple[Callable[..., None], tuple[Any, ...]]]
_TAPPED_SHARE = 0.01
_LOG_EVERY_S = 0.05
_WATCH_S = 0.1
_WAITED_S = 0.02
_AT_REST_S = 5.0
_LAST_END_S = 15.0
"""The longest deadline, and some."""


class Program:
    def __init__(self, orders: dict[str, Any]):
        self.orders = orders
        self.number: int = orders["number"]
        self.history = History(orders["history"], "sender", str(self.number))
        self.stopping = threading.Event()
        self.counts: Counter[str] = Counter()
        self._shared = self.history, self.number, orders["nodes"], itertools.count(1), self.counts
        self._calls = CallLoad(*self._shared)
        self._seeds = itertools.count(1)

    # -- its life ------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        logger = self._logger()
        configuration = Configuration(self.orders["configuration"])
        self._tap_wire()
        # One Sender has been there before the count, with all that the first of a process makes and keeps.
        with Sender(configuration) as first:
            first.ping_all(self.orders["nodes"][0], timeout=5)
        base = _resources()
        self._say("ready")
        sys.stdin.readline()
        sender = Sender(configuration)
        outbox = Sender(configuration, outbox=self.orders["outbox"])
        threads = [threading.Thread(target=target, args=args) for target, args in self._threads(sender, outbox, logger)]
        for thread in threads:
            thread.start()
        reporters = [threading.Thread(target=target) for target in (self._report, self._watch_the_processor)]
        for thread in reporters:
            thread.start()
        while sys.stdin.read(1):
            pass
        self.stopping.set()
        for thread in threads:
            thread.join()
        self._wait_for_the_last()
        left_in_outbox = self._empty_outbox(outbox)
        sender.close()
        for thread in reporters:
            thread.join()
        self._close_log(logger)
        end = _resources_at_rest(base)
        names = [thread.name for thread in threading.enumerate()]
        self._write_state({"base": base, "end": end, "outbox": left_in_outbox, "threads": names, "is_over": True})
        self.history.ended()

    def _threads(self, sender: Sender, outbox: Sender, logger: logging.Logger | None) -> Threads:
        orders = self.orders
        calls_per_s, messages_per_s = orders["calls_per_s"], orders["messages_per_s"]
        yield self._calls.call_without_waiting, (sender, self._pace(calls_per_s * ASYNC_SHARE), self._rng())
        for _ in range(CALLERS):
            yield self._calls.call, (sender, self._pace(calls_per_s * (1 - ASYNC_SHARE) / CALLERS), self._rng())
        messages = MessageLoad(*self._shared)
        for _ in range(SENDERS):
            pace = self._pace(messages_per_s / SENDERS)
            yield messages.send, (sender, outbox, pace, self._rng(), orders["poison"])
        events = EventLoad(*self._shared)
        for _ in range(PUBLISHERS if orders["events_per_s"] else 0):
            yield events.publish, (sender, outbox, self._pace(orders["events_per_s"] / PUBLISHERS), self._rng())
        streams = StreamLoad(*self._shared)
        for _ in range(READERS if orders["streams_per_s"] else 0):
            yield streams.read, (sender, self._pace(orders["streams_per_s"] / READERS), self._rng())
        if orders["plain_per_s"]:
            plain = PlainLoad(*self._shared)
            yield plain.publish, (sender, orders["bridged_host"], self._pace(orders["plain_per_s"]), self._rng())
        if logger is not None:
            yield self._log, (logger,)

    def _wait_for_the_last(self) -> None:
        deadline = time.monotonic() + _LAST_END_S
        while self._calls.under_way and time.monotonic() < deadline:
            time.sleep(0.05)

    def _empty_outbox(self, outbox: Sender) -> int:
        """What still lies in it after all brokers were reachable for a while."""
        deadline = time.monotonic() + _LAST_END_S
        while (left := _kept(outbox)) and time.monotonic() < deadline:
            time.sleep(0.1)
        outbox.close()
        return left

    # -- the log -------------------------------------------------------------------------------------------------------

    def _logger(self) -> logging.Logger | None:
        logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        if self.orders["log"] is None:
            return None
        from servicebus.transport.udp import DatagramHandler

        logger = logging.getLogger(f"chaos.sender-{self.number}")
        logger.propagate = False
        logger.setLevel(logging.INFO)
        log = self.orders["log"]
        logger.addHandler(DatagramHandler("127.0.0.1", log["port"], [log["secret"]], close_timeout_s=10.0))
        return logger

    def _log(self, logger: logging.Logger) -> None:
        count = 0
        while not self.stopping.wait(_LOG_EVERY_S):
            count += 1
            logger.info("record %d of sender-%d", count, self.number)
        self.history.log_sent(f"sender-{self.number}", count)

    def _close_log(self, logger: logging.Logger | None) -> None:
        if logger is None:
            return
        [handler] = logger.handlers
        handler.close()
        counters = handler.counters  # type: ignore[attr-defined]
        undelivered = counters["accepted"] - counters["acknowledged"]
        self.history.log_lost(f"sender-{self.number}", counters["dropped"] + max(0, undelivered))

    # -- for the stranger and for the rig ------------------------------------------------------------------------------

    def _tap_wire(self) -> None:
        """Give a part of what goes out to the stranger as well, as one who listens to the wire has it.

        When it goes out: what was signed and never sent the Sender rightly says not to be stored.
        """
        publish_message, publish = LinkChannels._publish_message, Link.publish
        tap = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        tap.setblocking(False)
        path = self.orders["wiretap"]

        def tell(request: PendingRequest, body: bytes) -> None:
            if random.random() < _TAPPED_SHARE:
                with contextlib.suppress(OSError):
                    node = request.address.node
                    head = f"{'event' if node == EVENTS else request.kind.value} {node} {request.id}\n"
                    tap.sendto(head.encode() + body, path)

        def publish_message_and_tell(self: LinkChannels, outgoing: OutgoingPublish, request: PendingRequest) -> None:
            publish_message(self, outgoing, request)
            tell(request, outgoing.body)

        def publish_and_tell(self: Link, request: PendingRequest, now: float, *, is_hedge: bool = False) -> None:
            publish(self, request, now, is_hedge=is_hedge)
            if request.kind is Kind.CALL:
                tell(request, request.body)

        LinkChannels._publish_message = publish_message_and_tell  # type: ignore[method-assign]
        Link.publish = publish_and_tell  # type: ignore[method-assign]

    def _report(self) -> None:
        while not self.stopping.wait(0.5):
            self._write_state({"is_over": False})

    def _watch_the_processor(self) -> None:
        """Tell the history when this process waited for one: a call that is late then is not late by the bus."""
        delay = RunDelay()
        while self._calls.under_way or not self.stopping.is_set():
            time.sleep(_WATCH_S)
            if (waited_s := delay.waited_s()) > _WAITED_S:
                self.history.stall(waited_s)

    def _write_state(self, more: dict[str, Any]) -> None:
        path = Path(self.orders["state"])
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps({"counts": dict(self.counts), "under_way": len(self._calls.under_way), **more}))
        fresh.replace(path)

    def _pace(self, per_s: float) -> Pace:
        return Pace(per_s, self.stopping)

    def _rng(self) -> random.Random:
        # In the order of the threads, so a seed gives each the same choices again.
        return random.Random(f"{self.orders['seed']}-{self.number}-{next(self._seeds)}")

    def _say(self, text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def _kept(outbox: Any) -> int:
    """How many messages lie in the outbox of that Sender."""
    status = outbox.status().get("outbox")
    return int(status.get("messages", 0)) if isinstance(status, dict) else 0


def _resources_at_rest(base: dict[str, int]) -> dict[str, int]:
    """What is in use when all is closed. A thread that was joined may be the kernel's for a moment longer."""
    deadline = time.monotonic() + _AT_REST_S
    while any((found := _resources())[name] > count for name, count in base.items()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def _resources() -> dict[str, int]:
    links = []
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            links.append(str(fd.readlink()))
    sockets = sum(link.startswith("socket:") for link in links)
    return {"sockets": sockets, "threads": len(list(Path("/proc/self/task").iterdir()))}


def main(path: str) -> None:
    orders = json.loads(Path(path).read_text())
    use_clock(Path(orders["clock"]))
    if orders["plant"]:
        plant(orders["plant"])
    Program(orders).run()


if __name__ == "__main__":
    main(sys.argv[1])
