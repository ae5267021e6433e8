"""The rig's checker against thousands of histories: legal ones never trip it, and one wrong record always does."""

from __future__ import annotations

from typing import Any

from histories import Made
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.chaos.history import Record
from tests.chaos.invariants import LATE_END_S, LATE_START_S

WORKERS = ("worker-1", "worker-2", "worker-3")
DEADLINE_S = 5.0
moments = st.floats(0.001, 0.5)


class Run:
    """A legal run being drawn: time only goes on, and every operation has a span of its own."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.made = Made()
        self.killed = 0

    def later(self) -> None:
        self.made.now += self.draw(moments)

    def call(self, op: int) -> None:
        fate = self.draw(st.sampled_from(["ok", "fault", "busy", "late", "interrupted"]))
        deadline = self.made.now + DEADLINE_S
        self.made.call(op, deadline, idempotent=self.draw(st.booleans()))
        self.later()
        if fate in ("ok", "fault"):
            worker = self.draw(st.sampled_from(WORKERS))
            self.made.started(op, process=worker)
            self.later()
            self.made.finished(op, process=worker, verdict="done" if fate == "ok" else "failed")
            self.later()
            self.made.replied(op, fate)
        elif fate == "busy":
            self.made.replied(op, "error", error="ServiceBusy")
        elif fate == "late":
            self.made.at(deadline + self.draw(st.floats(0, LATE_END_S - 0.001))).replied(
                op, "error", error="CallTimeout"
            )
        else:
            self.made.started(op, process=self.a_killed_worker())
            self.later()
            self.made.replied(op, "error", error="CallInterrupted")

    def message(self, op: int) -> None:
        self.made.message(op)
        self.later()
        taken = self.draw(st.sampled_from(["confirmed", "outbox", "refused"]))
        if taken == "refused":
            self.made.write("sender", "refused", op=op, error="SendUnconfirmed")
        else:
            self.made.confirmed(op, outbox=taken == "outbox")
        attempt = 1
        for fate in self.draw(
            st.lists(st.sampled_from(["failed", "requeue", "cut short", "killed after"]), max_size=4)
        ):
            self.later()
            worker = self.draw(st.sampled_from(WORKERS)) if fate in ("failed", "requeue") else self.a_killed_worker()
            self.made.started(op, attempt, worker)
            self.later()
            if fate != "cut short":
                self.made.finished(op, attempt, worker, verdict="done" if fate == "killed after" else fate)
            attempt += fate != "requeue"
        self.later()
        if self.draw(st.booleans()):
            worker = self.draw(st.sampled_from(WORKERS))
            self.made.started(op, attempt, worker)
            self.later()
            self.made.finished(op, attempt, worker)
        else:
            self.made.dead(op)

    def a_killed_worker(self) -> str:
        """It writes nothing after this operation, and does not end as it should."""
        self.killed += 1
        return f"killed-{self.killed}"


@st.composite
def legal(draw: st.DrawFn, calls: int = 0, messages: int = 0) -> Made:
    """A legal history; with at least so many of each kind."""
    run = Run(draw)
    kinds = (
        ["call"] * calls + ["message"] * messages + draw(st.lists(st.sampled_from(["call", "message"]), max_size=12))
    )
    for op, kind in enumerate(draw(st.permutations(kinds)), 1):
        run.later()
        (run.call if kind == "call" else run.message)(op)
    # The last sign of the living is later than any window of the checker.
    return run.made.at(run.made.now + 10).ends("sender", *WORKERS)


def ops_with(made: Made, **fields: Any) -> list[int]:
    return [
        record["op"]
        for records in made.files.values()
        for record in records
        if "op" in record and all(record.get(name) == value for name, value in fields.items())
    ]


def pick(data: st.DataObject, ops: list[int]) -> int:
    assume(ops)
    return data.draw(st.sampled_from(sorted(set(ops))))


def is_of(op: int, *what: str) -> Any:
    return lambda record: record.get("op") == op and record["what"] in what


def left_out(_record: Record) -> None:
    return None


many = settings(suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])


@given(legal())
def test_a_legal_history_never_trips(made: Made) -> None:
    assert made.broken() == set()


@many
@given(legal(messages=3), st.data())
def test_a_confirmed_message_whose_execution_is_gone_is_always_found(made: Made, data: st.DataObject) -> None:
    op = pick(data, ops_with(made, what="confirmed"))
    assert "I1" in made.change(is_of(op, "started", "finished", "dead"), left_out).broken()


@many
@given(legal(messages=2), st.data(), st.sampled_from(WORKERS))
def test_a_message_that_runs_once_more_is_always_found(made: Made, data: st.DataObject, worker: str) -> None:
    done = {op for name in WORKERS for op in (r["op"] for r in made.files[name] if r.get("verdict") == "done")}
    op = pick(data, [op for op in ops_with(made, what="invoked", kind="message") if op in done])
    assert "I2" in made.at(made.now + 1).started(op, 9, worker).broken()


@many
@given(legal(calls=3), st.data())
def test_a_call_that_runs_once_more_is_always_found(made: Made, data: st.DataObject) -> None:
    started = set(ops_with(made, what="started"))
    op = pick(data, [op for op in ops_with(made, kind="call", idempotent=False) if op in started])
    assert "I2" in made.started(op, process="worker-1").broken()


@many
@given(legal(calls=3), st.data(), st.floats(0.001, 100))
def test_a_call_that_starts_late_is_always_found(made: Made, data: st.DataObject, late_s: float) -> None:
    started = set(ops_with(made, what="started"))
    op = pick(data, [op for op in ops_with(made, kind="call") if op in started])
    (invoked,) = (record for record in made.files["sender"] if record["what"] == "invoked" and record["op"] == op)
    t = invoked["deadline"] + LATE_START_S + late_s
    assert "I3" in made.change(is_of(op, "started"), lambda record: {**record, "t": t}).broken()


@many
@given(legal(calls=1), st.data(), st.floats(0.001, 100))
def test_a_call_that_ends_late_or_never_is_always_found(made: Made, data: st.DataObject, late_s: float) -> None:
    op = pick(data, ops_with(made, kind="call"))
    (invoked,) = (record for record in made.files["sender"] if record["what"] == "invoked" and record["op"] == op)
    t = invoked["deadline"] + LATE_END_S + late_s
    assert "I4" in made.change(is_of(op, "replied"), lambda record: {**record, "t": t}).broken()
    assert "I4" in made.change(is_of(op, "replied"), left_out).broken()


@many
@given(legal(calls=3), st.data())
def test_a_reply_that_is_not_its_own_is_always_found(made: Made, data: st.DataObject) -> None:
    op = pick(data, ops_with(made, what="replied", outcome="ok"))
    assert "I5" in made.change(is_of(op, "replied"), lambda record: {**record, "right": False}).broken()
    assert "I5" in made.change(is_of(op, "started", "finished"), left_out).broken()


@given(legal(calls=1, messages=1), st.data())
def test_an_operation_of_nobody_is_always_found(made: Made, data: st.DataObject) -> None:
    op = pick(data, ops_with(made, what="started"))
    assert "I6" in made.change(is_of(op, "invoked", "confirmed", "refused", "replied"), left_out).broken()
