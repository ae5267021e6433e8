"""TransientQueues: the queues of a node that exist only while they are consumed, for calls and for control.

Theory of operation. Such a queue is classic, and lives on one member of a cluster. If that member is lost, the queue's
name is taken for as long as the member is away: the broker refuses to declare, delete or unbind it (404), or does not
answer for more than a minute (``subscriptions`` finds that out). Quorum queues are no way out, since they cannot be
auto-delete. But callers do not know the queue's name: they publish to the exchange, with a routing key. So on a cluster
there are spare names, ``NODE.rpc~2``, bound with the same key.

All workers of a node must agree on one of the names, because a call is copied into every queue that is bound: one that
connects takes the first name that has consumers, or else the first that is to be had, and deletes the others unless
they are used. A queue that comes back with its member is not consumed; it expires by itself.

A cluster may also lose a queue that lives on (seen with 3.10). A member that comes back starts the process of the
former queue of that name; and when one of the two ends, because it is not used or its last consumer leaves, the
broker strikes off the name, whichever of them has it. Consumers of the other one are not told. So whoever finds a
queue without its own consumers takes another name: those that leave the lost queue end it, and with it the name once
more.

A queue of calls has priorities where the configuration says so. Others of the node may have declared it otherwise: then
it is used as it is, until all have left it, on a broker in maintenance for example.

On a single broker a queue whose process has crashed too often is out of reach in the same way, also for RabbitMQ 3.10.
There is no spare name, but the broker deletes such a queue at once, and then it can be declared.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Any

from servicebus.configuration import Configuration
from servicebus.transport.interface import Step
from servicebus.transport.steps import bind_queue, declare_queue, delete_queue
from servicebus.transport.stored import PRIORITY_ARGUMENTS
from servicebus.wire.address import rpc_queue

__all__ = ["TransientQueues"]

_EXPIRES_MS = 60_000


class TransientQueues:
    """On one host, over all connections to it. The I/O thread's.

    Args:
        members: of the cluster; 0 for a single broker.
        on_otherwise: told the queue of calls when others of the node have declared it in another form.
    """

    def __init__(self, config: Configuration, members: int = 0, on_otherwise: Callable[[str], None] = lambda _: None):
        self._on_otherwise = on_otherwise
        self._exchange = config.exchange_name
        self._calls, self._has_priorities = rpc_queue(config.node_name), config.priorities
        self._is_otherwise = False
        """Others have the queue of calls with priorities, if we want none, or without."""
        # As many as may be away while the rest is a majority, and one more.
        self._names = members // 2 + 1 if members else 1
        self._stranded: set[str] = set()
        self._deleted: set[str] = set()
        """Routing keys whose queues have been deleted, because all of them are out of reach."""
        self._taken: dict[str, str] = {}
        self.own = ""
        """The worker's own queue, which the broker has named."""
        self._made_at: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<TransientQueues {self._taken} stranded={sorted(self._stranded)}>"

    def is_spared(self, queue: str) -> bool:
        """*queue* is out of reach: whether to try at once, under another name or with a new queue of the same."""
        for name, taken in self._taken.items():
            if taken == queue:
                self._stranded.add(queue)
                return self._candidates(name) != [] or name not in self._deleted
        return False

    def leave(self, name: str) -> None:
        """The queue for *name* has no consumers, though it has ours: take one under another name, if there is one."""
        if self._names > 1 and name in self._taken:
            self._stranded.add(self._taken[name])

    def is_worth_another_try(self, refused: str) -> bool:
        """Queue *refused* has other arguments: whether it will be declared in another form the next time."""
        if refused.partition("~")[0] != self._calls:
            return False
        self._is_otherwise = not self._is_otherwise
        if self._is_otherwise:
            self._on_otherwise(refused)
        return self._is_otherwise

    def try_all_again(self) -> None:
        """All were declared, or none could be: the next time every name is tried again."""
        self._stranded.clear()
        self._deleted.clear()

    def made_at(self, name: str) -> float | None:
        """When the queue for *name* was made, if it had no consumer before us."""
        return self._made_at.get(name)

    def take(self, name: str) -> Generator[Step, Any, str]:
        """Declare and bind the queue for routing key *name*; returns the queue to consume."""
        candidates = self._candidates(name)
        if not candidates:
            candidates = yield from self._delete_all(name)
        unused: dict[str, int] = {}
        chosen = ""
        self._made_at.pop(name, None)
        for queue in candidates:
            waiting, consumers = yield from self._declare(queue, name)
            if consumers:
                chosen = queue
                break
            unused[queue] = waiting
        if not chosen:
            chosen = candidates[0]
            self._made_at[name] = time.monotonic()
            may_be_copies = unused.pop(chosen) > 0 and self._names > 1
            if may_be_copies:  # Senders are told when it was made, and send again what it had
                yield delete_queue(chosen, if_unused=True)
                yield from self._declare(chosen, name)
        for queue in unused:
            yield delete_queue(queue, if_unused=True)
        yield bind_queue(chosen, self._exchange, name)
        self._taken[name] = chosen
        return chosen

    def taken(self, name: str) -> str:
        """The queue that was taken for *name*."""
        return self._taken.get(name, name)

    def declare_again(self, name: str, *, with_binding: bool = True) -> Generator[Step, Any, int]:
        """The queue that was taken for *name*, once more; returns the number of its consumers."""
        queue = self.taken(name)
        _, consumers = yield from self._declare(queue, name)
        if with_binding:
            yield bind_queue(queue, self._exchange, name, no_wait=True)
        return consumers

    def _declare(self, queue: str, name: str) -> Generator[Step, Any, tuple[int, int]]:
        """How many messages wait in it, and how many consumers it has."""
        self._taken[name] = queue  # a refusal closes the channel: this is how one knows what was refused
        # Durable, because newer RabbitMQ refuses shared queues that are transient.
        arguments: dict[str, Any] = {"x-expires": _EXPIRES_MS}
        if name == self._calls and self._has_priorities is not self._is_otherwise:
            arguments |= PRIORITY_ARGUMENTS
        _, waiting, consumers = yield declare_queue(queue, durable=True, auto_delete=True, arguments=arguments)
        return waiting, consumers

    def _delete_all(self, name: str) -> Generator[Step, Any, list[str]]:
        """Delete those without a consumer; if that is refused, they are tried as they are the next time."""
        queues = self._all(name)
        self._deleted.add(name)
        self._stranded.difference_update(queues)
        for queue in queues:
            yield delete_queue(queue, if_unused=True)
        return queues

    def _candidates(self, name: str) -> list[str]:
        return [queue for queue in self._all(name) if queue not in self._stranded]

    def _all(self, name: str) -> list[str]:
        return [name, *(f"{name}~{number}" for number in range(2, self._names + 1))]
