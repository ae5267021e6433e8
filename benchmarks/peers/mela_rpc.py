"""mela 1.1: an ``rpc_service`` called through its client, a ``consumer`` fed by its publisher (aio-pika 9 underneath).

The service's prefetch is 100 (mela's default is 1; the client's consumer of replies always has 1). Messages: durable
queue, persistent (asked for; not mela's default), confirms on, the ack after the handling. Events: the same, with a
topic exchange and a queue for each node.
"""

import json
from pathlib import Path
from typing import Any

import common
from aio_pika import DeliveryMode
from mela import Mela, Message
from mela.settings import Settings

ADD, WORK = "mela_add", "mela_work"
RPC_PARAMS = {
    "exchange": "mela_x",
    "routing_key": ADD,
    "queue": ADD,
    "response_exchange": "mela_reply_x",
    "prefetch_count": 100,
}
WORK_PARAMS = {"exchange": "mela_work_x", "routing_key": WORK}
EVENTS = {"exchange": "mela_events_x", "exchange_type": "topic"}


def app() -> Mela:
    configuration = {
        "connections": {"default": {"url": common.url()}},
        "rpc-services": {"adder": RPC_PARAMS},
        "consumers": {
            "worker": {**WORK_PARAMS, "queue": WORK, "prefetch_count": 100},
            "node": {
                **EVENTS,
                "routing_key": "orders.*",
                "queue": f"mela_orders_{common.NUMBER}",
                "prefetch_count": 100,
            },
        },
        "publishers": {"work": WORK_PARAMS, "event": {**EVENTS, "routing_key": "orders.created"}},
    }
    Path("application.yml").write_text(json.dumps(configuration))  # mela reads it from the current directory
    made = Mela("peer", loop=common.event_loop())
    made.settings = Settings()
    return made


def server() -> None:
    mela = app()

    @mela.rpc_service("adder")
    async def adder(params: list) -> dict[str, int]:  # type: ignore[type-arg]  # it takes no other
        return {"answer": common.add(params)}

    @mela.consumer("worker")
    async def worker(params: list) -> None:  # type: ignore[type-arg]  # it takes no other
        common.handled()

    mela.run()


def node() -> None:
    mela = app()

    @mela.consumer("node")
    async def order(params: list) -> None:  # type: ignore[type-arg]  # it takes no other
        common.handled()

    mela.run()


class Client(common.AsyncClient):
    async def connect(self) -> None:
        mela = app()
        self.rpc = await mela.rpc_client_instance("adder")
        self.work = await mela.publisher_instance("work")

    async def call(self) -> Any:
        return (await self.rpc.call({"params": self.params}))["answer"]

    async def publish(self) -> None:
        body = json.dumps({"params": self.params}).encode()
        await self.work.publish(Message(body, delivery_mode=DeliveryMode.PERSISTENT))


class EventClient(Client):
    async def connect(self) -> None:
        self.work = await app().publisher_instance("event")


if __name__ == "__main__":
    common.main(*((node, EventClient) if common.variant() else (server, Client)))
