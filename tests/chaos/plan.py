"""Plan: what a run consists of."""

from __future__ import annotations

from dataclasses import dataclass

from tests.chaos.callers import CHANGING
from tests.chaos.schedule import Targets

__all__ = ["BRIDGE", "CLUSTER", "SECRET", "Plan"]

SECRET = "the secret of the rig"
BRIDGE = "bridge"
CLUSTER = "mq"


@dataclass(frozen=True)
class Plan:
    """What a run consists of."""

    minutes: float = 2.0
    seed: int = 1
    agents: int = 2
    """Of different nodes; one more node is served by two workers per host."""
    senders: int = 4
    calls_per_s: float = 175.0
    messages_per_s: float = 175.0
    brokers: int = 3
    small_brokers: int = 1
    """The last so many of them take no large messages, no large frames, and few channels."""
    has_cluster: bool = True
    plant: str | None = None
    poison: bool = False
    system: str = "servicebus"
    events_per_s: float = 35.0
    streams_per_s: float = 1.75
    plain_per_s: float = 8.75
    """Messages of other programs: through the services of a pipeline, or over the bridge."""
    what: int = 0
    """At its end ``servicebus what`` is asked for so many ids."""

    @property
    def is_old(self) -> bool:
        """It is py-servicebus 2.19 that runs."""
        return self.system != "servicebus"

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(f"NODE-{number}" for number in range(1, self.agents + 2))

    @property
    def targets(self) -> Targets:
        hosts: dict[str, tuple[str, ...]] = {name: (name,) for name in "abcdefg"[: self.brokers]}
        if self.has_cluster:
            hosts[CLUSTER] = ("m1", "m2", "m3")
        if self.is_old:
            return Targets(hosts, self.nodes, queues=("",), kept_queues=(), plain_queues=())
        return Targets(hosts, self.nodes, bridges=(BRIDGE,), callers=tuple(CHANGING))

    @property
    def bridged_hosts(self) -> tuple[str, str]:
        """Of the bridge: its source and its target."""
        names = list(self.targets.hosts)
        return names[0], CLUSTER if self.has_cluster else names[min(1, len(names) - 1)]

    @property
    def queue_type(self) -> str:
        return "quorum" if self.has_cluster else "classic"
