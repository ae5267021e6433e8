"""``bench workers``: two workers on one broker and two client processes, against as many processes of the C floor."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import click

from benchmarks.suite.charts import Bars
from benchmarks.suite.environment import usable, versions
from benchmarks.suite.goals import Goal, ratios
from benchmarks.suite.peers import FLOOR, SERVICEBUS, Peer, chosen, known
from benchmarks.suite.readings import Found, cpu_us, failures, field, names, noise, over_rounds, phase_cell, rates
from benchmarks.suite.results import Report, document, keep
from benchmarks.suite.rounds import Measurement, interleaved
from benchmarks.suite.settings import Settings, shared_options
from benchmarks.suite.spread import NOT_MEASURED, cell, times
from benchmarks.suite.tables import Table
from benchmarks.suite.visit import Visit
from servicebus.testing import Broker, brokers

COUNT = 2
OURS = f"servicebus, {COUNT} workers"
IN_FLIGHT = "futures"
NEAR = 0.85
FULL_CORES = 0.95


@click.command("workers")
@shared_options()
def command(settings: Settings) -> None:
    """Two workers per host and two client processes, against the C floor with as many."""
    found = run(settings)
    keep(found, settings, report(found), is_whole=not settings.only)


def run(settings: Settings) -> dict[str, Any]:
    """Ours and the floor, in turn."""
    began = time.time()
    both = (SERVICEBUS.with_settings(OURS, {"workers_per_host": COUNT}), known(FLOOR))
    peers, left_out = usable(chosen(settings, both))
    expected_s = 4.0 + 2 * settings.seconds
    with brokers(count=1) as (node,):
        measurements = [Measurement(peer.name, partial(measure, peer, node, settings), expected_s) for peer in peers]
        results = interleaved("workers", measurements, settings.rounds, settings.wait_limit_s)
    return document("workers", settings, results, began, versions(peers), left_out=left_out)


def measure(peer: Peer, node: Broker, settings: Settings) -> dict[str, Any]:
    """One visit. Our one agent has its two workers; of the floor there are two servers."""
    servers = COUNT if peer.name == FLOOR else 1
    with Visit(peer, [node], servers=servers, clients=COUNT, consumers=COUNT) as visit:
        visit.phase("seq", settings.seconds)
        visit.phase(IN_FLIGHT, settings.seconds)
        return visit.found


def broker_cores(phase: str) -> Callable[[Found], float | None]:
    """Reads how many cores the broker used."""

    def read(result: Found) -> float | None:
        measured = result.get("phases", {}).get(phase)
        return measured["cpu_s"]["broker"] / measured["seconds"] if measured else None

    return read


# -- what people read --------------------------------------------------------------------------------------------------


def report(found: dict[str, Any]) -> Report:
    """Rates and what the broker has left."""
    rows = []
    for name in names(found):
        row = [name]
        for phase in ("seq", IN_FLIGHT):
            rate = over_rounds(found, name, field(phase))
            row += [phase_cell(found, name, phase), times(rate, over_rounds(found, FLOOR, field(phase)))]
            row.append(cell(over_rounds(found, name, broker_cores(phase))))
        row += [cell(over_rounds(found, name, cpu_us(IN_FLIGHT, who))) for who in ("client", "server", "broker")]
        rows.append(row)
    columns = [
        "", "one caller each, calls/s", "of the floor's", "broker, cores", "64 in flight each, calls/s",
        "of the floor's", "broker, cores", "client us", "server us", "broker us",
    ]  # fmt: skip
    table = Table(f"{COUNT} workers per host, {COUNT} client processes", columns, rows)
    notes = [
        "Medians (lowest to highest round), all processes together; CPU per call at 64 in flight. All calls go through "
        "one queue, which is one process of the broker.",
        *(f"- {line}" for line in failures(found)),
        noise(found),
    ]
    return Report("Workers", [table], [Bars("64 in flight of each client", "calls/s", rates(found, IN_FLIGHT))], notes)


def goals(found: dict[str, Any]) -> list[Goal]:
    """Within 15 % of the floor, or the broker has a core full."""
    read = field(IN_FLIGHT)
    _, times_as_fast = ratios(found, (OURS, read), [(FLOOR, read)])
    cores = over_rounds(found, OURS, broker_cores(IN_FLIGHT))
    wanted = f"{NEAR:g} x, or the broker's core full"
    if times_as_fast is None or cores is None:
        return [Goal("workers", FLOOR, wanted, NOT_MEASURED, None)]
    is_met = times_as_fast.median >= NEAR or cores.median >= FULL_CORES
    text = f"{times_as_fast.median:.2f} x, the broker using {cores.median:.2f} cores"
    return [Goal("workers", FLOOR, wanted, text, is_met)]
