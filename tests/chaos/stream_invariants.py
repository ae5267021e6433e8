"""I13: a stream has no gap and no double, and ends whole or with an error that says how far it came.

A resumable one goes on over the next broker: it is interrupted only if its node cannot be reached there either. And a
generator ends with its stream, whoever of the two sides ends it.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.chaos.operations import Operation, StreamRead

__all__ = ["broken_streams"]

_GOES_ON_AFTER = "CallInterrupted"
"""What interrupts one run of a stream; a resumable one goes on then."""


def broken_streams(operation: Operation) -> Iterator[tuple[str, str]]:
    """How a stream broke I13."""
    stream = operation.stream
    if stream is None or operation.outcome is None:
        return
    received = sum(last - first + 1 for first, last in stream.runs)
    yield from (("I13", text) for text in _in_order(stream))
    yield from (("I13", text) for text in _ended(operation, stream, received))
    for attempt in operation.attempts:
        if attempt.finished_at is None and attempt.process.has_ended:
            yield "I13", "its generator was not closed"


def _in_order(stream: StreamRead) -> Iterator[str]:
    expected = 0
    for first, last in stream.runs:
        if first > expected:
            yield f"items {expected} to {first - 1} are missing"
        elif first < expected:
            yield f"item {first} came again after item {expected - 1}"
        expected = last + 1


def _ended(operation: Operation, stream: StreamRead, received: int) -> Iterator[str]:
    if operation.outcome == "ok" and received != stream.count:
        yield f"it ended after {received} of {stream.count} items as if it were whole"
    if operation.outcome == "fault" and received != stream.fails_at:
        yield f"its service failed at item {stream.fails_at}, and {received} items came"
    if operation.error == "StreamInterrupted":
        if stream.position != received:
            yield f"it was interrupted at position {stream.position}, and {received} items came"
        if operation.is_idempotent and stream.cause == _GOES_ON_AFTER:
            yield f"it is resumable, and was interrupted after {len(operation.attempts)} runs"
