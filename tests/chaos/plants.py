"""Planted faults: builds of the bus that are wrong on purpose. A rig that does not catch them proves nothing.

Each is a patch from outside, made in an agent's or a sender's process before it starts; the code stays as it is.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from servicebus.runtime.journal.interface import IdRecord, IdState, IdStatus, Journal, Lookup, Release, Start
from tests.chaos.flow_plants import FLOW_PLANTS
from tests.chaos.planting import AckedChannel, Plant, replace_in

__all__ = ["PLANTS", "plant"]

_AN_HOUR_MS = 3_600_000


def plant(name: str) -> None:
    """Make this process's bus wrong in the way that *name* says."""
    PLANTS[name].make()


def _ack_before_work() -> None:
    """A worker acks what it is given, and begins with the work half a second later: else it is nearly never killed
    in between."""
    from servicebus.runtime.pipeline import Pipeline

    take = Pipeline.take

    def take_and_ack(self: Pipeline, delivery: Any, *more: Any, **options: Any) -> None:
        delivery.channel.ack(delivery.tag)
        delivery.channel.flush()
        acked = delivery._replace(channel=AckedChannel(delivery.channel))
        self._loop.call_later(0.5, lambda: take(self, acked, *more, **options))

    replace_in(Pipeline, "take", take_and_ack)


def _no_journal() -> None:
    """A worker remembers nothing but what it runs just now."""
    import servicebus.service

    replace_in(servicebus.service, "journal_of", lambda _configuration: _NoJournal())


class _NoJournal(Journal):
    def __init__(self) -> None:
        self._running: set[str] = set()

    def begin_many(self, starts: Sequence[Start], now: float) -> list[Lookup]:
        found = []
        for start in starts:
            found.append(Lookup(IdStatus.RUNNING if start.id in self._running else IdStatus.NEW, None, 1))
            self._running.add(start.id)
        return found

    def finish_many(self, ends: Sequence[tuple[str, bytes | None]], now: float) -> None:
        self._running.difference_update(id for id, _ in ends)

    def release_many(self, ids: Sequence[str], why: Release) -> None:
        self._running.difference_update(ids)

    def finished(self, ids: Sequence[str]) -> list[str]:
        return []

    def look_up(self, ids: Sequence[str]) -> list[IdRecord | None]:
        return [IdRecord(IdState.RUNNING, 1) if id in self._running else None for id in ids]

    def tick(self, now: float) -> None:
        pass

    def snapshot(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        pass


def _no_expiry() -> None:
    """Calls do not expire at the broker, and workers do not look at deadlines."""
    import servicebus.protocol.v2
    from servicebus.client.link import Link
    from servicebus.protocol.v2 import ProtocolV2

    publish, decode = Link.publish_control, ProtocolV2.decode_request

    def publish_for_long(self: Link, outgoing: Any, wire_id: str, expiration_ms: int, *more: Any) -> None:
        publish(self, outgoing, wire_id, _AN_HOUR_MS, *more)

    def without_deadline(self: ProtocolV2, delivery: Any) -> Any:
        found = decode(self, delivery)
        return found if found.remaining_s is None else replace(found, remaining_s=_AN_HOUR_MS / 1000)

    replace_in(Link, "publish_control", publish_for_long)
    replace_in(ProtocolV2, "decode_request", without_deadline)
    replace_in(servicebus.protocol.v2, "check_fresh", lambda *_: None)


def _no_confirm() -> None:
    """A sender believes that what it published has arrived."""
    from servicebus.client.link import Link
    from servicebus.wire.envelope import Kind

    publish = Link.publish

    def publish_and_believe(self: Link, request: Any, now: float, **how: Any) -> None:
        publish(self, request, now, **how)
        if request.kind is Kind.MESSAGE:
            request.complete(request.event_id)

    replace_in(Link, "publish", publish_and_believe)


def _watcher_only_sets_a_flag() -> None:
    """The ping watcher of a worker finds that nobody consumes, notes it down, and that was it."""
    from servicebus.runtime.consumer import NodeConsumer
    from servicebus.runtime.topology_monitor import TopologyMonitor

    def note_it_down(self: Any, *_: Any) -> None:
        self.__dict__["is_suspicious"] = True

    replace_in(NodeConsumer, "reconnect", note_it_down)
    replace_in(TopologyMonitor, "_looked", note_it_down)


def _nack_is_stored() -> None:
    """A worker takes a copy that the broker refused for one that it has."""
    from servicebus.transport.confirmed_channel import ConfirmedChannel

    confirmed = ConfirmedChannel._confirmed

    def believe(self: ConfirmedChannel, number: int, multiple: bool, _is_ack: bool) -> None:
        confirmed(self, number, multiple, True)

    replace_in(ConfirmedChannel, "_confirmed", believe)


def _unsigned_burials() -> None:
    """An operator requeues every dead letter, also those that no worker has signed."""
    import servicebus.operations.dead_letter
    from servicebus.wire.stamps import DeadLetterStamp, read_dead_letter_stamp

    def read_or_make_up(keyring: Any, body: bytes, reason: str, header: object, *queue: str) -> DeadLetterStamp:
        now = int(time.time())
        found = read_dead_letter_stamp(keyring, body, reason, header, *queue)
        return found or DeadLetterStamp(now, now, 1, now + 86400, "")

    replace_in(servicebus.operations.dead_letter, "read_dead_letter_stamp", read_or_make_up)


def _fork_is_worker() -> None:
    """Where a service's code is left, nobody looks whether it is a child that leaves it."""
    from servicebus.runtime.leaving import Home

    replace_in(Home, "end_child", lambda *_: None)


def _callbacks_raise() -> None:
    """What a done-callback raises goes where Future lets it go: through the thread that ends the call."""
    from servicebus.client.future import CallFuture

    def invoke(self: CallFuture) -> None:
        for callback in self._done_callbacks:
            callback(self)

    replace_in(CallFuture, "_invoke_callbacks", invoke)


def _control_answers_calls() -> None:
    """A call in the control queue, where somebody has copied it, is answered: there is no such service there."""
    import servicebus.runtime.control
    from servicebus.errors import EnvelopeError
    from servicebus.protocol.interface import RequestRefused
    from servicebus.wire.envelope import FAULT, Reply
    from servicebus.wire.fault import UNKNOWN_SERVICE, Fault
    from servicebus.wire.signing import Keyring
    from servicebus.wire.xmlcodec import encode_reply
    from tests.chaos.plan import SECRET

    keyring, fault = Keyring([SECRET]), Fault(UNKNOWN_SERVICE, "not among those for control")

    def answer(incoming: Any, _subscription: Any) -> RequestRefused:
        token = keyring.sign_reply(incoming.token, incoming.given_id, FAULT, b"", fault)
        reply = Reply(incoming.given_id, token, FAULT, b"", fault, incoming.attempt)
        return RequestRefused(EnvelopeError("wrong-queue"), encode_reply(reply), incoming.reply_to)

    replace_in(servicebus.runtime.control, "wrong_queue", answer)


def _ready_once_proved() -> None:
    """A master takes a worker for ready that has been ready once."""
    from servicebus.runtime.child import Child

    snapshot = Child.snapshot

    def remember(self: Child, now: float) -> dict[str, Any]:
        found = snapshot(self, now)
        self.__dict__["was_ready"] = self.__dict__.get("was_ready", False) or found["ready"]
        return {**found, "ready": self.__dict__["was_ready"]}

    replace_in(Child, "snapshot", remember)


def _dead_without_broker() -> None:
    """An agent does not live while one of its workers does not consume."""
    import servicebus.observability.health

    def ask_brokers(document: Any) -> str:
        return ", ".join(worker["host"] for worker in document["workers"] if not worker.get("healthy"))

    replace_in(servicebus.observability.health, "why_dead", ask_brokers)


PLANTS: dict[str, Plant] = {
    "ack-before-work": Plant(
        _ack_before_work, "I1", ("worker-kill", "broker-kill", "connections-closed", "worker-kill", "freeze-10s")
    ),
    "no-journal": Plant(_no_journal, "I2", ("drop-both", "worker-kill", "broker-kill", "reset-in-frame", "freeze-3s")),
    "no-expiry": Plant(_no_expiry, "I3", ("freeze-10s", "worker-freeze-10s", "drop-to-broker", "freeze-3s")),
    "no-confirm": Plant(_no_confirm, "I1", ("broker-kill", "drop-both", "queue-deleted", "broker-restart")),
    "watcher-only-sets-a-flag": Plant(
        _watcher_only_sets_a_flag, "I9", ("consumer-forgotten", "drop-both", "freeze-10s", "drop-from-broker")
    ),
    "nack-is-stored": Plant(_nack_is_stored, "I1", ("dead-letters-full", "delays-full", "worker-kill")),
    "unsigned-burials": Plant(_unsigned_burials, "I2", ("dead-requeued",)),
    "fork-is-worker": Plant(_fork_is_worker, "I10", ("connection-closed", "slow-link")),
    "callbacks-raise": Plant(_callbacks_raise, "I4", ("slow-link", "delay")),
    "control-answers-calls": Plant(_control_answers_calls, "I11", ("worker-kill", "delay")),
    "ready-once-proved": Plant(_ready_once_proved, "I16", ("freeze-10s", "broker-stop", "drop-both", "broker-kill")),
    "dead-without-broker": Plant(_dead_without_broker, "I17", ("broker-stop", "drop-both")),
    **FLOW_PLANTS,
}
