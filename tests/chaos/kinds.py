"""The kinds of faults: what each is aimed at, how long it lasts, and how long what it broke needs to be whole again.

Only words and numbers; what a fault does stands in ``faults``.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["KINDS", "Kind"]


@dataclass(frozen=True)
class Kind:
    """One kind of fault."""

    aims_at: str
    """``endpoint`` (a broker or a cluster's member), ``queue``, ``store`` (what a node keeps on a host), ``agent``,
    ``worker``, ``bridge``, ``caller``, ``clock`` or ``all``."""
    lasts_s: tuple[float, float]
    """Between the first and the second; both 0 for what is over in a moment."""
    recovers_s: float
    """Until the next fault may hit the same target: else a run would only see brokers that are starting."""
    is_outage: bool = False
    """Nobody gets through meanwhile; one host at least is spared this."""
    long_runs_only: bool = False


KINDS: dict[str, Kind] = {
    # Brokers.
    "broker-kill": Kind("endpoint", (1.0, 6.0), 8.0, is_outage=True),
    "broker-stop": Kind("endpoint", (1.0, 6.0), 8.0, is_outage=True),
    "broker-restart": Kind("endpoint", (0.0, 0.0), 10.0, is_outage=True),
    "freeze-3s": Kind("endpoint", (3.0, 3.0), 4.0, is_outage=True),
    "freeze-10s": Kind("endpoint", (10.0, 10.0), 8.0, is_outage=True),
    "freeze-60s": Kind("endpoint", (60.0, 60.0), 15.0, is_outage=True, long_runs_only=True),
    "memory-alarm": Kind("endpoint", (2.0, 8.0), 4.0, is_outage=True),
    "disk-alarm": Kind("endpoint", (2.0, 8.0), 4.0, is_outage=True),
    # Networks.
    "drop-both": Kind("endpoint", (2.0, 12.0), 6.0, is_outage=True),
    "drop-to-broker": Kind("endpoint", (2.0, 12.0), 6.0, is_outage=True),
    "drop-from-broker": Kind("endpoint", (2.0, 12.0), 6.0, is_outage=True),
    "reset-in-frame": Kind("endpoint", (0.0, 0.0), 3.0),
    "delay": Kind("endpoint", (3.0, 10.0), 3.0),
    "loss": Kind("endpoint", (3.0, 10.0), 3.0),
    "slow-link": Kind("endpoint", (4.0, 10.0), 4.0),
    "all-away": Kind("all", (2.0, 5.0), 8.0, is_outage=True),
    # What the broker does to its users.
    "connections-closed": Kind("endpoint", (0.0, 0.0), 3.0),
    "connection-closed": Kind("endpoint", (0.0, 0.0), 2.0),
    "queue-deleted": Kind("queue", (0.0, 0.0), 3.0),
    "queue-crashed": Kind("queue", (0.0, 0.0), 3.0),
    "consumer-cancelled": Kind("queue", (0.0, 0.0), 3.0),
    "consumer-forgotten": Kind("queue", (0.0, 0.0), 16.0),
    # Queues that are full, and what a stranger and an operator do to the dead letters.
    "messages-full": Kind("store", (2.0, 8.0), 3.0),
    "events-full": Kind("store", (2.0, 8.0), 3.0),
    "delays-full": Kind("store", (2.0, 8.0), 3.0),
    "dead-letters-full": Kind("store", (2.0, 8.0), 3.0),
    "dead-requeued": Kind("store", (0.0, 0.0), 3.0),
    # Processes of agents.
    "worker-kill": Kind("worker", (0.0, 0.0), 3.0),
    "worker-freeze-3s": Kind("worker", (3.0, 3.0), 3.0),
    "worker-freeze-10s": Kind("worker", (10.0, 10.0), 6.0),
    "agent-rolled": Kind("agent", (0.0, 0.0), 10.0),
    "workers-rolled": Kind("agent", (0.0, 0.0), 10.0),
    # Other processes: the bridge, and named callers.
    "bridge-kill": Kind("bridge", (0.5, 3.0), 10.0),
    "key-changed": Kind("caller", (0.0, 0.0), 120.0),
    # Clocks.
    "clock-skewed": Kind("clock", (3.0, 15.0), 3.0),
    "clock-wrong": Kind("clock", (1.0, 3.0), 3.0),
}
