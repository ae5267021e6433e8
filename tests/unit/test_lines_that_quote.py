"""What a stranger, a broker or a service can choose is one line of printable text, wherever it is logged."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pika.exceptions
import pytest

from servicebus.client.link import Link
from servicebus.configuration import Configuration
from servicebus.policy.size_limit import SizeLimit
from servicebus.runtime.outage_log import OutageLog
from servicebus.runtime.publisher import Publisher
from servicebus.transport.amqp import AmqpConnection
from servicebus.transport.failurelog import FailureLog
from servicebus.transport.failures import channel_failure, connect_failure, connection_failure
from servicebus.transport.interface import Returned
from servicebus.transport.ratelimitedlog import RateLimitedLog

CONFIG = Configuration({"hosts": ["mq-a"], "node_name": "NODE-01", "secret_token": "a secret of the test"})
HOST = CONFIG.hosts[0]
HOSTILE = "words\x1b[2J\x9b1A\u202e\u2028\x00\r\n2026-01-01 ERROR forged"
SHOWN = "words\\x1b[2J\\x9b1A\\u202e\\u2028\\x00\\r\\n2026-01-01 ERROR forged"


def queue_is_gone() -> None:
    returned = Returned("", "NODE-01.dead", None, None, b"", HOSTILE)
    connection: Any = SimpleNamespace(open_channel=lambda *_, **told: told["on_returned"](returned))
    publisher = Publisher(CONFIG, "mq-a", Counter(), FailureLog("io"), SizeLimit(), lambda _error: None)
    publisher.open(connection, lambda: None)


def closed(error: Callable[[Any, Any], Exception]) -> Callable[[], None]:
    """Logs what an error that quotes the broker says."""
    return lambda: OutageLog().tell("mq-a", getattr(error(HOST, HOSTILE), "reason", ""), "closed")


def blocked() -> None:
    told: list[str | None] = []
    connection: Any = SimpleNamespace(
        _ended=False, _events=SimpleNamespace(connection_blocked=lambda _, why: told.append(why))
    )
    connection._tell_blocked = lambda reason: AmqpConnection._tell_blocked(connection, reason)
    AmqpConnection._on_blocked(connection, None, SimpleNamespace(method=SimpleNamespace(reason=HOSTILE)))
    assert told == [SHOWN] == [connection.blocked]
    link: Any = SimpleNamespace(connections=SimpleNamespace(blocked=connection.blocked))
    RateLimitedLog(logging.getLogger("test"), "mq-a").warning(Link.describe(link))


LINES = {
    "a line that is limited": lambda: RateLimitedLog(logging.getLogger("test"), "mq-a").warning(HOSTILE),
    "an outage": lambda: OutageLog().tell("mq-a", HOSTILE, "closed"),
    "a returned copy": queue_is_gone,
    "a blocked connection": blocked,
    "a closed channel": closed(
        lambda host, text: channel_failure(host, pika.exceptions.ChannelClosedByBroker(320, text))
    ),
    "a closed connection": closed(
        lambda host, text: connection_failure(host, pika.exceptions.ConnectionClosedByBroker(320, text))
    ),
    "a refused connection": closed(
        lambda host, text: connect_failure(host, pika.exceptions.ConnectionClosedByBroker(320, text), 1.0, 1.0)
    ),
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_a_line_that_quotes_is_one_line_of_printable_text(
    line: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    line()
    (message,) = caplog.messages
    assert message.isprintable()
    assert SHOWN in message
