#!/usr/bin/env python3
"""What an operator does to a fleet, one thing after the other and under load: no call and no message may fail.

Ten nodes over two private brokers, each an agent process with a worker per broker. Four programs call and send all the
time, to all nodes. Meanwhile, with the commands of ``servicebus``:

1. the secret is changed, as docs/callers.rst says: the agents get the new one as well, the programs have it alone, the
   agents drop the old one; each step is a reload of all agents;
2. other settings change by a reload of all agents;
3. each broker is drained, stopped, started and returned;
4. each agent is replaced by one of another version (a copy of the package that says so): half of the nodes by TERM and
   a start, which callers wait for, half by a new agent that begins before the former one ends.

::

    python -m benchmarks.trials.fleet                # ten nodes
    python -m benchmarks.trials.fleet --nodes 3      # a glance at it
    python -m benchmarks.trials.fleet --plant        # the agents drop the old secret too early: it must be found

Executions are entered in a ledger and compared with what was answered and confirmed. Exit status 1 if anything failed,
was lost or ran twice, or if a step did not do what it says.
"""

from __future__ import annotations

import argparse
import json
import re
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

import servicebus
from benchmarks.agent import ROOT, Agent, place, sender_configuration
from benchmarks.figures import Figure, report
from benchmarks.traffic import Traffic
from benchmarks.waiting import until
from servicebus._discovering import survey
from servicebus.sender import Sender
from servicebus.testing import Broker, brokers

PROGRAMS = 4
PAUSE_S = 0.05
"""Of each thread of a program, after each answer."""
PATH_WAIT_S = 120.0
"""A call waits so long for a node whose agent is started again; a second or two is enough on a machine that is idle."""
COMMAND_S = 300.0
NEXT = "9.9.9"
"""The other version."""


class Program:
    """A program that is started again with another configuration: what it asks from then on takes the new one."""

    def __init__(self, make: Callable[[], Sender]):
        self.resends: Counter[str] = Counter()
        self._make = make
        self._lock = threading.Lock()
        self._users: Counter[Sender] = Counter()
        self._sender = make()

    def call(self, target: str, params: Any, timeout: float) -> tuple[int, Any]:
        with self._used() as sender:
            return sender.call(target, params, timeout)

    def send(self, target: str, params: Any, timeout: float) -> object:
        with self._used() as sender:
            return sender.send(target, params, timeout)

    def start_again(self) -> None:
        with self._lock:
            former, self._sender = self._sender, self._make()
        until(lambda: not self._users[former], "the requests of the former Sender have ended", COMMAND_S)
        self._close(former)

    def close(self) -> None:
        self._close(self._sender)

    def _close(self, sender: Sender) -> None:
        for host in sender.status()["hosts"]:
            self.resends.update(host["resends"])
        sender.close()

    @contextmanager
    def _used(self) -> Iterator[Sender]:
        with self._lock:
            sender = self._sender
            self._users[sender] += 1
        try:
            yield sender
        finally:
            with self._lock:
                self._users[sender] -= 1


class Fleet:
    """The agents, the programs, and what is done to them. *is_planted*: one step comes too early."""

    def __init__(self, nodes: int, over: list[Broker], stack: ExitStack, *, is_planted: bool):
        self.brokers, self.names = over, [f"FLEET-{number:02}" for number in range(1, nodes + 1)]
        self._stack, self._is_planted = stack, is_planted
        self._folder, self._hosts = over[0].folder, [place(broker) for broker in over]
        self._secret = secrets.token_urlsafe(24)
        self.agents = {name: self._new_agent(name) for name in self.names}
        self.took: dict[str, float] = {}
        """Of each step its seconds, in their order."""
        self.wrong: list[str] = []
        """What a step should have done and has not."""
        for agent in self.agents.values():
            agent.start()
        self.programs = [Program(self._sender_of(number)) for number in range(PROGRAMS)]

    @property
    def ledger(self) -> Path:
        return next(iter(self.agents.values())).ledger_path

    def _new_agent(self, name: str, suffix: str = "") -> Agent:
        """Of one node all agents share a journal; *suffix* tells them apart otherwise."""
        journal = str(self._folder / f"{name}.journal")
        agent = Agent(
            self._folder, self._hosts, f"{name}{suffix}", node_name=name, journal=journal, secret_token=self._secret
        )
        self._stack.callback(agent.stop)
        return agent

    def _sender_of(self, number: int) -> Callable[[], Sender]:
        """Half of them prefer the one broker, half the other."""
        hosts = self._hosts[:: (-1) ** number]

        def make() -> Sender:
            return Sender(sender_configuration(hosts, secret_token=self._secret, path_wait=PATH_WAIT_S))

        return make

    # -- steps -----------------------------------------------------------------------------------------------------

    def change_secret(self, traffic: Traffic) -> None:
        former, self._secret = self._secret, secrets.token_urlsafe(24)
        if not self._is_planted:
            self._reload("reload: a further secret", secret_token=[former, self._secret])
        else:
            self._reload("reload: another secret (planted)", secret_token=self._secret)
            traffic.wait_for_more(10 * PROGRAMS)
        with self._timed("programs: the new secret"):
            for program in self.programs:
                program.start_again()
            traffic.wait_executed(self.ledger)
        self._reload("reload: the former secret is gone", secret_token=self._secret)

    def change_settings(self) -> None:
        self._reload("reload: settings", prefetch=128, retry_schedule=[0.2, 1.0], fault_traces=True)

    def take_brokers_out(self) -> None:
        path = self._folder / "operator.yaml"
        settings = {"hosts": self._hosts, "secret_token": self._secret}
        path.write_text(yaml.safe_dump(settings))
        nodes = [word for name in self.names for word in ("--node", name)]
        limit = ["--timeout", f"{COMMAND_S:g}", "-c", str(path)]
        for broker in self.brokers:
            with self._timed(f"drain: broker {broker.name}"):
                self._command("drain", place(broker), *nodes, *limit)
            with self._timed(f"broker {broker.name}: stop and start"):
                broker.stop()
                broker.start()
            with self._timed(f"drain: broker {broker.name} is returned"):
                self._command("drain", place(broker), "--undo", *nodes, *limit)

    def replace_agents(self, traffic: Traffic) -> None:
        code = self._copy_of_package()
        with self._timed(f"agents: version {NEXT}"):
            for number, name in enumerate(self.names):
                former = self.agents[name]
                if number % 2:
                    agent = self.agents[name] = self._new_agent(name, "-next")
                    agent.code = code
                    agent.start()
                else:
                    agent, former.code = former, code
                self._expect(former.stop() == 0, f"{name}: its former agent did not end with status 0")
                if agent is former:
                    agent.start()
                traffic.wait_for_more(PROGRAMS)
        versions = self._versions()
        self._expect(versions == {name: {NEXT} for name in self.names}, f"versions: {versions}")

    # -- inside ----------------------------------------------------------------------------------------------------

    def _reload(self, name: str, **changed: Any) -> None:
        with self._timed(f"{name}, {len(self.agents)} agents"):
            for node, agent in self.agents.items():
                agent.write(**changed)
                said = json.loads(self._command("reload", str(agent.path), "--json"))
                keys = {each["key"] for each in said["changed"]}
                self._expect(said["state"] == "done" and keys >= changed.keys(), f"{node}: {said}")

    def _command(self, *arguments: str) -> str:
        ended = subprocess.run(
            [sys.executable, "-m", "servicebus", *arguments],
            cwd=ROOT, capture_output=True, text=True, timeout=COMMAND_S + 30.0, check=False,
        )  # fmt: skip
        text = f"servicebus {' '.join(arguments)}: status {ended.returncode}: {ended.stdout}{ended.stderr}"
        self._expect(ended.returncode == 0, text)
        return ended.stdout

    def _copy_of_package(self) -> Path:
        folder = self._folder / NEXT
        source = Path(servicebus.__file__).parent
        shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("__pycache__"))
        path = folder / source.name / "__init__.py"
        text, count = re.subn(r'^__version__ = ".*"$', f'__version__ = "{NEXT}"', path.read_text(), flags=re.MULTILINE)
        assert count == 1, f"{path} says no version"
        path.write_text(text)
        return folder

    def _versions(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        with Sender(sender_configuration(self._hosts, secret_token=self._secret)) as sender:
            for _at, answer, _broker in survey(sender, 10.0, 2.0, lists_services=False).heard:
                found.setdefault(answer.node, set()).add(str((answer.about or {}).get("version")))
        return found

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.took[name] = time.monotonic() - began
        print(f"{name}: {self.took[name]:.1f} s", file=sys.stderr, flush=True)

    def _expect(self, is_so: bool, otherwise: str) -> None:
        if not is_so:
            print(otherwise, file=sys.stderr, flush=True)
            self.wrong.append(otherwise)


def operate(fleet: Fleet) -> list[Figure]:
    """All steps under load; what came of it."""
    traffic = Traffic(fleet.programs, PAUSE_S, fleet.names, 1.5 * PATH_WAIT_S)
    began = time.monotonic()
    with traffic.running():
        traffic.wait_for_more(10 * PROGRAMS)
        fleet.change_secret(traffic)
        fleet.change_settings()
        fleet.take_brokers_out()
        fleet.replace_agents(traffic)
        traffic.wait_for_more(10 * PROGRAMS)
    took_s = time.monotonic() - began
    for program in fleet.programs:
        program.close()
    resends: Counter[str] = sum((program.resends for program in fleet.programs), Counter())
    return [
        *traffic.figures(fleet.ledger),
        Figure("re-sent by reason: " + (", ".join(f"{key} {n}" for key, n in sorted(resends.items())) or "none"),
               unit="", samples=[resends.total()]),
        Figure("steps that did not do what they say", max_limit=0, unit="", samples=[len(fleet.wrong)]),
        *(Figure(name, samples=[seconds]) for name, seconds in fleet.took.items()),
        Figure("all of it", samples=[took_s]),
    ]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=10)
    parser.add_argument("--brokers", type=int, default=2)
    parser.add_argument("--plant", action="store_true", help="the agents drop the old secret too early")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    with ExitStack() as stack:
        over = stack.enter_context(brokers(count=options.brokers))
        figures = operate(Fleet(options.nodes, over, stack, is_planted=options.plant))
    return report("A fleet is operated", figures, options.json, {"nodes": options.nodes, "brokers": options.brokers})


if __name__ == "__main__":
    sys.exit(main())
