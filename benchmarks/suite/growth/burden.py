"""What things cost a broker: memory, processes, files and CPU, by looking before and after there are many of them."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pika
import psutil

from benchmarks.suite.growth.nodes import Order, host, running, sender_configuration
from benchmarks.suite.growth.phases import cpu_s
from servicebus.sender import Sender
from servicebus.testing import Broker

_HELD = (
    "[garbage_collect(P) || P <- processes()],"
    "{erlang:memory(processes) + erlang:memory(ets), erlang:system_info(process_count),"
    " length(rabbit_networking:connections()),"
    " length(rabbit_channel:list()), length(rabbit_amqqueue:list()), length(rabbit_amqqueue:consumers_all(<<$/>>))}."
)
_NAMES = ("erlang_bytes", "processes", "connections", "channels", "queues", "consumers")


def burden(broker: Broker) -> dict[str, float]:
    """What *broker* holds now, after it has been made to collect its garbage.

    ``erlang_kib`` is what processes and tables take. Not erlang:memory(total): that counts the buffer of each socket,
    which is made as large as the kernel's and hardly touched (3.8 MiB where the kernel's is 4).
    """
    numbers = [int(number) for number in re.findall(r"\d+", broker.evaluate(_HELD))]
    if len(numbers) != len(_NAMES):
        raise RuntimeError(f"{broker!r} does not say what it holds")
    found = dict(zip(_NAMES, map(float, numbers), strict=True))
    found["erlang_kib"] = found.pop("erlang_bytes") / 1024
    found["pss_kib"] = pss_kib(broker.pid)
    found["files"] = len(list(Path(f"/proc/{broker.pid}/fd").iterdir()))
    return found


def pss_kib(pid: int) -> float:
    """Resident memory of a process, its part of shared pages only."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return float(re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE).group(1))  # type: ignore[union-attr]


def each(before: dict[str, float], after: dict[str, float], count: int) -> dict[str, float]:
    """What one of *count* has added."""
    return {name: (after[name] - before[name]) / count for name in after}


def broker_cpu_s(broker: Broker) -> float:
    return cpu_s(psutil.Process(broker.pid))


# -- plain things of AMQP, by pika -------------------------------------------------------------------------------------


@contextmanager
def plain_connections(broker: Broker, count: int) -> Iterator[list[Any]]:
    with ExitStack() as stack:
        parameters = pika.URLParameters(broker.url)
        parameters.heartbeat = 0  # no thread would answer while we measure
        connections = []
        for _ in range(count):
            connection = pika.BlockingConnection(parameters)
            stack.callback(connection.close)
            connections.append(connection)
        yield connections


def knock(broker: Broker, count: int) -> None:
    """TCP connections that are closed before a byte was sent: what a broker that is late gets to see of a client."""
    for _ in range(count):
        socket.create_connection((broker.host, broker.port), 5.0).close()


def open_channels(connections: Sequence[Any], count: int) -> list[Any]:
    return [connection.channel() for connection in connections for _ in range(count)]


def declare_queues(channel: Any, count: int) -> list[str]:
    names = [f"plain-{number}" for number in range(count)]
    for name in names:
        channel.queue_declare(name, durable=True)
    return names


def consume(channels: Sequence[Any], queues: Sequence[str]) -> None:
    for number, queue in enumerate(queues):
        channels[number % len(channels)].basic_consume(queue, lambda *_: None)


# -- ours --------------------------------------------------------------------------------------------------------------


@contextmanager
def nodes_at_rest(broker: Broker, count: int, folder: Path) -> Iterator[list[str]]:
    """So many nodes with a worker each; returns their names."""
    orders = [Order(f"REST-{number}", [host(broker)]) for number in range(count)]
    with running(orders, folder) as nodes:
        yield [node.name for node in nodes]


@contextmanager
def senders_at_rest(broker: Broker, count: int, node: str) -> Iterator[list[Sender]]:
    """So many Senders in this process, each of which has made a call."""
    with ExitStack() as stack:
        senders = [stack.enter_context(Sender(sender_configuration([host(broker)]))) for _ in range(count)]
        futures = [sender.call_async(f"{node}.math.add", [1, 2], timeout=60.0) for sender in senders]
        for future in futures:
            if future.result(90.0)[1] != 3:
                raise RuntimeError("wrong answer")
        yield senders
