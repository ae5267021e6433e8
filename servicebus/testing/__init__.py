"""Real things to test against: private RabbitMQ brokers, and a proxy that breaks connections on demand.

::

    with servicebus.testing.brokers(count=2) as nodes:
        nodes[0].kill()

In pytest the fixture ``brokers`` gives two of them (docs/testing.rst).
"""

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
    "FaultProxy",
    "Mode",
    "brokers",
    "find_broker_program",
]
