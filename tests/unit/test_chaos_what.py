"""The judge of ``bin/chaos --what``: it finds each answer that contradicts the history, and no other."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chaos.history import History
from tests.chaos.operations import Attempt, Operation, Process, Story
from tests.chaos.what import Asked, check_what, draw

ID = "0123456789abcdef-17"
WORKER = Process("worker")
WORKER.has_ended = True
KILLED = Process("killed")
KILLED.last_at = 100.0


def attempt(result: str | None, process: Process = WORKER, at: float = 1.0) -> Attempt:
    made = Attempt(process, at, 1)
    if result is not None:
        made.finished_at, made.result = at, result
    return made


def operation(kind: str, *attempts: Attempt, dead: int = 0) -> Operation:
    made = Operation(5)
    made.kind, made.target = kind, "NODE-1.work.echo"
    made.attempts, made.dead = list(attempts), dead
    return made


def run(state: str, answer: str = "", subscription: str = "", node: str = "NODE-1") -> dict[str, Any]:
    return {"node": node, "state": state, "answer": answer, "subscription": subscription}


def dead_letter(service: str = "work.echo", node: str = "NODE-1", *, verified: bool = True) -> dict[str, Any]:
    return {"node": node, "service": service, "verified": verified}


def wrong(operation: Operation, *runs: Any, letters: list[Any] | None = None, at: tuple[str, ...] = ("",)) -> list[str]:
    story = Story()
    story.operations[5] = operation
    said = {"unasked": [], ID: {"state": "?", "runs": list(runs), "dead_letters": letters or []}}
    return check_what(story, [Asked(ID, 5, at)], said).wrong


DONE = operation("call", attempt("done"))


@pytest.mark.parametrize(
    ("what", "runs", "letters"),
    [
        (DONE, [run("finished", "ok")], []),
        (DONE, [run("finished")], []),
        (operation("call", attempt("failed")), [run("finished", "Failure")], []),
        (operation("call", attempt(None, KILLED)), [run("interrupted")], []),
        (operation("call", attempt("done", KILLED, 99.5)), [run("interrupted")], []),
        (operation("message", attempt("failed"), attempt("done")), [run("finished")], []),
        (operation("message", attempt("failed"), dead=1), [run("finished")], [dead_letter()]),
        (operation("stream", attempt("done")), [], []),
    ],
)
def test_what_agrees_with_the_history_is_right(what: Operation, runs: list[Any], letters: list[Any]) -> None:
    assert wrong(what, *runs, letters=letters) == []


@pytest.mark.parametrize(
    ("what", "runs", "letters"),
    [
        (DONE, [], []),
        (DONE, [run("running")], []),
        (DONE, [run("finished", "ok", node="NODE-2")], []),
        (DONE, [run("finished", "Failure")], []),
        (operation("call", attempt("done", KILLED, 50.0)), [run("interrupted")], []),
        (operation("call", attempt(None, KILLED)), [run("finished", "ok")], []),
        (operation("message", attempt("failed"), dead=1), [run("finished")], []),
        (operation("message", attempt("failed"), dead=1), [], [dead_letter(verified=False)]),
        (operation("message", attempt("done")), [run("retrying")], []),
    ],
)
def test_what_contradicts_the_history_is_told(what: Operation, runs: list[Any], letters: list[Any]) -> None:
    assert len(wrong(what, *runs, letters=letters)) == 1


def test_an_event_is_judged_at_each_subscriber() -> None:
    event = operation("event")
    names = "NODE-1.news.all", "NODE-1.news.broken"
    event.deliveries = {names[0]: operation("event", attempt("done")), names[1]: operation("event", dead=1)}
    event.deliveries[names[0]].kind = event.deliveries[names[1]].kind = None
    right = run("finished", subscription="news.all")
    assert wrong(event, right, letters=[dead_letter("news.broken")], at=names) == []
    assert len(wrong(event, right, letters=[dead_letter("news.all")], at=names)) == 1
    assert len(wrong(event, run("finished", subscription="news.broken"), at=names)) == 2


def test_what_was_made_up_must_be_unknown_and_all_must_be_asked() -> None:
    nothing: dict[str, Any] = {"runs": [], "dead_letters": []}
    assert check_what(Story(), [Asked(ID)], {"unasked": [], ID: {"state": "unknown", **nothing}}).wrong == []
    assert len(check_what(Story(), [Asked(ID)], {"unasked": [], ID: {"state": "finished", **nothing}}).wrong) == 1
    assert len(check_what(Story(), [Asked(ID)], {"unasked": [{"node": "NODE-1"}]}).wrong) == 2


def test_ids_are_drawn_from_what_was_started_and_some_are_made_up(tmp_path: Any) -> None:
    history = History(tmp_path, "worker")
    for op in range(1, 101):
        history.started(op, f"0123456789abcdef-{op}")
    history.started(7, "0123456789abcdef-7", subscriber="NODE-1.news.all")
    drawn = draw(tmp_path, 100, seed=1)
    assert len(drawn) == 100 and sum(each.op is None for each in drawn) == 2
    assert all(each.id == f"0123456789abcdef-{each.op}" for each in drawn if each.op is not None)
    assert drawn == draw(tmp_path, 100, seed=1) != draw(tmp_path, 100, seed=2)
    assert all(each.subscribers == ("", "NODE-1.news.all") for each in drawn if each.op == 7)
