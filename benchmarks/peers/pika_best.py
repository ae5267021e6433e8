"""The best plain use of pika: direct reply-to, prefetch 100, pipelined; no envelope but JSON.

Variant ``select``: SelectConnection at both ends, callbacks only, confirms counted as they come.
Variant ``blocking``: BlockingConnection at both ends; ``futures`` are pipelined on one channel, ``threads`` have a
connection each, and of several brokers the next that answers is connected to, as pika's own example of recovery does.
Acks are sent one by one, after the handling.
"""

from __future__ import annotations

import array
import collections
import itertools
import json
import time
from collections.abc import Callable
from typing import Any

import common
import pika
import pika.exceptions

RPC, WORK = "best_rpc", "best_work"
REPLY = "amq.rabbitmq.reply-to"
PERSISTENT = pika.BasicProperties(delivery_mode=2)
UNCONFIRMED = 1000


def parameters() -> list[pika.ConnectionParameters]:
    credentials = pika.PlainCredentials(common.USER, common.PASSWORD)
    return [pika.ConnectionParameters(host, port, credentials=credentials) for host, port in common.HOSTS]


def on_request(channel: Any, method: Any, properties: Any, body: bytes) -> None:
    answer = common.add(json.loads(body)["params"])
    channel.basic_publish(
        "", properties.reply_to, json.dumps(answer), pika.BasicProperties(correlation_id=properties.correlation_id)
    )
    channel.basic_ack(method.delivery_tag)


def on_work(channel: Any, method: Any, properties: Any, body: bytes) -> None:
    json.loads(body)
    common.handled()
    channel.basic_ack(method.delivery_tag)


def blocking_server() -> None:
    while True:
        try:
            channel = pika.BlockingConnection(parameters()).channel()
            channel.queue_declare(RPC)
            channel.queue_declare(WORK, durable=True)
            channel.basic_qos(prefetch_count=100)
            channel.basic_consume(WORK, on_work)
            channel.basic_consume(RPC, on_request)
            channel.start_consuming()
        except pika.exceptions.AMQPConnectionError:
            continue


def select_server() -> None:
    def opened(connection: Any) -> None:
        connection.channel(on_open_callback=declare)

    def declare(channel: Any) -> None:
        channel.basic_qos(prefetch_count=100)
        channel.queue_declare(WORK, durable=True, callback=lambda _: channel.basic_consume(WORK, on_work))
        channel.queue_declare(RPC, callback=lambda _: channel.basic_consume(RPC, on_request))

    pika.SelectConnection(parameters()[0], on_open_callback=opened).ioloop.start()


class BlockingCaller:
    """One connection, its calls pipelined."""

    def __init__(self) -> None:
        self.connection = pika.BlockingConnection(parameters())
        self.channel = self.connection.channel()
        self.channel.basic_consume(REPLY, self.on_reply, auto_ack=True)
        self.ids = itertools.count()
        self.replies: dict[str, bytes] = {}

    def on_reply(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        self.replies[properties.correlation_id] = body

    def start(self, params: Any) -> str:
        number = str(next(self.ids))
        self.channel.basic_publish(
            "", RPC, json.dumps({"params": params}), pika.BasicProperties(reply_to=REPLY, correlation_id=number)
        )
        return number

    def finish(self, number: str) -> Any:
        while number not in self.replies:
            self.connection.process_data_events(time_limit=None)
        return json.loads(self.replies.pop(number))

    def call(self, params: Any) -> Any:
        return self.finish(self.start(params))


class BlockingClient(common.Client):
    def connect(self) -> None:
        self.caller = BlockingCaller()
        self.work = self.caller.connection.channel()
        self.work.queue_declare(WORK, durable=True)
        self.work.confirm_delivery()

    def call(self) -> Any:
        try:
            return self.caller.call(self.params)
        except pika.exceptions.AMQPConnectionError:
            self.connect()
            raise

    def futures(self, seconds: float, width: int) -> int:
        return common.in_window(lambda: self.caller.start(self.params), self.caller.finish, seconds, width)

    def prepare(self, phase: str, width: int) -> None:
        if phase == "threads":
            self.callers = [BlockingCaller() for _ in range(width)]

    def threads(self, seconds: float, width: int) -> int:
        calls = [lambda caller=caller: caller.call(self.params) for caller in self.callers]
        return common.in_threads(calls, seconds)

    def publish(self) -> None:
        self.work.basic_publish("", WORK, json.dumps({"params": self.params}), PERSISTENT)


class SelectClient(common.Client):
    def connect(self) -> None:
        self.ids = itertools.count()
        self.waiting: dict[str, Callable[[Any], None]] = {}
        self.connection = pika.SelectConnection(
            parameters()[0], on_open_callback=lambda connection: connection.channel(on_open_callback=self.rpc_opened)
        )
        self.loop = self.connection.ioloop
        self.loop.start()

    def rpc_opened(self, channel: Any) -> None:
        self.rpc = channel
        channel.basic_consume(
            REPLY, self.on_reply, auto_ack=True,
            callback=lambda _: self.connection.channel(on_open_callback=self.work_opened),
        )  # fmt: skip

    def work_opened(self, channel: Any) -> None:
        self.work = channel
        self.sent = 0
        channel.queue_declare(WORK, durable=True)
        channel.confirm_delivery(self.on_confirm, callback=lambda _: self.loop.stop())

    def on_reply(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        self.waiting.pop(properties.correlation_id)(json.loads(body))

    def start(self, done: Callable[[Any], None]) -> None:
        number = str(next(self.ids))
        self.waiting[number] = done
        self.rpc.basic_publish(
            "", RPC, json.dumps({"params": self.params}), pika.BasicProperties(reply_to=REPLY, correlation_id=number)
        )

    def call(self) -> Any:
        answers: list[Any] = []

        def done(value: Any) -> None:
            answers.append(value)
            self.loop.stop()

        self.start(done)
        self.loop.start()
        return answers[0]

    def keep(self, seconds: float, width: int) -> array.array[int]:
        """Keeps *width* calls pending from the callback of the replies; returns how long each took, in ns."""
        now, spent = time.perf_counter_ns, array.array("q")
        starts: collections.deque[int] = collections.deque()
        deadline = now() + int(seconds * 1e9)

        def done(answer: Any) -> None:
            common.check(answer)
            end = now()
            spent.append(end - starts.popleft())
            if end < deadline:
                starts.append(end)
                self.start(done)
            elif not starts:
                self.loop.stop()

        for _ in range(width):
            starts.append(now())
            self.start(done)
        self.loop.start()
        return spent

    def sequential(self, seconds: float) -> array.array[int]:
        return self.keep(seconds, 1)

    def futures(self, seconds: float, width: int) -> int:
        return len(self.keep(seconds, width))

    def on_confirm(self, frame: Any) -> None:
        tag = frame.method.delivery_tag
        if frame.method.multiple:
            while self.unconfirmed and self.unconfirmed[0] <= tag:
                self.unconfirmed.popleft()
        else:
            self.unconfirmed.remove(tag)
        self.fill()
        if not self.left and not self.unconfirmed:
            self.loop.stop()

    def fill(self) -> None:
        while self.left and len(self.unconfirmed) < self.window:
            self.left -= 1
            self.sent += 1  # the channel's delivery tags count from 1
            self.unconfirmed.append(self.sent)
            self.work.basic_publish("", WORK, json.dumps({"params": self.params}), PERSISTENT)

    def publish_window(self, count: int, window: int = UNCONFIRMED) -> None:
        self.left, self.window = count, window
        self.unconfirmed: collections.deque[int] = collections.deque()
        self.fill()
        self.loop.start()

    def publish(self) -> None:
        self.publish_window(1, 1)


if __name__ == "__main__":
    if common.variant("select") == "blocking":
        common.main(blocking_server, BlockingClient)
    else:
        common.main(select_server, SelectClient)
