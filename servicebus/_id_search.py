"""IdSearch: what became of requests, by their ids on the wire: asked of the journals of all nodes, and looked for among
their dead letters on all brokers, and in outboxes and logs that are named. It changes nothing anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from servicebus._discovering import Discovering, survey_ids
from servicebus.client.found import NodeInfo
from servicebus.client.outbox_lookup import KeptMessage, look_in_outbox
from servicebus.configuration import Configuration
from servicebus.errors import NoBrokerAvailable, OutboxUnavailable, TransportError
from servicebus.operations.id_places import BrokerPlaces, FoundDeadLetter, Waiting, look_on_brokers
from servicebus.protocol.discovery import MOST_IDS, Answer, is_id

__all__ = ["WHAT_IDS_ARE", "FoundId", "IdSearch", "LogLine", "NodeRun", "Unasked", "is_searchable"]

WHAT_IDS_ARE = (
    "an id is the 16 digits of its Sender, a dash and the event id: 0123456789abcdef-17. "
    "dead list, call --trace and the logs of agents show it so, and Sender.status() has the digits as sender"
)

UNKNOWN = "unknown"
SEVERAL = "several"
DEAD_LETTERED = "dead-lettered"
IN_OUTBOX = "in-outbox"
REFUSED_IN_OUTBOX = "refused-in-outbox"

_LOG_LINES = 20
"""So many of an id, the last ones."""
_OVER = frozenset({"finished"})
"""What no later answer of a node contradicts."""
_UNREADABLE_ID = re.compile(r"sha256-[0-9a-f]{24}", re.ASCII)
"""How a dead letter is named whose own id cannot be read."""


def is_searchable(text: str) -> bool:
    """Whether *text* is the id of a request or dead letter."""
    return is_id(text) or _UNREADABLE_ID.fullmatch(text) is not None


class NodeRun(NamedTuple):
    """What the journal of a node knows of one run of a request: an event has one for each subscription."""

    node: str
    state: str
    """``queued``, ``running``, ``retrying``, ``finished``, ``interrupted`` or ``refused``."""
    attempts: int = 0
    deaths: int = 0
    """How many of the attempts ended with the death of their worker."""
    answer: str = ""
    """Of a call that is finished: ``ok``, or the type of its error; "" if none is stored (any more)."""
    caller: str = ""
    """Whose key has signed it."""
    subscription: str = ""
    """The service that has subscribed to the event."""
    requeued: int = 0
    """How often it had been sent back from the dead letters."""
    known_as: str = ""
    """Its id in the journal and the log of the node, if that is another."""

    @property
    def place(self) -> tuple[str, str, str, int]:
        return self.node, self.caller, self.subscription, self.requeued


class LogLine(NamedTuple):
    file: str
    line: str


class Unasked(NamedTuple):
    """Who could not be asked, or not completely."""

    broker: str
    node: str
    file: str
    why: str


@dataclass
class FoundId:
    """All that was found of one id."""

    id: str
    runs: list[NodeRun] = field(default_factory=list)
    dead_letters: list[tuple[str, FoundDeadLetter]] = field(default_factory=list)
    """Each with the name of its broker."""
    kept: list[tuple[str, KeptMessage]] = field(default_factory=list)
    """In outboxes, by their paths."""
    logged: list[LogLine] = field(default_factory=list)

    @property
    def places(self) -> int:
        """In how many it was found."""
        return len(self.runs) + len(self.dead_letters) + len(self.kept)

    @property
    def other_runs(self) -> list[NodeRun]:
        """Without those that have ended among the dead letters: the journal is done with them, too."""
        return [run for run in self.runs if not any(_is_dead_letter_of(run, letter) for _, letter in self.dead_letters)]

    @property
    def state(self) -> str:
        """What became of it, in a word: that of its run, ``dead-lettered``, ``in-outbox`` or ``refused-in-outbox``;
        ``several`` if not all places say the same, and ``unknown`` if none has it.
        """
        states = {run.state for run in self.other_runs}
        states |= {DEAD_LETTERED for _, letter in self.dead_letters if letter.found.dead_letter.stamp is not None}
        if not states:  # a node that has it has got it from there
            states |= {REFUSED_IN_OUTBOX if each.refused else IN_OUTBOX for _, each in self.kept}
        return states.pop() if len(states) == 1 else SEVERAL if states else UNKNOWN


class IdSearch:
    """One search for *ids*; ``found`` has the result. Used by one thread."""

    def __init__(self, config: Configuration, ids: Iterable[str], named: Sequence[str] = ()):
        """*named*: nodes that have to answer."""
        self.found = {id: FoundId(id) for id in ids}
        self.nodes: dict[str, NodeInfo] = {}
        """Those that have answered."""
        self.brokers: list[str] = []
        """Those whose dead letters were looked at."""
        self.waiting: dict[str, list[Waiting]] = {}
        """What stands in queues where nobody has looked, by the names of brokers."""
        self.unasked: list[Unasked] = []
        self._config = config
        self._named = tuple(dict.fromkeys(named))

    def ask_nodes(self, sender: Discovering, timeout_s: float, quiet_s: float) -> None:
        """Ask the nodes for what their journals know, *timeout_s* at most for each 50 ids."""
        ids = [id for id in self.found if is_id(id)]
        problems: dict[tuple[str, str], str] = {}
        for first in range(0, len(ids), MOST_IDS):
            try:
                nodes, answers = survey_ids(sender, ids[first : first + MOST_IDS], self._named, timeout_s, quiet_s)
            except NoBrokerAvailable as error:
                problems |= {(broker, ""): why for broker, why in error.attempts}
                continue
            problems |= {(broker, ""): why for broker, why in nodes.unreachable.items()}
            self.nodes |= {each.name: each for each in nodes}
            problems |= {("", answer.node): why for answer in answers if (why := _problem(answer))}
            for answer in answers:
                self._take(answer)
        if ids:
            missing = [name for name in self._named if name not in self.nodes]
            problems |= {("", name): f"no answer within {timeout_s:g} s" for name in missing}
        self.unasked += [Unasked(broker, node, "", why) for (broker, node), why in problems.items()]

    def look_on_brokers(self, on_progress: Callable[[str, int, int], None]) -> None:
        """Look at the dead letters of the nodes that have answered, and of those that are named."""
        nodes = sorted({*self.nodes, *self._named})
        is_unknown = any(not each.runs for each in self.found.values())
        for places in look_on_brokers(self._config, nodes, list(self.found), on_progress, counts_waiting=is_unknown):
            self._take_places(places)

    def look_in_outbox(self, path: str) -> None:
        try:
            for kept in look_in_outbox(path, list(self.found)):
                self.found[kept.id].kept.append((path, kept))
        except OutboxUnavailable as error:
            self.unasked.append(Unasked("", "", path, error.reason))

    def look_in_log(self, path: str) -> None:
        """Keep the last lines that name an id, or another that a node has for it."""
        words = {run.known_as: each for each in self.found.values() for run in each.runs if run.known_as}
        words |= {each.id: each for each in self.found.values()}
        try:
            with Path(path).open(encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    for each in {id(each): each for word, each in words.items() if word in line}.values():
                        each.logged.append(LogLine(path, line.rstrip("\n")))
                        del each.logged[:-_LOG_LINES]
        except OSError as error:
            self.unasked.append(Unasked("", "", path, error.strerror or str(error)))

    # -- inside --------------------------------------------------------------------------------------------------------

    def _take(self, answer: Answer) -> None:
        for id, runs in (answer.known or {}).items():
            for run in runs if id in self.found else ():
                self._take_run(self.found[id], _run(answer.node, run))

    def _take_run(self, found: FoundId, run: NodeRun) -> None:
        """Each worker of a node answers: what is over is over, else the last one knows best."""
        former = next((each for each in found.runs if each.place == run.place), None)
        if former is None:
            found.runs.append(run)
        elif former.state not in _OVER:
            found.runs[found.runs.index(former)] = run

    def _take_places(self, places: BrokerPlaces) -> None:
        for letter in places.dead_letters:
            self.found[letter.found.dead_letter.id].dead_letters.append((places.host, letter))
        if places.waiting:
            self.waiting[places.host] = places.waiting
        if places.error is None:
            self.brokers.append(places.host)
        elif not any(each.broker == places.host for each in self.unasked):
            self.unasked.append(Unasked(places.host, "", "", _reason(places.error)))


def _is_dead_letter_of(run: NodeRun, letter: FoundDeadLetter) -> bool:
    found = letter.found.dead_letter
    if found.stamp is None or (letter.node, found.subscription) != (run.node, run.subscription):
        return False
    return run.known_as == found.stamp.former if found.stamp.former else not run.requeued


def _problem(answer: Answer) -> str:
    return "its version knows no such question" if answer.known is None else answer.problem


def _reason(error: TransportError) -> str:
    return str(getattr(error, "reason", error))


def _run(node: str, said: Mapping[str, Any]) -> NodeRun:
    """What a node says of a run, whatever else that may be."""
    numbers = {name: said[name] for name in ("attempts", "deaths", "requeued") if type(said.get(name)) is int}
    texts = {name: said[name] for name in ("answer", "caller", "subscription") if isinstance(said.get(name), str)}
    known_as = said.get("as")
    return NodeRun(node, said["state"], **numbers, **texts, known_as=known_as if isinstance(known_as, str) else "")
