#!/usr/bin/env python3
"""What does encryption cost? Calls of 1 KB, answered with the same, in plain and encrypted, interleaved in one run.

One worker, one Sender; what goes to ``secret.*`` is encrypted. Each round calls all forms in turn, so that what else
the machine does hits them alike::

    python -m benchmarks.encryption --rounds 20
"""

from __future__ import annotations

import random
import sys
import time
from collections import defaultdict
from typing import Any

from benchmarks.agent import NODE, settings
from benchmarks.side_by_side import DRIVES, compare, cpu_s, options_of, undisturbed
from servicebus.configuration import Configuration
from servicebus.sender import Sender
from servicebus.service import ServiceBus
from servicebus.services import Request, RpcService

FORMS = ("plain", "secret")
ENCRYPTION = {"keys": "the key of the benchmark", "services": "*.secret.*"}


class Echo(RpcService):
    def handle(self, request: Request) -> Any:
        return request.params


def configured(host: str, **more: Any) -> Configuration:
    return Configuration({**settings([host]), "encryption": ENCRYPTION, **more})


def serve(config: Configuration, host: str) -> int:
    bus = ServiceBus(config)
    for form in FORMS:
        bus.add_rpc_service(form, "echo", Echo())
    return bus.run_server(config, host)


def measure(sender: Sender, pid: int, rounds: int, calls: int, size: int) -> dict[tuple[str, str], list[list[float]]]:
    """Drive and form -> for each round microseconds per call, of the clock and of CPU."""
    found: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
    cases, text = [(drive, form) for drive in DRIVES for form in FORMS], "x" * size
    for number in range(rounds + 1):
        random.shuffle(cases)
        for drive, form in cases:
            before, began = cpu_s(pid), time.perf_counter()
            DRIVES[drive](sender, f"{NODE}.{form}.echo", text, text, calls)
            took = time.perf_counter() - began, cpu_s(pid) - before
            if number:  # the first one warms up
                found[drive, form].append([each / calls * 1e6 for each in took])
    return found


def report(found: dict[tuple[str, str], list[list[float]]]) -> None:
    for drive in DRIVES:
        (plain, plain_cpu), (secret, secret_cpu) = (
            [undisturbed([each[which] for each in found[drive, form]]) for which in (0, 1)] for form in FORMS
        )
        less, more = 100 * (1 - plain / secret), secret_cpu - plain_cpu
        for form, us, cpu in (("plain", plain, plain_cpu), ("encrypted", secret, secret_cpu)):
            print(f"{drive:14} {form:10} {1e6 / us:7.0f} calls/s {cpu:6.0f} us of CPU")
        print(f"{drive:14} {less:.1f} % fewer calls/s, {more:.0f} us of CPU more for each")


def main() -> int:
    parser = options_of(__doc__)
    parser.add_argument("--size", type=int, default=1000, help="characters of the text")
    options = parser.parse_args()

    def measured(sender: Sender, pid: int) -> None:
        report(measure(sender, pid, options.rounds, options.calls, options.size))

    return compare("benchmarks.encryption", options, configured, serve, measured)


if __name__ == "__main__":
    sys.exit(main())
