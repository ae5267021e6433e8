"""``bench messages``: durable messages, confirmed one by one, many unconfirmed, and through handler and ack."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import click

from benchmarks.suite import against as against_settings
from benchmarks.suite.charts import Bars
from benchmarks.suite.environment import usable, versions
from benchmarks.suite.goals import Goal, at_least, ratios
from benchmarks.suite.peers import ALL, FLOOR, OURS, RAW_PIKA, Peer, chosen, known
from benchmarks.suite.readings import cpu_us, failures, field, names, noise, over_rounds, phase_cell, rates
from benchmarks.suite.results import Report, document, keep
from benchmarks.suite.rounds import Measurement, interleaved
from benchmarks.suite.settings import Settings, shared_options
from benchmarks.suite.spread import NO_SUCH, cell, times
from benchmarks.suite.tables import Table
from benchmarks.suite.visit import Visit
from servicebus.testing import Broker, brokers

PHASES = {"pub": "one by one", "pubw": "many unconfirmed", "e2e": "through handler and ack"}
"""Of which the last comes first: the others leave messages behind."""


@click.command("messages")
@shared_options()
@against_settings.option
def command(settings: Settings, against: tuple[str, ...]) -> None:
    """Messages: confirmed one by one, many unconfirmed, and end to end."""
    found = run(settings, against)
    keep(found, settings, report(found), is_whole=not settings.only and not against)


def run(settings: Settings, against: Sequence[str] = ()) -> dict[str, Any]:
    """Measure all that ``--only`` names."""
    began = time.time()
    peers, left_out = usable(chosen(settings) + against_settings.variants(against))
    expected_s = 5.0 + 4 * settings.seconds
    with brokers(count=1) as (node,):
        measurements = [Measurement(peer.name, partial(measure, peer, node, settings), expected_s) for peer in peers]
        results = interleaved("messages", measurements, settings.rounds, settings.wait_limit_s)
    return document("messages", settings, results, began, versions(peers), left_out=left_out)


def measure(peer: Peer, node: Broker, settings: Settings) -> dict[str, Any]:
    """One visit. The publishing alone is measured with the server stopped: it takes none of the broker's time."""
    with Visit(peer, [node]) as visit:
        visit.phase("e2e", settings.seconds)
        visit.stop_servers()
        for phase in ("pub", "pubw"):
            if phase in peer.messages:
                visit.phase(phase, settings.seconds / 2)
        return visit.found


# -- what people read --------------------------------------------------------------------------------------------------


def report(found: dict[str, Any]) -> Report:
    """Tables of rates, ratios and CPU; bars of each phase."""
    shown = names(found)
    tables = [_rates(found, shown), _ratios(found, shown), _cpu(found, shown)]
    charts = [Bars(f"Messages, {label}", "messages/s", rates(found, phase)) for phase, label in PHASES.items()]
    notes = [
        "Medians (lowest to highest round). Durable queues and persistent messages, params `[1, 2]`; *no* in the "
        "second column: the peer has neither confirms nor persistence, and its figures are no match for the others'. "
        "One by one: each is confirmed before the next is sent. Publishing is measured with the server stopped, "
        f"through handler and ack with it running. `{NO_SUCH}`: the peer has no such way.",
        *(f"- {line}" for line in failures(found)),
        noise(found),
    ]
    return Report("Messages", tables, charts, notes)


def goals(found: dict[str, Any]) -> list[Goal]:
    """End to end, and published with many unconfirmed."""
    through, windowed = field("e2e"), field("pubw")
    rivals = [peer.name for peer in ALL if peer.is_framework and peer.confirms and peer.name != OURS]
    compared = (
        ("end to end", through, "the best confirming framework", rivals, 4.0),
        ("end to end", through, "raw pika", RAW_PIKA, 1.3),
        ("end to end", through, FLOOR, [FLOOR], 0.55),
        ("publish", windowed, FLOOR, [FLOOR], 0.55),
    )
    made = []
    for row, read, label, others, limit in compared:
        best, times_as_fast = ratios(found, (OURS, read), [(name, read) for name in others])
        label = label if label == FLOOR else f"{label} ({best or '-'})"
        made.append(at_least(row, label, limit, times_as_fast))
    return made


def _rates(found: dict[str, Any], shown: Sequence[str]) -> Table:
    rows = [[name, "yes" if known(name).confirms else "no", *_cells(found, name)] for name in shown]
    return Table("Messages per second", ["", "confirmed", *PHASES.values()], rows)


def _cells(found: dict[str, Any], name: str) -> list[str]:
    return [phase_cell(found, name, phase) if phase in known(name).messages else NO_SUCH for phase in PHASES]


def _ratios(found: dict[str, Any], shown: Sequence[str]) -> Table:
    ours = {phase: over_rounds(found, OURS, field(phase)) for phase in PHASES}
    rows = [[name, *(times(ours[phase], over_rounds(found, name, field(phase))) for phase in PHASES)] for name in shown]
    return Table(f"{OURS} is so many times as fast (medians)", ["", *PHASES.values()], rows)


def _cpu(found: dict[str, Any], shown: Sequence[str]) -> Table:
    whos = ("client", "server", "broker")
    rows = [[name, *(cell(over_rounds(found, name, cpu_us("e2e", who))) for who in whos)] for name in shown]
    return Table("CPU of one message through handler and ack, microseconds", ["", *whos], rows)
