"""How far a node is on its way from py-servicebus 2.x, and what comes next. Nothing is changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from servicebus.compat.names import node_queue
from servicebus.configuration import BrokerHost, Configuration
from servicebus.errors import TransportError
from servicebus.operations.session import Session, open_session
from servicebus.operations.session_channel import QueueFacts
from servicebus.operations.takeover_file import TakeoverObstacle
from servicebus.transport.steps import declare_exchange
from servicebus.wire.address import messages_queue, rpc_queue
from servicebus.wire.printable import counted

__all__ = ["NodeSight", "look_at_node", "next_step", "obstacles_of"]

_NOT_FOUND, _OTHERWISE = 404, 406


class NodeSight(NamedTuple):
    """A node on one broker."""

    host: str
    failure: str = ""
    """Why the broker could not be asked."""
    answers_1: bool = False
    """Asked only of one that does not answer in version 2, which a Sender prefers."""
    answers_2: bool = False
    old_queue: QueueFacts | None = None
    """That of version 1, which old agents and new ones with ``compat`` consume."""
    calls: QueueFacts | None = None
    messages: QueueFacts | None = None
    exchange: str = "missing"
    """Of version 1: ``there``, ``missing``, or ``otherwise``: it has not the attributes that both sides declare."""
    queue_is_otherwise: bool = False

    @property
    def state(self) -> str:
        """Who serves the node there: ``none``, ``old``, ``both``, ``new-compat``, ``new-beside-queue``, ``new``."""
        old, new = _consumers(self.old_queue), _consumers(self.calls)
        if not new:
            return "old" if old else "none"
        if old > new:
            return "both"
        return "new-compat" if old else "new" if self.old_queue is None else "new-beside-queue"

    def to_json(self) -> dict[str, Any]:
        def shown(queue: QueueFacts | None) -> dict[str, int] | None:
            return None if queue is None else {"waiting": queue.ready, "consumers": queue.consumers}

        return {
            "host": self.host,
            "failure": self.failure,
            "state": "unknown" if self.failure else self.state,
            "answers": [number for number, does in ((1, self.answers_1), (2, self.answers_2)) if does],
            "queues": {"old": shown(self.old_queue), "rpc": shown(self.calls), "messages": shown(self.messages)},
            "exchange": self.exchange,
            "queue": "otherwise" if self.queue_is_otherwise else "there" if self.old_queue else "missing",
        }


def _consumers(queue: QueueFacts | None) -> int:
    return 0 if queue is None else queue.consumers


def look_at_node(
    node: str, host: BrokerHost, config: Configuration, answers: Callable[[Configuration], bool]
) -> NodeSight:
    """*node* as it is seen on *host*. What is not there is not declared.

    Args:
        answers: whether the node answers a Sender of this configuration, which declares the exchange that it uses.
    """
    try:
        with open_session(host, config, purpose="compat check") as session:
            exchange = _exchange(session, config.compat_exchange_name)
            old_queue = session.facts(node_queue(node))
            is_otherwise = old_queue is not None and _queue_is_otherwise(session, node_queue(node))
            calls, messages = session.facts(rpc_queue(node)), session.facts(messages_queue(node))
    except TransportError as error:
        return NodeSight(host.name, str(getattr(error, "reason", error)))
    at_host = config.replaced(hosts=(host,))
    # A Sender declares the exchange of its version: it asks only where that is there already, and consumed from.
    answers_2 = _consumers(calls) > 0 and answers(at_host.replaced(compat=False))
    asks_1 = exchange == "there" and _consumers(old_queue) > 0 and not answers_2  # it would be answered in version 2
    answers_1 = asks_1 and answers(at_host.replaced(compat=True, compat_nodes=(node,)))
    return NodeSight(host.name, "", answers_1, answers_2, old_queue, calls, messages, exchange, is_otherwise)


def _exchange(session: Session, name: str) -> str:
    for is_passive, refused in ((True, {_NOT_FOUND: "missing"}), (False, {_OTHERWISE: "otherwise"})):
        try:
            with session.channel() as channel:
                question = declare_exchange(name, durable=False, passive=is_passive)
                channel.run(question, f"the declaration of exchange {name}")
        except TransportError as error:
            if error.reply_code not in refused:
                raise
            return refused[error.reply_code]
    return "there"


def _queue_is_otherwise(session: Session, name: str) -> bool:
    try:
        with session.channel() as channel:
            channel.declare(name, durable=True)
    except TransportError as error:
        if error.reply_code != _OTHERWISE:
            raise
        return True
    return False


def obstacles_of(sight: NodeSight, node: str, config: Configuration) -> list[TakeoverObstacle]:
    """What stands in the way on one broker."""
    found, where = [], sight.host
    queue, exchange = node_queue(node), config.compat_exchange_name
    if sight.failure:
        return [
            TakeoverObstacle(
                "unreachable", True, where, sight.failure, "run servicebus doctor, which says what is wrong"
            )
        ]
    if sight.exchange == "otherwise":
        todo = "delete it while no process of 2.x runs; both sides declare it again"
        found.append(
            TakeoverObstacle(
                "exchange-otherwise", True, where, f"exchange {exchange} is not direct and transient", todo
            )
        )
    if sight.queue_is_otherwise:
        todo = "empty it, delete it, and use policies instead: both sides declare it durable, without arguments"
        found.append(
            TakeoverObstacle("queue-otherwise", True, where, f"queue {queue} has arguments or attributes", todo)
        )
    if sight.old_queue is not None and sight.old_queue.ready and not sight.old_queue.consumers:
        todo = "start an agent of 2.x, or a new one with compat: true, which takes them"
        waiting = counted(sight.old_queue.ready, "message")
        what = f"queue {queue} holds {waiting} of old Senders, and no agent takes them"
        found.append(TakeoverObstacle("waiting", True, where, what, todo))
    if sight.old_queue is not None and sight.old_queue.consumers and not (sight.answers_1 or sight.answers_2):
        what = f"queue {queue} is consumed, and the agent does not answer"
        found.append(
            TakeoverObstacle("silent", True, where, what, "look at its log; is one of its services full or stuck?")
        )
    return found


_NEXT = {
    "none": "no agent of {node} is there; is the name right, and that of the exchange (compat_exchange_name)?",
    "both": "old and new agents share {node}: when you are content with the new one, stop the old one",
    "mixed": "{node} is old on some brokers and new on others: give the new agent all of them, then stop the old one",
    "old": "start a new agent of {node} with compat: true, beside the old one or in its place",
    "new-compat": "take over the callers of {node}; when no process of 2.x is left, take compat out, and delete queue"
    " {node}. (If an old agent runs beside a new one without compat, it looks the same: stop the old one)",
    "new-beside-queue": "{node} serves version 2 alone: if no old caller is left, delete queue {node}; else say"
    " compat: true",
    "new": "{node} is taken over: nothing of 2.x is left of it",
}


def next_step(states: set[str], node: str) -> str:
    """What to do with *node*, which is in these *states* on its brokers."""
    present = states - {"none"}
    state = "mixed" if "old" in present and present != {"old"} and "both" not in present else ""
    state = state or next((each for each in _NEXT if each in present), "none")
    return _NEXT[state].format(node=node)
