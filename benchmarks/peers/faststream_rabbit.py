"""FastStream over RabbitMQ: ``broker.request`` for calls (direct reply-to), ``broker.publish`` for messages.

Messages: durable queue, persist=True, confirms on (aio-pika's default). Both channels have prefetch 100 (the default is
no limit); FastStream acks after the handling. Events: a topic exchange, and a queue like that for each node.
"""

import asyncio
from typing import Any

import common
from faststream import FastStream
from faststream.rabbit import Channel, ExchangeType, RabbitBroker, RabbitExchange, RabbitQueue

ADD, WORK = "faststream_add", "faststream_work"
work_queue = RabbitQueue(WORK, durable=True)
orders = RabbitExchange("faststream_events", type=ExchangeType.TOPIC, durable=True)
broker = RabbitBroker(common.url(), logger=None)


def server() -> None:
    limits = Channel(prefetch_count=100)

    @broker.subscriber(RabbitQueue(ADD), channel=limits)
    async def add(params: list[int | str]) -> int:
        return common.add(params)

    @broker.subscriber(work_queue, channel=limits)
    async def work(params: list[int | str]) -> None:
        common.handled()

    asyncio.run(FastStream(broker, logger=None).run())


def node() -> None:
    queue = RabbitQueue(f"faststream_orders_{common.NUMBER}", durable=True, routing_key="orders.*")

    @broker.subscriber(queue, orders, channel=Channel(prefetch_count=100))
    async def order(params: list[int | str]) -> None:
        common.handled()

    asyncio.run(FastStream(broker, logger=None).run())


class Client(common.AsyncClient):
    async def connect(self) -> None:
        await broker.start()
        await broker.declare_queue(work_queue)

    async def call(self) -> Any:
        return await (await broker.request(self.params, ADD)).decode()

    async def publish(self) -> None:
        await broker.publish(self.params, WORK, persist=True)

    async def close(self) -> None:
        await broker.stop()


class EventClient(Client):
    async def connect(self) -> None:
        await broker.start()

    async def publish(self) -> None:
        await broker.publish(self.params, exchange=orders, routing_key="orders.created", persist=True)


if __name__ == "__main__":
    common.main(*((node, EventClient) if common.variant() else (server, Client)))
