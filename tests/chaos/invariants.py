"""I1 to I6 and I11: what must hold for each call, message and stream.

Each check yields the sentences of what it finds broken.

Allowances, and why:

* ``LATE_START_S``: between the worker's look at the deadline and the service's first step lie a queue and a thread
  switch, and the deadline travels as remaining time, which is read on both sides. A caller is told by then.
* ``LATE_END_S``: the 250 ms of the invariant. Where the machine gave no processor (``stall`` in the history: to nobody,
  or to a Sender's thread that was ready to run) between the deadline and the end, that time is added: it is not the
  bus that was late.
* A message may stand twice among the dead letters: the confirm of the first letter was lost with its connection, and
  nobody can know then whether it is stored. Neither is an execution, and the node lets only one of them in again.
* ``JOURNAL_WINDOW_S``: a worker that is killed after the work and before the journal has it leaves an attempt whose
  outcome nobody can know; the message is tried again, as a counted attempt. That is no second execution by mistake,
  and it is told apart: the first worker was killed, it ran no longer than this after the work (the time in which it
  was paused does not count), and the later attempt has a higher number. The report counts these separately.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import combinations

from tests.chaos.operations import Attempt, Operation, Story
from tests.chaos.stream_invariants import broken_streams

__all__ = [
    "JOURNAL_WINDOW_S",
    "LATE_END_S",
    "LATE_START_S",
    "SAID_NOT_RUN",
    "Stalls",
    "broken_by",
    "broken_by_attempts",
    "is_again_after_kill",
    "is_known_done",
]

LATE_START_S = 0.25
LATE_END_S = 0.25
JOURNAL_WINDOW_S = 1.0
_NOT_CALLED = frozenset(
    {
        "CallRefused",
        "EnvelopeError",
        "NoBrokerAvailable",
        "NodeUnavailable",
        "PermissionDenied",
        "ServiceBusy",
        "UnknownService",
    }
)
SAID_NOT_RUN = {
    "call": _NOT_CALLED,
    "stream": _NOT_CALLED,
    "message": frozenset({"EnvelopeError", "NoBrokerAvailable", "OutboxFull", "SendRefused"}),
    "event": frozenset({"EnvelopeError", "NoBrokerAvailable", "OutboxFull"}),
    "plain": frozenset({"EnvelopeError", "NoBrokerAvailable", "SendRefused"}),
}
"""Errors that tell a caller that its request is not stored, or was not run, and can be made again."""


class Stalls:
    """How long the machine stood still between two times."""

    def __init__(self, story: Story):
        self._stalls = sorted(story.stalls)
        self._longest = max((end - begin for begin, end in self._stalls), default=0.0)

    def between(self, begin: float, end: float) -> float:
        found = 0.0
        covered = begin
        for stall_begin, stall_end in self._stalls[bisect_left(self._stalls, (begin - self._longest, 0.0)) :]:
            if stall_begin >= end:
                break
            # Several watchers may have seen the same stall.
            covered = max(covered, stall_begin)
            if (until := min(stall_end, end)) > covered:
                found += until - covered
                covered = until
        return found


def broken_by(operation: Operation, stalls: Stalls) -> Iterator[tuple[str, str]]:
    """Each invariant that *operation* broke, and how."""
    if operation.invoked_at is None:
        yield from _unexpected(operation)
        return
    yield from _run_all_the_same(operation)
    if operation.kind == "message":
        if operation.taken is None:
            yield "I4", "send() never ended"
        yield from _lost(operation)
        if not operation.is_idempotent:
            yield from (("I2", text) for text in broken_by_attempts(operation, "message"))
    else:
        if not operation.is_idempotent:
            yield from _call_twice(operation)
        yield from _late_end(operation, stalls)
        yield from _wrong_reply(operation)
        yield from broken_streams(operation)
    yield from _late_start(operation)


def is_again_after_kill(earlier: Attempt, later: Attempt) -> bool:
    """*earlier* was done, but its worker was killed before the journal can be expected to have it."""
    process = earlier.process
    return (
        earlier.finished_at is not None
        and not process.has_ended
        and process.ran_s(earlier.finished_at) <= JOURNAL_WINDOW_S
        and (earlier.number is None or later.number is None or later.number > earlier.number)
    )


def _lost(operation: Operation) -> Iterator[tuple[str, str]]:
    if operation.is_acknowledged and not (operation.is_done or operation.dead or operation.has_expired):
        tried = f" ({len(operation.attempts)} attempts without success)" if operation.attempts else ""
        yield "I1", f"the message was {operation.taken}, and is neither executed nor among the dead letters{tried}"


def _run_all_the_same(operation: Operation) -> Iterator[tuple[str, str]]:
    if operation.error in SAID_NOT_RUN[operation.kind or ""] and operation.attempts:
        yield "I11", f"the {operation.kind} ended in {operation.error}, and was executed"
    if operation.is_too_large and operation.error != "EnvelopeError":
        ended = operation.error or operation.taken or operation.outcome or "nothing"
        yield "I11", f"the {operation.kind} is larger than what is taken, and ended in {ended}"


def _call_twice(operation: Operation) -> Iterator[tuple[str, str]]:
    if len(operation.attempts) > 1:
        yield "I2", f"the {operation.kind} was started {len(operation.attempts)} times"


def broken_by_attempts(operation: Operation, kind: str) -> Iterator[str]:
    """Why a message, or an event at one of its subscribers, was executed more than once in effect."""
    attempts = sorted(operation.attempts, key=lambda attempt: attempt.started_at)
    for earlier, later in combinations(attempts, 2):
        over_at = earlier.over_at
        if over_at is None or later.started_at < over_at:
            yield f"the {kind} was started while another attempt was running"
        elif earlier.is_done:
            if not is_again_after_kill(earlier, later):
                yield f"the {kind} was started again after it was executed"
        elif earlier.number is not None and later.number is not None and not _was_requeued(operation, earlier, later):
            # Requeue is not counted, by definition.
            least = earlier.number + (earlier.result != "requeue")
            if later.number < least:
                yield f"the {kind} was started as attempt {earlier.number}, then again as attempt {later.number}"
    # Of one that was sent back the former letter may have stayed: a broker that dies then does not say what it has.
    if operation.dead and not operation.requeued_at and any(is_known_done(attempt) for attempt in attempts):
        yield f"the {kind} was executed, and stands among the dead letters"


def _was_requeued(operation: Operation, earlier: Attempt, later: Attempt) -> bool:
    return any(earlier.started_at <= t <= later.started_at for t in operation.requeued_at)


def is_known_done(attempt: Attempt) -> bool:
    """It was done, and the journal has that, or had the time to."""
    process = attempt.process
    return (
        attempt.is_done
        and attempt.finished_at is not None
        and (process.has_ended or process.ran_s(attempt.finished_at) > JOURNAL_WINDOW_S)
    )


def _late_start(operation: Operation) -> Iterator[tuple[str, str]]:
    if operation.deadline is None:
        return
    for attempt in operation.attempts:
        late_s = attempt.started_at - operation.deadline
        if late_s > LATE_START_S:
            yield "I3", f"the {operation.kind} was started {late_s:.3f} s after its deadline"


def _late_end(operation: Operation, stalls: Stalls) -> Iterator[tuple[str, str]]:
    if operation.outcome is None:
        yield "I4", f"the {operation.kind} never ended"
    elif operation.deadline is not None:
        late_s = operation.ended_at - operation.deadline
        if late_s > LATE_END_S and late_s - stalls.between(operation.deadline, operation.ended_at) > LATE_END_S:
            yield "I4", f"the {operation.kind} ended {late_s:.3f} s after its deadline"


def _wrong_reply(operation: Operation) -> Iterator[tuple[str, str]]:
    if not operation.is_right and (operation.outcome == "ok" or operation.stream is not None):
        yield "I5", f"the {operation.kind} was given what belongs to another"
    elif operation.outcome == "ok" and not operation.is_done:
        yield "I5", f"the {operation.kind} was answered, and no service has executed it"


def _unexpected(operation: Operation) -> Iterator[tuple[str, str]]:
    if operation.attempts:
        yield "I6", "a service was given an operation that no sender invoked"
    elif operation.dead:
        yield "I6", "a dead letter holds an operation that no sender invoked"
