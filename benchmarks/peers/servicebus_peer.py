"""servicebus itself, every setting at its default but for what PEER_SETTINGS says: signed both ways, XML, journal.

One caller blocks in ``call``; ``futures`` are those of ``call_async``; ``threads`` share one Sender. Messages are
durable and confirmed, one by one by ``send``, or by ``send_async`` with 1,000 unconfirmed; acked after the handling.

The variants ``asyncio`` and ``uvloop`` call by an AsyncSender: ``tasks`` of one loop. Events (the variant ``events``):
the same by ``publish_async``, with an agent for each node.
"""

from __future__ import annotations

import asyncio
import collections
import json
import os
from concurrent.futures import Future
from typing import Any

import common

from servicebus.configuration import Configuration
from servicebus.sender import Sender
from servicebus.service import ServiceBus

NODE = "BENCH"
EVENTS = "events"
ADD, WORK = f"{NODE}.math.add", f"{NODE}.math.work"
UNCONFIRMED = 1000


def configuration() -> Configuration:
    return Configuration(
        {
            "hosts": [f"{host}:{port}" for host, port in common.HOSTS],
            "node_name": f"{NODE}-{common.NUMBER}" if common.variant() == EVENTS else NODE,
            "secret_token": common.SECRET,
            # Not where they lie by default: another agent of this user may run.
            "journal": str(common.FOLDER / f"journal-{common.NUMBER}"),
            "status_socket": str(common.FOLDER / f"status-{common.NUMBER}"),
            **json.loads(os.environ.get("PEER_SETTINGS", "{}")),
        }
    )


class Add:
    def on_call(self, request: Any, response: Any) -> None:
        response.send(common.add(request.get_params()))


class Work:
    def on_message(self, request: Any) -> None:
        request.get_params()
        common.handled()


def server() -> None:
    bus = ServiceBus(configuration())
    if common.variant() == EVENTS:
        bus.add_event_service("math", "work", Work(), "orders.*")
    else:
        bus.add_rpc_service("math", "add", Add())
        bus.add_message_service("math", "work", Work())
    raise SystemExit(bus.run())


class Client(common.Client):
    def connect(self) -> None:
        self.sender = Sender(configuration())

    def call(self) -> int:
        return int(self.sender.call(ADD, self.params)[1])

    def start(self) -> Future[Any]:
        return self.sender.call_async(ADD, self.params)

    def futures(self, seconds: float, width: int) -> int:
        return common.in_window(self.start, lambda future: future.result()[1], seconds, width)

    def threads(self, seconds: float, width: int) -> int:
        return common.in_threads([self.call] * width, seconds)

    def publish(self) -> None:
        self.sender.send(WORK, self.params)

    def start_publish(self) -> Future[Any]:
        return self.sender.send_async(WORK, self.params)

    def publish_window(self, count: int) -> None:
        pending: collections.deque[Future[Any]] = collections.deque()
        for _ in range(count):
            if len(pending) == UNCONFIRMED:
                pending.popleft().result()
            pending.append(self.start_publish())
        while pending:
            pending.popleft().result()

    def close(self) -> None:
        self.sender.close()


class EventClient(Client):
    def start_publish(self) -> Future[Any]:
        return self.sender.publish_async("orders.created", self.params)


class AsyncClient(common.AsyncClient):
    async def connect(self) -> None:
        from servicebus.aio import AsyncSender

        self.sender = AsyncSender(configuration())

    async def call(self) -> int:
        return int((await self.sender.call(ADD, self.params))[1])

    async def publish(self) -> None:
        await self.sender.send(WORK, self.params)

    async def publish_window(self, count: int) -> None:
        left = iter(range(count))

        async def work() -> None:
            for _ in left:
                await self.publish()

        await asyncio.gather(*(work() for _ in range(UNCONFIRMED)))

    async def close(self) -> None:
        await self.sender.close()


CLIENTS: dict[str, Any] = {"": Client, EVENTS: EventClient, "asyncio": AsyncClient, "uvloop": AsyncClient}

if __name__ == "__main__":
    if common.variant() == "uvloop":
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    common.main(server, CLIENTS[common.variant()])
