"""Forms of a service side by side: one worker, one Sender, each form called in turn, interleaved in one run.

What else the machine does hits all forms alike, and only adds: the lower quartile of the rounds is what counts.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.agent import NODE, place
from servicebus.configuration import Configuration
from servicebus.sender import Sender
from servicebus.testing import BrokerPool

IN_FLIGHT = 64

Drive = Callable[[Sender, str, Any, Any, int], None]


def one_after_another(sender: Sender, target: str, params: Any, expected: Any, count: int) -> None:
    for _ in range(count):
        if sender.call(target, params)[1] != expected:
            raise SystemExit(f"{target} returned something else")


def in_flight(sender: Sender, target: str, params: Any, expected: Any, count: int) -> None:
    for _ in range(0, count, IN_FLIGHT):
        futures = [sender.call_async(target, params) for _ in range(IN_FLIGHT)]
        if any(future.result()[1] != expected for future in futures):
            raise SystemExit(f"{target} returned something else")


DRIVES: dict[str, Drive] = {"sequential": one_after_another, f"{IN_FLIGHT} in flight": in_flight}


def cpu_s(pid: int) -> float:
    """What all threads of process *pid* and this process have used."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    used = resource.getrusage(resource.RUSAGE_SELF)
    return sum(int(each.read_text().split()[0]) for each in tasks) / 1e9 + used.ru_utime + used.ru_stime


def undisturbed(samples: list[float]) -> float:
    """Their lower quartile."""
    return statistics.quantiles(samples, n=4)[0]


def options_of(about: str | None) -> argparse.ArgumentParser:
    """What every such benchmark takes."""
    parser = argparse.ArgumentParser(description=(about or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--calls", type=int, default=640, help="in each round, for each form")
    parser.add_argument("--serve", nargs=2, metavar=("HOST", "FOLDER"), help="be the worker")
    return parser


def compare(
    module: str,
    options: argparse.Namespace,
    configured: Callable[..., Configuration],
    serve: Callable[[Configuration, str], int],
    measure: Callable[[Sender, int], None],
) -> int:
    """The benchmark *module* with *options*: *measure* is called with a Sender and the number of the worker's process.

    Args:
        configured: the configuration of both, given a host and what is its own.
        serve: the worker, alone in its process, on a host.
    """
    if options.serve:
        host, folder = options.serve
        return serve(configured(host, journal=f"{folder}/journal"), host)
    pool = BrokerPool()
    with tempfile.TemporaryDirectory() as folder, closing(pool):
        host = place(pool.take(1)[0])
        worker = subprocess.Popen([sys.executable, "-m", module, "--serve", host, folder])
        try:
            with Sender(configured(host)) as sender:
                _wait_for_node(sender)
                measure(sender, worker.pid)
        finally:
            worker.terminate()
            worker.wait(60)
    return 0


def _wait_for_node(sender: Sender) -> None:
    deadline = time.monotonic() + 60
    while not sender.ping(NODE):
        if time.monotonic() > deadline:
            raise SystemExit("the worker does not answer")
