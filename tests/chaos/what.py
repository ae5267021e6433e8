"""``--what N``: at the end of a run ``servicebus what`` is asked for N ids, and what it says is judged by the history.

It is asked while the agents and brokers are there; it is judged when the history is complete. An id is drawn from all
that services were entered with: calls, messages and events. One in fifty is made up, and must be unknown.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from servicebus.protocol.discovery import is_id
from tests.chaos.history import files, read_file
from tests.chaos.invariants import JOURNAL_WINDOW_S
from tests.chaos.operations import Operation, Story

__all__ = ["Asked", "WhatCheck", "ask", "check_what", "draw"]

_MADE_UP = 50
_BATCH = 500
_LIMIT_S = 600.0
_KINDS = ("call", "message", "event")


@dataclass(frozen=True)
class Asked:
    """What an id stands for: the op, and at which subscribers it was seen; none for one that was made up."""

    id: str
    op: int | None = None
    subscribers: tuple[str, ...] = ()
    """``NODE.category.name``; "" for a call or message."""


@dataclass
class WhatCheck:
    asked: int = 0
    runs: int = 0
    """Of so many runs it was asked what became of them: an event has one for each subscription."""
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"what: {self.asked} ids, {self.runs} runs, {len(self.wrong)} told wrong"


def draw(folder: Path, count: int, seed: int) -> list[Asked]:
    """*count* ids of the history in *folder*."""
    seen: dict[str, dict[str, int]] = {}
    for path in files(folder):
        for record in read_file(path):
            if record["what"] == "started" and is_id(record["id"]):  # not of other programs
                seen.setdefault(record["id"], {})[record.get("subscriber", "")] = record["op"]
    rng = random.Random(seed)
    made_up = count // _MADE_UP
    drawn = rng.sample(sorted(seen), min(count - made_up, len(seen)))
    asked = [Asked(id, next(iter(seen[id].values())), tuple(seen[id])) for id in drawn]
    return [*asked, *(Asked(f"{rng.getrandbits(64):016x}-{rng.randint(1, 9999)}") for _ in range(made_up))]


def ask(asked: Sequence[Asked], configuration: dict[str, Any], nodes: Sequence[str], folder: Path) -> dict[str, Any]:
    """What ``servicebus what`` says of each, by its id; and under ``unasked`` whom it could not ask."""
    file = folder / "what.yaml"
    file.write_text(json.dumps(configuration))
    found: dict[str, Any] = {"unasked": []}
    for first in range(0, len(asked), _BATCH):
        ids = [each.id for each in asked[first : first + _BATCH]]
        program = [sys.executable, "-c", "from servicebus.cli.main import main; main()", "what", "--json"]
        named = [f"--node={node}" for node in nodes]
        done = subprocess.run(
            [*program, "-c", str(file), *named, "--timeout", "20", "--quiet", "1", *ids],
            capture_output=True, text=True, timeout=_LIMIT_S, check=False,
        )  # fmt: skip
        if not done.stdout:
            found["unasked"].append(done.stderr)
            continue
        said = json.loads(done.stdout)
        found |= {each["id"]: each for each in said["ids"]}
        found["unasked"] += said["unasked"]
    return found


def check_what(story: Story, asked: Sequence[Asked], said: Mapping[str, Any]) -> WhatCheck:
    """Compare what was *said* with what the history has."""
    check = WhatCheck(len(asked), wrong=[f"not asked: {each}" for each in said["unasked"]])
    for each in asked:
        answer = said.get(each.id)
        if answer is None:
            check.wrong.append(f"{each.id}: nothing was said of it")
        elif each.op is None:
            check.runs += 1
            if answer["state"] != "unknown":
                check.wrong.append(f"{each.id} was made up, and is {answer['state']}")
        else:
            operation = story.operations[each.op]
            for subscriber in each.subscribers if operation.kind in _KINDS else ():
                check.runs += 1
                delivery = operation.deliveries[subscriber] if subscriber else operation
                target = subscriber or operation.target
                wrong = _wrong(operation.kind == "call", delivery, target, bool(subscriber), answer)
                check.wrong += [f"{each.id}, {operation.kind} to {target}: {text}" for text in wrong]
    return check


def _wrong(is_call: bool, delivery: Operation, target: str, is_event: bool, answer: Any) -> Iterator[str]:
    node, _, service = target.partition(".")
    subscription = service if is_event else ""
    letters = [each for each in answer["dead_letters"] if each["node"] == node and each["verified"]]
    letters = [each for each in letters if not is_event or each["service"] == service]
    runs = [each for each in answer["runs"] if (each["node"], each["subscription"]) == (node, subscription)]
    states = {run["state"] for run in runs}
    if delivery.dead and not letters:
        yield f"it stands among the dead letters, and was not found there, but {states or 'nowhere'}"
    if delivery.dead:
        return
    expected = _expected(is_call, delivery)
    if expected and not states & expected:
        yield f"it is {' or '.join(sorted(expected))}, and was said to be {' and '.join(sorted(states)) or 'unknown'}"
    told = {run["answer"] for run in runs if run["answer"]}
    results = {"ok" if attempt.is_done else "Failure" for attempt in delivery.attempts if attempt.result}
    if is_call and told and results and not told & results:
        yield f"it was answered with {told}, and its service has {results}"


def _expected(is_call: bool, delivery: Operation) -> set[str]:
    """In which states it may be; empty if the history does not say."""
    if delivery.is_done if not is_call else any(attempt.result for attempt in delivery.attempts):
        last = delivery.attempts[-1]
        was_killed = last.finished_at is not None and not last.process.has_ended
        is_unsure = was_killed and last.process.ran_s(last.finished_at or 0.0) <= JOURNAL_WINDOW_S
        return {"finished", "interrupted"} if is_unsure else {"finished"}
    return {"interrupted"} if is_call else set()
