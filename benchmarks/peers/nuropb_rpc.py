"""nuropb 0.1.8: ``request`` for calls, ``command`` for messages (pika's AsyncioConnection underneath).

The service's prefetch is 100 (the default is 1). Messages: durable queue, not persistent and no confirms (nuropb has
neither), the ack after the handling; ``command`` only hands the message to pika, so every 256 the client waits for the
socket to take them. Events: ``publish_event``, with a service for each node; else as messages.
"""

from __future__ import annotations

import asyncio
from typing import Any

import common
from nuropb.nuropb_api import create_client, create_service
from nuropb.rmq_lib import configure_nuropb_rmq

SERVICE = "nuropb_adder"
EXCHANGES = {
    "rpc_exchange": "nuropb-rpc-exchange",
    "events_exchange": "nuropb-events-exchange",
    "dl_exchange": "nuropb-dl-exchange",
    "dl_queue": "nuropb-dl-queue",
}


def broker() -> dict[str, Any]:
    return {
        "host": common.HOST,
        "port": common.PORT,
        "username": common.USER,
        "password": common.PASSWORD,
        "vhost": "/",
        "ssl": False,
        "verify": False,
    }


class Adder:
    _service_name = SERVICE
    _instance_id = "one"

    def add(self, params: list[Any]) -> int:
        return common.add(params)

    def work(self, params: list[Any]) -> None:
        common.handled()


async def serve() -> None:
    configure_nuropb_rmq(broker(), **EXCHANGES)
    service = create_service(SERVICE, "one", Adder(), broker(), {**EXCHANGES, "prefetch_count": 100})
    await service.connect()
    await asyncio.Future()


class Node:
    _service_name = f"nuropb_node_{common.NUMBER}"
    _instance_id = "one"

    def _handle_event_(self, *_event: Any) -> None:
        common.handled()


async def serve_node() -> None:
    configure_nuropb_rmq(broker(), **EXCHANGES)
    settings = {**EXCHANGES, "prefetch_count": 100}
    service = create_service(
        Node._service_name, Node._instance_id, Node(), broker(), settings, event_bindings=["orders.*"]
    )
    await service.connect()
    await asyncio.Future()


class Client(common.AsyncClient):
    async def connect(self) -> None:
        self.api = create_client(connection_properties=broker(), transport_settings={"prefetch_count": 100})
        await self.api.connect()

    async def call(self) -> Any:
        return await self.api.request(SERVICE, "add", {"params": self.params}, {})

    async def publish(self) -> None:
        self.post()
        await asyncio.sleep(0)

    def post(self) -> None:
        self.api.command(SERVICE, "work", {"params": self.params}, {})

    async def publish_window(self, count: int) -> None:
        for number in range(1, count + 1):
            self.post()
            if number % 256 == 0:
                await self.drain()

    async def drain(self) -> None:
        pending = self.api.transport._connection._transport._tx_buffers  # pika's own queue of what is to be sent
        while pending:
            await asyncio.sleep(0)

    async def close(self) -> None:
        await self.api.disconnect()


class EventClient(Client):
    def post(self) -> None:
        self.api.publish_event("orders.created", {"params": self.params}, {})


if __name__ == "__main__":
    main, client = (serve_node, EventClient) if common.variant() else (serve, Client)
    common.main(lambda: asyncio.run(main()), client)
