"""A sender of the rig, a process of its own: calls, messages and events from several threads, each told to the history.

``python -m tests.chaos.sender_program ORDERS``, where ORDERS is a file of JSON: ``number``, ``configuration`` (of
servicebus), ``history`` (folder), ``clock`` (file), ``plant``, ``nodes``, ``calls_per_s``, ``messages_per_s``,
``events_per_s``, ``outbox`` (path or null), ``log`` (port and secret, or null), ``wiretap`` (path of a socket),
``state`` (path), ``seed``, ``poison``.

It says ``ready`` on its standard output when it has counted what it has before the load, begins with a line on its
standard input, stops when that ends, waits for what is under way, and writes what it counted to *state*.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import json
import logging
import random
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from servicebus.configuration import Configuration
from servicebus.errors import RemoteError
from servicebus.protocol.v2 import ProtocolV2
from servicebus.sender import Sender
from servicebus.wire.events import EVENTS
from tests.chaos.clock import use_clock
from tests.chaos.event_load import PUBLISHERS, EventLoad
from tests.chaos.history import History, answer, op_number
from tests.chaos.pace import Pace
from tests.chaos.plants import plant
from tests.chaos.rude import CHILDREN, raise_something
from tests.chaos.services import CALLS, HUGE, LARGE, MESSAGES, RUDE_CALLS, RUDE_MESSAGES, TELLING

_CALLERS = 3
_SENDERS = 3
_ASYNC_SHARE = 0.75
"""Of the calls, by call_async: these go on at their pace while others wait."""
_TIMEOUTS_S = (1.0, 10.0)
"""Of calls; some end before a Sender goes elsewhere, so that their copy on a frozen broker is the only one."""
_SEND_TIMEOUTS_S = (2.0, 10.0)
_OUTBOX_SHARE = 0.15
_DELAYED_SHARE = 0.03
_TAPPED_SHARE = 0.01
_RUDE_SHARE = 0.02
"""Of the calls by call_async: with a callback that raises, before the one that tells the history."""
_LOG_EVERY_S = 0.05
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
        self._ops = itertools.count(1)
        self._under_way: set[int] = set()
        self._lock = threading.Lock()

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
        outbox = self._outbox_sender(configuration)
        threads = [threading.Thread(target=target, args=args) for target, args in self._threads(sender, outbox, logger)]
        for thread in threads:
            thread.start()
        reporter = threading.Thread(target=self._report)
        reporter.start()
        while sys.stdin.read(1):
            pass
        self.stopping.set()
        for thread in threads:
            thread.join()
        self._wait_for_the_last()
        left_in_outbox = self._empty_outbox(outbox)
        sender.close()
        reporter.join()
        self._close_log(logger)
        end = _resources_at_rest(base)
        names = [thread.name for thread in threading.enumerate()]
        self._write_state({"base": base, "end": end, "outbox": left_in_outbox, "threads": names, "is_over": True})
        self.history.ended()

    def _threads(self, sender: Sender, outbox: Sender | None, logger: logging.Logger | None) -> Any:
        calls_per_s, messages_per_s = self.orders["calls_per_s"], self.orders["messages_per_s"]
        yield self._call_without_waiting, (sender, calls_per_s * _ASYNC_SHARE)
        for _ in range(_CALLERS):
            yield self._call, (sender, calls_per_s * (1 - _ASYNC_SHARE) / _CALLERS)
        for _ in range(_SENDERS):
            yield self._send, (sender, outbox, messages_per_s / _SENDERS)
        events = EventLoad(self.history, self.number, self.orders["nodes"], self._ops, self.counts)
        for _ in range(PUBLISHERS if self.orders["events_per_s"] else 0):
            pace = self._pace(self.orders["events_per_s"] / PUBLISHERS)
            yield events.publish, (sender, outbox, pace, self._rng())
        if logger is not None:
            yield self._log, (logger,)

    def _wait_for_the_last(self) -> None:
        deadline = time.monotonic() + _LAST_END_S
        while self._under_way and time.monotonic() < deadline:
            time.sleep(0.05)

    # -- calls ---------------------------------------------------------------------------------------------------------

    def _call(self, sender: Sender, per_s: float) -> None:
        rng = self._rng()
        for _ in self._pace(per_s):
            target, op, params, timeout_s = self._next_call(rng)
            try:
                id, value = sender.call(target, params, timeout=timeout_s)
            except Exception as error:
                self._call_failed(op, error)
            else:
                self._call_replied(op, id, value)

    def _call_without_waiting(self, sender: Sender, per_s: float) -> None:
        rng = self._rng()
        for _ in self._pace(per_s):
            target, op, params, timeout_s = self._next_call(rng)
            with self._lock:
                self._under_way.add(op)
            try:
                future = sender.call_async(target, params, timeout=timeout_s)
            except Exception as error:
                self._call_failed(op, error)
                self._is_over(op)
            else:
                if rng.random() < _RUDE_SHARE:
                    # What is raised is ours to bear if the call has ended already: it is raised here then.
                    with contextlib.suppress(BaseException):
                        future.add_done_callback(raise_something)
                future.add_done_callback(self._on_done(op))

    def _on_done(self, op: int) -> Callable[[Future[Any]], None]:
        def done(future: Future[Any]) -> None:
            error = future.exception()
            if error is None:
                self._call_replied(op, *future.result())
            else:
                self._call_failed(op, error)
            self._is_over(op)

        return done

    def _is_over(self, op: int) -> None:
        with self._lock:
            self._under_way.discard(op)

    def _next_call(self, rng: random.Random) -> tuple[str, int, dict[str, Any], float]:
        service = _one_of(rng, CALLS | RUDE_CALLS | TELLING)
        target = f"{rng.choice(self.orders['nodes'])}.work.{service}"
        op = op_number(self.number, next(self._ops))
        timeout_s = rng.uniform(*_TIMEOUTS_S)
        params = _params(rng, op, service)
        if service == "large" and rng.random() < 0.5:
            params["pad"], params["text"] = LARGE, ""
        deadline = time.monotonic() + timeout_s
        self.history.invoked(op, "call", target, deadline, idempotent=service == "idem")
        self.counts["calls"] += 1
        return target, op, params, timeout_s

    def _call_replied(self, op: int, id: object, value: Any) -> None:
        self.history.replied(op, id, str(value).rstrip("x") == answer(op), t=time.monotonic())
        self.counts["answered"] += 1

    def _call_failed(self, op: int, error: BaseException) -> None:
        is_fault = isinstance(error, RemoteError)
        self.history.failed(op, error, fault=is_fault, t=time.monotonic())
        self.counts["answered" if is_fault else f"error {type(error).__name__}"] += 1

    # -- messages ------------------------------------------------------------------------------------------------------

    def _send(self, sender: Sender, outbox: Sender | None, per_s: float) -> None:
        rng = self._rng()
        for _ in self._pace(per_s):
            service = (
                "poison"
                if self.orders["poison"] and rng.random() < 0.002
                else _one_of(rng, MESSAGES | RUDE_MESSAGES | TELLING)
            )
            target = f"{rng.choice(self.orders['nodes'])}.jobs.{service}"
            op = op_number(self.number, next(self._ops))
            params = _params(rng, op, service)
            through = outbox if outbox is not None and rng.random() < _OUTBOX_SHARE else sender
            options: dict[str, Any] = {"timeout": rng.uniform(*_SEND_TIMEOUTS_S)}
            if _KNOWS_DELAY and rng.random() < _DELAYED_SHARE:
                options["delay"] = rng.uniform(0.1, 3.0)
            self.history.invoked(op, "message", target, too_large=service == "huge")
            self.counts["messages"] += 1
            try:
                receipt = through.send(target, params, **options)
            except Exception as error:
                self.history.refused(op, error)
                self.counts[f"error {type(error).__name__}"] += 1
            else:
                kept = bool(getattr(receipt, "in_outbox", False))
                self.history.confirmed(op, receipt, outbox=kept)
                self.counts["kept in outbox" if kept else "confirmed"] += 1

    def _outbox_sender(self, configuration: Configuration) -> Sender | None:
        if self.orders["outbox"] is None or "outbox" not in inspect.signature(Sender).parameters:
            return None
        return Sender(configuration, outbox=self.orders["outbox"])

    def _empty_outbox(self, outbox: Sender | None) -> int:
        """What still lies in it after all brokers were reachable for a while."""
        if outbox is None:
            return 0
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
        """Give a part of what goes out to the stranger as well, as somebody who listens to the wire would have it."""
        encode = ProtocolV2.sign_and_encode
        tap = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        tap.setblocking(False)
        path = self.orders["wiretap"]

        def sign_and_encode(self: ProtocolV2, request: Any) -> None:
            encode(self, request)
            if random.random() < _TAPPED_SHARE and request.kind.value != "control":
                with contextlib.suppress(OSError):
                    node = request.address.node
                    head = f"{'event' if node == EVENTS else request.kind.value} {node} {request.id}\n"
                    tap.sendto(head.encode() + request.body, path)

        ProtocolV2.sign_and_encode = sign_and_encode  # type: ignore[method-assign]

    def _report(self) -> None:
        while not self.stopping.wait(0.5):
            self._write_state({"is_over": False})

    def _write_state(self, more: dict[str, Any]) -> None:
        path = Path(self.orders["state"])
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps({"counts": dict(self.counts), "under_way": len(self._under_way), **more}))
        fresh.replace(path)

    def _pace(self, per_s: float) -> Pace:
        return Pace(per_s, self.stopping)

    def _rng(self) -> random.Random:
        # The threads begin in their order, so a seed gives each the same choices again.
        with self._lock:
            self._seeds = getattr(self, "_seeds", 0) + 1
            return random.Random(f"{self.orders['seed']}-{self.number}-{self._seeds}")

    def _say(self, text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


_KNOWS_DELAY = "delay" in inspect.signature(Sender.send).parameters


def _params(rng: random.Random, op: int, service: str) -> dict[str, Any]:
    size = {"large": LARGE, "huge": HUGE}.get(service) or rng.randrange(200)
    params: dict[str, Any] = {"op": op, "text": "x" * size}
    if service in ("slow", "idem"):
        params["ms"] = rng.randrange(20, 400)
    if service == "forks":
        params["how"] = _one_of(rng, CHILDREN)
    return params


def _one_of(rng: random.Random, shares: dict[str, float]) -> str:
    return rng.choices(list(shares), list(shares.values()))[0]


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
