"""What a broker's refusal means: told by its code and by what was asked, in whatever words."""

from __future__ import annotations

import errno
import ssl
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pika.exceptions
import pytest
from pika.adapters.utils.connection_workflow import AMQPConnectorSocketConnectError, AMQPConnectorTransportSetupError

from servicebus.configuration import Configuration
from servicebus.errors import (
    ConnectFailed,
    ConnectionLost,
    MessageTooLarge,
    QueueConflict,
    QueueStranded,
    TransportError,
)
from servicebus.policy.backoff import cap_for
from servicebus.transport.channel import AmqpChannel
from servicebus.transport.failures import channel_failure, connect_failure, connection_failure
from servicebus.transport.fastpath import FastPath
from servicebus.transport.interface import Asked
from servicebus.transport.steps import bind_queue, consume, declare_exchange, declare_queue, delete_queue, unbind_queue

HOST = Configuration({"hosts": ["mq-a"], "secret_token": "a secret of the test"}).hosts[0]
STORED = Asked("N.messages", is_declaration=True)
CALLS = Asked("N.rpc", is_declaration=True)

OTHER_TYPE = [
    "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'N.messages' in vhost '/': "
    "received the value 'quorum' of type 'longstr' but current is none",  # 3.10
    "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'N.messages' in vhost '/': "
    "received 'classic' but current is 'quorum'",  # 4.0
    "in words of the future",
]
OUT_OF_REACH = [
    "NOT_FOUND - home node 'rabbit@b' of durable queue 'N.rpc' in vhost '/' is down or inaccessible",  # 3.10
    "NOT_FOUND - failed to perform operation on queue 'N.rpc' in vhost '/' due to timeout",  # 4.0
    "in words of the future",
]


def failure(code: int, text: str, asked: Asked | None) -> TransportError:
    return channel_failure(HOST, pika.exceptions.ChannelClosedByBroker(code, text), asked)


@pytest.mark.parametrize("text", OTHER_TYPE)
def test_a_queue_that_is_not_as_declared_is_a_conflict(text: str) -> None:
    error = failure(406, text, STORED)
    assert isinstance(error, QueueConflict)
    assert error.queue == "N.messages"
    assert error.reply_code == 406
    assert "servicebus migrate-queue mq-a" in str(error)
    assert text in str(error)


@pytest.mark.parametrize("text", OUT_OF_REACH)
@pytest.mark.parametrize("asked", [STORED, CALLS])
def test_a_queue_that_cannot_be_declared_because_it_is_not_found_is_out_of_reach(text: str, asked: Asked) -> None:
    error = failure(404, text, asked)
    assert isinstance(error, QueueStranded)
    assert error.queue == asked.queue
    assert "is out of reach: its member of the cluster is away" in str(error)


@pytest.mark.parametrize("asked", [None, Asked("N.rpc", is_declaration=False)])
@pytest.mark.parametrize("code", [404, 406])
def test_what_was_not_asked_to_be_made_is_neither(code: int, asked: Asked | None) -> None:
    error = failure(code, "whatever", asked)
    assert type(error) is ConnectionLost
    assert error.reply_code == code


def test_a_missing_right_is_named_whatever_was_asked() -> None:
    for asked in (None, STORED):
        error = failure(403, "ACCESS_REFUSED", asked)
        assert isinstance(error, ConnectFailed)
        assert (error.kind, error.reply_code) == ("topology", 403)


NO_VIRTUAL_HOST = "NOT_ALLOWED - access to vhost 'shop' refused for user 'guest'"


@pytest.mark.parametrize(
    ("text", "kind", "advice"),
    [
        (NO_VIRTUAL_HOST, "credentials", "rabbitmqctl set_permissions"),
        (f"{NO_VIRTUAL_HOST}: connection limit (1) is reached", "limits", "rabbitmqctl set_vhost_limits"),
        (f"{NO_VIRTUAL_HOST}: user connection limit (1) is reached", "limits", "rabbitmqctl set_vhost_limits"),
        ("in words of the future", "credentials", "rabbitmqctl set_permissions"),
    ],
)
def test_a_refused_virtual_host_is_told_in_the_brokers_words_with_what_to_change(
    text: str, kind: str, advice: str
) -> None:
    closed = pika.exceptions.ConnectionClosedByBroker(530, text)
    error = connect_failure(HOST, pika.exceptions.ProbableAccessDeniedError(repr(closed)), 1.0, 1.0)
    assert error.kind == kind
    assert cap_for(error.kind) is None, "tried again seldom"
    for words in ("mq-a", text, "user 'guest'", advice):
        assert words in str(error).replace('"', "").replace("\\", "")


def test_a_connection_that_ends_without_a_reason_is_not_taken_for_a_refused_virtual_host() -> None:
    """So a broker ends it that dies in this moment, and one whose frame_max RabbitMQ finds too small."""
    lost = pika.exceptions.StreamLostError(f"Stream connection lost: {ConnectionResetError(104, 'reset by peer')!r}")
    error = connect_failure(HOST, pika.exceptions.ProbableAccessDeniedError(repr(lost)), 1.0, 1.0)
    assert error.kind == "closed"
    for words in ("mq-a", "user 'guest'", "see its log", "frame_max"):
        assert words in str(error)


def test_an_open_connection_that_is_over_a_limit_is_not_opened_again_at_once() -> None:
    text = "NOT_ALLOWED - number of channels opened for user 'guest' has reached the maximum allowed user limit of (3)"
    error = connection_failure(HOST, pika.exceptions.ConnectionClosedByBroker(530, text))
    assert (error.kind, cap_for(error.kind)) == ("limits", None)
    assert text in str(error)
    assert "rabbitmqctl set_user_limits" in str(error)
    other = connection_failure(HOST, pika.exceptions.ConnectionClosedByBroker(320, "CONNECTION_FORCED"))
    assert other.kind == "closed"


def test_a_queue_that_is_one_too_many_is_not_taken_for_one_of_another_type() -> None:
    text = "PRECONDITION_FAILED - cannot declare queue 'N.messages': queue limit in vhost '/' (3) is reached"
    error = failure(406, text, STORED)
    assert isinstance(error, QueueConflict), "the other subscriptions do not wait for it"
    assert "raise the limit (rabbitmqctl set_vhost_limits)" in str(error)
    assert "migrate" not in str(error)


@pytest.mark.parametrize("code", [403, 404, 406, 530])
def test_what_a_broker_says_is_shown_escaped(code: int) -> None:
    text = "queue 'N\x1b[2J\u202e'\nforged line"
    closed = pika.exceptions.ConnectionClosedByBroker(code, text)
    for error in (
        failure(code, text, None),
        failure(code, text, STORED),
        connection_failure(HOST, closed),
        connect_failure(HOST, closed, 1.0, 1.0),
    ):
        assert str(error).isprintable()


HUNG_UP = [
    ssl.SSLEOFError(8, "[SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred in violation of protocol"),
    ssl.SSLZeroReturnError(6, "TLS/SSL connection has been closed (EOF)"),
    BrokenPipeError(errno.EPIPE, "Broken pipe"),
    ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
]


@pytest.mark.parametrize("error", HUNG_UP, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    ("tls", "asks"),
    [({}, "does it ask for tls.certificate"), ({"certificate": "/me.pem", "key": "/me.key"}, "authority of /me.pem")],
)
def test_a_broker_that_ends_the_tls_handshake_is_told_alike_whatever_openssl_calls_it(
    error: OSError, tls: dict[str, str], asks: str
) -> None:
    values = {"hosts": ["mq-a"], "secret_token": "a secret of the test", "use_ssl": True, "tls": tls}
    host = Configuration(values).hosts[0]
    failed = connect_failure(host, AMQPConnectorTransportSetupError(error), 1.0, 1.0)
    assert (failed.kind, asks in str(failed)) == ("tls", True)
    plain = connect_failure(HOST, AMQPConnectorTransportSetupError(error), 1.0, 1.0)
    assert (plain.kind, "is it a TLS port" in str(plain)) == ("closed", True)


def test_a_connection_that_is_reset_before_any_handshake_is_unreachable() -> None:
    reset = AMQPConnectorSocketConnectError(ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"))
    assert connect_failure(HOST, reset, 1.0, 1.0).kind == "unreachable"


class Pika:
    """Notes what it is asked, and answers when it is told to."""

    channel_number = 1

    def __init__(self) -> None:
        self.callback: Callable[[Any], None] | None = None

    def channel(self, on_open_callback: Any) -> Pika:
        return self

    def __getattr__(self, name: str) -> Callable[..., str]:
        def ask(*_arguments: Any, callback: Any = None, **_options: Any) -> str:
            self.callback = callback or self.callback
            return "tag"

        return ask

    def answer(self) -> None:
        assert self.callback is not None
        frame: Any = type("Frame", (), {})
        frame.method = type("Method", (), {"queue": "", "message_count": 0, "consumer_count": 0, "consumer_tag": ""})
        self.callback(frame)


def channel_on(pika: Pika) -> AmqpChannel:
    connection: Any = SimpleNamespace(frame_max=0, is_fast=True, fast_path=lambda: (FastPath(pika, 0), print))  # type: ignore[arg-type]
    return AmqpChannel(connection, pika, print, print, None, None)


@pytest.mark.parametrize(
    ("step", "is_declaration"),
    [
        (declare_queue("N.rpc", durable=True), True),
        (declare_queue("N.rpc", passive=True), False),
        (bind_queue("N.rpc", "servicebus", "N.rpc"), False),
        (unbind_queue("N.rpc", "servicebus", "N.rpc"), False),
        (delete_queue("N.rpc"), False),
        (consume("N.rpc", lambda _delivery: None), False),
    ],
)
def test_a_step_about_a_queue_says_so_until_it_is_answered(step: Any, is_declaration: bool) -> None:
    pika, answers = Pika(), list[Any]()
    channel = channel_on(pika)
    step(channel, answers.append)
    assert channel.asked == Asked("N.rpc", is_declaration)
    assert answers == []
    pika.answer()
    assert channel.asked is None
    assert len(answers) == 1


@pytest.mark.parametrize(
    "told", [declare_exchange("servicebus", no_wait=True), bind_queue("N.rpc", "servicebus", "N.rpc", no_wait=True)]
)
def test_after_something_that_has_no_answer_a_refusal_may_be_about_that(told: Any) -> None:
    pika = Pika()
    channel = channel_on(pika)
    told(channel, lambda _answer: None)
    assert channel.has_unanswered
    declare_queue("N.rpc")(channel, lambda _answer: None)
    assert channel.has_unanswered
    pika.answer()
    assert not channel.has_unanswered


@pytest.mark.parametrize(
    "text",
    [
        "PRECONDITION_FAILED - message size 2000000 is larger than configured max size 1000000",
        "PRECONDITION_FAILED - message size 2000000 is larger than max size 1000000",
    ],
)
def test_a_message_that_is_larger_than_the_broker_takes_is_told_with_both_sizes(text: str) -> None:
    error = failure(406, text, None)
    assert isinstance(error, MessageTooLarge)
    assert (error.size, error.limit, error.reply_code) == (2_000_000, 1_000_000, 406)
    assert "max_message_size" in str(error)
