"""FleetView: nodes and brokers as one program knows them, and what has changed from one look to the next. Pure.

A path is one node over one broker. It answers, or its broker is lost, or it is silent: the broker works and the node
has not answered over it twice in a row. A path is known from the first answer over it on, or as soon as the node says
that the broker is in its file. A node that has never answered cannot be known.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple

from servicebus.fleet.load import ServiceLoad, WorkerLoad, merged

__all__ = [
    "BrokerView",
    "Change",
    "FleetView",
    "Look",
    "NodeView",
    "PathState",
    "PathView",
    "ServiceSum",
    "ServiceView",
    "WorkerView",
    "seen",
]

_MISSES = 2
"""A node that its machine leaves no time may miss one question."""
_MOST_MET = 1000
_ORDER = ("deploy", "services", "worker new", "path back", "path lost", "node new", "node back", "node lost")
"""Of what one look has found; the state of brokers comes last. A timeline shows the latest first."""
FORGET_S = 24 * 3600.0
"""A node that has not answered for so long is taken from the list."""


class PathState(str, Enum):
    """Whether a node can be reached over a broker."""

    ANSWERS = "answers"
    SILENT = "silent"
    """The broker works, and the node does not answer over it."""
    BROKER_LOST = "broker lost"

    __str__ = str.__str__


class PathView(NamedTuple):
    """One node over one broker."""

    state: PathState
    since: float
    """Unix time."""


@dataclass(frozen=True, slots=True)
class BrokerView:
    """One broker of the configuration."""

    name: str
    since: float
    """Unix time of the last change."""
    problem: str = ""
    """Why it cannot be asked; "" if it can."""


class WorkerView(NamedTuple):
    """One worker of a node, as it says itself."""

    machine: str
    pid: int
    since: float
    """Unix time, by its own clock."""
    counters: Mapping[str, int]
    per_s: Mapping[str, float]
    """How fast the counters have grown since the look before; empty at first."""
    broker: str = ""
    """Over which it has answered."""
    load: WorkerLoad | None = None
    """As it was said last; None if it was not asked for, or by an agent of an earlier version."""

    @property
    def key(self) -> tuple[str, int, float]:
        """No two workers have the same."""
        return self.machine, self.pid, self.since


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node."""

    name: str
    paths: Mapping[str, PathView]
    versions: tuple[str, ...] = ()
    """Of its agents; several while they are being replaced."""
    services: tuple[tuple[str, str], ...] = ()
    """Kind and ``category.name``."""
    misses: Mapping[str, int] = field(default_factory=dict, compare=False)
    """How often in a row it has not answered over a broker that works."""
    workers: tuple[WorkerView, ...] = field(default=(), compare=False)
    """Those that the last look has heard."""
    met: frozenset[tuple[str, int, float]] = field(default=frozenset(), compare=False)
    """The keys of all workers that were heard; of the latest ones."""

    @property
    def answers(self) -> bool:
        return any(path.state is PathState.ANSWERS for path in self.paths.values())

    @property
    def is_whole(self) -> bool:
        """It answers over every broker over which it ever did."""
        return all(path.state is PathState.ANSWERS for path in self.paths.values())

    @property
    def is_well(self) -> bool:
        """Nothing is wrong with the node itself; a broker that is lost is not its fault."""
        return not self.problems and all(path.state is not PathState.SILENT for path in self.paths.values())

    @property
    def calls_per_s(self) -> float | None:
        """Calls that its workers have executed in a second; None if that is not known yet."""
        return self._per_s("executed.call")

    @property
    def messages_per_s(self) -> float | None:
        """The same of messages and events."""
        return self._per_s("executed.message", "executed.event")

    def _per_s(self, *names: str) -> float | None:
        rates = [each.per_s for each in self.workers if each.per_s]
        return sum(rate.get(name, 0.0) for rate in rates for name in names) if rates else None

    @property
    def loads(self) -> list[ServiceLoad]:
        """How its services are, those of all its workers together, by name."""
        found: dict[tuple[str, str], list[ServiceLoad]] = {}
        for each in self.worker_loads():
            found.setdefault((each.name, each.kind), []).append(each)
        return [merged(parts) for _, parts in sorted(found.items())]

    def worker_loads(self) -> Iterator[ServiceLoad]:
        """How its services are, at each of its workers."""
        for worker in self.workers:
            yield from () if worker.load is None else worker.load.services

    @property
    def problems(self) -> list[str]:
        """What its workers say that they cannot do, each once, with the broker."""
        said = (f"{worker.broker}: {text}" for worker in self.workers if worker.load for text in worker.load.problems)
        return list(dict.fromkeys(said))

    @property
    def machines(self) -> list[str]:
        """Those on which its workers ran that were heard."""
        return sorted({machine for machine, _, _ in self.met})

    @property
    def changed_at(self) -> float:
        return max(path.since for path in self.paths.values())


class ServiceView(NamedTuple):
    """One service, and the nodes that have it."""

    kind: str
    name: str
    nodes: Sequence[NodeView]


class ServiceSum(NamedTuple):
    """How one service is, at all nodes that have it together."""

    load: ServiceLoad
    nodes: Sequence[str]
    """Their names."""


@dataclass(frozen=True, slots=True)
class FleetView:
    """All of it, at one moment. Never changed."""

    brokers: tuple[BrokerView, ...]
    nodes: Mapping[str, NodeView] = field(default_factory=dict)
    revision: int = 0
    """Grows with whatever can be seen."""

    def services(self) -> Iterator[ServiceView]:
        """Those of nodes that answer, by name."""
        yield from _services(node for node in self.nodes.values() if node.answers)

    def lost_services(self) -> Iterator[ServiceView]:
        """Those that no node has which answers, and the nodes that had them, by name."""
        left = {(each.kind, each.name) for each in self.services()}
        lost = _services(node for node in self.nodes.values() if not node.answers)
        yield from (each for each in lost if (each.kind, each.name) not in left)

    def sums(self) -> list[ServiceSum]:
        """How each service is, as the nodes say that answer, by name.

        Of all workers at once: 200 nodes with 20 services on three brokers have 12,000 loads, and to merge those of
        each node first takes several times as long.
        """
        found: dict[tuple[str, str], tuple[list[ServiceLoad], dict[str, None]]] = {}
        for node in self.nodes.values():
            for each in node.worker_loads() if node.answers else ():
                loads, nodes = found.setdefault((each.name, each.kind), ([], {}))
                loads.append(each)
                nodes[node.name] = None
        return [ServiceSum(merged(loads), list(nodes)) for _, (loads, nodes) in sorted(found.items())]


def _services(nodes: Iterable[NodeView]) -> Iterator[ServiceView]:
    found: dict[tuple[str, str], list[NodeView]] = {}
    for node in nodes:
        for kind, name in node.services:
            found.setdefault((name, kind), []).append(node)
    for (name, kind), having in sorted(found.items()):
        yield ServiceView(kind, name, having)


class Look(NamedTuple):
    """What one question to all nodes has found."""

    nodes: Mapping[str, Sequence[str]]
    """The brokers over which each node has answered."""
    unreachable: Mapping[str, str]
    """Why, by the name of the broker."""
    versions: Mapping[str, tuple[str, ...]]
    services: Mapping[str, tuple[tuple[str, str], ...]] | None = None
    """None if they were not asked for."""
    workers: Mapping[str, tuple[WorkerView, ...]] = MappingProxyType({})


class Change(NamedTuple):
    """One line of the timeline."""

    at: float
    """Unix time."""
    kind: str
    node: str
    broker: str
    text: str


def seen(view: FleetView, look: Look, now: float) -> tuple[FleetView, list[Change]]:
    """The fleet after *look*, and what has changed."""
    changes: list[Change] = []
    brokers = tuple(_broker(each, look, now, changes) for each in view.brokers)
    names = [broker.name for broker in brokers]
    nodes: dict[str, NodeView] = {}
    for name in sorted({*view.nodes, *look.nodes}):
        before = view.nodes.get(name)
        node = _node(before or NodeView(name, {}), look, names, now, changes)
        if node.answers or now - node.changed_at < FORGET_S:
            nodes[name] = node
    changes.sort(key=_place)
    is_changed = brokers != view.brokers or nodes != view.nodes or _problems(nodes) != _problems(view.nodes)
    return replace(view, brokers=brokers, nodes=nodes, revision=view.revision + is_changed), changes


def _problems(nodes: Mapping[str, NodeView]) -> dict[str, list[str]]:
    return {node.name: problems for node in nodes.values() if (problems := node.problems)}


def _place(change: Change) -> tuple[int, str, str]:
    """Where *change* stands among others of the same look: the same of all nodes beside each other."""
    place = _ORDER.index(change.kind) if change.kind in _ORDER else len(_ORDER)
    return place, change.broker, change.text


def _broker(before: BrokerView, look: Look, now: float, changes: list[Change]) -> BrokerView:
    problem = look.unreachable.get(before.name, "")
    if bool(problem) == bool(before.problem):
        return before if problem == before.problem else replace(before, problem=problem)
    kind, text = ("broker lost", problem) if problem else ("broker back", "it can be asked again")
    changes.append(Change(now, kind, "", before.name, text))
    return BrokerView(before.name, now, problem)


def _node(before: NodeView, look: Look, brokers: Collection[str], now: float, changes: list[Change]) -> NodeView:
    heard = look.nodes.get(before.name, ())
    loads = [worker.load for worker in look.workers.get(before.name, ()) if worker.load is not None]
    own = [broker for load in loads for broker in load.brokers if broker in brokers]
    misses: dict[str, int] = {}
    paths: dict[str, PathView] = {}
    for broker in dict.fromkeys([*before.paths, *heard, *own]):
        known = before.paths.get(broker)
        is_missed = broker not in heard and broker not in look.unreachable
        misses[broker] = before.misses.get(broker, 0) + 1 if is_missed else 0
        state = _state(known, broker, heard, look, misses[broker])
        if state is None:
            continue
        paths[broker] = known if known is not None and known.state is state else PathView(state, now)
        if known is not None and known.state is not state:
            kind = "path back" if state is PathState.ANSWERS else "path lost"
            changes.append(Change(now, kind, before.name, broker, state.value))
    services = look.services.get(before.name) if look.services is not None else None
    node = NodeView(
        before.name,
        paths,
        look.versions.get(before.name) or before.versions,
        before.services if services is None else services,
        misses,
        look.workers.get(before.name, ()),
    )
    met = {each.key for each in node.workers}
    node = replace(node, met=frozenset(met | before.met if len(before.met) < _MOST_MET else met))
    _tell(before, node, now, changes)
    return node


def _state(known: PathView | None, broker: str, heard: Sequence[str], look: Look, misses: int) -> PathState | None:
    """None: it is to be there, and was not heard yet."""
    if broker in heard:
        return PathState.ANSWERS
    if broker in look.unreachable:
        return PathState.BROKER_LOST
    if misses >= _MISSES:
        return PathState.SILENT
    return None if known is None else known.state


def _tell(before: NodeView, node: NodeView, now: float, changes: list[Change]) -> None:
    def tell(kind: str, text: str) -> None:
        changes.append(Change(now, kind, node.name, "", text))

    if not before.paths:
        heard = [broker for broker, path in node.paths.items() if path.state is PathState.ANSWERS]
        tell("node new", f"answers over {', '.join(heard)}")
    elif node.answers != before.answers:
        tell(*(("node back", "it answers again") if node.answers else ("node lost", "it answers over no broker")))
    if before.met:
        for worker in node.workers:
            if worker.key not in before.met:
                tell("worker new", f"pid {worker.pid} on {worker.machine} serves")
    if before.versions and node.versions != before.versions:
        tell("deploy", f"{', '.join(before.versions)} to {', '.join(node.versions)}")
    if before.services and node.services != before.services:
        added, gone = set(node.services) - set(before.services), set(before.services) - set(node.services)
        texts = [f"+ {name}" for _, name in sorted(added)] + [f"- {name}" for _, name in sorted(gone)]
        tell("services", ", ".join(texts))
