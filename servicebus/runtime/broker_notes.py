"""BrokerNotes: warns of what a broker's version means for this configuration, once for each version."""

from __future__ import annotations

from servicebus.configuration import BrokerHost, Configuration
from servicebus.policy.broker_versions import read_version, warnings_for
from servicebus.transport.loggers import get_logger

LOG = get_logger(__name__)


class BrokerNotes:
    """Those of one host."""

    def __init__(self, host: BrokerHost, config: Configuration):
        self._host = host
        self._queue_type = config.message_queue_type
        self._told: set[str] = set()

    def tell(self, version_text: str) -> None:
        """The broker, or the member that is connected to, says that it is of this version."""
        version = read_version(version_text)
        if version is None or version_text in self._told:
            return
        self._told.add(version_text)
        for warning in warnings_for(version, is_cluster=bool(self._host.members), queue_type=self._queue_type):
            LOG.warning("%s: RabbitMQ %s: %s", self._host.name, ".".join(map(str, version)), warning)
