"""Planted faults of events, streams, pipelines and the rights of callers; as in ``plants``."""

from __future__ import annotations

import itertools
from typing import Any

from tests.chaos.planting import AckedChannel, Plant, replace_in

__all__ = ["FLOW_PLANTS"]


def _one_run_per_event() -> None:
    """A node runs an event once, and not once for each of its services that subscribe."""
    import servicebus.protocol.events

    replace_in(servicebus.protocol.events, "run_id", lambda id, _queue: id)


def _events_at_once() -> None:
    """What a service publishes goes out at once, whatever becomes of the service."""
    from servicebus._nested_sender import NestedSender
    from servicebus.client.publishing import EventPublisher

    replace_in(NestedSender, "_make_event", EventPublisher._make_event)
    replace_in(NestedSender, "_collected", EventPublisher._collected)


def _stream_skips_an_item() -> None:
    """A worker loses an item now and then, and numbers the others as if it had not been there."""
    from servicebus.runtime.streams import StreamOutput

    put_now, count = StreamOutput.put_now, itertools.count(1)

    def put_most(self: StreamOutput, text: bytes) -> bool:
        return not self.over if next(count) % 500 == 0 else put_now(self, text)

    replace_in(StreamOutput, "put_now", put_most)


def _stream_repeats_after_resume() -> None:
    """A reader whose stream goes on asks for the last item once more."""
    from servicebus.client.streaming import StreamReader

    open_at = StreamReader._open

    def open_before(self: StreamReader, position: int | None) -> None:
        open_at(self, position - 1 if self._is_again and position else position)

    replace_in(StreamReader, "_open", open_before)


def _stream_ends_early() -> None:
    """A stream whose path died ends as if it were whole."""
    from servicebus.client.streaming import StreamReader

    def end(self: StreamReader, *_: Any) -> Any:
        self._is_over = True
        return
        yield

    replace_in(StreamReader, "_again", end)


def _bridge_acks_before_confirm() -> None:
    """A bridge acks what it is given, and publishes it half a second later: else it is nearly never killed in between,
    nor loses its target."""
    from servicebus.operations.bridge import Bridge

    publish = Bridge._publish

    def ack_and_publish(self: Bridge, epoch: int, delivery: Any, attempt: int) -> None:
        if attempt > 1:
            publish(self, epoch, delivery, attempt)
            return
        delivery.channel.ack(delivery.tag)
        delivery.channel.flush()
        acked = delivery._replace(channel=AckedChannel(delivery.channel))
        self._later(epoch, 0.5, lambda: publish(self, epoch, acked, attempt))

    replace_in(Bridge, "_publish", ack_and_publish)


def _bridge_forgets_ids() -> None:
    """A bridge does not know what it has moved: what comes again is published again. It acks half a second late, which
    alone is no fault: else nearly nothing comes again."""
    from servicebus.operations.bridge import Bridge

    told, ack = Bridge._told, Bridge._ack

    def tell_and_forget(self: Bridge, *what: Any) -> None:
        told(self, *what)
        self._known.clear()

    def ack_late(self: Bridge, delivery: Any) -> None:
        self._later(self._epoch, 0.5, lambda: ack(self, delivery))

    replace_in(Bridge, "_told", tell_and_forget)
    replace_in(Bridge, "_ack", ack_late)


def _pipe_forgets_ids() -> None:
    """A service that consumes messages of other programs takes each delivery for another one."""
    from servicebus.protocol.plain import PlainProtocol

    id_of = PlainProtocol._id_of

    def another(self: PlainProtocol, delivery: Any) -> tuple[str, float]:
        return id_of(self, delivery._replace(message_id=None))

    replace_in(PlainProtocol, "_id_of", another)


def _caller_may_all() -> None:
    """A node knows whose key it is, and asks no rules."""
    from servicebus.policy.permissions import Decision, Permissions

    replace_in(Permissions, "decide", lambda *_, **__: Decision(True, ""))


def _one_key_per_caller() -> None:
    """A node knows only the first key of each caller."""
    import servicebus.runtime.worker
    from servicebus.wire.signing import Keyring

    def first_keys(config: Any) -> Keyring:
        return Keyring(config.secrets, {name: keys[:1] for name, keys in config.caller_secrets.items()})

    replace_in(servicebus.runtime.worker, "keyring_of", first_keys)


FLOW_PLANTS: dict[str, Plant] = {
    "one-run-per-event": Plant(_one_run_per_event, "I12", ("worker-kill", "delay")),
    "events-at-once": Plant(_events_at_once, "I12", ("worker-kill", "delay")),
    "stream-skips-an-item": Plant(_stream_skips_an_item, "I13", ("worker-kill", "delay")),
    "stream-repeats-after-resume": Plant(_stream_repeats_after_resume, "I13", ("worker-kill", "connections-closed")),
    "stream-ends-early": Plant(_stream_ends_early, "I13", ("worker-kill", "connections-closed")),
    "bridge-acks-before-confirm": Plant(
        _bridge_acks_before_confirm, "I14", ("bridge-kill", "connections-closed", "drop-both")
    ),
    "bridge-forgets-ids": Plant(_bridge_forgets_ids, "I14", ("connections-closed", "drop-both")),
    "pipe-forgets-ids": Plant(_pipe_forgets_ids, "I14", ("drop-to-broker", "connections-closed")),
    "caller-may-all": Plant(_caller_may_all, "I15", ("worker-kill", "delay")),
    "one-key-per-caller": Plant(_one_key_per_caller, "I15", ("key-changed", "delay")),
}
