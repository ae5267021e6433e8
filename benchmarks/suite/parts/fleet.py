"""``bench fleet``: what workers, Senders and plain things of AMQP cost a broker, and what a fleet needs on paper."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from benchmarks.suite.growth.burden import (
    broker_cpu_s,
    burden,
    consume,
    declare_queues,
    each,
    knock,
    nodes_at_rest,
    open_channels,
    plain_connections,
    senders_at_rest,
)
from benchmarks.suite.growth.nodes import Order, host, running, sender_configuration
from benchmarks.suite.growth.paper import TCP_KIB, Load, Machine, Prices, Share, fleet, limits
from benchmarks.suite.growth.phases import ADD, Costs, in_flight
from benchmarks.suite.results import Report, document, keep
from benchmarks.suite.rounds import Measurement, interleaved
from benchmarks.suite.settings import Settings, shared_options
from benchmarks.suite.spread import Spread, cell, number
from benchmarks.suite.tables import Table
from benchmarks.waiting import until
from servicebus.sender import Sender
from servicebus.testing import Broker, brokers

PLAIN = 100
"""Connections; ten channels, queues and consumers for each."""
KNOCKS = 500
CLOSE_ALL = '[catch rabbit_networking:close_connection(P, "bench") || P <- rabbit_networking:connections()], ok.'
SIZES = (1_000, 10_000, 100_000)
_SETTLES_S = 3.0
_NAMES = ("erlang_kib", "pss_kib", "processes", "files", "connections", "channels", "queues", "consumers")


@click.command("fleet")
@click.option("--nodes", default=8, show_default=True, help="Real ones, for what one of them costs.")
@click.option("--senders", default=100, show_default=True, help="Real ones, in one process.")
@shared_options(rounds=3, seconds=15.0)
def command(settings: Settings, nodes: int, senders: int) -> None:
    """What a node, Sender, connection, channel, queue or consumer costs a broker; what a fleet needs, on paper."""
    found = run(settings, nodes, senders)
    keep(found, settings, report(found))


def run(settings: Settings, nodes: int = 8, senders: int = 100) -> dict[str, Any]:
    began = time.time()
    with brokers(count=1) as (broker,), tempfile.TemporaryDirectory(prefix="fleet-") as folder:
        bench = _Bench(broker, Path(folder), settings, nodes, senders)
        measurements = [
            Measurement(name, measure, expected_s)
            for name, (measure, expected_s) in bench.measurements().items()
            if settings.wants(name)
        ]
        results = interleaved("fleet", measurements, settings.rounds, settings.wait_limit_s)
    failed = [result["error"] for result in results if "error" in result]
    if failed:
        raise SystemExit(f"not measured: {failed[0]}")
    return document("fleet", settings, results, began, nodes=nodes, senders=senders, broker=_storm(results))


class _Bench:
    def __init__(self, broker: Broker, folder: Path, settings: Settings, nodes: int, senders: int):
        self._broker = broker
        self._folder = folder
        self._rest_s = settings.seconds
        self._nodes = nodes
        self._senders = senders

    def measurements(self) -> dict[str, tuple[Callable[[], dict[str, Any]], float]]:
        return {
            "plain": (self._plain, 20.0),
            "worker": (self._worker, 2 * self._rest_s + 15.0),
            "sender": (self._sender, 2 * self._rest_s + 10.0),
            "call": (self._call, 5.0),
        }

    def _plain(self) -> dict[str, Any]:
        broker = self._broker
        broker.heal()
        empty = self._settled()
        cpu = broker_cpu_s(broker)
        knock(broker, KNOCKS)
        time.sleep(1.0)
        accept_us = (broker_cpu_s(broker) - cpu) / KNOCKS * 1e6
        cpu = broker_cpu_s(broker)
        with plain_connections(broker, PLAIN) as connections:
            handshake_us = (broker_cpu_s(broker) - cpu) / PLAIN * 1e6
            connected = self._settled()
            channels = open_channels(connections, 10)
            opened = self._settled()
            queues = declare_queues(channels[0], PLAIN * 10)
            declared = self._settled()
            consume(channels, queues)
            consumed = self._settled()
        return {
            "empty": empty,
            "accept_us": accept_us,
            "connect_us": handshake_us,
            "connection": each(empty, connected, PLAIN),
            "channel": each(connected, opened, len(channels)),
            "queue": each(opened, declared, len(queues)),
            "consumer": each(declared, consumed, len(queues)),
        }

    def _worker(self) -> dict[str, Any]:
        self._broker.heal()
        empty, idle_cores = self._settled(), self._cores_at_rest()
        with nodes_at_rest(self._broker, self._nodes, self._folder):
            full, cores = self._settled(), self._cores_at_rest()
            connect_us = self._reconnect_us(full) / self._nodes
        return {
            "each": each(empty, full, self._nodes),
            "cores_at_rest": (cores - idle_cores) / self._nodes,
            "connect_us": connect_us,
        }

    def _sender(self) -> dict[str, Any]:
        self._broker.heal()
        with nodes_at_rest(self._broker, 1, self._folder) as (node,):
            before, idle_cores = self._settled(), self._cores_at_rest()
            cpu, started = broker_cpu_s(self._broker), time.monotonic()
            with senders_at_rest(self._broker, self._senders, node):
                spent = broker_cpu_s(self._broker) - cpu - idle_cores * (time.monotonic() - started)
                after, cores = self._settled(), self._cores_at_rest()
        return {
            "each": each(before, after, self._senders),
            "cores_at_rest": (cores - idle_cores) / self._senders,
            "connect_us": spent / self._senders * 1e6,
        }

    def _call(self) -> dict[str, Any]:
        self._broker.heal()
        order = Order("CALLED", [host(self._broker)])
        with running([order], self._folder) as (node,), Sender(sender_configuration(order.hosts)) as sender:
            calls = in_flight(sender, [(node.address(), *ADD)])
            costs = Costs([node], [self._broker])
            return costs.measure(calls, min(3.0, self._rest_s))

    def _settled(self) -> dict[str, float]:
        time.sleep(min(_SETTLES_S, self._rest_s))
        return burden(self._broker)

    def _cores_at_rest(self) -> float:
        before, started = broker_cpu_s(self._broker), time.monotonic()
        time.sleep(self._rest_s)
        return (broker_cpu_s(self._broker) - before) / (time.monotonic() - started)

    def _reconnect_us(self, full: Mapping[str, float]) -> float:
        """What it takes until all that was there is there again, when all connections were closed at once."""
        before = broker_cpu_s(self._broker)
        self._broker.evaluate(CLOSE_ALL)
        until(lambda: _is_as(burden(self._broker), full), "every client connected again")
        return (broker_cpu_s(self._broker) - before) * 1e6


def _is_as(now: Mapping[str, float], before: Mapping[str, float]) -> bool:
    time.sleep(0.5)
    return all(now[name] == before[name] for name in ("connections", "channels", "queues", "consumers"))


# -- what becomes of it ------------------------------------------------------------------------------------------------


def _median(results: list[dict[str, Any]], name: str, *path: str) -> float:
    values = []
    for result in results:
        if result["name"] == name:
            value: Any = result
            for key in path:
                value = value[key]
            values.append(value)
    return statistics.median(values) if values else 0.0


def _storm(results: list[dict[str, Any]]) -> dict[str, float] | None:
    """What `bench storm` wants to know; a broker with one core, since that is what a CPU second is."""
    plain_us = _median(results, "plain", "connect_us")
    worker_us, sender_us = (_median(results, name, "connect_us") for name in ("worker", "sender"))
    if not (plain_us and worker_us and sender_us):
        return None
    return {
        "handshakes_per_s": 1e6 / plain_us,
        "accept_work": min(1.0, _median(results, "plain", "accept_us") / plain_us),
        "worker_setup": max(0.0, worker_us / plain_us - 2),
        "sender_setup": max(0.0, sender_us / plain_us - 1),
    }


def prices(results: list[dict[str, Any]]) -> Prices:
    def share(name: str) -> Share:
        def each(key: str) -> float:
            return _median(results, name, "each", key)

        return Share(
            connections=each("connections"),
            channels=each("channels"),
            queues=each("queues"),
            consumers=each("consumers"),
            processes=each("processes"),
            memory_kib=each("erlang_kib") + TCP_KIB * each("connections"),
            cores_at_rest=max(0.0, _median(results, name, "cores_at_rest")),
        )

    empty_kib = _median(results, "plain", "empty", "pss_kib")
    return Prices(empty_kib, share("worker"), share("sender"), _median(results, "call", "broker_us"))


def report(found: Mapping[str, Any]) -> Report:
    results = found["results"]
    tables = [_costs_table(results, found)]
    if found["broker"] is not None and any(result["name"] == "call" for result in results):
        tables += [_limits_table(prices(results)), _fleet_table(prices(results))]
    return Report("What a fleet costs a broker", tables)


def _costs_table(results: list[dict[str, Any]], found: Mapping[str, Any]) -> Table:
    kinds = {
        "a connection (pika, plain)": ("plain", "connection"),
        "a channel": ("plain", "channel"),
        "a durable classic queue": ("plain", "queue"),
        "a consumer": ("plain", "consumer"),
        "a worker, its node's queues included": ("worker", "each"),
        "a Sender": ("sender", "each"),
    }

    def spread(name: str, *path: str) -> Spread | None:
        return Spread.of(
            result[path[0]] if len(path) == 1 else result[path[0]].get(path[1])
            for result in results
            if result["name"] == name and path[0] in result
        )

    rows = []
    for label, (name, key) in kinds.items():
        row = [label, *(cell(spread(name, key, column)) for column in _NAMES[:4])]
        row += [number(_median(results, name, key, column)) for column in _NAMES[4:]]
        is_whole = key in ("each", "connection")
        row.append(cell(spread(name, "connect_us")) if is_whole else "-")
        rest = Spread.of(result["cores_at_rest"] * 1e6 for result in results if result["name"] == name != "plain")
        rows.append([*row, cell(rest) if key == "each" else "-"])
    headings = ["one more", "in Erlang KiB", "resident KiB", "Erlang processes", "files", "connections", "channels",
                "queues", "consumers", "broker's CPU to connect us", "at rest us/s"]  # fmt: skip
    accept = cell(Spread.of(result["accept_us"] for result in results if "accept_us" in result))
    note = (
        f"Of {found['nodes']} real nodes, {found['senders']} Senders, {PLAIN} plain connections, {PLAIN * 10} others."
        f" A TCP connection that is closed again before a byte was sent costs the broker {accept} us of CPU."
    )
    return Table("What one more costs a broker", headings, rows, note)


def _limits_table(measured: Prices) -> Table:
    machine = Machine()
    rows = []
    for text, load in _LOADS.items():
        found = limits(load, measured, machine)
        rows.append([text, *(f"{int(count):,}" for count in found.values()), min(found, key=lambda name: found[name])])
    note = (
        f"A broker of {machine.memory_gib:g} GiB and {machine.cores:g} cores, of whose memory watermark"
        f" ({machine.watermark:g}) and cores half is used; everybody chooses the same broker. Linear in what was"
        f" measured with few nodes, and {TCP_KIB:g} KiB for each connection's buffers in the kernel."
    )
    return Table("How many nodes one broker carries", ["each node brings", *found, "least"], rows, note)


def _fleet_table(measured: Prices) -> Table:
    rows = []
    for nodes in SIZES:
        for text, load in _LOADS.items():
            needed = fleet(nodes, load, measured, Machine())
            one = needed.each
            rows.append([f"{nodes:,}, {text}", f"{needed.shards:,}", f"{needed.shards * needed.brokers:,}",
                         f"{needed.nodes_per_shard:,}", *(f"{value:,.0f}" for value in (one.connections, one.channels,
                         one.queues, one.consumers, one.processes)), f"{one.memory_kib / 1024 / 1024:.1f}",
                         f"{one.cores_at_rest:.1f}"])  # fmt: skip
    headings = ["nodes", "shards", "brokers", "nodes on each", "connections", "channels", "queues", "consumers",
                "Erlang processes", "memory GiB", "cores"]  # fmt: skip
    note = "Two brokers to a shard. The columns after *nodes on each* are those of one that carries its shard alone."
    return Table("What a fleet needs", headings, rows, note)


_LOADS = {"1 Sender, at rest": Load(1, 0.0), "1 Sender, 1 call/s": Load(1, 1.0), "4 Senders, 10 calls/s": Load(4, 10.0)}
