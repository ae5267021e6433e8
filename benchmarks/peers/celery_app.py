"""Celery over RabbitMQ with the result backend ``rpc://``: ``task.delay().get()``.

Variants: ``prefork`` (the default pool, one worker process) and ``solo`` (tasks run in the worker's main process).
``futures`` are AsyncResults pending in one thread, the oldest awaited first; ``threads`` call delay().get() each.
Messages: ``delay()`` of a task with ignore_result, durable queue, persistent (the defaults), confirms on
(``confirm_publish``; off by default), task_acks_late on, so that the ack is after the handling (off by default).
Several brokers are a list of URLs, of which one is used at a time.
"""

from __future__ import annotations

import sys
from typing import Any

import common
from celery import Celery

QUEUE = "celery_queue"
app = Celery("celery_app", broker=common.urls("pyamqp"), backend="rpc://")
app.conf.update(
    task_default_queue=QUEUE,
    task_acks_late=True,
    broker_transport_options={"confirm_publish": True},
    broker_connection_retry_on_startup=True,
    worker_redirect_stdouts=False,
)


@app.task(name="add")
def add(params: list[Any]) -> int:
    return common.add(params)


@app.task(name="work", ignore_result=True)
def work(params: list[Any]) -> None:
    common.handled()


def server() -> None:
    app.worker_main(["worker", "--loglevel=WARNING", "--concurrency=1", f"--pool={common.variant('prefork')}"])


class Client(common.Client):
    def connect(self) -> None:
        """By the first call."""

    def call(self) -> Any:
        return self.start().get(timeout=common.LIMIT_S or 30)

    def start(self) -> Any:
        return add.delay(self.params)

    def futures(self, seconds: float, width: int) -> int:
        return common.in_window(self.start, lambda result: result.get(timeout=30), seconds, width)

    def threads(self, seconds: float, width: int) -> int:
        return common.in_threads([self.call] * width, seconds)

    def publish(self) -> None:
        work.delay(self.params)


if __name__ == "__main__":
    sys.modules["celery_app"] = sys.modules["__main__"]
    common.main(server, Client)
