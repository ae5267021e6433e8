"""dramatiq over RabbitMQ, messages only (its results need Redis or Memcached).

One worker process with 8 threads (dramatiq's default number). Durable queue, persistent, confirm_delivery on (off by
default), the ack after the handling.
"""

from __future__ import annotations

import sys
from typing import Any

import common
import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

QUEUE = "dramatiq_work"
dramatiq.set_broker(RabbitmqBroker(url=common.url(vhost="%2F"), confirm_delivery=True))


@dramatiq.actor(queue_name=QUEUE)
def work(params: list[Any]) -> None:
    common.handled()


def server() -> None:
    from dramatiq.cli import main, make_argument_parser

    command = ["dramatiq_work", "--processes", "1", "--threads", "8", "--skip-logging"]
    main(make_argument_parser().parse_args(command))


class Client(common.Client):
    def connect(self) -> None:
        """By the first message."""

    def publish(self) -> None:
        work.send(self.params)


if __name__ == "__main__":
    sys.modules["dramatiq_work"] = sys.modules["__main__"]
    common.main(server, Client)
