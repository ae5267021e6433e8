"""FastStream over RabbitMQ: ``broker.request`` for calls (direct reply-to), ``broker.publish`` for messages.

Messages: durable queue, persist=True, confirms on (aio-pika's default). Both channels have prefetch 100 (the default is
no limit); FastStream acks after the handling.
"""

import asyncio
from typing import Any

import common
from faststream import FastStream
from faststream.rabbit import Channel, RabbitBroker, RabbitQueue

ADD, WORK = "faststream_add", "faststream_work"
work_queue = RabbitQueue(WORK, durable=True)
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


if __name__ == "__main__":
    common.main(server, Client)
