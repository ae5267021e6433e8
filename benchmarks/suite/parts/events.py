"""``bench events``: events published, confirmed, and handled by each of ten nodes that have subscribed."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import click

from benchmarks.suite.charts import Bars
from benchmarks.suite.environment import usable, versions
from benchmarks.suite.goals import Goal, at_least, ratios
from benchmarks.suite.peers import EVENTS, OURS, Peer, chosen, known
from benchmarks.suite.readings import cpu_us, failures, field, names, noise, over_rounds, phase_cell, rates
from benchmarks.suite.results import Report, document, keep
from benchmarks.suite.rounds import Measurement, interleaved
from benchmarks.suite.settings import Settings, shared_options
from benchmarks.suite.spread import cell, times
from benchmarks.suite.tables import Table
from benchmarks.suite.visit import Visit
from servicebus.testing import Broker, brokers

NODES = 10


@click.command("events")
@shared_options()
def command(settings: Settings) -> None:
    """Events: to ten subscribing nodes, through handler and ack at each."""
    found = run(settings)
    keep(found, settings, report(found), is_whole=not settings.only)


def run(settings: Settings) -> dict[str, Any]:
    """Measure all that ``--only`` names."""
    began = time.time()
    peers, left_out = usable(chosen(settings, EVENTS))
    with brokers(count=1) as (node,):
        measurements = [
            Measurement(peer.name, partial(measure, peer, node, settings), 15.0 + 3 * settings.seconds)
            for peer in peers
        ]
        results = interleaved("events", measurements, settings.rounds, settings.wait_limit_s)
    return document("events", settings, results, began, versions(peers), left_out=left_out)


def measure(peer: Peer, node: Broker, settings: Settings) -> dict[str, Any]:
    """One visit."""
    with Visit(peer, [node], servers=NODES, are_nodes=True) as visit:
        visit.phase("e2e", settings.seconds)
        return visit.found


# -- what people read --------------------------------------------------------------------------------------------------


def report(found: dict[str, Any]) -> Report:
    """A table of rates, ratios and CPU; bars."""
    shown = names(found)
    read, whos = field("e2e"), ("client", "server", "broker")
    ours = over_rounds(found, OURS, read)
    rows = [
        [
            name,
            "yes" if known(name).confirms else "no",
            phase_cell(found, name, "e2e"),
            times(ours, over_rounds(found, name, read)),
            *(cell(over_rounds(found, name, cpu_us("e2e", who))) for who in whos),
        ]
        for name in shown
    ]
    heads = ["", "confirmed", "events/s", f"{OURS} is so many times as fast", *(f"CPU of {who}, us" for who in whos)]
    notes = [
        f"Medians (lowest to highest round). An event counts once each of {NODES} nodes has handled and acked it; each "
        "node is a process of its own with a durable queue, and the CPU is that of all together for one event. *no* in "
        "the second column: the peer has neither confirms nor persistence.",
        *(f"- {line}" for line in failures(found)),
        noise(found),
    ]
    charts = [Bars(f"Events to {NODES} nodes", "events/s", rates(found, "e2e"))]
    return Report("Events", [Table(f"Events to {NODES} nodes", heads, rows)], charts, notes)


def goals(found: dict[str, Any]) -> list[Goal]:
    """Beside the best framework that confirms, and the best one of all."""
    read = field("e2e")
    rivals = [peer for peer in EVENTS if peer.name != OURS]
    made = []
    for label, others in (
        ("the best confirming framework", [peer.name for peer in rivals if peer.confirms]),
        ("the best framework", [peer.name for peer in rivals]),
    ):
        best, times_as_fast = ratios(found, (OURS, read), [(name, read) for name in others])
        made.append(at_least("events", f"{label} ({best or '-'})", 3.0, times_as_fast))
    return made
