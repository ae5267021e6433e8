"""Programs in pika, as RabbitMQ's tutorial has them, call our services, and are called by our Sender."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pika
import pytest
from bus_worlds import RealWorld, real_world
from plain_services import PUBLISHERS

from servicebus.configuration import Configuration
from servicebus.errors import CallTimeout
from servicebus.sender import Sender
from servicebus.testing import Broker

SECRET = "a secret of the test"


class FibonacciRpcClient:
    """Of RabbitMQ's tutorial 6, but for the address and the name of the queue."""

    def __init__(self, url: str) -> None:
        self.connection = pika.BlockingConnection(pika.URLParameters(url))
        self.channel = self.connection.channel()
        result = self.channel.queue_declare(queue="", exclusive=True)
        self.callback_queue = result.method.queue
        self.channel.basic_consume(queue=self.callback_queue, on_message_callback=self.on_response, auto_ack=True)
        self.response: bytes | None = None
        self.corr_id: str | None = None

    def on_response(self, _ch: Any, _method: Any, props: Any, body: bytes) -> None:
        if self.corr_id == props.correlation_id:
            self.response = body

    def call(self, n: int) -> int:
        self.response = None
        self.corr_id = str(uuid.uuid4())
        self.channel.basic_publish(
            exchange="",
            routing_key="others.fib",
            properties=pika.BasicProperties(reply_to=self.callback_queue, correlation_id=self.corr_id),
            body=str(n),
        )
        while self.response is None:
            self.connection.process_data_events(time_limit=10)
        return int(self.response)


@contextmanager
def tutorial_server(url: str, queue: str) -> Iterator[None]:
    """Of the same tutorial, in a thread."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.queue_declare(queue=queue)

    def on_request(ch: Any, method: Any, props: Any, body: bytes) -> None:
        ch.basic_publish(
            exchange="",
            routing_key=props.reply_to,
            properties=pika.BasicProperties(correlation_id=props.correlation_id),
            body=str(int(body) + 1),
        )
        ch.basic_ack(delivery_tag=method.delivery_tag)

    channel.basic_qos(prefetch_count=1)
    channel.basic_consume(queue=queue, on_message_callback=on_request)
    thread = threading.Thread(target=channel.start_consuming)
    thread.start()
    try:
        yield
    finally:
        connection.add_callback_threadsafe(channel.stop_consuming)
        thread.join(30)
        connection.close()


@pytest.fixture
def world(brokers: list[Broker], tmp_path: Path) -> Iterator[RealWorld]:
    with real_world(brokers, tmp_path, "plain_services", publishers=PUBLISHERS) as world:
        yield world.begin()


@pytest.fixture
def sender(brokers: list[Broker]) -> Iterator[Sender]:
    with Sender(Configuration({"hosts": [each.url for each in brokers], "secret_token": SECRET})) as sender:
        yield sender


def test_the_client_of_tutorial_6_calls_our_service(world: RealWorld) -> None:
    client = FibonacciRpcClient(world.brokers[0].broker.url)
    assert client.call(30) == 832040
    assert [client.call(n) for n in range(8)] == [0, 1, 1, 2, 3, 5, 8, 13]
    client.connection.close()


def test_our_sender_calls_the_server_of_tutorial_6(brokers: list[Broker], sender: Sender) -> None:
    with tutorial_server(brokers[0].url, "tutorial"):
        assert sender.request("", "tutorial", "29", timeout=20).json() == 30
        futures = [sender.request_async("", "tutorial", n, timeout=20) for n in range(50)]
        assert [future.result().json() for future in futures] == list(range(1, 51))


def test_a_server_on_the_second_broker_is_found(brokers: list[Broker], sender: Sender) -> None:
    with tutorial_server(brokers[1].url, "elsewhere"):
        assert sender.request("", "elsewhere", "1", timeout=20).json() == 2


def test_a_service_that_answers_to_an_exchange_is_heard(brokers: list[Broker], sender: Sender) -> None:
    """As nameko, Mela and the consumer of cyberfusion do."""
    connection = pika.BlockingConnection(pika.URLParameters(brokers[0].url))
    channel = connection.channel()
    channel.exchange_declare("rpc", "topic", durable=True)
    channel.queue_declare("rpc.service")
    channel.queue_bind("rpc.service", "rpc", "service.*")
    future = sender.request_async("rpc", "service.add", {"args": [1, 2]}, timeout=20, reply_exchange="rpc")
    (method, props, body) = next(channel.consume("rpc.service", inactivity_timeout=20))
    assert body == b'{"args":[1,2]}' or body == b'{"args": [1, 2]}'
    about = pika.BasicProperties(correlation_id=props.correlation_id, content_type="application/json")
    channel.basic_publish("rpc", props.reply_to, b'{"result": 3, "error": null}', about)
    channel.basic_ack(method.delivery_tag)
    assert future.result(20).json()["result"] == 3
    connection.close()


def test_a_server_that_says_nothing_costs_the_deadline(brokers: list[Broker], sender: Sender) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(brokers[0].url))
    connection.channel().queue_declare("silent")
    with pytest.raises(CallTimeout):
        sender.request("", "silent", b"1", timeout=1)
    connection.close()
