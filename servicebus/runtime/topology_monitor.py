"""TopologyMonitor: asks the broker for our queues, bindings and consumers, which others may have deleted.

Our consumers would live on and never hear of a binding that is gone, nor of a broker that has forgotten them.

Every second look is a thorough one: exchange, bindings and all queues. The others only count the consumers of the
queues that callers publish to. A binding costs the broker as much as three queues, and an agent at rest does hardly
anything but look.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from servicebus.configuration import Configuration
from servicebus.runtime.subscriptions import Subscriptions
from servicebus.runtime.topology import count_consumers, declare_all_again, subscription_counts
from servicebus.runtime.transient_queues import TransientQueues
from servicebus.transport.loggers import get_logger
from servicebus.transport.loop import EventLoop
from servicebus.transport.stored import StoredQueues

LOG = get_logger(__name__)

_LOOK_AGAIN_S = 1.0
"""When a look has found a queue with fewer consumers than the others, and when they were consumed again."""


class TopologyMonitor:
    """Belongs to the I/O thread, and to one epoch of a consumer's connections.

    Args:
        is_wanted: whether all of it should be there now.
        on_unattended: called with the reason when a queue of ours has no consumer at all.
    """

    def __init__(
        self,
        loop: EventLoop,
        host_name: str,
        config: Configuration,
        transient: TransientQueues,
        stored: StoredQueues,
        subscriptions: Subscriptions,
        is_wanted: Callable[[], bool],
        on_unattended: Callable[[str], None],
    ):
        self._loop = loop
        self._host_name = host_name
        self._config = config
        self._transient = transient
        self._stored = stored
        self._subscriptions = subscriptions
        self._is_wanted = is_wanted
        self._on_unattended = on_unattended
        self._counts = ConsumerCounts()
        self._is_looking = False
        self._was_thorough = True
        self._has_consumed_again = False

    def look(self) -> None:
        """Have everything shown, or every other time the most important; not while the last answers are to come."""
        channel = self._subscriptions.channel("echo")
        if self._is_looking or channel is None or not self._is_wanted():
            return
        self._is_looking = True
        consumers: dict[str, int] = {}
        stored = None if self._subscriptions.problem else self._stored
        self._was_thorough = not self._was_thorough or self._counts.is_in_doubt
        show = declare_all_again if self._was_thorough else count_consumers
        channel.run(show(self._config, self._transient, stored, consumers), lambda: self._looked(consumers))

    def _looked(self, consumers: dict[str, int]) -> None:
        self._is_looking = False
        if not self._is_wanted():
            return
        unattended = [queue for queue, count in consumers.items() if not count]
        if unattended:
            for queue in unattended:
                self._transient.leave(queue)
            self._on_unattended(f"no consumer is left on {', '.join(unattended)}")
            return
        if self._has_consumed_again:
            self._has_consumed_again = False  # nor could the other workers do so in the moment since
            return
        short = self._counts.look(subscription_counts(self._config.node_name, consumers))
        if short:
            # One of the node's workers is not consuming there, and it is not known which: all of them consume again.
            text = ", ".join(sorted(short))
            LOG.warning("%s: a consumer of %s is missing; consuming again", self._host_name, text)
            self._subscriptions.consume_again(short)
            self._has_consumed_again = True  # a lost queue that was left may have cost all of us the other one
        if self._counts.is_in_doubt:
            self._loop.call_later(_LOOK_AGAIN_S, self.look)


class ConsumerCounts:
    """Whether each subscription of the node has as many consumers as the others. Pure; one thread.

    A worker consumes each queue of its node once. Several workers share the queues, so a consumer that a broker has
    forgotten is not missed by a look at its queue alone; but then that queue has fewer consumers than the others.
    """

    def __init__(self) -> None:
        self._short: frozenset[str] = frozenset()

    def look(self, consumers: Mapping[str, int]) -> frozenset[str]:
        """The subscriptions that were short in this look and in the one before.

        Twice, because a worker that starts or stops just now is in some of them only.

        Args:
            consumers: of each subscription, by its name; where it has several queues, of the one with the fewest.
        """
        most = max(consumers.values(), default=0)
        short = frozenset(subscription for subscription, count in consumers.items() if count < most)
        confirmed, self._short = short & self._short, short
        return confirmed

    @property
    def is_in_doubt(self) -> bool:
        """The last look found a subscription short: look again soon."""
        return bool(self._short)
