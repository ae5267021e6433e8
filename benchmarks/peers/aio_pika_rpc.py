"""aio-pika's patterns.RPC (its pickle encoding, as documented) and plain aio-pika publishing.

Messages: default exchange, durable queue, persistent, confirms on (the default); the consumer is ``queue.consume`` with
prefetch 100, and acks after the handling.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aio_pika
import common
from aio_pika.patterns import RPC

ADD, WORK = "aio_pika_add", "aio_pika_work"


async def add(*, params: list[Any]) -> int:
    return common.add(params)


async def serve() -> None:
    connection = await aio_pika.connect_robust(common.url())
    channel = await connection.channel()
    await channel.set_qos(prefetch_count=100)
    work = await channel.declare_queue(WORK, durable=True)

    async def on_work(message: Any) -> None:
        async with message.process():
            json.loads(message.body)
            common.handled()

    await work.consume(on_work)
    rpc = await RPC.create(channel)
    await rpc.register(ADD, add, auto_delete=True)
    await asyncio.Future()


class Client(common.AsyncClient):
    async def connect(self) -> None:
        self.connection = await aio_pika.connect_robust(common.url())
        self.rpc = await RPC.create(await self.connection.channel())
        self.channel = await self.connection.channel()

    async def call(self) -> Any:
        return await self.rpc.call(ADD, {"params": self.params})

    async def publish(self) -> None:
        body = json.dumps({"params": self.params}).encode()
        message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await self.channel.default_exchange.publish(message, WORK)

    async def close(self) -> None:
        await self.connection.close()


if __name__ == "__main__":
    common.main(lambda: asyncio.run(serve()), Client)
