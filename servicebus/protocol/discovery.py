"""What a Sender asks all nodes at once, and what each answers: values, as they stand in the JSON of both."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from servicebus.errors import EnvelopeError
from servicebus.wire.address import node_name
from servicebus.wire.envelope import Kind
from servicebus.wire.jsontext import decode_json
from servicebus.wire.xmlshape import ID

__all__ = ["DISCOVER", "MOST_IDS", "STREAM", "Answer", "Question", "ask_for", "is_id", "read_answer", "read_question"]

DISCOVER = "discover"
STREAM = "stream"
"""The kind of a service that answers a stream, in what a node says of its services."""
MOST_IDS = 50
"""So many may be asked for at once: a node looks for each under the names that it may have for it."""
_ID = re.compile(ID.decode())
_KINDS = frozenset(kind.value for kind in Kind) | {STREAM}


class Question(NamedTuple):
    """Which nodes are to answer, and what."""

    nodes: str
    """A pattern for their names, as in ``fnmatch``: ``*``, ``?`` and ``[...]``. Case matters."""
    service: str = ""
    """An RPC service, ``category.name``: each node says whether it has that. "" for none."""
    lists_services: bool = False
    """Each node says what services it has."""
    asks_about: bool = False
    """Each node says what an operator compares: its clock, version, the ids of its keys, and what its workers count."""
    asks_load: bool = False
    """Beside that each worker says how its services are: counts, times, and how full their inboxes are."""
    ids: tuple[str, ...] = ()
    """Each node says what it knows of these requests, by their ids on the wire; ``MOST_IDS`` at most."""

    def to_json(self) -> dict[str, Any]:
        """What stands in the params of the request."""
        asked: dict[str, Any] = {"nodes": self.nodes}
        if self.service:
            asked["service"] = self.service
        if self.lists_services:
            asked["services"] = True
        if self.asks_about:
            asked["about"] = True
        if self.asks_load:
            asked["load"] = True
        if self.ids:
            asked["ids"] = list(self.ids)
        return asked

    def is_for(self, node: str) -> bool:
        return node == self.nodes or fnmatchcase(node, self.nodes)


def ask_for(
    nodes: str,
    service: str = "",
    *,
    lists_services: bool = False,
    asks_about: bool = False,
    asks_load: bool = False,
    ids: Sequence[str] = (),
) -> Question:
    """A question of our own. Raises AddressError: no node has a name like *nodes*."""
    return Question(node_name(nodes), service, lists_services, asks_about, asks_load, tuple(ids))


def read_question(params: bytes) -> Question:
    """Raises EnvelopeError. What a later version may add is left out."""
    asked = decode_json(params)
    if isinstance(asked, dict) and isinstance(asked.get("nodes"), str) and isinstance(asked.get("service", ""), str):
        lists_services, about, load = (asked.get(name) is True for name in ("services", "about", "load"))
        ids = asked.get("ids", [])
        if isinstance(ids, list) and len(ids) <= MOST_IDS and all(isinstance(id, str) and is_id(id) for id in ids):
            return Question(asked["nodes"], asked.get("service", ""), lists_services, about, load, tuple(ids))
        raise EnvelopeError("malformed", f"the ids of a discovery are none, or over {MOST_IDS}")
    raise EnvelopeError("malformed", "the params of a discovery name no nodes")


class Answer(NamedTuple):
    """What one worker of a node says."""

    node: str
    has_service: bool = False
    services: tuple[tuple[str, str], ...] = ()
    """Kind (``call``, ``message`` or ``stream``) and ``category.name`` of each."""
    about: Mapping[str, Any] | None = None
    """``time`` (Unix, seconds), ``version``, ``keys`` and ``encryption`` (lists of key ids), and of the ``worker`` that
    answers ``machine``, ``pid``, ``since`` and ``counters``; ``load`` (of ``LoadReport``) if that was asked for. None
    if it is not told, as callers with keys of their own are not."""
    known: Mapping[str, Sequence[Mapping[str, Any]]] | None = None
    """What the node knows, by the ids that were asked for; None if its version does not tell. Of each a list of runs:
    ``state`` (of ``IdState``), and where they are not 0 or "" ``attempts``, ``deaths``, ``answer`` (``ok``, or the type
    of the fault), ``caller``, ``subscription``, ``requeued``, and ``as``: its id in the journal, if that is another."""
    problem: str = ""
    """Why it cannot look, if it cannot."""

    def to_json(self, question: Question) -> dict[str, Any]:
        """What stands in the reply: what was asked for alone."""
        said: dict[str, Any] = {"node": self.node}
        if question.service:
            said["offers"] = self.has_service
        if question.lists_services:
            said["services"] = [list(each) for each in self.services]
        if question.asks_about and self.about is not None:
            said["about"] = dict(self.about)
        if question.ids:
            said["known"] = dict(self.known or {})
            if self.problem:
                said["problem"] = self.problem
        return said


def read_answer(said: Any) -> Answer:
    """Raises EnvelopeError: it is none."""
    node = said.get("node") if isinstance(said, dict) else None
    services = said.get("services", []) if isinstance(said, dict) else None
    if not isinstance(node, str) or not isinstance(services, list) or not all(map(_is_service, services)):
        raise EnvelopeError("malformed", "the answer to a discovery names no node")
    about, known, problem = said.get("about"), said.get("known"), said.get("problem", "")
    listed = tuple((kind, name) for kind, name in services)
    if not isinstance(problem, str) or not (known is None or _is_known(known)):
        raise EnvelopeError("malformed", "what the answer to a discovery says of ids is unknown")
    return Answer(node, said.get("offers") is True, listed, about if isinstance(about, dict) else None, known, problem)


def is_id(text: str) -> bool:
    """Whether *text* is an id on the wire: ``0123456789abcdef-1``."""
    return _ID.fullmatch(text) is not None


def _is_known(said: Any) -> bool:
    return isinstance(said, dict) and all(
        isinstance(runs, list) and all(isinstance(run, dict) and isinstance(run.get("state"), str) for run in runs)
        for runs in said.values()
    )


def _is_service(said: Any) -> bool:
    return (
        isinstance(said, list) and len(said) == 2 and said[0] in _KINDS and isinstance(said[1], str) and bool(said[1])
    )
