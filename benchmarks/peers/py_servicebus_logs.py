"""The logging of py-servicebus 2.19: so many processes log at a given pace, or as fast as they can, to its log server.

Prints how many records were sent, how many lines stand in the file, and when the last one got there. A datagram that
the server has no room for is lost without a trace, so the lines are counted.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

from servicebus.logging_service import LoggingService

FORK = multiprocessing.get_context("fork")
MARK = b"answered in 137 us"
_QUIET_S = 0.5


def caller(port: int, count: int, each_s: float, start: Any) -> None:
    LoggingService.init_logging(port)
    start.wait()
    began = time.perf_counter()
    for number in range(count):
        ahead_s = began + number * each_s - time.perf_counter()
        if ahead_s > 0.001:
            time.sleep(ahead_s)
        logging.info("record %d: request math.add of client 10.0.0.7 answered in %d us", number, 137)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=0.0, help="per second, all processes together; 0: no limit")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(run(arguments, Path(folder) / "bench.log")))


def run(arguments: argparse.Namespace, path: Path) -> dict[str, Any]:
    # Before the callers' handlers, as its README wants: the server would feed itself.
    server = LoggingService.start_logging_server(str(path), arguments.port, None)
    while not path.exists() or not path.stat().st_size:
        time.sleep(0.01)
    time.sleep(0.2)  # between its first line and its first look at the socket it says nothing
    start = FORK.Barrier(arguments.processes + 1)
    count = arguments.records // arguments.processes
    each_s = arguments.processes / arguments.rate if arguments.rate else 0.0
    callers = [
        FORK.Process(target=caller, args=(arguments.port, count, each_s, start)) for _ in range(arguments.processes)
    ]
    for each in callers:
        each.start()
    start.wait()
    began = time.monotonic()
    for each in callers:
        each.join()
    logged_s = time.monotonic() - began
    written_s = last_change(path) - began
    written = path.read_bytes().count(MARK)
    server.terminate()
    server.join()
    return {"sent": count * arguments.processes, "written": written, "logged_s": logged_s, "written_s": written_s}


def last_change(path: Path) -> float:
    """When the file grew for the last time, known once it has not for half a second."""
    size, changed = path.stat().st_size, time.monotonic()
    while time.monotonic() < changed + _QUIET_S:
        time.sleep(0.01)
        now = path.stat().st_size
        if now != size:
            size, changed = now, time.monotonic()
    return changed


if __name__ == "__main__":
    main()
