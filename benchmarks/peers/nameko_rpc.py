"""nameko: an ``@rpc`` entrypoint called through ClusterRpcProxy, an ``@event_handler`` fed by a standalone dispatcher.

``futures`` are those of ``call_async``, pending on one proxy; a proxy belongs to one thread, so ``threads`` have one
each. Messages: durable queue, persistent, confirms on (nameko's defaults), the ack after the handling. Events: the
same, with a service for each node.
"""

from __future__ import annotations

import sys

import eventlet

if sys.argv[1:2] == ["server"]:
    eventlet.monkey_patch()  # as `nameko run` does, before anything else is imported

from typing import Any

import common
from nameko.events import event_handler
from nameko.rpc import rpc
from nameko.standalone.events import event_dispatcher
from nameko.standalone.rpc import ClusterRpcProxy

CONFIG = {"AMQP_URI": ";".join(common.urls())}


class Adder:
    name = "nameko_adder"

    @rpc
    def add(self, params: list[Any]) -> int:
        return common.add(params)

    @event_handler("nameko_source", "work")
    def work(self, payload: Any) -> None:
        common.handled()


class Node:
    name = f"nameko_node_{common.NUMBER}"

    @event_handler("nameko_source", "order")
    def order(self, payload: Any) -> None:
        common.handled()


def server() -> None:
    from nameko.containers import ServiceContainer

    container = ServiceContainer(Node if common.variant() else Adder, config=CONFIG)
    container.start()
    container.wait()


class Client(common.Client):
    def connect(self) -> None:
        self.proxy = ClusterRpcProxy(CONFIG, timeout=common.LIMIT_S)
        self.rpc = self.proxy.start()
        self.dispatch = event_dispatcher(CONFIG)

    def call(self) -> Any:
        return self.rpc.nameko_adder.add(self.params)

    def start(self) -> Any:
        return self.rpc.nameko_adder.add.call_async(self.params)

    def futures(self, seconds: float, width: int) -> int:
        return common.in_window(self.start, lambda reply: reply.result(), seconds, width)

    def prepare(self, phase: str, width: int) -> None:
        if phase == "threads":
            self.proxies = [ClusterRpcProxy(CONFIG).start() for _ in range(width)]

    def threads(self, seconds: float, width: int) -> int:
        calls = [lambda proxy=proxy: proxy.nameko_adder.add(self.params) for proxy in self.proxies]
        return common.in_threads(calls, seconds)

    def publish(self) -> None:
        self.dispatch("nameko_source", "work", {"params": self.params})

    def close(self) -> None:
        self.proxy.stop()


class EventClient(Client):
    def connect(self) -> None:
        self.dispatch = event_dispatcher(CONFIG)

    def publish(self) -> None:
        self.dispatch("nameko_source", "order", {"params": self.params})

    def close(self) -> None:
        pass


if __name__ == "__main__":
    common.main(server, EventClient if common.variant() else Client)
