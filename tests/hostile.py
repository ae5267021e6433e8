"""A stranger without the secret, but with access to a broker, against a node: nothing of it is executed or believed.

``python -m tests.hostile --count 1000000`` publishes so many forged, changed, replayed and misdirected envelopes,
letters and replies straight to the queues of a node on a real broker, and to its callers, beside others who have the
secret. A third of them are well signed, with the key of a caller that has no right to anything. Then all dead letters
of the node are requeued. It ends with 1 if something of the stranger's was executed or believed, or if a request of the
others was not executed exactly once, or got a wrong answer. The latency of their calls is reported: in peace, beside a
friend who sends as often what is well signed, and beside the stranger.
"""

# ruff: noqa: E402 (the fixtures have to be found first)
from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pika

sys.path[:0] = [str(Path(__file__).parent / "fixtures"), str(Path(__file__).parents[1])]

from agents import Agent
from hostile_stranger import CALLERS, CONSUMED, NODE, Stranger
from probe import Probe
from waiting import wait_until

from servicebus.configuration import Configuration
from servicebus.errors import ServiceBusError
from servicebus.operations.dead_letters import BrokerReport, DeadLetters
from servicebus.operations.filters import Filter
from servicebus.policy.retry_schedule import DELAY_TIERS_S
from servicebus.sender import Sender
from servicebus.testing import brokers


def _take_what_is_left() -> None:
    """A stranger has a machine of its own: on this one it may not take the processor from the others."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def attack(parameters: pika.ConnectionParameters, seed: int, count: int, per_s: float) -> dict[str, int]:
    """How many of each were sent."""
    stranger = Stranger(parameters, seed)
    stranger.shoot(count, per_s)
    stranger.close()
    return dict(stranger.sent)


def befriend(config: Configuration, seconds: float, per_s: float) -> None:
    """Costs the node as many deliveries as the stranger does, by calls that are well signed."""
    with Sender(config) as sender:
        begun = time.monotonic()
        for number in range(int(seconds * per_s)):
            time.sleep(max(0.0, begun + number / per_s - time.monotonic()))
            sender.call_async(f"{NODE}.test.echo", "friendly", timeout=60)


@dataclass
class Others:
    """Those who have the secret: they call and send, and remember what has to be true afterwards."""

    sender: Sender
    calls: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def work(self) -> None:
        for number in self._numbers():
            label = f"call-{number}"
            self.calls.append(label)
            begun = time.monotonic()
            try:
                answer = self.sender.call(f"{NODE}.test.sleep", [0, label], timeout=60)[1]
            except ServiceBusError as error:
                answer = repr(error)
            self.seconds.append(time.monotonic() - begun)
            if answer != label:
                self.wrong.append(f"{label}: {answer}")
            if number % 5 == 0:
                self.messages.append(f"message-{number}")
                self.sender.send(f"{NODE}.audit.record", self.messages[-1], timeout=60)

    def _numbers(self) -> Iterator[int]:
        while not self.stopped.is_set():
            yield len(self.calls)

    def take_times(self) -> dict[str, Any]:
        """Milliseconds since the last time that this was asked; and the p99 of each tenth of it, since it may grow."""
        times, self.seconds = self.seconds, []
        tenths = [times[at : at + len(times) // 10 + 1] for at in range(0, len(times), len(times) // 10 + 1)]
        at = {"p50": 0.5, "p99": 0.99, "max": 1.0}
        found: dict[str, Any] = {name: _quantile(times, part) for name, part in at.items()}
        return {**found, "p99 by tenths": [_quantile(tenth, 0.99) for tenth in tenths]}


def _quantile(seconds: list[float], part: float) -> float:
    return round(sorted(seconds)[min(len(seconds) - 1, int(part * len(seconds)))] * 1000, 1)


def judge(agent: Agent, others: Others) -> list[str]:
    """What must not be, and is."""
    found = [f"a wrong answer: {each}" for each in others.wrong]
    for name, wanted in (("finished", others.calls), ("recorded", others.messages)):
        counts = Counter(agent.noted(name))
        found += [f"executed {counts[label]} times: {label}" for label in wanted if counts[label] != 1]
        found += [f"executed, and nobody asked for it: {label}" for label in counts.keys() - set(wanted)]
    if agent.worker()["restarts"]:
        found.append("a worker died")
    return found


def run(count: int, per_s: float, peace_s: float, seed: int) -> dict[str, Any]:
    """The whole of it; the report, whose ``found`` is empty if all is well."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (broker,) = stack.enter_context(brokers(1))
        agent = Agent(folder, [broker], callers=CALLERS)
        stack.callback(agent.close)
        agent.wait_consuming()
        others = Others(stack.enter_context(Sender(agent.configuration())))
        # In a process of its own: in that of the callers it would hold their interpreter, which no stranger can.
        spawn = get_context("spawn")
        process = stack.enter_context(ProcessPoolExecutor(1, mp_context=spawn, initializer=_take_what_is_left))
        process.submit(int).result()
        thread = threading.Thread(target=others.work)
        thread.start()
        try:
            time.sleep(peace_s)
            peace = others.take_times()
            process.submit(befriend, agent.configuration(), peace_s, per_s).result()
            friendly = others.take_times()
            sent = process.submit(attack, Probe(broker)._parameters, seed, count, per_s).result()
            beside = others.take_times()
            times = {"in peace": peace, "beside a friend": friendly, "beside the stranger": beside}
            sys.stderr.write(f"ms {times}; now the dead letters are requeued\n")
        finally:
            others.stopped.set()
            thread.join()
        probe = Probe(broker)
        _drain(probe)
        requeued = _requeue_all(agent)
        _drain(probe)
        deadline = time.monotonic() + 30
        while (found := judge(agent, others)) and time.monotonic() < deadline:
            time.sleep(0.5)
        judged_at = time.monotonic()
        # A worker tells its counters with each heartbeat.
        wait_until(lambda: agent.worker(0)["heartbeat_age_s"] < time.monotonic() - judged_at, 30)
        return {
            "sent": sent,
            "calls": len(others.calls),
            "messages": len(others.messages),
            "ms": times,
            "refused": {name: n for name, n in sorted(agent.counters().items()) if name.startswith("refused.")},
            "letters": {"requeued": requeued.done, "stay": dict(requeued.stays)},
            "replies not believed": others.sender.status()["unverified_replies"],
            "found": found[:20],
        }


def _requeue_all(agent: Agent) -> BrokerReport:
    """As an operator does who believes every one of them."""
    config = agent.configuration()
    (report,) = DeadLetters(config, NODE, config.hosts).requeue(Filter())
    if report.error is not None:
        raise report.error
    return report


def _drain(probe: Probe) -> None:
    deadline = time.monotonic() + 2 * DELAY_TIERS_S[-1]
    while any(probe.depth(queue) for queue in CONSUMED) and time.monotonic() < deadline:
        time.sleep(0.5)


def main() -> int:
    parser = argparse.ArgumentParser(description="A stranger without the secret against a node on a real broker.")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--per-second", type=float, default=1000.0)
    parser.add_argument("--peace", type=float, default=10.0, help="seconds before, to know the usual latency")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    logging.getLogger("servicebus").addHandler(logging.NullHandler())  # the Sender's lines about what it disbelieves
    report = run(given.count, given.per_second, given.peace, given.seed)
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    return 1 if report["found"] else 0


if __name__ == "__main__":
    sys.exit(main())
