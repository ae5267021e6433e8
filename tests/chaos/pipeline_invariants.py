"""I14: what a pipeline or a bridge was given goes through all of its stages, each once in effect.

A stage gets a message as a node does: it is executed once, or stands among the dead letters, with the allowances of
``invariants``; then it goes no further. Each stage publishes under an id that is the same at each attempt, so the next
one can drop what comes twice. Whether a stage has published whose attempt ended while it did, nobody knows.

A bridge may move a message again when it was killed, or when its target has not confirmed. What its target has
confirmed it does not publish a second time.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.chaos.invariants import SAID_NOT_RUN, broken_by_attempts
from tests.chaos.operations import Operation, Story

__all__ = ["broken_pipelines", "passes"]


def broken_pipelines(story: Story) -> Iterator[tuple[Operation, str, str]]:
    """Each invariant that a message of another program broke: the message, the name of the invariant, and how."""
    for message in story.operations.values():
        if message.kind == "plain":
            for name, text in _broken(message):
                yield message, name, text


def passes(message: Operation) -> list[Operation]:
    """What became of it at each of its stages, as far as it came."""
    return [message.deliveries[stage] for stage in message.subscribers if stage in message.deliveries]


def _broken(message: Operation) -> Iterator[tuple[str, str]]:
    if message.taken is None:
        yield "I4", "publish() of a plain message never ended"
    if message.error in SAID_NOT_RUN["plain"] and message.deliveries:
        yield "I11", f"the plain message ended in {message.error}, and was executed"
    if message.is_acknowledged:
        yield from (("I14", text) for text in _lost(message))
    for stage, delivery in message.deliveries.items():
        if stage not in message.subscribers:
            yield "I14", f"{stage} was given it"
        yield from (("I14", f"{stage}: {text}") for text in broken_by_attempts(delivery, "message"))
    yield from (("I14", text) for text in _too_far(message))
    if message.moved_again:
        yield "I14", "the bridge published it again though its target had confirmed it"


def _lost(message: Operation) -> Iterator[str]:
    for stage in message.subscribers:
        delivery = message.deliveries.get(stage)
        if delivery is None or not (delivery.is_done or delivery.dead):
            yield f"{stage} has neither executed it, nor is it a dead letter there"
        elif delivery.dead and not delivery.attempts:
            yield f"it is a dead letter of {stage}, which was never given it"
        if delivery is None or not delivery.is_done:
            return


def _too_far(message: Operation) -> Iterator[str]:
    """A stage has published it that has certainly failed each time."""
    for earlier, later in zip(message.subscribers, message.subscribers[1:], strict=False):
        before, after = message.deliveries.get(earlier), message.deliveries.get(later)
        if after is not None and (before is None or all(each.result == "failed" for each in before.attempts)):
            yield f"{later} was given it, and {earlier} has not succeeded"
