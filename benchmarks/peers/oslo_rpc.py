"""oslo.messaging over its rabbit driver (kombu), threading executor.

``threads`` share one RPCClient. Messages: ``cast`` on durable queues (amqp_durable_queues; off by default), persistent,
confirms on (the driver's own), acked before the handling, as RPC servers of oslo.messaging do.
It takes several hosts, shuffles them at every start and uses one: they must be a cluster.
"""

from __future__ import annotations

import logging
from typing import Any

import common
import oslo_messaging
from oslo_config import cfg

TOPIC = "oslo_adder"


def transport() -> Any:
    configuration = cfg.CONF  # the options of tracing live only in the global one
    configuration([])
    made = oslo_messaging.get_rpc_transport(configuration, url=common.url("rabbit", ""))
    configuration.set_override("amqp_durable_queues", True, "oslo_messaging_rabbit")
    configuration.set_override("rpc_conn_pool_size", common.WIDTH, "oslo_messaging_rabbit")
    return made


class Endpoint:
    def add(self, context: Any, params: list[Any]) -> int:
        return common.add(params)

    def work(self, context: Any, params: list[Any]) -> None:
        common.handled()


def server() -> None:
    logging.basicConfig(level=logging.ERROR)
    target = oslo_messaging.Target(topic=TOPIC, server="one")
    rpc = oslo_messaging.get_rpc_server(transport(), target, [Endpoint()], executor="threading")
    rpc.start()
    rpc.wait()


class Client(common.Client):
    def connect(self) -> None:
        self.rpc = oslo_messaging.get_rpc_client(transport(), oslo_messaging.Target(topic=TOPIC))

    def call(self) -> Any:
        return self.rpc.call({}, "add", params=self.params)

    def threads(self, seconds: float, width: int) -> int:
        return common.in_threads([self.call] * width, seconds)

    def publish(self) -> None:
        self.rpc.cast({}, "work", params=self.params)


if __name__ == "__main__":
    common.main(server, Client)
