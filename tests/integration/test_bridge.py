"""``servicebus bridge``: two real brokers, and what moves between them while it and they are killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pika
import pytest
from probe import Probe
from waiting import wait_until

from servicebus.testing import Broker

PROGRAM = [sys.executable, "-c", "from servicebus.cli.main import main; main()", "bridge"]


def write(folder: Path, brokers: list[Broker], **bridge: Any) -> Path:
    path = folder / "bridge.yaml"
    hosts = [{"name": name, "host": each.host, "port": each.port} for name, each in zip("ab", brokers, strict=True)]
    entry = {"from": {"host": "a", "queue": "source"}, "to": {"host": "b", "routing_key": "target"}, **bridge}
    path.write_text(json.dumps({"connections": hosts, "bridges": [entry]}))  # JSON is YAML
    return path


@contextmanager
def running(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    with path.with_name("log").open("ab") as log:
        process = subprocess.Popen([*PROGRAM, str(path)], stderr=log, stdout=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait(30)


@contextmanager
def channel(broker: Broker) -> Iterator[Any]:
    connection = pika.BlockingConnection(pika.URLParameters(broker.url))
    try:
        yield connection.channel()
    finally:
        connection.close()


def fill(broker: Broker, count: int, **properties: Any) -> None:
    with channel(broker) as source:
        source.queue_declare("source", durable=True)
        source.confirm_delivery()
        for number in range(count):
            about = pika.BasicProperties(message_id=f"m-{number}", delivery_mode=2, **properties)
            source.basic_publish("", "source", b"x" * 1000 + str(number).encode(), about)


def take_all(broker: Broker) -> list[tuple[Any, bytes]]:
    with channel(broker) as target:
        found: list[tuple[Any, bytes]] = []
        for method, properties, body in target.consume("target", inactivity_timeout=1.0):
            if method is None:
                return found
            target.basic_ack(method.delivery_tag)
            found.append((properties, body))
        return found


def declare_target(broker: Broker) -> None:
    with channel(broker) as target:
        target.queue_declare("target", durable=True)


def test_all_is_moved_with_all_that_its_publisher_wrote(brokers: list[Broker], tmp_path: Path) -> None:
    declare_target(brokers[1])
    told = {
        "content_type": "text/plain", "content_encoding": "utf-8", "priority": 4, "correlation_id": "c",
        "reply_to": "r", "timestamp": 1700000000, "type": "t", "app_id": "a", "user_id": "guest",
        "headers": {"x-own": 1, "nested": {"a": [1, None, True]}, "CC": ["elsewhere"]},
    }  # fmt: skip
    fill(brokers[0], 200, **told)
    with running(write(tmp_path, brokers)) as bridge:
        wait_until(lambda: Probe(brokers[1]).depth("target") == 200, 60)
        wait_until(lambda: Probe(brokers[0]).depth("source") == 0, 60)
        bridge.send_signal(signal.SIGTERM)
        assert bridge.wait(30) == 0
    moved = take_all(brokers[1])
    assert [properties.message_id for properties, _ in moved] == [f"m-{number}" for number in range(200)]
    first = moved[0][0]
    assert first.headers == {"x-own": 1, "nested": {"a": [1, None, True]}}  # CC would have had it routed elsewhere
    assert first.user_id is None and first.delivery_mode == 2
    for name in ("content_type", "content_encoding", "priority", "correlation_id", "reply_to", "type", "app_id"):
        assert getattr(first, name) == told[name]


@pytest.mark.on_request
@pytest.mark.parametrize("what", ["bridge", "source", "target"])
def test_what_is_killed_loses_nothing(brokers: list[Broker], tmp_path: Path, what: str) -> None:
    declare_target(brokers[1])
    count, kills = 3000, 4
    fill(brokers[0], count)
    path = write(tmp_path, brokers, prefetch=100)

    def moved() -> int:
        return Probe(brokers[1]).depth("target") or 0

    def at_least(wanted: int) -> Callable[[], bool]:
        return lambda: moved() >= wanted

    with ExitStack() as stack:
        bridge = stack.enter_context(running(path))
        for kill in range(1, kills + 1):
            wait_until(at_least(min(count, kill * count // (kills + 2))), 60)
            if what == "bridge":
                bridge.kill()
                bridge.wait(30)
                bridge = stack.enter_context(running(path))
            else:
                broker = brokers[0 if what == "source" else 1]
                broker.kill()
                broker.start()
        wait_until(lambda: Probe(brokers[0]).depth("source") == 0 and at_least(count)(), 90)
        bridge.send_signal(signal.SIGTERM)
        assert bridge.wait(30) == 0
    found = take_all(brokers[1])
    bodies = {properties.message_id: body for properties, body in found}
    assert len(bodies) == count, (tmp_path / "log").read_text()[-3000:]
    assert all(body == b"x" * 1000 + id[2:].encode() for id, body in bodies.items())
    assert len(found) - count <= kills * 100 * 2, "no more doubles than were under way"


def test_what_no_queue_takes_waits_until_one_does(brokers: list[Broker], tmp_path: Path) -> None:
    fill(brokers[0], 20)
    path = write(tmp_path, brokers, retry=[0.2])
    with running(path) as bridge:
        wait_until(lambda: b"no queue is bound" in (tmp_path / "log").read_bytes(), 60)
        assert Probe(brokers[0]).depth("source") is not None
        bridge.kill()
        bridge.wait(30)
        assert Probe(brokers[0]).depth("source") == 20
    declare_target(brokers[1])
    with running(path):
        wait_until(lambda: Probe(brokers[1]).depth("target") == 20, 60)


def test_what_is_refused_for_good_becomes_a_dead_letter(brokers: list[Broker], tmp_path: Path) -> None:
    fill(brokers[0], 5)
    with running(write(tmp_path, brokers, retry=[0.1], dead_letters="source.dead")):
        wait_until(lambda: Probe(brokers[0]).depth("source.dead") == 5, 60)
        wait_until(lambda: Probe(brokers[0]).depth("source") == 0, 60)
    ((body, about), *_) = Probe(brokers[0]).take_all("source.dead")
    assert body.startswith(b"xxx") and "no queue is bound" in str(about)


def test_a_source_that_comes_later_is_waited_for(brokers: list[Broker], tmp_path: Path) -> None:
    declare_target(brokers[1])
    entry = {"host": "a", "queue": "source", "passive": "true"}
    with running(write(tmp_path, brokers, **{"from": entry})):
        wait_until(lambda: b"waits" in (tmp_path / "log").read_bytes(), 60)
        began = time.monotonic()
        fill(brokers[0], 3)
        wait_until(lambda: Probe(brokers[1]).depth("target") == 3, 60)
        assert time.monotonic() - began < 60
