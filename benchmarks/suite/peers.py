"""Whom servicebus is measured beside, and what each of them can do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.suite.settings import ROOT, Settings

PROGRAMS = ROOT / "benchmarks" / "peers"
OURS = "servicebus"
FLOOR = "C floor"
NUROPB = "nuropb"
RAW_PIKA = ("pika select", "pika blocking")


@dataclass(frozen=True)
class Peer:
    """A program of benchmarks/peers, run as ``PROGRAM server`` and ``PROGRAM client``."""

    name: str
    program: str
    ready: str
    """The queue whose first consumer means that the server serves; ``{}`` stands for the number of the server."""
    venv: str = ""
    """Its virtual environment, made from requirements/VENV.txt; without one it runs in ours, or is compiled."""
    variant: str = ""
    idioms: tuple[str, ...] = ()
    """Of many calls in flight: ``futures``, ``tasks``, ``threads``."""
    messages: tuple[str, ...] = ("pub", "e2e")
    """Phases of messages; ``pubw`` of those that can have many unconfirmed."""
    confirms: bool = True
    is_framework: bool = True
    in_flight_by_size: bool = True
    """Whether many long calls in flight come to an end."""
    many_hosts: bool = False
    """Whether it is given more than one broker."""
    environment: Mapping[str, str] = field(default_factory=dict)
    distribution: str = ""
    """Whose version is told, as its requirements name it."""
    python: Path | None = None
    """Another interpreter for our own program, such as that of an earlier revision."""

    @property
    def best_idiom(self) -> str | None:
        """The fastest way to keep many calls in flight: never threads where there is another."""
        return self.idioms[0] if self.idioms else None

    def with_settings(self, name: str, settings: Mapping[str, object]) -> Peer:
        """Our own program with other settings."""
        return replace(self, name=name, environment={**self.environment, "PEER_SETTINGS": json.dumps(settings)})


WINDOWED = ("pub", "pubw", "e2e")
SERVICEBUS = Peer(
    OURS, "servicebus_peer.py", "BENCH.rpc", idioms=("futures", "threads"), messages=WINDOWED, many_hosts=True
)
ASYNCIO = replace(
    SERVICEBUS, name="servicebus asyncio", variant="asyncio", idioms=("tasks",), is_framework=False, many_hosts=False
)
"""Our own AsyncSender: no other framework."""
UVLOOP = replace(ASYNCIO, name="servicebus uvloop", variant="uvloop")
"""The same on uvloop, which has to be installed; only where it is asked for."""
ALL = (
    SERVICEBUS,
    ASYNCIO,
    Peer(FLOOR, "floor.c", "floor_rpc", idioms=("futures",), messages=WINDOWED, is_framework=False),
    Peer(
        "pika select", "pika_best.py", "best_rpc", "pika", "select", ("futures",), WINDOWED,
        is_framework=False, distribution="pika",
    ),
    Peer(
        "pika blocking", "pika_best.py", "best_rpc", "pika", "blocking", ("futures", "threads"),
        is_framework=False, many_hosts=True, distribution="pika",
    ),
    Peer(
        NUROPB, "nuropb_rpc.py", "nuropb-nuropb_adder-sq", "nuropb", "", ("tasks",), WINDOWED,
        confirms=False, distribution="nuropb",
    ),
    Peer(
        "aio-pika RPC", "aio_pika_rpc.py", "aio_pika_add", "aio", "", ("tasks",), WINDOWED, distribution="aio-pika"
    ),
    Peer("mela", "mela_rpc.py", "mela_add", "mela", "", ("tasks",), WINDOWED, distribution="mela"),
    Peer(
        "nameko", "nameko_rpc.py", "rpc-nameko_adder", "nameko", "", ("futures", "threads"),
        many_hosts=True, distribution="nameko",
    ),
    Peer(
        "FastStream", "faststream_rabbit.py", "faststream_add", "aio", "", ("tasks",), WINDOWED,
        distribution="faststream",
    ),
    Peer(
        "Celery", "celery_app.py", "celery_queue", "celery", "prefork", ("futures", "threads"),
        many_hosts=True, distribution="celery",
    ),
    Peer("oslo.messaging", "oslo_rpc.py", "oslo_adder", "oslo", "", ("threads",), distribution="oslo.messaging"),
    Peer(
        "py-servicebus 2.19", "py_servicebus.py", "servicebus_node", "py_servicebus", "", ("threads",), ("e2e",),
        confirms=False, in_flight_by_size=False, many_hosts=True,
    ),
    Peer("dramatiq", "dramatiq_work.py", "dramatiq_work", "dramatiq", "", (), distribution="dramatiq"),
)  # fmt: skip


_NODE_QUEUES = {
    OURS: "BENCH-{}.events.math.work",
    NUROPB: "nuropb-nuropb_node_{}-sq",
    "mela": "mela_orders_{}",
    "nameko": "evt-nameko_source-order--nameko_node_{}.order",
    "FastStream": "faststream_orders_{}",
}
EVENTS = tuple(
    replace(peer, variant="events", ready=_NODE_QUEUES[peer.name], idioms=(), messages=("e2e",), many_hosts=False)
    for peer in ALL
    if peer.name in _NODE_QUEUES
)
"""Those that have events, with a node for each server."""


def chosen(settings: Settings, among: Sequence[Peer] = ALL) -> list[Peer]:
    """Those of *among* that ``--only`` names; a whole name means nobody else, though others may contain it."""
    whole = {peer.name.lower() for peer in among}
    words = [word.lower() for word in settings.only]

    def is_meant(name: str) -> bool:
        return any(word == name if word in whole else word in name for word in words)

    return [peer for peer in among if not words or is_meant(peer.name.lower())]


def known(name: str) -> Peer:
    """The one of that name; our own for one that was made by ``--against``."""
    return next((peer for peer in ALL if peer.name == name), SERVICEBUS)
