"""Real things to test against: private RabbitMQ brokers, and a proxy that breaks connections on demand.

::

    with servicebus.testing.brokers(count=2) as nodes:
        nodes[0].kill()

    with servicebus.testing.cluster(members=3) as mq:
        mq.members[0].kill()

In pytest the fixtures ``brokers`` and ``broker_cluster`` give two of them, and a cluster of three (docs/testing.rst).
"""

from servicebus.testing.cluster import Cluster, cluster
from servicebus.testing.node import Broker, BrokerStartFailed
from servicebus.testing.pool import BrokerPool, brokers
from servicebus.testing.program import BrokerProgramMissing, find_broker_program
from servicebus.testing.proxy import FaultProxy
from servicebus.testing.proxylink import Mode

__all__ = [
    "Broker",
    "BrokerPool",
    "BrokerProgramMissing",
    "BrokerStartFailed",
    "Cluster",
    "FaultProxy",
    "Mode",
    "brokers",
    "cluster",
    "find_broker_program",
]
