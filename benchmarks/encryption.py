#!/usr/bin/env python3
"""What does encryption cost? Calls of 1 KB, answered with the same, in plain and encrypted, interleaved in one run.

One worker, one Sender; what goes to ``secret.*`` is encrypted. Each round calls all forms in turn, so that what else
the machine does hits them alike::

    python -m benchmarks.encryption --rounds 20
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import closing
from typing import Any

from benchmarks.agent import NODE, place, settings
from benchmarks.typed import DRIVES, cpu_s, own_cpu_s, undisturbed, wait_for_node
from servicebus.configuration import Configuration
from servicebus.sender import Sender
from servicebus.service import ServiceBus
from servicebus.services import Request, RpcService
from servicebus.testing import BrokerPool

FORMS = ("plain", "secret")
ENCRYPTION = {"keys": "the key of the benchmark", "services": "*.secret.*"}


class Echo(RpcService):
    def handle(self, request: Request) -> Any:
        return request.params


def configured(host: str, **more: Any) -> Configuration:
    return Configuration({**settings([host]), "encryption": ENCRYPTION, **more})


def serve(host: str, folder: str) -> int:
    """The worker, alone in its process."""
    config = configured(host, journal=f"{folder}/journal")
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
            before, began = cpu_s(pid) + own_cpu_s(), time.perf_counter()
            DRIVES[drive](sender, f"{NODE}.{form}.echo", text, text, calls)
            took = time.perf_counter() - began, cpu_s(pid) + own_cpu_s() - before
            if number:  # the first one warms up
                found[drive, form].append([each / calls * 1e6 for each in took])
    return found


def report(found: dict[tuple[str, str], list[list[float]]]) -> None:
    """By the lower quartile of the rounds: what else a machine does only adds."""
    for drive in DRIVES:
        (plain, plain_cpu), (secret, secret_cpu) = (
            [undisturbed([each[which] for each in found[drive, form]]) for which in (0, 1)] for form in FORMS
        )
        less, more = 100 * (1 - plain / secret), secret_cpu - plain_cpu
        for form, us, cpu in (("plain", plain, plain_cpu), ("encrypted", secret, secret_cpu)):
            print(f"{drive:14} {form:10} {1e6 / us:7.0f} calls/s {cpu:6.0f} us of CPU")
        print(f"{drive:14} {less:.1f} % fewer calls/s, {more:.0f} us of CPU more for each")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--calls", type=int, default=640, help="in each round, for each form")
    parser.add_argument("--size", type=int, default=1000, help="characters of the text")
    parser.add_argument("--serve", nargs=2, metavar=("HOST", "FOLDER"), help="be the worker")
    options = parser.parse_args()
    if options.serve:
        return serve(*options.serve)
    pool = BrokerPool()
    with tempfile.TemporaryDirectory() as folder, closing(pool):
        host = place(pool.take(1)[0])
        worker = subprocess.Popen([sys.executable, "-m", "benchmarks.encryption", "--serve", host, folder])
        try:
            with Sender(configured(host)) as sender:
                wait_for_node(sender)
                report(measure(sender, worker.pid, options.rounds, options.calls, options.size))
        finally:
            worker.terminate()
            worker.wait(60)
    return 0


if __name__ == "__main__":
    sys.exit(main())
