#!/usr/bin/env python3
"""What does a typed function cost beside a service of the class form? CPU per call, both sides, interleaved in one run.

One worker serves a class and a function (``def`` and ``async def``) with ``(a: int, b: int)``, and with a model of five
fields. Each round calls all of them in turn, so that what else the machine does hits them alike::

    python -m benchmarks.typed --rounds 20
"""

from __future__ import annotations

import argparse
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from benchmarks.agent import NODE, place, settings
from servicebus.configuration import Configuration
from servicebus.sender import Sender
from servicebus.service import ServiceBus
from servicebus.services import Request, RpcService
from servicebus.testing import BrokerPool
from servicebus.typed import Services

FORMS = ("class", "def", "async")
PARAMS: dict[str, Any] = {
    "ints": {"a": 20, "b": 22},
    "model": {"sku": "s-1", "count": 3, "price": 1.5, "gift": True, "tags": ["new", "blue"]},
}
RESULTS = {"ints": 42, "model": 4.5}
IN_FLIGHT = 64


class ClassInts(RpcService):
    def handle(self, request: Request) -> Any:
        params = request.params
        return params["a"] + params["b"]


class ClassModel(RpcService):
    def handle(self, request: Request) -> Any:
        params = request.params
        return params["count"] * params["price"]


class Order(BaseModel):
    sku: str
    count: int
    price: float
    gift: bool
    tags: list[str]


def make_groups() -> list[Services]:
    plain, on_loop = Services("def"), Services("async")

    @plain.rpc
    def ints(a: int, b: int) -> int:
        return a + b

    @plain.rpc
    def model(order: Order) -> float:
        return order.count * order.price

    @on_loop.rpc(name="ints")
    async def async_ints(a: int, b: int) -> int:
        return a + b

    @on_loop.rpc(name="model")
    async def async_model(order: Order) -> float:
        return order.count * order.price

    return [plain, on_loop]


def serve(host: str, folder: str) -> int:
    """The worker, alone in its process."""
    config = Configuration({**settings([host]), "journal": f"{folder}/journal"})
    bus = ServiceBus(config)
    bus.add_rpc_service("class", "ints", ClassInts())
    bus.add_rpc_service("class", "model", ClassModel())
    for group in make_groups():
        bus.include(group)
    return bus.run_server(config, host)


def cpu_s(pid: int) -> float:
    """What all threads of a process have used, to the nanosecond."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(each.read_text().split()[0]) for each in tasks) / 1e9


def own_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def wait_for_node(sender: Sender) -> None:
    deadline = time.monotonic() + 60
    while not sender.ping(NODE):
        if time.monotonic() > deadline:
            raise SystemExit("the worker does not answer")


def one_after_another(sender: Sender, target: str, params: Any, expected: Any, count: int) -> None:
    for _ in range(count):
        if sender.call(target, params)[1] != expected:
            raise SystemExit(f"{target} returned something else")


def in_flight(sender: Sender, target: str, params: Any, expected: Any, count: int) -> None:
    for _ in range(0, count, IN_FLIGHT):
        futures = [sender.call_async(target, params) for _ in range(IN_FLIGHT)]
        if any(future.result()[1] != expected for future in futures):
            raise SystemExit(f"{target} returned something else")


Drive = Callable[[Sender, str, Any, Any, int], None]
DRIVES: dict[str, Drive] = {"sequential": one_after_another, f"{IN_FLIGHT} in flight": in_flight}


def measure(sender: Sender, pid: int, rounds: int, calls: int) -> dict[tuple[str, str, str], list[float]]:
    """Microseconds of CPU per call: drive, params and form -> one figure for each round."""
    found: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    cases = [(drive, params, form) for drive in DRIVES for params in PARAMS for form in FORMS]
    for number in range(rounds + 1):
        random.shuffle(cases)
        for drive, params, form in cases:
            before = cpu_s(pid) + own_cpu_s()
            DRIVES[drive](sender, f"{NODE}.{form}.{params}", PARAMS[params], RESULTS[params], calls)
            if number:  # the first one warms up
                found[drive, params, form].append((cpu_s(pid) + own_cpu_s() - before) / calls * 1e6)
    return found


def undisturbed(samples: list[float]) -> float:
    """Their lower quartile: what else a machine does only adds."""
    return statistics.quantiles(samples, n=4)[0]


def report(found: dict[tuple[str, str, str], list[float]]) -> None:
    print("CPU per call, lower quartile of all rounds")
    print(f"{'':24}{'class form':>12}" + "".join(f"{form:>22}" for form in FORMS[1:]))
    for drive in DRIVES:
        for params in PARAMS:
            base = undisturbed(found[drive, params, "class"])
            line = f"{drive + ', ' + params:24}{base:9.1f} us"
            for form in FORMS[1:]:
                own = undisturbed(found[drive, params, form])
                line += f"{own:12.1f} us {own / base:5.3f} x"
            print(line)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--calls", type=int, default=640, help="in each round, for each form")
    parser.add_argument("--serve", nargs=2, metavar=("HOST", "FOLDER"), help="be the worker")
    options = parser.parse_args()
    if options.serve:
        return serve(*options.serve)
    pool = BrokerPool()
    with tempfile.TemporaryDirectory() as folder, closing(pool):
        host = place(pool.take(1)[0])
        worker = subprocess.Popen([sys.executable, "-m", "benchmarks.typed", "--serve", host, folder])
        try:
            with Sender(Configuration(settings([host]))) as sender:
                wait_for_node(sender)
                report(measure(sender, worker.pid, options.rounds, options.calls))
        finally:
            worker.terminate()
            worker.wait(60)
    return 0


if __name__ == "__main__":
    sys.exit(main())
