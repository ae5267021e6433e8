"""``servicebus migrate-queue``: a queue changes its type under its name, and loses nothing, whatever is killed."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotInTime
from functools import partial
from pathlib import Path
from typing import Any

import pika.exceptions
import pytest
from agents import Agent
from broker_versions import QUORUM, has_delivery_limit, quorum_arguments
from envelopes import SECRET
from pika.adapters.blocking_connection import BlockingChannel
from probe import Probe
from waiting import wait_until

from servicebus.configuration import Configuration
from servicebus.operations import migrate, queue_mover
from servicebus.operations.consumption import Consumption
from servicebus.operations.migrate import Migration, MigrationBlocked, QueueStatus
from servicebus.operations.queue_mover import QueueMover
from servicebus.operations.session import open_session
from servicebus.sender import Sender
from servicebus.testing import Broker
from servicebus.transport.stored import stored_queues

pytestmark = pytest.mark.brokers(count=1)

QUEUE = "NODE-01.messages"


class Command:
    """The command line, as an operator types it."""

    def __init__(self, folder: Path, broker: Broker):
        self.folder = folder
        self.host = f"{broker.host}:{broker.port}"

    def start(self, queue_type: str, *arguments: str) -> subprocess.Popen[str]:
        file = self.folder / f"{queue_type}.yaml"
        wanted = {"priorities": True} if queue_type == "priorities" else {"queue_type": queue_type}
        file.write_text(json.dumps({"hosts": [self.host], "node_name": "NODE-01", "secret_token": SECRET, **wanted}))
        program = "from servicebus.cli.main import main; main()"
        return subprocess.Popen(
            [sys.executable, "-c", program, "migrate-queue", self.host, "-c", str(file), "--json", *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def run(self, queue_type: str, *arguments: str) -> tuple[int, dict[str, dict[str, Any]], str]:
        """Exit status, what it says of each queue, and its errors."""
        said, errors = (process := self.start(queue_type, *arguments)).communicate(timeout=60)
        queues = json.loads(said)["queues"] if said else []
        return process.returncode, {found["queue"]: found for found in queues}, errors


@pytest.fixture
def command(tmp_path: Path, brokers: list[Broker]) -> Command:
    return Command(tmp_path, brokers[0])


def fill(probe: Probe, queue: str, count: int, arguments: dict[str, str] | None = None) -> None:
    with probe.channel() as channel:
        channel.exchange_declare("servicebus", "direct", durable=True)
        channel.queue_declare(queue, durable=True, arguments=arguments)
        if queue == QUEUE:
            channel.queue_bind(queue, "servicebus", queue)
        channel.confirm_delivery()
        for number in range(count):
            channel.basic_publish("", queue, b"%d" % number, mandatory=True)


def bodies(probe: Probe, queue: str) -> Counter[bytes]:
    return Counter(body for body, _ in probe.take_all(queue))


def is_taken(channel: BlockingChannel, queue: str) -> bool:
    return channel.basic_get(queue)[0] is not None


def is_taken_with(probe: Probe, queue: str, body: bytes) -> bool:
    return bodies(probe, queue) == Counter([body])


def numbered(count: int) -> set[bytes]:
    return {b"%d" % number for number in range(count)}


def is_of_type(probe: Probe, queue: str, arguments: Mapping[str, Any] | None) -> bool:
    probe.declare(queue, durable=True, arguments=arguments)  # refused by the broker if it is of another
    return True


def test_every_stored_queue_is_moved_to_the_type_of_the_configuration_and_back(
    command: Command, brokers: list[Broker]
) -> None:
    probe = Probe(brokers[0])
    for queue, count in ((QUEUE, 250), ("NODE-01.dead", 3)):
        fill(probe, queue, count)
    probe.publish("NODE-01.dead", b"with", headers={"x-servicebus-reason": "why", "mine": 1}, message_id="m")
    code, found, _ = command.run("quorum", "--dry-run")
    assert code == 0
    assert {name: each["state"] for name, each in found.items()} == {
        QUEUE: "other",
        "NODE-01.dead": "other",
        **{f"NODE-01.messages.delay.{tier}": "missing" for tier in (1, 5, 30, 120, 600)},
    }
    forms = ("quorum", quorum_arguments(brokers[0])), ("priorities", {"x-max-priority": 9}), ("classic", None)
    for queue_type, arguments in forms:
        code, found, errors = command.run(queue_type)
        assert code == 0, errors
        assert found[QUEUE]["messages"] == 250
        assert {each["state"] for each in found.values()} == {"fine", "missing"}
        assert is_of_type(probe, QUEUE, arguments)
        assert probe.depth(f"{QUEUE}.moving") is None
    with probe.channel() as channel:
        channel.confirm_delivery()
        channel.basic_publish("servicebus", QUEUE, b"bound", mandatory=True)
    assert bodies(probe, QUEUE) == Counter(numbered(250) | {b"bound"})
    *_, (body, headers) = sorted(probe.take_all("NODE-01.dead"))
    assert (body, headers) == (b"with", {"x-servicebus-reason": "why", "mine": 1})


class Mortal:
    """A run in a process of its own that kills itself before its *at*-th step that changes something on the broker."""

    def __init__(self, broker: Broker, queue_type: str, at: int):
        self._broker = broker
        self._queue_type = queue_type
        self._left = at

    def exit_code(self) -> int | None:
        process = multiprocessing.get_context("fork").Process(target=self._run)
        process.start()
        process.join(30)
        return process.exitcode

    def _run(self) -> None:
        self._make_mortal(Migration, "_do")
        self._make_mortal(QueueMover, "_move")
        self._make_mortal(Consumption, "cancel")
        run(self._broker, self._queue_type)

    def _make_mortal(self, kind: type[Any], name: str) -> None:
        original = getattr(kind, name)

        def mortal(*arguments: Any, **options: Any) -> Any:
            self._left -= 1
            if not self._left:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)

        setattr(kind, name, mortal)


def run(broker: Broker, queue_type: str) -> QueueStatus:
    settings = {"hosts": [f"{broker.host}:{broker.port}"], "node_name": "NODE-01", "secret_token": SECRET}
    config = Configuration({**settings, "queue_type": queue_type})
    with open_session(config.hosts[0], config) as session:
        return Migration(session, config, QUEUE).run()


@pytest.mark.parametrize(("old", "new"), [("classic", "quorum"), ("quorum", "classic")])
def test_killed_before_any_of_its_steps_it_loses_nothing_and_goes_on_where_it_was(
    brokers: list[Broker], monkeypatch: pytest.MonkeyPatch, old: str, new: str
) -> None:
    monkeypatch.setattr(migrate, "QUIET_S", 0.1)
    monkeypatch.setattr(queue_mover, "NEXT_S", 0.05)
    probe = Probe(brokers[0])
    arguments = {"classic": None, "quorum": quorum_arguments(brokers[0])}
    for at in range(1, 1000):
        fill(probe, QUEUE, 4, arguments[old])
        code = Mortal(brokers[0], new, at).exit_code()
        assert run(brokers[0], new).state in ("fine", "missing")
        assert set(bodies(probe, QUEUE)) == numbered(4), f"killed before step {at}"
        assert is_of_type(probe, QUEUE, arguments[new])
        assert probe.depth(f"{QUEUE}.moving") is None
        probe.delete(QUEUE)
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert at > 12


@pytest.mark.parametrize(("old", "new"), [("classic", "quorum"), ("quorum", "classic")])
def test_messages_that_come_meanwhile_are_confirmed_or_given_back_and_none_is_lost(
    brokers: list[Broker], old: str, new: str
) -> None:
    probe = Probe(brokers[0])
    fill(probe, QUEUE, 200, {"classic": None, "quorum": QUORUM}[old])
    done = threading.Event()
    confirmed = 200

    def keep_sending() -> None:
        nonlocal confirmed
        with probe.channel() as channel:
            channel.confirm_delivery()
            while not done.is_set():
                with contextlib.suppress(pika.exceptions.UnroutableError):
                    channel.basic_publish("servicebus", QUEUE, b"%d" % confirmed, mandatory=True)
                    confirmed += 1

    sender = threading.Thread(target=keep_sending)
    sender.start()
    try:
        wait_until(lambda: confirmed > 300)
        assert run(brokers[0], new).state == "fine"
        after = confirmed
        wait_until(lambda: confirmed > after)
    finally:
        done.set()
        sender.join()
    assert bodies(probe, QUEUE) == Counter(numbered(confirmed))


def test_an_agent_says_what_is_wrong_and_serves_as_soon_as_the_queue_was_moved(
    command: Command, brokers: list[Broker], start_agent: Callable[..., Agent]
) -> None:
    probe = Probe(brokers[0])
    fill(probe, QUEUE, 5)
    agent = start_agent(brokers, queue_type="quorum")
    agent.wait_consuming()
    line = agent.wait_log("ERROR", QUEUE)
    assert "queue NODE-01.messages has another type or other arguments than queue_type and priorities ask for" in line
    assert f"servicebus migrate-queue {command.host}" in line
    with Sender(agent.configuration()) as sender:
        assert sender.call("NODE-01.math.add", [1, 2], timeout=20)[1] == 3, "calls are served meanwhile"
        wait_until(lambda: agent.worker()["last_error"], 10)
        assert not agent.worker()["healthy"]
        code, _, errors = command.run("quorum")
        assert code == 0, errors
        wait_until(lambda: agent.worker()["healthy"], 20, agent.log)
        sender.send("NODE-01.audit.record", "after")
        wait_until(lambda: "after" in agent.noted("recorded"), 20, agent.log)


def test_a_queue_that_is_consumed_stays_as_it_is(
    command: Command, brokers: list[Broker], start_agent: Callable[..., Agent]
) -> None:
    start_agent(brokers).wait_consuming()
    code, _, errors = command.run("quorum")
    assert code == 1
    assert "still has 1 consumer; give the agents of node NODE-01 the new queue_type first" in errors
    assert is_of_type(Probe(brokers[0]), QUEUE, None)


def test_only_one_run_at_a_time_moves_a_queue(brokers: list[Broker], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "LOCK_S", 0.2)
    probe = Probe(brokers[0])
    fill(probe, QUEUE, 1)
    with probe.channel() as channel:
        channel.queue_declare(f"{QUEUE}.moving.lock", exclusive=True)
        with pytest.raises(MigrationBlocked, match="is being moved by another process"):
            run(brokers[0], "quorum")
    assert run(brokers[0], "quorum").state == "fine"


def test_the_lock_of_a_run_that_was_killed_is_waited_for(brokers: list[Broker]) -> None:
    probe = Probe(brokers[0])
    fill(probe, QUEUE, 1)
    with ThreadPoolExecutor(1) as pool:
        with probe.channel() as channel:
            channel.queue_declare(f"{QUEUE}.moving.lock", exclusive=True)
            later = pool.submit(run, brokers[0], "quorum")
            with pytest.raises(NotInTime):
                later.result(0.5)
        assert later.result(30).state == "fine"


def test_quorum_queues_with_the_brokers_delivery_limit_are_served_and_lose_it_by_a_move(
    command: Command, brokers: list[Broker], start_agent: Callable[..., Agent]
) -> None:
    """Only RabbitMQ 4 has such a limit by default; earlier ones have nothing to move."""
    probe = Probe(brokers[0])
    has_limit = has_delivery_limit(brokers[0])
    for queue in stored_queues("NODE-01"):
        fill(probe, queue, 0, QUORUM)
    agent = start_agent(brokers, queue_type="quorum")
    agent.wait_consuming()
    wait_until(lambda: agent.worker()["healthy"], 20, agent.log)
    with Sender(agent.configuration()) as sender:
        sender.send("NODE-01.audit.record", "before")
        wait_until(lambda: "before" in agent.noted("recorded"), 20, agent.log)
    said = agent.log_lines("WARNING", "delivery limit", f"servicebus migrate-queue {command.host}")
    assert len(said) == has_limit, agent.log()
    code, found, errors = command.run("quorum")
    assert code == has_limit
    assert has_limit == ("1 consumer; stop the agents of node NODE-01" in errors)
    agent.stop()
    fill(probe, QUEUE, 4, QUORUM)
    code, found, errors = command.run("quorum")
    assert code == 0, errors
    assert {each["state"] for each in found.values()} == {"fine"}
    assert {each["was"] for each in found.values()} == {"other" if has_limit else "fine"}
    assert is_of_type(probe, QUEUE, quorum_arguments(brokers[0]))
    assert bodies(probe, QUEUE) == Counter(numbered(4))


def test_no_stored_quorum_queue_has_a_delivery_limit(brokers: list[Broker], start_agent: Callable[..., Agent]) -> None:
    """Each connection that is lost, as by a worker that dies, is one delivery more."""
    start_agent(brokers, queue_type="quorum").wait_consuming().stop()
    probe = Probe(brokers[0])
    queues = stored_queues("NODE-01")
    for queue in queues:
        probe.publish(queue, b"kept", delivery_mode=2)
    for _ in range(25):
        with probe.channel() as channel:
            for queue in queues:
                wait_until(partial(is_taken, channel, queue), what=f"a message in {queue}")
    for queue in queues:
        wait_until(partial(is_taken_with, probe, queue, b"kept"), what=f"the message in {queue}")
