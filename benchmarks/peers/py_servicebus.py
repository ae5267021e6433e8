"""py-servicebus 2.19, the framework that servicebus replaces, as its README shows; smart routes, one Sender reused.

``threads`` have a Sender each. Messages: no confirms, not persistent, the connection is closed after every message; the
server acks before the handling. Nothing is sent to a node that does not answer a PING, so nothing can be published
without the server. Several hosts must listen on the same port.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import common

from servicebus.configuration import Configuration
from servicebus.sender import Sender
from servicebus.service import ServiceBus

NODE = "servicebus_node"


def configuration() -> Configuration:
    return Configuration(
        {
            "hosts": [host for host, _ in common.HOSTS],
            "port": common.PORT,
            "user": common.USER,
            "password": common.PASSWORD,
            "node_name": NODE,
            "secret_token": common.SECRET,
        }
    )


class AddService:
    def on_call(self, request: Any, response: Any) -> None:
        response.send(common.add(request.get_params()))


class WorkService:
    def on_message(self, request: Any) -> None:
        request.get_params()
        common.handled()


def server() -> None:
    bus = ServiceBus(configuration())
    bus.add_rpc_service("math", "add", AddService())
    bus.add_message_services("math", "work", WorkService())
    bus.run_services()


class Client(common.Client):
    def connect(self) -> None:
        self.sender = Sender(configuration())

    def call(self) -> int:
        return self.ask(self.sender)

    def ask(self, sender: Sender) -> int:
        return int(sender.call(f"{NODE}.math.add", self.params, common.LIMIT_S or 300)[1])

    def prepare(self, phase: str, width: int) -> None:
        self.senders = [Sender(configuration()) for _ in range(width)]

    def threads(self, seconds: float, width: int) -> int:
        return common.in_threads([partial(self.ask, sender) for sender in self.senders], seconds)

    def publish(self) -> None:
        self.sender.send(f"{NODE}.math.work", self.params)


if __name__ == "__main__":
    common.main(server, Client)
