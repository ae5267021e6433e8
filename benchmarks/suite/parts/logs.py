"""``bench logs``: records from 8 processes through to the file, ours and py-servicebus's, at equal loss.

Ours are acknowledged and wait for the server, so as fast as possible is without loss. py-servicebus sends and forgets:
the pace at which it loses as little is searched for.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import click

from benchmarks.suite.environment import Missing, interpreter
from benchmarks.suite.goals import Goal, at_least, ratios
from benchmarks.suite.peers import PROGRAMS
from benchmarks.suite.readings import failures, names, over_rounds
from benchmarks.suite.results import Report, document, keep
from benchmarks.suite.rounds import Measurement, interleaved
from benchmarks.suite.settings import ROOT, Settings, shared_options
from benchmarks.suite.spread import NO_SUCH, cell, times
from benchmarks.suite.tables import Table

OURS, ONE, THEIRS = "servicebus", "servicebus, 1 process", "py-servicebus 2.19"
PROCESSES = 8
RECORDS = 50_000
WANTED_PER_S = 40_000
_THEIR_RECORDS = 10_000
"""At full speed, of which most are lost."""
_SLOWEST = 500.0
_HALVINGS = 3


@click.command("logs")
@shared_options()
def command(settings: Settings) -> None:
    """Log records of 8 processes through to the file, beside py-servicebus at equal loss."""
    found = run(settings)
    keep(found, settings, report(found), is_whole=not settings.only)


def run(settings: Settings) -> dict[str, Any]:
    """Ours, then theirs, in turn."""
    began = time.time()
    measurements, left_out = [Measurement(OURS, _ours, 8.0)], {}
    try:
        python = str(interpreter("py_servicebus"))
        measurements.append(Measurement(THEIRS, lambda: _theirs(python, settings.seconds), 25.0))
    except Missing as error:
        left_out[THEIRS] = str(error)
    wanted = [measurement for measurement in measurements if settings.wants(measurement.name)]
    results = interleaved("logs", wanted, settings.rounds, settings.wait_limit_s)
    return document("logs", settings, results, began, left_out=left_out)


def _ours() -> dict[str, Any]:
    """8 processes, then one alone."""
    program = ROOT / "benchmarks" / "logs.py"
    many, one = _json(sys.executable, str(program), "--json", "--records", str(RECORDS), "--processes", str(PROCESSES))
    return {"many": many, "one": one}


def _theirs(python: str, seconds: float) -> dict[str, Any]:
    """At full speed, and at the fastest pace at which all came through."""

    def log(records: float, rate: float) -> dict[str, Any]:
        program = str(PROGRAMS / "py_servicebus_logs.py")
        return _json(python, program, str(_free_port()), "--processes", str(PROCESSES), "--records",
                     str(round(records)), "--rate", str(rate))  # fmt: skip

    def loses_none(rate: float) -> dict[str, Any] | None:
        done = log(max(rate * seconds, PROCESSES), rate)
        return done if done["written"] == done["sent"] else None

    return {"full": log(_THEIR_RECORDS, 0.0), "lossless": fastest(loses_none)}


def fastest(attempt: Callable[[float], dict[str, Any] | None], slowest: float = _SLOWEST) -> dict[str, Any] | None:
    """What *attempt* gave at the fastest rate at which it succeeded: doubled, then halved in between."""
    good, bad, best = 0.0, slowest, None
    while (done := attempt(bad)) is not None:
        good, bad, best = bad, bad * 2, done
    for _ in range(_HALVINGS):
        middle = (good + bad) / 2
        if (done := attempt(middle)) is not None:
            good, best = middle, done
        else:
            bad = middle
    return best


def _json(*command_line: str) -> dict[str, Any]:
    done = subprocess.run(command_line, capture_output=True, text=True, check=False, timeout=300)
    if not done.stdout.strip():
        raise RuntimeError(f"{command_line[1]} failed: {done.stderr.strip()[-300:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


# -- what people read --------------------------------------------------------------------------------------------------


def of_ours(who: str, key: str) -> Callable[[Any], float | None]:
    """Reads a figure of ours; *who* is ``many`` or ``one``."""
    return lambda result: result.get(who, {}).get(key)


def per_second(run_name: str) -> Callable[[Any], float | None]:
    """Reads theirs: records that got into the file, per second."""

    def read(result: Any) -> float | None:
        run = result.get(run_name)
        return run["written"] / run["written_s"] if run else None

    return read


def lost_share(run_name: str) -> Callable[[Any], float | None]:
    """Reads theirs: how much of what was sent never got into the file."""

    def read(result: Any) -> float | None:
        run = result.get(run_name)
        return 1 - run["written"] / run["sent"] if run else None

    return read


def report(found: dict[str, Any]) -> Report:
    """One table."""
    ours = over_rounds(found, OURS, of_ours("many", "records_per_s"))
    rows = []
    for label, who in ((f"{OURS}, {PROCESSES} processes", "many"), (ONE, "one")):
        keys = ("records_per_s", "lost", "caller_median_us", "caller_p99_us", "caller_cpu_us", "server_cpu_us")
        cells = [cell(over_rounds(found, OURS, of_ours(who, key))) for key in keys]
        rows.append([label, *cells[:1], NO_SUCH, *cells[1:]])
    for label, run_name in (("as fast as it can", "full"), ("the fastest without loss", "lossless")):
        rate = over_rounds(found, THEIRS, per_second(run_name))
        lost = over_rounds(found, THEIRS, lost_share(run_name))
        lost_text = cell(lost) if lost is None else f"{lost.median:.1%}"
        row = [f"{THEIRS}, {PROCESSES} processes, {label}", cell(rate), times(ours, rate), lost_text]
        rows.append([*row, *[NO_SUCH] * 4])
    columns = ["", "records/s in the file", "servicebus is so many times as fast", "lost", "caller, median us",
               "caller, p99 us", "caller, CPU us", "server, CPU us"]  # fmt: skip
    notes = [
        f"Medians (lowest to highest round) of {len(found['results']) // max(1, len(names(found)))} rounds; "
        f"{RECORDS:,} records of ours, signed and acknowledged. Equal loss is none.",
        *(f"- {line}" for line in failures(found)),
    ]
    return Report("Log records", [Table("Log records through to the file", columns, rows)], [], notes)


def goals(found: dict[str, Any]) -> list[Goal]:
    """So many a second and none lost; and beside py-servicebus without loss."""
    rate, lost = (over_rounds(found, OURS, of_ours("many", key)) for key in ("records_per_s", "lost"))
    rate_goal = lost_goal = None
    if rate is not None and lost is not None:
        rate_goal, lost_goal = rate.median >= WANTED_PER_S, lost.high == 0
    _, times_as_fast = ratios(found, (OURS, of_ours("many", "records_per_s")), [(THEIRS, per_second("lossless"))])
    return [
        Goal("logs", "records/s", f"{WANTED_PER_S:,}", cell(rate), rate_goal),
        Goal("logs", "lost", "none", cell(lost), lost_goal),
        at_least("logs", f"{THEIRS} at equal loss", 5, times_as_fast),
    ]
