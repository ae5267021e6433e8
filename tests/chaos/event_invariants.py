"""I12: each subscription gets each event that was confirmed once in effect, and none that was not published.

An event is confirmed when ``publish()`` has said so; one that a service publishes is when that service has succeeded.
Whether a service has that was killed with its work just done nobody can know: then all of its events go out, or none.

A subscription gets an event as a node gets a message: executed once, or among the dead letters, with the allowances of
``invariants``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from tests.chaos.invariants import SAID_NOT_RUN, broken_by_attempts, is_known_done
from tests.chaos.operations import Attempt, Operation, Story

__all__ = ["broken_events", "promised_events"]

Broken = tuple[Operation, str, str]


def broken_events(story: Story) -> Iterator[Broken]:
    """Each invariant that an event broke: the event, the name of the invariant, and how."""
    promised = promised_events(story)
    for event in _events(story):
        for name, text in _published(event, story):
            yield event, name, text
        for subscriber in event.subscribers:
            delivery = event.deliveries.get(subscriber)
            if event.op in promised and (delivery is None or not (delivery.is_done or delivery.dead)):
                yield event, "I12", f"{subscriber} has neither executed {event.target}, nor is it a dead letter of it"
        for subscriber, delivery in event.deliveries.items():
            if subscriber not in event.subscribers:
                yield event, "I12", f"{subscriber} was given {event.target or 'an event that nobody published'}"
            for text in broken_by_attempts(delivery, "event"):
                yield event, "I12", f"{subscriber}: {text}"


def promised_events(story: Story) -> set[int]:
    """The ops of the events that each of their subscriptions must get."""
    promised = {
        event.op for event in _events(story) if event.is_acknowledged and not (event.has_expired or event.is_unheard)
    }
    for source, events in _by_source(story).items():
        # Some of them have come out: they were stored, which they are together.
        if any(map(is_known_done, _attempts(source, story))) or any(event.deliveries for event in events):
            promised.update(event.op for event in events)
    return promised


def _published(event: Operation, story: Story) -> Iterator[tuple[str, str]]:
    """What publish() said of it, or the service that published it."""
    if event.told_by is not None:
        if event.deliveries and not any(attempt.is_done for attempt in _attempts(event.told_by, story)):
            yield "I12", "a service published it that has not succeeded, and it went out"
        return
    if event.invoked_at is None:
        return
    if event.taken is None:
        yield "I4", "publish() never ended"
    if event.is_unheard:
        yield "I12", "publish() said that nobody subscribes to it"
    if event.error in SAID_NOT_RUN["event"] and any(each.attempts for each in event.deliveries.values()):
        yield "I11", f"the event ended in {event.error}, and was executed"


def _by_source(story: Story) -> dict[int, list[Operation]]:
    found: dict[int, list[Operation]] = defaultdict(list)
    for event in _events(story):
        if event.told_by is not None:
            found[event.told_by].append(event)
    return found


def _attempts(op: int, story: Story) -> list[Attempt]:
    source = story.operations.get(op)
    return source.attempts if source is not None else []


def _events(story: Story) -> Iterator[Operation]:
    return (
        each for each in story.operations.values() if each.kind == "event" or (each.deliveries and each.kind != "plain")
    )
