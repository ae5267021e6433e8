#!/usr/bin/env python3
"""What does a typed function cost beside a service of the class form? CPU per call, both sides, interleaved in one run.

One worker serves a class and a function (``def`` and ``async def``) with ``(a: int, b: int)``, and with a model of five
fields. Each round calls all of them in turn, so that what else the machine does hits them alike::

    python -m benchmarks.typed --rounds 20
"""

from __future__ import annotations

import random
import sys
from collections import defaultdict
from typing import Any

from pydantic import BaseModel

from benchmarks.agent import NODE, settings
from benchmarks.side_by_side import DRIVES, compare, cpu_s, options_of, undisturbed
from servicebus.configuration import Configuration
from servicebus.sender import Sender
from servicebus.service import ServiceBus
from servicebus.services import Request, RpcService
from servicebus.typed import Services

FORMS = ("class", "def", "async")
PARAMS: dict[str, Any] = {
    "ints": {"a": 20, "b": 22},
    "model": {"sku": "s-1", "count": 3, "price": 1.5, "gift": True, "tags": ["new", "blue"]},
}
RESULTS = {"ints": 42, "model": 4.5}


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


def configured(host: str, **more: Any) -> Configuration:
    return Configuration({**settings([host]), **more})


def serve(config: Configuration, host: str) -> int:
    bus = ServiceBus(config)
    bus.add_rpc_service("class", "ints", ClassInts())
    bus.add_rpc_service("class", "model", ClassModel())
    for group in make_groups():
        bus.include(group)
    return bus.run_server(config, host)


def measure(sender: Sender, pid: int, rounds: int, calls: int) -> dict[tuple[str, str, str], list[float]]:
    """Microseconds of CPU per call: drive, params and form -> one figure for each round."""
    found: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    cases = [(drive, params, form) for drive in DRIVES for params in PARAMS for form in FORMS]
    for number in range(rounds + 1):
        random.shuffle(cases)
        for drive, params, form in cases:
            before = cpu_s(pid)
            DRIVES[drive](sender, f"{NODE}.{form}.{params}", PARAMS[params], RESULTS[params], calls)
            if number:  # the first one warms up
                found[drive, params, form].append((cpu_s(pid) - before) / calls * 1e6)
    return found


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
    options = options_of(__doc__).parse_args()

    def measured(sender: Sender, pid: int) -> None:
        report(measure(sender, pid, options.rounds, options.calls))

    return compare("benchmarks.typed", options, configured, serve, measured)


if __name__ == "__main__":
    sys.exit(main())
