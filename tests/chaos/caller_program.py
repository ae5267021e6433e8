"""A named caller of the rig, a process of its own: it does what it may, and what it may not, under a key that changes.

``python -m tests.chaos.caller_program ORDERS``, where ORDERS is a file of JSON: ``caller`` (its name),
``configuration`` (of servicebus, without a secret), ``key`` (path of the file with its key), ``history`` (folder),
``clock`` (file), ``plant``, ``nodes``, ``per_s``, ``state`` (path), ``seed``.

It says ``ready`` on its standard output, begins with a line on its standard input, and stops when that ends. When the
file has another key it goes on with a Sender that signs with that, as a program does that is started again.
"""

from __future__ import annotations

import itertools
import json
import logging
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from servicebus.configuration import Configuration
from servicebus.errors import RemoteError
from servicebus.sender import Sender
from tests.chaos.callers import WISHES, Wish, caller_number, signs_as
from tests.chaos.clock import use_clock
from tests.chaos.history import History, answer, op_number
from tests.chaos.pace import Pace
from tests.chaos.plants import plant
from tests.chaos.subscribers import subscribers

_THREADS = 2
_LOOK_S = 0.2
_TIMEOUT_S = 5.0


class Caller:
    def __init__(self, orders: dict[str, Any]):
        self._orders = orders
        self._name: str = orders["caller"]
        self._history = History(orders["history"], "caller", self._name)
        self._ops = itertools.count(1)
        self._counts: Counter[str] = Counter()
        self._stopping = threading.Event()
        self._key = self._read_key()
        self._sender = self._make()
        self._using: Counter[Sender] = Counter()
        self._lock = threading.Lock()

    def run(self) -> None:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.readline()
        threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(_THREADS)]
        threads.append(threading.Thread(target=self._look_after_the_key))
        for thread in threads:
            thread.start()
        while sys.stdin.read(1):
            pass
        self._stopping.set()
        for thread in threads:
            thread.join()
        self._sender.close()
        self._write_state()
        self._history.ended()

    # -- its key -------------------------------------------------------------------------------------------------------

    def _read_key(self) -> str:
        return Path(self._orders["key"]).read_text()

    def _make(self) -> Sender:
        return Sender(Configuration(signs_as(self._orders["configuration"], self._name, self._key)))

    def _look_after_the_key(self) -> None:
        while not self._stopping.wait(_LOOK_S):
            self._write_state()
            if (key := self._read_key()) != self._key:
                self._key, former = key, self._sender
                fresh = self._make()
                with self._lock:
                    self._sender = fresh
                while self._using[former]:
                    time.sleep(0.01)
                former.close()

    def _write_state(self) -> None:
        path = Path(self._orders["state"])
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps({"counts": self._counts, "key": self._key}))
        fresh.replace(path)

    # -- what it does --------------------------------------------------------------------------------------------------

    def _ask(self, number: int) -> None:
        rng = random.Random(f"{self._orders['seed']}-{self._name}-{number}")
        for _ in Pace(self._orders["per_s"] / _THREADS, self._stopping):
            wish, node = rng.choice(WISHES[self._name]), rng.choice(self._orders["nodes"])
            with self._lock:
                sender = self._sender
                self._using[sender] += 1
            try:
                self._do(sender, wish, node)
            finally:
                with self._lock:
                    self._using[sender] -= 1

    def _do(self, sender: Sender, wish: Wish, node: str) -> None:
        op = op_number(caller_number(self._name), next(self._ops))
        may = wish.may is None or node in wish.may
        self._counts["may" if may else "may not"] += 1
        params = {"op": op}
        if wish.kind == "call":
            self._call(sender, f"{node}.{wish.target}", op, may)
            return
        do: Callable[..., Any] = sender.send
        if wish.kind == "event":
            target, do = wish.target, sender.publish
            self._history.invoked(op, "event", target, subscribers=subscribers(target, self._orders["nodes"]), may=may)
        else:
            target = f"{node}.{wish.target}"
            self._history.invoked(op, "message", target, may=may)
        try:
            receipt = do(target, params, timeout=_TIMEOUT_S)
        except Exception as error:
            self._history.refused(op, error)
        else:
            self._history.confirmed(op, receipt)

    def _call(self, sender: Sender, target: str, op: int, may: bool) -> None:
        self._history.invoked(op, "call", target, time.monotonic() + _TIMEOUT_S, may=may)
        try:
            id, value = sender.call(target, {"op": op}, timeout=_TIMEOUT_S)
        except Exception as error:
            self._history.failed(op, error, fault=isinstance(error, RemoteError), t=time.monotonic())
        else:
            self._history.replied(op, id, value == answer(op), t=time.monotonic())


def main(path: str) -> None:
    orders = json.loads(Path(path).read_text())
    use_clock(Path(orders["clock"]))
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if orders["plant"]:
        plant(orders["plant"])
    Caller(orders).run()


if __name__ == "__main__":
    main(sys.argv[1])
