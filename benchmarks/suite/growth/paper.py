"""What a fleet needs, on paper: from what one worker, one Sender and one call cost a broker. Pure, and linear."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

NODE_LIMITS = {"Erlang processes": 1_048_576, "TCP ports of the Erlang machine": 65_536}
"""RabbitMQ's own, as it starts: RABBITMQ_MAX_NUMBER_OF_PROCESSES and ERL_MAX_PORTS. Both may be raised."""
TCP_KIB = 100.0
"""Of a connection's buffers in the kernel: RabbitMQ's guide to networking says 80 to 120 KB."""


@dataclass(frozen=True)
class Share:
    """What one of something takes of a broker."""

    connections: float
    channels: float
    queues: float
    consumers: float
    processes: float
    memory_kib: float
    cores_at_rest: float

    def __add__(self, other: Share) -> Share:
        return Share(*(mine + theirs for mine, theirs in zip(self._values, other._values, strict=True)))

    def times(self, count: float) -> Share:
        return Share(*(value * count for value in self._values))

    @property
    def _values(self) -> tuple[float, ...]:
        return tuple(self.__dict__.values())


@dataclass(frozen=True)
class Prices:
    """As measured: an empty broker, one worker with its node's queues, one Sender that is at rest, one call."""

    empty_kib: float
    worker: Share
    sender: Share
    call_cpu_us: float


@dataclass(frozen=True)
class Machine:
    """What a broker runs on, and how much of that is to be used at most."""

    memory_gib: float = 16.0
    cores: float = 8.0
    watermark: float = 0.4
    """vm_memory_high_watermark: beyond it publishers are blocked."""
    memory_share: float = 0.5
    """Of the watermark: the rest is for messages, and for the others when a broker is lost."""
    core_share: float = 0.5

    @property
    def memory_kib(self) -> float:
        return self.memory_gib * 1024 * 1024 * self.watermark * self.memory_share


@dataclass(frozen=True)
class Load:
    """What one node brings along."""

    senders: float = 1.0
    calls_per_s: float = 1.0


def on_a_broker(nodes: float, load: Load, prices: Prices) -> Share:
    """What one of the brokers of *nodes* nodes carries, calls included: the worst case, in which all choose it."""
    rest = prices.worker.times(nodes) + prices.sender.times(nodes * load.senders)
    calls = Share(0, 0, 0, 0, 0, prices.empty_kib, nodes * load.calls_per_s * prices.call_cpu_us / 1e6)
    return rest + calls


def limits(load: Load, prices: Prices, machine: Machine) -> Mapping[str, float]:
    """How many nodes a broker can carry by each limit."""
    one = on_a_broker(1, load, prices)
    room_kib = machine.memory_kib - prices.empty_kib
    return {
        "memory": room_kib / (one.memory_kib - prices.empty_kib),
        "cores": machine.cores * machine.core_share / one.cores_at_rest,
        # Files and ports: each connection has one; RabbitMQ advises half as many again for its own files.
        "TCP ports of the Erlang machine": NODE_LIMITS["TCP ports of the Erlang machine"] / (1.5 * one.connections),
        "Erlang processes": NODE_LIMITS["Erlang processes"] / one.processes,
    }


@dataclass(frozen=True)
class Fleet:
    """So many nodes, in shards that have *brokers* brokers each, all of which every node of the shard serves."""

    nodes: int
    shards: int
    brokers: int
    each: Share

    @property
    def nodes_per_shard(self) -> int:
        return -(-self.nodes // self.shards)


def fleet(nodes: int, load: Load, prices: Prices, machine: Machine, brokers: int = 2) -> Fleet:
    """The fewest shards in which each broker is within its limits, even if it carries its shard alone."""
    most = min(limits(load, prices, machine).values())
    shards = max(1, -(-nodes // max(1, int(most))))
    return Fleet(nodes, shards, brokers, on_a_broker(-(-nodes // shards), load, prices))
