"""What ``servicebus what`` and the console say of what was found. All of it may have been written by strangers:
``as_text()`` escapes it, and the other texts are as they came.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from servicebus._id_search import FoundId, IdSearch, NodeRun
from servicebus.operations.dead_letter_facts import facts
from servicebus.operations.filters import show_age
from servicebus.operations.id_places import FoundDeadLetter
from servicebus.wire.fault import NOT_RUN
from servicebus.wire.printable import counted, printable

__all__ = ["IdPlace", "as_text", "asked", "document_of", "places", "what_next"]

_RUNS = {
    "queued": "has it, and has not started it: it waits for its service",
    "running": "is running it",
    "retrying": "has tried it, and will try again",
    "finished": "is done with it",
    "interrupted": "had started it when its worker died: how far it came is not known",
    "refused": "has refused it; it is, or will be, a dead letter",
}
_DETAIL_CHARS = 200


class IdPlace(NamedTuple):
    """Where an id was found."""

    text: str
    dead_letter_of: str = ""
    """The node, if it is a dead letter."""


def document_of(search: IdSearch) -> dict[str, Any]:
    """Of ``--json``."""
    return {
        "ids": [_found(each) for each in search.found.values()],
        "nodes": [{"name": each.name, "brokers": list(each.brokers)} for _, each in sorted(search.nodes.items())],
        "brokers": search.brokers,
        "waiting": {
            host: [{"queue": each.queue, "messages": each.messages} for each in queues]
            for host, queues in search.waiting.items()
        },
        "unasked": [
            {"broker": each.broker or None, "node": each.node or None, "file": each.file or None, "why": each.why}
            for each in search.unasked
        ],
    }


def _found(found: FoundId) -> dict[str, Any]:
    return {
        "id": found.id,
        "state": found.state,
        "runs": [run._asdict() for run in found.runs],
        "dead_letters": [{"node": each.node, **facts(each.found)} for _, each in found.dead_letters],
        "outboxes": [{"file": path, "target": kept.target, "refused": kept.refused} for path, kept in found.kept],
        "log": [{"file": each.file, "line": each.line} for each in found.logged],
    }


def as_text(search: IdSearch) -> str:
    lines: list[str] = []
    for found in search.found.values():
        lines.append(f"{found.id}  {found.state}")
        for place in places(found):
            lines.append(f"  {place.text}")
            if place.dead_letter_of:
                lines.append(f"      servicebus dead show {found.id} --node {place.dead_letter_of}")
    lines.append(f"asked: {asked(search)}")
    if any(not each.places for each in search.found.values()):
        lines += ["nothing was found of some of them. What it may be:", *(f"  {line}" for line in what_next(search))]
    return "\n".join(printable(line) for line in lines)


def asked(search: IdSearch) -> str:
    """Whose journals were asked, and on which brokers it was looked for."""
    nodes = [f"{each.name} ({', '.join(each.brokers)})" for _, each in sorted(search.nodes.items())]
    journals = f"the journals of {counted(len(nodes), 'node')}: {', '.join(nodes)}" if nodes else "no journal"
    on = f"dead letters on {', '.join(search.brokers)}" if search.brokers else "no dead letters"
    return f"{journals}; {on}"


def places(found: FoundId) -> Iterator[IdPlace]:
    """What each place says of it."""
    for run in found.other_runs:
        yield IdPlace(f"{run.node}: {_run(run)}")
    for broker, letter in found.dead_letters:
        yield IdPlace(f"{letter.node}: {_dead_letter(letter)}, on {broker}", letter.node)
    for path, kept in found.kept:
        why = f"is not sent any more: {kept.refused}" if kept.refused else "waits for a broker"
        yield IdPlace(f"{path}: the message to {kept.target} {why}")
    for each in found.logged:
        yield IdPlace(f"{each.file}: {each.line}")


def _run(run: NodeRun) -> str:
    text = _RUNS.get(run.state, run.state)
    if run.answer == "ok":
        text = "ran it, and answered with a result"
    elif run.answer in NOT_RUN:
        text = f"did not run it, and said so: {run.answer}"
    elif run.answer and run.answer != "stored":
        text = f"ran it, and answered with the error {run.answer}"
    more = [
        counted(run.attempts, "attempt") if run.attempts > 1 else "",
        f"{counted(run.deaths, 'worker')} died of it" if run.deaths else "",
        f"by the caller {run.caller}" if run.caller else "",
        f"event for {run.subscription}" if run.subscription else "",
        "sent back from the dead letters" if run.requeued else "",
        f"known there as {run.known_as}" if run.known_as else "",
    ]
    told = ", ".join(filter(None, more))
    return f"{text} ({told})" if told else text


def _dead_letter(letter: FoundDeadLetter) -> str:
    found = letter.found.dead_letter
    of = f" of {found.subscription}" if found.subscription else ""
    if found.stamp is None:
        return f"a dead letter{of} that no worker has signed; anyone may have put it there"
    age = show_age(found.age_s(time.time()))
    detail = found.detail if len(found.detail) <= _DETAIL_CHARS else f"{found.detail[:_DETAIL_CHARS]}..."
    why = f"{found.reason}: {detail}" if detail else found.reason
    return f"a dead letter{of}, {why}, after {counted(found.attempts, 'attempt')}, {age} ago"


def what_next(search: IdSearch) -> Iterator[str]:
    """What may have become of an id that was not found; the options are those of ``servicebus what``."""
    for broker, queues in search.waiting.items():
        told = ", ".join(f"{each.messages} in {each.queue}" for each in queues)
        yield f"it waits for its node: messages that were not looked at stand on {broker}: {told}"
    yield "its node does not answer: name it by --node NAME, see servicebus nodes"
    yield "it did not leave its Sender: look in its outbox by --outbox FILE, and in its log by --log FILE"
    yield "it is over for long: nodes forget a call an hour after its deadline, a message after token_max_age"
    yield "its node keeps its journal in memory, and has been started since; or a dead letter was dropped"
