"""BrokerNotes: warns of what a broker's version, queues and exchange mean for this configuration, once each."""

from __future__ import annotations

from servicebus.configuration import BrokerHost, Configuration
from servicebus.policy.broker_versions import read_version, warnings_for
from servicebus.transport.interface import BrokerChannel, BrokerConnection, Returned, Script
from servicebus.transport.loggers import get_logger
from servicebus.transport.returns import ReturnProbe
from servicebus.transport.steps import set_prefetch

LOG = get_logger(__name__)


class BrokerNotes:
    """Those of one host."""

    def __init__(self, host: BrokerHost, config: Configuration):
        self._host = host
        self._node = config.node_name
        self._exchange = config.exchange_name
        self._queue_type = config.message_queue_type
        self._told: set[str] = set()
        self._has_told_limited = self._has_told_otherwise = False
        self._has_priorities = config.priorities

    def tell(self, version_text: str) -> None:
        """The broker, or the member that is connected to, says that it is of this version."""
        version = read_version(version_text)
        if version is None or version_text in self._told:
            return
        self._told.add(version_text)
        for warning in warnings_for(
            version,
            is_cluster=bool(self._host.members),
            queue_type=self._queue_type,
            has_priorities=self._has_priorities,
        ):
            LOG.warning("%s: RabbitMQ %s: %s", self._host.name, ".".join(map(str, version)), warning)

    def tell_otherwise(self, queue: str) -> None:
        """Others of the node have declared *queue*, that of calls, with priorities and we do not, or without them."""
        if self._has_told_otherwise:
            return
        self._has_told_otherwise = True
        have = "without priorities" if self._has_priorities else "with priorities"
        LOG.warning(
            "%s: others of node %s have made queue %s %s; it is used as it is until all have left it: give all of them "
            "the same 'priorities', then run: servicebus drain %s, and servicebus drain %s --undo",
            self._host.name,
            self._node,
            queue,
            have,
            self._host.name,
            self._host.name,
        )

    def tell_limited(self, queue: str) -> None:
        """*queue* was declared before, with the delivery limit that the broker has by default."""
        if self._has_told_limited:
            return
        self._has_told_limited = True
        LOG.warning(
            "%s: queue %s, and maybe others of node %s, has the broker's delivery limit: unless a policy differs, "
            "a message that came back 20 times is dropped without a trace; set the policy "
            '{"delivery-limit": -1}, or stop the agents of the node and run: servicebus migrate-queue %s',
            self._host.name,
            queue,
            self._node,
            self._host.name,
        )

    def look(self, connection: BrokerConnection) -> None:
        """See whether our exchange returns what no queue takes, on a channel of its own.

        A user without the right to write to it cannot see that. Agents need no such right, and Senders look themselves.
        """
        probe = ReturnProbe(self._host.place, self._exchange)

        def returned(returned: Returned) -> None:
            probe.returned(returned)

        def opened(channel: BrokerChannel) -> None:
            channel.run(_ask(probe), lambda: seen(channel))

        def seen(channel: BrokerChannel) -> None:
            channel.close()
            failure = str(probe.failure())
            if probe.came_back:
                self._told.discard(failure)
            elif failure not in self._told:
                self._told.add(failure)
                LOG.error("%s", failure)

        connection.open_channel(opened, lambda _error: None, on_returned=returned)


def _ask(probe: ReturnProbe) -> Script:
    yield probe.publish
    yield set_prefetch(0)
