#!/usr/bin/env python3
"""How fast do log records get from 8 processes into the file, and what does a caller pay for one?

    benchmarks/logs.py [--processes 8] [--records 50000] [--datagram BYTES] [--unsigned] [--json]

Starts ``servicebus-logd`` in a process of its own, forks the callers, lets them log at the same moment as fast as
they can, and stops the clock when the server has acknowledged the last record: acknowledged means written to the file
(not: synced to the disk).

What the figures mean:

* records/s: all processes together, from the first ``logger.info`` to the last acknowledgement.
* caller: wall time of one ``logger.info`` with the log handler only. With 8 callers on 2 cores the 99.9th percentile
  holds the time that the system gives to other processes; one caller alone, in the second column, shows less of them.
* CPU: user and system time of the caller for each record, its sending thread included, and of the server.
* written + lost = sent is checked; the exit status is 1 if it does not hold or more than 0.1 % is lost.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from servicebus.logging_service import LoggingService
from servicebus.transport.udp import DatagramHandler

FORK = multiprocessing.get_context("fork")
SECRET = "benchmark"


def caller(port: int, args: argparse.Namespace, count: int, start: Barrier, results: Any) -> None:
    handler = DatagramHandler(
        "127.0.0.1", port, [] if args.unsigned else [SECRET], datagram_bytes=args.datagram, close_timeout_s=60.0
    )
    logger = logging.getLogger("benchmark")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    times = [0.0] * count
    start.wait()
    for number in range(count):
        before = time.perf_counter()
        logger.info("record %d: request math.add of client 10.0.0.7 answered in %d us", number, 137)
        times[number] = time.perf_counter() - before
    logged_at = time.monotonic()
    complete = handler.flush()
    used = resource.getrusage(resource.RUSAGE_SELF)
    counters = handler.counters
    handler.close()
    results.put(
        {
            "times": times,
            "logged_at": logged_at,
            "written_at": time.monotonic(),
            "cpu_s": used.ru_utime + used.ru_stime,
            "dropped": counters["dropped"],
            "resent": counters["resent"],
            "complete": complete,
        }
    )


def start_server(folder: Path, args: argparse.Namespace) -> tuple[subprocess.Popen[str], int]:
    command = [sys.executable, "-m", "logging_service", "--file", str(folder / "bench.log"), "--port", "0"]
    if not args.unsigned:
        (folder / "secret").write_text(SECRET)
        command += ["--secret-file", str(folder / "secret")]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    found = re.search(r":(\d+),", server.stdout.readline())
    assert found is not None
    return server, int(found[1])


def cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(args: argparse.Namespace, processes: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        server, port = start_server(Path(folder), args)
        cpu_before = cpu_of(server.pid)
        start, results = FORK.Barrier(processes + 1), FORK.SimpleQueue()
        count = args.records // processes
        callers = [FORK.Process(target=caller, args=(port, args, count, start, results)) for _ in range(processes)]
        for each in callers:
            each.start()
        start.wait()
        started_at = time.monotonic()
        found = [results.get() for _ in callers]
        for each in callers:
            each.join()
        statistics = LoggingService.statistics(port, None if args.unsigned else SECRET)
        cpu_s = cpu_of(server.pid) - cpu_before
        server.terminate()
        server.communicate(timeout=10)
    return summary(found, statistics, started_at, cpu_s, count * processes)


def summary(
    found: list[dict[str, Any]], statistics: dict[str, Any], started_at: float, server_cpu_s: float, sent: int
) -> dict[str, Any]:
    times = sorted(each for one in found for each in one["times"])
    elapsed_s = max(one["written_at"] for one in found) - started_at
    return {
        "processes": len(found),
        "sent": sent,
        "written": statistics["written"],
        "lost": statistics["lost"],
        "refused": statistics["refused"],
        "datagrams_resent": sum(one["resent"] for one in found),
        "records_per_s": round(statistics["written"] / elapsed_s),
        "logged_after_s": round(max(one["logged_at"] for one in found) - started_at, 3),
        "written_after_s": round(elapsed_s, 3),
        "caller_median_us": round(times[len(times) // 2] * 1e6, 1),
        "caller_p99_us": round(times[int(len(times) * 0.99)] * 1e6, 1),
        "caller_p999_us": round(times[int(len(times) * 0.999)] * 1e6, 1),
        "caller_max_us": round(times[-1] * 1e6, 1),
        "caller_cpu_us": round(sum(one["cpu_s"] for one in found) / sent * 1e6, 1),
        "server_cpu_us": round(server_cpu_s / sent * 1e6, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--records", type=int, default=50_000)
    parser.add_argument("--datagram", type=int, help="bytes of one datagram")
    parser.add_argument("--unsigned", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    runs = [run(args, processes) for processes in dict.fromkeys((args.processes, 1))]
    if args.json:
        print(json.dumps(runs, indent=2))
    else:
        for name in runs[0]:
            print(f"{name:20}", *(f"{one[name]:>12}" for one in runs))
    right = all(one["written"] + one["lost"] == one["sent"] and one["lost"] <= one["sent"] / 1000 for one in runs)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
