"""``servicebus tail`` on real brokers: what workers, services and masters log, while a broker and a worker die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from agents import Agent, service_entries
from waiting import wait_until

from servicebus.configuration import Configuration
from servicebus.sender import Sender
from servicebus.testing import Broker

StartAgent = Callable[..., Agent]
MakeSender = Callable[[Configuration], Sender]


class Tail:
    """The command, while it runs, and what it has printed."""

    def __init__(self, process: subprocess.Popen[str]):
        self.process = process
        self.records: list[dict[str, Any]] = []
        self.said: list[str] = []
        self._readers = [threading.Thread(target=self._read_records), threading.Thread(target=self._read_said)]
        for reader in self._readers:
            reader.start()

    def _read_records(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.records.append(json.loads(line))

    def _read_said(self) -> None:
        assert self.process.stderr is not None
        self.said += list(self.process.stderr)

    def having(self, *words: str, **about: Any) -> list[dict[str, Any]]:
        """The records whose message has all *words*, and which say this."""
        return [
            each
            for each in list(self.records)
            if all(word in each.get("message", "") for word in words)
            and all(str(value) in str(each.get(name)) for name, value in about.items())
        ]

    def wait_for(self, *words: str, timeout_s: float = 30.0, **about: Any) -> dict[str, Any]:
        return wait_until(
            lambda: self.having(*words, **about), timeout_s, lambda: f"{words} {about}: {self.records}\n{self.said}"
        )[0]

    def close(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        code = self.process.wait(20)
        for reader in self._readers:
            reader.join(20)
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()
        return code


@contextmanager
def tail(file: Path, *arguments: str) -> Iterator[Tail]:
    program = [sys.executable, "-c", "from servicebus.cli.main import main; main()", "tail", "--json", *arguments]
    environment = {**os.environ, "SERVICEBUS_CONFIG": str(file), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(program, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    found = Tail(process)
    try:
        yield found
    finally:
        found.close()


class World:
    """An agent on two brokers, and a Sender on each of them, by which its worker there is reached."""

    def __init__(self, brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender):
        self.brokers = brokers
        log = {"kind": "rpc", "category": "test", "name": "log", "target": "sample_services:Log"}
        self.agent = start_agent(brokers, services=[*service_entries(), log]).wait_consuming(timeout_s=60)
        self.hosts = [f"{each.host}:{each.port}" for each in brokers]
        self.senders = [make_sender(self.agent.configuration(hosts=[host])) for host in self.hosts]
        self.file = self.agent.folder / "agent.yaml"

    def log(self, number: int, text: str) -> str:
        """Have a service of worker *number* log *text*; the id of the request."""
        sender = self.senders[number]
        return f"{sender.status()['sender']}-{int(sender.call('NODE-01.test.log', text, timeout=30)[0])}"

    def until_heard(self, found: Tail, *numbers: int) -> None:
        """Wait until these workers send what they log."""
        for number in numbers:

            def is_heard(number: int = number) -> Any:
                self.log(number, "begin")
                return found.having("begin", process=self.hosts[number], broker=self.hosts[number])

            wait_until(is_heard, 60, lambda: f"{found.records}\n{found.said}\n{self.agent.log()}")


@pytest.fixture
def world(brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender) -> World:
    return World(brokers, start_agent, make_sender)


def test_a_broker_that_is_killed_costs_only_what_comes_over_it(world: World) -> None:
    with tail(world.file) as found:
        world.until_heard(found, 0, 1)
        world.brokers[0].kill()
        world.log(1, "it goes on")
        found.wait_for("it goes on", broker=world.hosts[1])
        # What the worker of the broker that is down says of it comes by the other.
        lost = found.wait_for(world.hosts[0], process=f"worker {world.hosts[0]}", broker=world.hosts[1])
        assert lost["level"] in ("WARNING", "ERROR", "INFO")
        world.brokers[0].start()
        world.agent.wait_consuming(timeout_s=60)
        found.wait_for("consuming for node NODE-01", process=f"worker {world.hosts[0]}")
        world.until_heard(found, 0)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130)])
def test_a_signal_ends_it_while_records_come(world: World, signum: int, code: int) -> None:
    with tail(world.file) as found:
        world.until_heard(found, 0, 1)
        found.process.send_signal(signum)
        found.process.wait(20)
        assert (found.close(), found.said) == (code, [])
