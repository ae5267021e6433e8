"""Both sides of each protocol version, against each other: what a Sender encodes its agent decodes, and back."""

from __future__ import annotations

from typing import Any

import pytest

from servicebus.client.request import PendingRequest
from servicebus.configuration import Configuration
from servicebus.errors import EnvelopeError
from servicebus.protocol.interface import AgentProtocol, RequestRefused, SenderProtocol
from servicebus.protocol.v1 import EitherProtocol, ProtocolV1
from servicebus.protocol.v2 import ProtocolV2
from servicebus.sender import Sender
from servicebus.transport.interface import Delivery
from servicebus.wire.address import Address
from servicebus.wire.envelope import CALL, MESSAGE, Kind
from servicebus.wire.fault import UNKNOWN_SERVICE, Fault
from servicebus.wire.signing import Keyring

REPLY_TO = "amq.rabbitmq.reply-to.g1h2AA5yZXBseUA"


def config(secret: str = "secret token", *, compat: bool = True, **more: Any) -> Configuration:  # noqa: S107
    return Configuration({"hosts": ["mq-a"], "secret_token": secret, "node_name": "N", "compat": compat, **more})


def v1(config: Configuration) -> ProtocolV1:
    return ProtocolV1(config)


def v2(config: Configuration) -> ProtocolV2:
    return ProtocolV2(config, Keyring(config.secrets))


def request(kind: Kind = CALL, params: bytes = b"[1,2]", context: str = "") -> PendingRequest:
    address, id = Address("N", "math", "add"), "0123456789abcdef-1"
    made = PendingRequest(1, id, address, kind, params, timeout_s=30.0, context=context)
    made.attempt = made.sent_as = int(kind is CALL)
    return made


def delivered(protocol: SenderProtocol, request: PendingRequest) -> Delivery:
    channel: Any = None
    body = protocol.encode_request(request).body
    reply_to = REPLY_TO if request.kind is CALL else None
    return Delivery(channel, 1, body, reply_to=reply_to, correlation_id=request.id)


@pytest.mark.parametrize("make", [v1, v2])
def test_a_call_and_its_result(make: Any) -> None:
    sender, agent, call = make(config(compat_result="value", compat_reply="json")), make(config()), request()
    incoming = agent.decode_request(delivered(sender, call))
    assert (incoming.kind, incoming.key, incoming.raw_params, incoming.reply_to) == (
        CALL,
        "math.add",
        b"[1,2]",
        REPLY_TO,
    )
    reply = sender.decode_reply(call, agent.encode_result(incoming, 3))
    assert (reply.fault, sender.decode_result(reply.message)) == (None, 3)


@pytest.mark.parametrize("make", [v1, v2])
def test_a_call_and_its_fault(make: Any) -> None:
    sender, agent, call = make(config()), make(config()), request()
    incoming = agent.decode_request(delivered(sender, call))
    reply = sender.decode_reply(call, agent.encode_fault(incoming, Fault(UNKNOWN_SERVICE, "math.add")))
    assert reply.fault is not None
    assert (reply.fault.type, reply.attempt) == (UNKNOWN_SERVICE, 1)


@pytest.mark.parametrize("make", [v1, v2])
def test_another_secret_is_refused(make: Any) -> None:
    sender, agent = make(config()), make(config("another secret"))
    with pytest.raises(RequestRefused) as refused:
        agent.decode_request(delivered(sender, request()))
    assert refused.value.error.reason == "signature"
    assert refused.value.reply_to == REPLY_TO


@pytest.mark.parametrize(
    ("kind", "age_s", "is_fresh"),
    [(CALL, 30, True), (CALL, 100, False), (MESSAGE, 100, True), (MESSAGE, 3_700, False)],  # a call is good for 30 s
)
def test_a_call_is_fresh_for_its_timeout_and_a_message_for_token_max_age(
    kind: Kind, age_s: int, is_fresh: bool
) -> None:
    protocol, old = v2(config(token_max_age=3_600, clock_skew=60)), request(kind)
    old.sent_ms -= age_s * 1000
    if is_fresh:
        assert protocol.decode_request(delivered(protocol, old)).sent_ms == old.sent_ms
    else:
        with pytest.raises(RequestRefused) as refused:
            protocol.decode_request(delivered(protocol, old))
        assert refused.value.error.reason == "stale" and refused.value.incoming is not None


@pytest.mark.parametrize("make", [v1, v2])
def test_a_pong_is_checked(make: Any) -> None:
    sender = make(config())
    token, _ = sender.encode_ping("N", "0123456789abcdef-9", 1.5, [])
    with pytest.raises(EnvelopeError):
        sender.decode_pong("0123456789abcdef-9", token, b"PUNG")


def test_the_queue_of_messages_takes_both_versions() -> None:
    agent: AgentProtocol = EitherProtocol(v2(config()), v1(config()))
    message = request(MESSAGE)
    assert agent.decode_request(delivered(v2(config()), message)).version == "2"
    assert agent.decode_request(delivered(v1(config()), message)).version == "1"


def test_version_2_alone_can_cancel() -> None:
    assert v1(config()).encode_cancel("N", "0123456789abcdef-1", "0123456789abcdef-2") is None
    cancel = v2(config()).encode_cancel("N", "0123456789abcdef-1", "0123456789abcdef-2")
    assert cancel is not None
    assert cancel[0].routing_key == "N.cancel"


def test_a_request_is_encoded_once_and_only_in_its_own_version() -> None:
    to_old, to_new = request(MESSAGE), request(MESSAGE)
    v1(config()).encode_request(to_old)
    assert to_old.body == b"", "version 2 has not been made for it"
    protocol = v2(config())
    assert protocol.encode_request(to_new).body is protocol.encode_request(to_new).body
    assert to_new.size == len(to_new.body)


def test_what_an_outbox_has_kept_is_read_for_an_old_agent() -> None:
    message = request(MESSAGE)
    v2(config()).sign_and_encode(message)
    kept = PendingRequest(1, message.id, message.address, MESSAGE, b"", timeout_s=1.0, body=message.body)
    agent = v1(config())
    assert agent.decode_request(delivered(agent, kept)).raw_params == b"[1,2]"
    assert v2(config()).encode_request(kept).body is message.body


@pytest.mark.parametrize("make", [v1, v2])
def test_a_request_that_is_too_large_is_not_published(make: Any) -> None:
    large = request(params=b'"%s"' % (b"x" * 1000))
    with pytest.raises(EnvelopeError, match=r"oversized: \d+ bytes, where max_envelope_bytes allows 1024"):
        make(config(max_envelope_bytes=1024)).encode_request(large)


@pytest.mark.parametrize("compat", [False, True])
def test_a_caller_is_told_at_once_that_a_request_is_too_large(compat: bool) -> None:
    sender = Sender(config(compat=compat, max_envelope_bytes=10_000))
    with sender, pytest.raises(EnvelopeError, match="oversized"):
        sender.call_async("N.math.add", "x" * 10_000)


CONTEXT = '{"traceparent":"00-4bf9-00f0-01","token":"hunter2"}'


@pytest.mark.parametrize("kind", [CALL, MESSAGE])
def test_a_context_arrives_with_every_attempt(kind: Kind) -> None:
    sender, agent, asked = v2(config()), v2(config()), request(kind, context=CONTEXT)
    for attempt in (1, 2) if kind is CALL else (1,):
        asked.attempt = asked.sent_as = attempt
        incoming = agent.decode_request(delivered(sender, asked))
        assert (incoming.attempt, incoming.context) == (attempt, {"traceparent": "00-4bf9-00f0-01", "token": "hunter2"})
    assert "hunter2" not in repr(incoming) + repr(asked) + str(incoming)


def test_version_1_has_no_context() -> None:
    """Neither on the wire, nor for the service; nor of a message that an outbox has kept in version 2."""
    asked = request(MESSAGE, context=CONTEXT)
    assert v1(config()).decode_request(delivered(v1(config()), asked)).context is None
    v2(config()).sign_and_encode(asked)
    asked.forget_params()
    kept = delivered(v1(config()), asked)
    assert b"hunter2" in asked.body and b"hunter2" not in kept.body
    assert v1(config()).decode_request(kept).raw_params == b"[1,2]"


@pytest.mark.parametrize(
    "text", ['{"K":"hunter2"}', '{"k":["hunter2"]}', '{"k":"hunter2\\n"}', '{"k":"hunter2","k":""}', '{"k":hunter2 }']
)
@pytest.mark.parametrize("kind", [CALL, MESSAGE])
def test_a_context_that_is_none_is_refused_to_its_sender_alone(kind: Kind, text: str) -> None:
    """Signed by somebody who knows the secret and not the rules: refused in words that do not show what it holds."""
    sender, agent, asked = v2(config()), v2(config()), request(kind, context=text)
    with pytest.raises(RequestRefused, match="malformed: context: ") as refused:
        agent.decode_request(delivered(sender, asked))
    assert "hunter2" not in str(refused.value)
    assert refused.value.incoming is not None and refused.value.incoming.id == asked.id
    if kind is MESSAGE:  # which is not answered, but dead-lettered
        return
    assert refused.value.reply is not None
    fault = sender.decode_reply(asked, refused.value.reply).fault
    assert fault is not None and fault.text.startswith("malformed: context: ") and "hunter2" not in fault.text


def test_who_has_another_secret_has_its_context_not_even_read() -> None:
    with pytest.raises(RequestRefused) as refused:
        v2(config("another secret")).decode_request(delivered(v2(config()), request(context='{"K":"v"}')))
    assert refused.value.error.reason == "signature"
