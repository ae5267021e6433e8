"""When which fault hits what: a pure function of a seed, so that a run can be had again.

A fault is only placed where its target has recovered from the one before, and outages so that one host stays reachable,
except for ``all-away``, which is there for the seconds in which nobody is.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from tests.chaos.kinds import KINDS
from tests.chaos.subscribers import event_queues, plain_queues

__all__ = ["Fault", "Targets", "schedule"]

_PER_MINUTE = 8.0
_FIRST_AT_S = 5.0
_CALM_S = 5.0
"""Before the end: the world is whole again when the senders stop, as far as the schedule can tell."""
_LONG_RUN_MINUTES = 10.0
_HOSTS_OUT = 2
_STEP_S = 0.25


@dataclass(frozen=True)
class Fault:
    """Something that is broken *at_s* seconds after the start and heals *duration_s* later."""

    at_s: float
    kind: str
    target: str
    duration_s: float

    @property
    def ends_s(self) -> float:
        return self.at_s + self.duration_s


@dataclass(frozen=True)
class Targets:
    """What there is to break. A host is a list of endpoints: one broker, or the members of a cluster."""

    hosts: dict[str, tuple[str, ...]]
    nodes: tuple[str, ...]
    queues: tuple[str, ...] = (".rpc", ".control", ".messages")
    """What stands behind a node's name in the names of its queues."""
    kept_queues: tuple[str, ...] = tuple(event_queues())
    """More of those. Who deletes one ends a subscription: events that come before it is there again are not for it."""
    plain_queues: tuple[str, ...] = tuple(plain_queues())
    """More of those, of other programs."""
    clocks: tuple[str, ...] = ("senders",)
    bridges: tuple[str, ...] = ()
    callers: tuple[str, ...] = ()

    def aimed_at(self, kind: str) -> list[str]:
        """The names of all targets of *kind*."""
        aims_at = KINDS[kind].aims_at
        if aims_at == "endpoint":
            return [endpoint for endpoints in self.hosts.values() for endpoint in endpoints]
        if aims_at == "queue":
            kept = self.kept_queues if kind != "queue-deleted" else ()
            queues = (*self.queues, *kept, *self.plain_queues)
            return [f"{host}/{node}{queue}" for host in self.hosts for node in self.nodes for queue in queues]
        if aims_at in ("worker", "store"):
            return [f"{node}@{host}" for host in self.hosts for node in self.nodes]
        if aims_at in ("agent", "bridge", "caller"):
            return list({"agent": self.nodes, "bridge": self.bridges, "caller": self.callers}[aims_at])
        return [*self.clocks, *self.nodes] if aims_at == "clock" else ["all"]

    def host_of(self, target: str) -> str | None:
        """The host that *target* belongs to; None for an agent or a clock."""
        named = target.partition("/")[0].rpartition("@")[2]
        return next((host for host, endpoints in self.hosts.items() if named == host or named in endpoints), None)


def schedule(seed: int, minutes: float, kinds: Sequence[str], targets: Targets) -> list[Fault]:
    """The faults of a run, in order of time: each of *kinds* at least once, as far as it fits, then any of them."""
    chosen = [kind for kind in kinds if minutes >= _LONG_RUN_MINUTES or not KINDS[kind].long_runs_only]
    if not chosen:
        return []
    rng = random.Random(seed)
    end_s = minutes * 60.0 - _CALM_S
    count = max(round(minutes * _PER_MINUTE), len(chosen))
    gap_s = (end_s - _FIRST_AT_S) / count
    plan = _Plan(targets, end_s)
    for number, kind in enumerate(_in_rounds(rng, chosen, count)):
        at_s = _FIRST_AT_S + gap_s * (number + rng.random() * 0.8)
        plan.place(rng, kind, at_s)
    return sorted(plan.faults, key=lambda fault: (fault.at_s, fault.kind, fault.target))


def _in_rounds(rng: random.Random, kinds: Sequence[str], count: int) -> Iterator[str]:
    """*count* kinds: all of them in an order of chance, then all of them again."""
    waiting: list[str] = []
    for _ in range(count):
        if not waiting:
            waiting = rng.sample(list(kinds), len(kinds))
        yield waiting.pop()


@dataclass
class _Plan:
    targets: Targets
    end_s: float
    faults: list[Fault] = field(default_factory=list)

    def place(self, rng: random.Random, kind: str, at_s: float) -> None:
        """Put a fault of *kind* at the first moment from *at_s* on that suits, or an earlier one if there is none."""
        duration_s = round(rng.uniform(*KINDS[kind].lasts_s), 2)
        names = self.targets.aimed_at(kind)
        order = rng.sample(names, len(names))
        for moment_s in self._moments(at_s, duration_s + KINDS[kind].recovers_s / 2):
            at_that_moment = Fault(round(moment_s, 2), kind, "", duration_s)
            beside = [other for other in self.faults if _meet(at_that_moment, other)]
            for target in order:
                fault = replace(at_that_moment, target=target)
                if self._suits(fault, beside):
                    self.faults.append(fault)
                    return

    def _moments(self, at_s: float, takes_s: float) -> Iterator[float]:
        last_s = self.end_s - takes_s
        steps = int((last_s - _FIRST_AT_S) / _STEP_S)
        begin = int((at_s - _FIRST_AT_S) / _STEP_S)
        yield from (at_s + _STEP_S * step for step in range(steps - begin))
        yield from (_FIRST_AT_S + _STEP_S * step for step in range(min(begin, steps)))

    def _suits(self, fault: Fault, beside: list[Fault]) -> bool:
        if fault.kind == "all-away":
            return not any(KINDS[other.kind].is_outage for other in beside)
        if any(other.kind == "all-away" for other in beside):
            return not KINDS[fault.kind].is_outage and KINDS[fault.kind].aims_at not in ("endpoint", "queue", "store")
        if any(self._same_thing(fault.target, other.target) for other in beside):
            return False
        if not KINDS[fault.kind].is_outage:
            return True
        out = {self.targets.host_of(other.target) for other in beside if KINDS[other.kind].is_outage}
        host = self.targets.host_of(fault.target)
        if host in out:
            return False  # of a cluster one member at a time: two of three are no majority
        return len(out | {host}) <= min(_HOSTS_OUT, len(self.targets.hosts) - 1)

    def _same_thing(self, one: str, other: str) -> bool:
        if one == other:
            return True
        # A queue or a worker cannot be looked up on a broker that is down.
        hosts = (self.targets.host_of(one), self.targets.host_of(other))
        if hosts[0] is not None and hosts[0] == hosts[1]:
            return True
        return bool({one, other} & set(self.targets.nodes)) and one.partition("@")[0] == other.partition("@")[0]


def _meet(one: Fault, other: Fault) -> bool:
    """Whether the one begins before the other is over, and its traces with it."""
    first, second = (one, other) if one.at_s <= other.at_s else (other, one)
    return second.at_s < first.ends_s + KINDS[first.kind].recovers_s
