"""``bench failover``: the next call after the broker in use is killed, for all that know more than one broker.

Our own figures of more faults are those of ``benchmarks/failover.py``, which the part runs as well.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import click
import psutil

from benchmarks.suite.charts import Bars
from benchmarks.suite.child import Child, PeerFailed
from benchmarks.suite.environment import usable, versions
from benchmarks.suite.goals import Goal
from benchmarks.suite.peers import ALL, OURS, Peer, chosen
from benchmarks.suite.readings import failures, field, names, over_rounds, phase_cell
from benchmarks.suite.results import Report, document, keep
from benchmarks.suite.rounds import Measurement, interleaved
from benchmarks.suite.settings import ROOT, Settings, shared_options
from benchmarks.suite.spread import NOT_MEASURED, cell
from benchmarks.suite.tables import Table
from benchmarks.suite.visit import Visit
from servicebus.testing import Broker, BrokerPool
from servicebus.testing.ports import free_ports
from tests.network import may_make_networks

NEXT_CALL = "next_call"
_OTHER_ADDRESS = "127.0.0.2"
_SCENARIOS = ("kill", "kill-again", "freeze", "drop", "first-host")


@click.command("failover")
@shared_options()
@click.option("--repetitions", default=5, show_default=True, help="Of each of our own faults; 0: leave them out.")
def command(settings: Settings, repetitions: int) -> None:
    """Failover: the next call after kill -9 of the broker in use, and our figures of other faults."""
    found = run(settings, repetitions)
    keep(found, settings, report(found), is_whole=not settings.only and repetitions > 0)


def run(settings: Settings, repetitions: int = 5) -> dict[str, Any]:
    """The peers in turn, then ours alone."""
    began = time.time()
    peers, left_out = usable(chosen(settings, [peer for peer in ALL if peer.many_hosts]))
    with twins() as pair:
        measurements = [Measurement(peer.name, partial(measure, peer, pair), 15.0) for peer in peers]
        results = interleaved("failover", measurements, settings.rounds, settings.wait_limit_s)
    ours = own_figures(repetitions) if repetitions else []
    return document(
        "failover", settings, results, began, versions(peers), left_out=left_out, repetitions=repetitions, figures=ours
    )


@contextmanager
def twins() -> Iterator[list[Broker]]:
    """Two brokers on two addresses and the same port, because py-servicebus knows one port for all its hosts."""
    pool = BrokerPool()
    try:
        (first,) = pool.take(1)
        folder = pool.folder / "twin"
        folder.mkdir()
        epmd_port, dist_port = free_ports(2)
        ports = {"port": first.port, "epmd_port": epmd_port, "dist_port": dist_port, "pid": 0}
        (folder / "node.json").write_text(json.dumps(ports))
        second = Broker(folder, "twin", host=_OTHER_ADDRESS)
        try:
            second.start()
            yield [first, second]
        finally:
            second.close()
    finally:
        pool.close()


def measure(peer: Peer, pair: Sequence[Broker]) -> dict[str, Any]:
    """One visit: the broker that the client uses is killed in the moment in which its next call begins."""
    with Visit(peer, pair) as visit:
        (client,) = visit.clients
        try:
            visit.found["phases"][NEXT_CALL] = _next_call(client, pair)
        except PeerFailed as error:
            visit.found["failed"][NEXT_CALL] = str(error)
        return visit.found


def _next_call(client: Child, pair: Sequence[Broker]) -> dict[str, Any]:
    client.order(phase=NEXT_CALL)
    client.expect("begin", 60.0)
    broker = _in_use(client, pair)
    os.kill(broker.pid, signal.SIGKILL)
    client.order(phase="go")
    end = client.expect("end", 120.0)
    return {key: value for key, value in end.items() if key != "kind"}


def _in_use(client: Child, pair: Sequence[Broker]) -> Broker:
    """The first of those that the client is connected to."""
    used = set()
    for process in client.tree():
        with suppress(psutil.NoSuchProcess):
            used |= {each.raddr[:2] for each in process.net_connections("tcp") if each.raddr}
    for broker in pair:
        if (broker.host, broker.port) in used:
            return broker
    raise PeerFailed(f"{client.name} is connected to no broker")


def own_figures(repetitions: int) -> list[dict[str, Any]]:
    """What benchmarks/failover.py finds; without root no packets are dropped."""
    scenarios = [name for name in _SCENARIOS if name != "drop" or may_make_networks()]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "failover.json"
        program = str(ROOT / "benchmarks" / "failover.py")
        done = subprocess.run(
            [sys.executable, program, "--repetitions", str(repetitions), "--json", str(path), "--only", *scenarios],
            stdout=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        if not path.exists():
            raise SystemExit(f"benchmarks/failover.py ended with status {done.returncode}")
        return list(json.loads(path.read_text())["figures"])


# -- what people read --------------------------------------------------------------------------------------------------


def report(found: dict[str, Any]) -> Report:
    """The peers' next call, then our own figures with their limits."""
    rows = []
    for name in names(found):
        spread = over_rounds(found, name, field(NEXT_CALL, "seconds"))
        told = over_rounds(found, name, field(NEXT_CALL, "failed"))
        measured = spread is not None
        rows.append([name, cell(spread) if measured else phase_cell(found, name, NEXT_CALL), cell(told)])
    tables = [Table("kill -9 of the broker in use: the next call", ["", "answered after, s", "errors before"], rows)]
    if found["figures"]:
        tables.append(_own(found))
    charts = [Bars("The next call after kill -9 of the broker in use", "s", {
        name: over_rounds(found, name, field(NEXT_CALL, "seconds")) for name in names(found)})]  # fmt: skip
    absent = ", ".join(peer.name for peer in ALL if peer.is_framework and peer.idioms and not peer.many_hosts)
    notes = [
        "Medians (lowest to highest round). Two independent brokers. The call is repeated at once when it raises; "
        f"{OURS} is given no limit of time, the others 10 s for each attempt, and whoever has no answer after 45 s has "
        f"failed. Not here: {absent}; they know the address of one broker only, or, as oslo.messaging, choose by "
        "chance among hosts that must be one cluster.",
        *(f"- {line}" for line in failures(found)),
    ]
    return Report("Failover", tables, charts, notes)


def _own(found: dict[str, Any]) -> Table:
    rows = []
    for figure in found["figures"]:
        digits = ".3f" if figure["unit"] else "g"
        values = [format(figure[key], digits) if key in figure else cell(None) for key in ("median", "p99", "max")]
        rows.append([figure["name"], str(len(figure["samples"])), *values, figure["goal"], figure["verdict"]])
    title = f"{OURS}: every fault, {found['repetitions']} times each (seconds, or counts)"
    return Table(title, ["", "n", "median", "p99", "max", "goal", "verdict"], rows)


def goals(found: dict[str, Any]) -> list[Goal]:
    """Our own limits, and a next call that is sooner than everybody's."""
    missed = [figure["name"] for figure in found["figures"] if figure["verdict"] == "MISSED"]
    judged = [figure for figure in found["figures"] if figure["verdict"] != "-"]
    text = f"{len(judged) - len(missed)} of {len(judged)} met" + (f"; missed: {', '.join(missed)}" if missed else "")
    own = Goal("failover", "the limits of each fault", "all met", text if judged else NOT_MEASURED,
               not missed if judged else None)  # fmt: skip
    read = field(NEXT_CALL, "seconds")
    ours = over_rounds(found, OURS, read)
    others = {name: over_rounds(found, name, read) for name in names(found) if name != OURS}
    measured = {name: spread for name, spread in others.items() if spread is not None}
    if ours is None or not measured:
        return [own, Goal("failover", "every peer, next call", "sooner", NOT_MEASURED, None)]
    best = min(measured, key=lambda name: measured[name].median)
    text = f"{ours} s, {best} {measured[best]} s"
    return [own, Goal("failover", "every peer, next call", "sooner", text, ours.median < measured[best].median)]
