"""The pipelines of the rig: messages of other programs that services consume, pass on, and that a bridge moves.

Each node consumes a queue ``step``, and publishes to the queue ``end`` of another what it has worked on. The last node
consumes ``moved`` on one broker alone: what a bridge brings there from another one. Each is a stage, named as the
subscribers of events are, ``NODE.category.name``.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from servicebus._plain import MessageProperties
from servicebus.plain import PlainMessage, PlainPublisher
from servicebus.services import Request
from servicebus.typed import Services
from tests.chaos.history import History

__all__ = [
    "BRIDGED",
    "EXCHANGE",
    "MOVED",
    "PATHS",
    "add_pipes",
    "bridge_entry",
    "moved_stage",
    "stages",
]

EXCHANGE = "chaos.plain"
BRIDGED = "chaos.bridge"
"""The queue from which the bridge takes, and the routing key to it."""
MOVED = "chaos.moved"
PATHS = {"plain": 0.55, "flaky": 0.12, "broken": 0.03, BRIDGED: 0.3}
"""How often each is taken, of 1: what the service of the first stage does, or the bridge."""
_PUBLISH_S = 5.0


class PipeFailure(Exception):
    """What a stage raises on purpose."""


def stages(node: str, then: str) -> list[str]:
    return [f"{node}.pipe.step", f"{then}.pipe.end"]


def moved_stage(nodes: Sequence[str]) -> str:
    return f"{nodes[-1]}.pipe.moved"


def bridge_entry(hosts: tuple[str, str], arguments: dict[str, Any]) -> dict[str, Any]:
    """From the one host to the other; what is refused is tried again for longer than any fault lasts."""
    source, target = hosts
    queue = {"host": source, "queue": BRIDGED, "exchange": EXCHANGE, "routing_key": BRIDGED, "arguments": arguments}
    return {"from": queue, "to": {"host": target, "exchange": EXCHANGE, "routing_key": MOVED}, "retry": [1.0] * 100}


def add_pipes(bus: Any, history: History, node: str, nodes: Sequence[str], pipes: dict[str, Any]) -> None:
    """Register those of *node*; *pipes*: ``moved_host`` (name), ``arguments`` of queues, ``retry``."""
    pipe = Services("pipe")
    how = {"exchange": EXCHANGE, "arguments": pipes["arguments"], "retry": pipes["retry"], "threads": 2}

    @pipe.consume(f"{node}.pipe.step", routing_key=f"{node}.step", **how)
    def step(op: int, how: str, then: str, request: Request, message: PlainMessage, onward: PlainPublisher) -> None:
        with _told(history, op, request, message, f"{node}.pipe.step") as attempt:
            if how == "broken" or (how == "flaky" and random.random() < 0.5):
                raise PipeFailure(f"op {op} is to fail")
            attempt["else"] = "unsure"  # whether it was published
            # Each attempt under the same id: the next stage is to drop what comes a second time.
            about = MessageProperties(message_id=f"{message.message_id}-end")
            onward.publish({"op": op}, f"{then}.end", timeout=_PUBLISH_S, properties=about)

    @pipe.consume(f"{node}.pipe.end", routing_key=f"{node}.end", **how)
    def end(body: dict[str, int], request: Request, message: PlainMessage) -> None:
        with _told(history, body["op"], request, message, f"{node}.pipe.end"):
            time.sleep(0.001)

    if f"{node}.pipe.moved" == moved_stage(nodes):

        @pipe.consume(MOVED, routing_key=MOVED, host=pipes["moved_host"], **how)
        def moved(body: dict[str, int], request: Request, message: PlainMessage) -> None:
            with _told(history, body["op"], request, message, f"{node}.pipe.moved"):
                time.sleep(0.001)

    bus.add_publisher("onward", EXCHANGE)
    bus.include(pipe)


@contextmanager
def _told(history: History, op: int, request: Request, message: PlainMessage, stage: str) -> Iterator[dict[str, str]]:
    """Tell the history of one attempt. What is yielded has under ``else`` how it is left if it raises."""
    id, attempt = message.message_id, request.attempts
    history.started(op, id, attempt, stage)
    left = {"else": "failed"}
    try:
        yield left
    except BaseException:
        history.finished(op, id, attempt, stage, verdict=left["else"])
        raise
    history.finished(op, id, attempt, stage)
