"""The private broker that peers are measured on: what waits in it, who consumes, what it uses."""

from __future__ import annotations

import re

import psutil

from servicebus.testing import Broker

_CONSUMERS = (
    'case rabbit_amqqueue:lookup(rabbit_misc:r(<<$/>>, queue, <<"{queue}">>)) of'
    " {{ok, Q}} -> element(2, hd(rabbit_amqqueue:info(Q, [consumers]))); _ -> 0 end."
)
_MESSAGES = "lists:sum([M || Q <- rabbit_amqqueue:list(), [{messages, M}] <- [rabbit_amqqueue:info(Q, [messages])]])."


def consumers(broker: Broker, queue: str) -> int:
    """How many there are; 0 if there is no such queue."""
    return _number(broker.evaluate(_CONSUMERS.format(queue=queue)))


def messages(broker: Broker) -> int:
    """How many wait in all queues."""
    return _number(broker.evaluate(_MESSAGES))


def cpu_s(broker: Broker) -> float:
    """User and system seconds that it has used."""
    times = psutil.Process(broker.pid).cpu_times()
    return float(times.user + times.system)


def _number(said: str) -> int:
    if not re.fullmatch(r"\d+", said.strip()):
        raise RuntimeError(f"the broker does not say a number: {said}")
    return int(said)
