#!/usr/bin/env python3
"""How many messages a second does a bridge move from one broker to another, confirmed at both ends?

Two private brokers on this machine. A queue of the first is filled, then each mover empties it into a queue of the
second: ``servicebus bridge``, RabbitMQ's own Shovel (in the first broker), and Mela, if it is installed::

    python -m benchmarks.bridge --messages 100000 --rounds 3 --mela PATH/TO/ITS/PYTHON

Time counts from the first message that the second broker has to the last, so that the start of a process does not. All
movers have the same window, and run in turn in each round. The brokers share the machine with them: it is the sum of
all three that is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pika

from servicebus.testing import Broker, brokers, find_broker_program

WINDOW = 1000
SOURCE, TARGET = "bench.source", "bench.target"
_POLL_S = 0.02
_LIMIT_S = 900.0

MELA = """
import json, sys
from pathlib import Path
from aio_pika import DeliveryMode
from mela import Mela, Message
from mela.settings import Settings

Path("application.yml").write_text(sys.argv[1])  # it reads that from the current folder
app = Mela("bridge")
app.settings = Settings()

@app.service("mover")
async def mover(text: str) -> Message:
    return Message(json.dumps({"text": text}).encode(), delivery_mode=DeliveryMode.PERSISTENT)

app.run()
"""


class Counting:
    """How many messages the queues of two brokers have."""

    def __init__(self, source: Broker, target: Broker):
        # The waiting does not look after heartbeats.
        urls = [f"{each.url}?heartbeat=0" for each in (source, target)]
        self._connections = [pika.BlockingConnection(pika.URLParameters(url)) for url in urls]
        self._channels = [connection.channel() for connection in self._connections]

    def ready(self, at: int, queue: str) -> int:
        return int(self._channels[at].queue_declare(queue, passive=True).method.message_count)

    def close(self) -> None:
        for connection in self._connections:
            connection.close()


def fill(broker: Broker, count: int, size: int) -> None:
    """Publish, with confirms every now and then: what is measured comes later."""
    connection = pika.BlockingConnection(pika.URLParameters(broker.url))
    channel = connection.channel()
    channel.queue_delete(SOURCE)
    channel.queue_declare(SOURCE, durable=True)
    text = os.urandom(size).hex()[: size - len(json.dumps({"text": ""}))]
    body = json.dumps({"text": text}).encode()
    for number in range(count):
        about = pika.BasicProperties(delivery_mode=2, message_id=f"m-{number}", content_type="application/json")
        channel.basic_publish("", SOURCE, body, about)
    while channel.queue_declare(SOURCE, passive=True).method.message_count < count:
        time.sleep(_POLL_S)
    connection.close()


@contextmanager
def servicebus(source: Broker, target: Broker, folder: Path) -> Iterator[int]:
    hosts = [{"name": name, "host": each.host, "port": each.port} for name, each in (("a", source), ("b", target))]
    entry = {"from": {"host": "a", "queue": SOURCE, "passive": True}, "to": {"host": "b", "routing_key": TARGET}}
    path = folder / "bridge.yaml"
    path.write_text(json.dumps({"connections": hosts, "bridges": [{**entry, "prefetch": WINDOW}]}))
    program = [sys.executable, "-c", "from servicebus.cli.main import main; main()", "bridge", str(path)]
    with process(program, folder) as pid:
        yield pid


@contextmanager
def shovel(source: Broker, target: Broker, _folder: Path) -> Iterator[int]:
    enable_shovel(source)
    told = {
        "src-protocol": "amqp091", "src-uri": source.url.rstrip("/"), "src-queue": SOURCE,
        "src-prefetch-count": WINDOW, "dest-protocol": "amqp091", "dest-uri": target.url.rstrip("/"),
        "dest-queue": TARGET, "ack-mode": "on-confirm",
    }  # fmt: skip
    source.rabbitmqctl("set_parameter", "shovel", "bench", json.dumps(told))
    try:
        yield 0
    finally:
        source.rabbitmqctl("clear_parameter", "shovel", "bench")


def enable_shovel(broker: Broker) -> None:
    """Private brokers are started with a few plugins: link the others beside them, and start this one."""
    own = Path(str(broker.evaluate("rabbit_plugins:plugins_dir().")).strip('"'))
    all_of_them = find_broker_program().resolve().parents[1] / "plugins"
    for name in ("rabbitmq_shovel", "amqp_client", "amqp10_client", "amqp10_common"):
        for found in all_of_them.glob(f"{name}-*"):
            if not (own / found.name).exists():
                (own / found.name).symlink_to(found)
    enabled = broker.folder / "enabled_plugins"
    enabled.write_text("[rabbitmq_shovel].\n")
    broker.evaluate(f'rabbit_plugins:ensure("{enabled}").')


@contextmanager
def mela(python: str, source: Broker, target: Broker, folder: Path) -> Iterator[int]:
    told = {
        "connections": {"default": {"url": source.url}, "there": {"url": target.url}},
        "services": {"mover": {
            "consumer": {
                "connection": "default", "exchange": "bench", "routing_key": SOURCE, "queue": SOURCE,
                "prefetch_count": WINDOW,
            },
            "publisher": {"connection": "there", "exchange": "bench", "routing_key": TARGET},
        }},
    }  # fmt: skip
    (folder / "mela_bridge.py").write_text(MELA)
    with process([python, "mela_bridge.py", json.dumps(told)], folder) as pid:
        yield pid


@contextmanager
def process(program: list[str], folder: Path) -> Iterator[int]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    if program[0] != sys.executable:
        environment.pop("PYTHONPATH")
    with (folder / "log").open("ab") as log:
        running = subprocess.Popen(program, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        yield running.pid
    finally:
        running.terminate()
        try:
            running.wait(20)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def measure(start: Callable[..., Any], pair: list[Broker], count: int, size: int, folder: Path) -> dict[str, float]:
    source, target = pair
    fill(source, count, size)
    counting = Counting(source, target)
    channel = counting._channels[1]
    channel.queue_delete(TARGET)
    channel.queue_declare(TARGET, durable=True)
    channel.exchange_declare("bench", "direct", durable=True)
    channel.queue_bind(TARGET, "bench", TARGET)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with start(source, target, folder):
        give_up_at = time.monotonic() + _LIMIT_S
        while not (begun := counting.ready(1, TARGET)):
            _wait(give_up_at, folder)
        began = time.monotonic()
        while counting.ready(1, TARGET) < count:
            _wait(give_up_at, folder)
        seconds = time.monotonic() - began
        while counting.ready(0, SOURCE):
            _wait(give_up_at, folder)
    moved = counting.ready(1, TARGET)
    counting.close()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"per_s": (count - begun) / seconds, "moved": moved, "cpu_us": 1e6 * cpu_s / count}


def _wait(give_up_at: float, folder: Path) -> None:
    if time.monotonic() > give_up_at:
        log = folder / "log"
        raise SystemExit(f"not moved in {_LIMIT_S:g} s; {log.read_text()[-3000:] if log.exists() else ''}")
    time.sleep(_POLL_S)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--bytes", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mela", help="the Python of an environment that has it")
    parser.add_argument("--mela-messages", type=int, default=20_000, help="it is slower; its rate is what counts")
    parser.add_argument("--only", help="servicebus, shovel or mela")
    given = parser.parse_args()
    movers: dict[str, tuple[Callable[..., Any], int]] = {
        "servicebus": (servicebus, given.messages),
        "shovel": (shovel, given.messages),
    }
    if given.mela:
        movers["mela"] = (partial(mela, given.mela), given.mela_messages)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in movers if given.only in (None, name)}
    with tempfile.TemporaryDirectory() as folder, brokers(2) as pair:
        for number in range(given.rounds):
            for name in found:
                start, count = movers[name]
                own = Path(folder) / f"{name}-{number}"
                own.mkdir()
                result = measure(start, pair, count, given.bytes, own)
                found[name].append(result)
                print(f"{name:<12} {result['per_s']:9.0f} /s  {result['moved']:.0f} at the target", flush=True)
    ours = statistics.median(each["per_s"] for each in found["servicebus"]) if "servicebus" in found else 0.0
    for name, results in found.items():
        rates = [each["per_s"] for each in results]
        ratio = f"  servicebus is {ours / statistics.median(rates):.2f} times as fast" if ours else ""
        print(f"{name:<12} median {statistics.median(rates):9.0f} /s  ({min(rates):.0f} to {max(rates):.0f}){ratio}")


if __name__ == "__main__":
    main()
