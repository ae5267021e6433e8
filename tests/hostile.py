"""A stranger without the secret, but with access to a broker, against a node: nothing of it is executed or believed.

``python -m tests.hostile --count 1000000`` publishes so many forged, changed, replayed and misdirected envelopes,
letters and replies straight to the queues of a node on a real broker, and to its callers, beside others who have the
secret. Then all dead letters of the node are requeued. It ends with 1 if something of the stranger's was executed or
believed, or if a request of the others was not executed exactly once, or got a wrong answer. The latency of their
calls is reported: in peace, beside a friend who sends as often what is well signed, and beside the stranger.
"""

# ruff: noqa: E402 (the fixtures have to be found first)
from __future__ import annotations

import argparse
import json
import logging
import random
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import pika

sys.path[:0] = [str(Path(__file__).parent / "fixtures"), str(Path(__file__).parents[1])]

from agents import Agent
from envelopes import envelope, signed
from probe import Probe
from waiting import wait_until
from wire_forms import encode_envelope, sign_envelope

from servicebus.configuration import Configuration
from servicebus.errors import ServiceBusError
from servicebus.operations.dead_letters import BrokerReport, DeadLetters
from servicebus.operations.filters import Filter
from servicebus.policy.retry_schedule import DELAY_TIERS_S
from servicebus.sender import Sender
from servicebus.testing import brokers
from servicebus.wire.address import delay_queue
from servicebus.wire.envelope import Envelope, Kind, Reply
from servicebus.wire.fault import NOT_RUN, Fault
from servicebus.wire.signing import Keyring
from servicebus.wire.xmlcodec import decode_envelope, encode_reply

NODE = "NODE-01"
DELAYS = [delay_queue(NODE, tier) for tier in DELAY_TIERS_S]
CONSUMED = [*(f"{NODE}.{name}" for name in ("rpc", "control", "messages")), *DELAYS]
QUEUES = [*CONSUMED, f"{NODE}.dead"]
TARGETS = {Kind.CALL: "test.sleep", Kind.MESSAGE: "audit.record", Kind.CONTROL: "servicebus.ping"}
GUESSED = "a guessed secret"
_KEPT = 400
_MAX_BYTES = 1_000_000
_REPLY_TO = "amq.rabbitmq.reply-to"


class Heard(NamedTuple):
    """A request of somebody else's, as the broker's owner sees it."""

    body: bytes
    envelope: Envelope
    reply_to: str | None


class Shot(NamedTuple):
    queue: str
    body: bytes
    properties: Any


class Stranger:
    """Publishes on one broker; hears what others publish there by a queue of its own."""

    def __init__(self, parameters: pika.ConnectionParameters, seed: int):
        self.sent: Counter[str] = Counter()
        self._rng = random.Random(seed)
        self._connection = pika.BlockingConnection(parameters)
        self._channel = self._connection.channel()
        self._heard: deque[Heard] = deque(maxlen=_KEPT)
        self._replies: deque[bytes] = deque(maxlen=_KEPT)
        self._channel.queue_declare("stranger", exclusive=True)
        for name in ("rpc", "control", "messages"):
            self._channel.queue_bind("stranger", "servicebus", f"{NODE}.{name}")
        self._channel.basic_consume("stranger", self._hear, auto_ack=True)
        self._channel.basic_consume(_REPLY_TO, self._hear_reply, auto_ack=True)
        self._ways: dict[str, Callable[[], Shot]] = {
            "forged": self._forged,
            "changed": self._changed,
            "replayed": self._replayed,
            "misdirected": self._misdirected,
            "letter": self._dead_letter,
            "reply": self._reply,
        }

    def _hear(self, _channel: Any, _method: Any, properties: Any, body: bytes) -> None:
        self._heard.append(Heard(body, decode_envelope(body, _MAX_BYTES), properties.reply_to))

    def _hear_reply(self, _channel: Any, _method: Any, _properties: Any, body: bytes) -> None:
        self._replies.append(body)

    def shoot(self, count: int, per_s: float) -> None:
        """Publish *count* of them, at most *per_s* a second."""
        begun = time.monotonic()
        names = list(self._ways)
        for number in range(count):
            due = begun + number / per_s
            self._connection.process_data_events(0)
            while not self._heard or time.monotonic() < due:  # what is heard ends a wait early
                self._connection.process_data_events(max(0.0, due - time.monotonic()) or 0.05)
            name = names[number % len(names)]
            shot = self._ways[name]()
            self._channel.basic_publish("", shot.queue, shot.body, shot.properties)
            self.sent[name] += 1
        self._connection.process_data_events(0)

    def close(self) -> None:
        self._connection.close()

    # -- what it has ---------------------------------------------------------------------------------------------------

    def _forged(self) -> Shot:
        kind = self._rng.choice(list(TARGETS))
        params = [0, "hostile"] if kind is Kind.CALL else "hostile"
        request = envelope(f"{NODE}.{TARGETS[kind]}", params, kind=kind)
        token = self._rng.choice(["", self._any().envelope.token, sign_envelope(Keyring([GUESSED]), request)])
        return self._request(self._rng.choice(CONSUMED), encode_envelope(request, token))

    def _changed(self) -> Shot:
        """One field is another, and all others with their token are true."""
        asked = self._any().envelope
        changes: list[dict[str, Any]] = [
            {"params": b'[0,"hostile"]' if asked.kind is Kind.CALL else b'"hostile"'},
            {"id": f"{self._rng.getrandbits(64):016x}-1"},
            {"ttl_ms": asked.ttl_ms + 1_000_000},
            {"sent_ms": asked.sent_ms + 1000},
            {"attempt": asked.attempt + 1},
            {"kind": self._rng.choice([kind for kind in TARGETS if kind is not asked.kind])},
            {"node": "NODE-02"},
        ]
        return self._request(self._rng.choice(CONSUMED), encode_envelope(replace(asked, **self._rng.choice(changes))))

    def _replayed(self) -> Shot:
        heard = self._any()
        name = {Kind.CALL: "rpc", Kind.MESSAGE: "messages", Kind.CONTROL: "control"}[heard.envelope.kind]
        return self._request(f"{NODE}.{name}", heard.body, self._rng.choice([heard.reply_to, _REPLY_TO]))

    def _misdirected(self) -> Shot:
        """To another queue, its callers being answered if it is."""
        heard = self._any()
        return self._request(self._rng.choice(CONSUMED), heard.body, self._rng.choice([heard.reply_to, _REPLY_TO]))

    def _dead_letter(self) -> Shot:
        """Into the dead letters and the delay queues, with whatever headers the bus knows."""
        now = time.time()
        headers = {
            "x-servicebus-attempts": self._rng.choice([0, 3, 2**31, -1, "many"]),
            "x-servicebus-due": self._rng.choice([0, int(now * 1000) + 500, "soon"]),
            "x-servicebus-reason": self._rng.choice(["attempts", "stale", "", 7]),
            "x-servicebus-letter": f"{int(now)} {int(now)} 6 {int(now) + 86400}  {'0' * 73}",
            "x-servicebus-wait": f"{int(now * 1000) + 500} {2**63} 1 {'0' * 73}",
            "x-servicebus-requeued": self._rng.choice(["", f"{'0' * 16}-1 {int(now * 1000)} {'0' * 73}", 1]),
            "x-servicebus-fresh": 1,
            "x-servicebus-time": int(now),
        }
        forged = signed(f"{NODE}.audit.record", "hostile", secret=GUESSED, kind=Kind.MESSAGE)
        body = self._rng.choice([forged, self._any().body])
        return Shot(self._rng.choice(QUEUES[2:]), body, pika.BasicProperties(headers=headers, delivery_mode=2))

    def _reply(self) -> Shot:
        """To a caller: forged, or what another was told, or a verdict that was signed for an earlier attempt."""
        heard = self._heard[-1]  # the one that is most likely on its way still
        asked = heard.envelope
        fault = Fault(self._rng.choice([*sorted(NOT_RUN), "ValueError"]), "hostile")
        told = [
            encode_reply(
                Reply(
                    asked.id,
                    Keyring([GUESSED]).sign_reply(asked.token, asked.id, "ok", b'"hostile"', None),
                    "ok",
                    b'"hostile"',
                )
            ),
            encode_reply(Reply(asked.id, "unsigned", "fault", b"", fault)),
            encode_reply(Reply(asked.id, asked.token, "fault", b"", fault, asked.attempt)),
            *self._replies,
        ]
        about = pika.BasicProperties(correlation_id=asked.id)
        return Shot(heard.reply_to or f"{NODE}.control", self._rng.choice(told), about)

    def _any(self) -> Heard:
        return self._rng.choice(self._heard)

    def _request(self, queue: str, body: bytes, reply_to: str | None = _REPLY_TO) -> Shot:
        return Shot(queue, body, pika.BasicProperties(reply_to=reply_to, correlation_id=self._any().envelope.id))


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
        agent = Agent(folder, [broker])
        stack.callback(agent.close)
        agent.wait_consuming()
        others = Others(stack.enter_context(Sender(agent.configuration())))
        # In a process of its own: in that of the callers it would hold their interpreter, which no stranger can.
        process = stack.enter_context(ProcessPoolExecutor(1, mp_context=get_context("spawn")))
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
