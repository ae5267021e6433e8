"""Encrypted requests and their replies, by the two sides that read and write them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from wire_forms import encode_envelope, sign_envelope

from servicebus._secret import SecretText
from servicebus.client.request import MessageOptions, PendingRequest
from servicebus.configuration import Configuration, Secret
from servicebus.errors import CallRefused, EnvelopeError, RemoteError
from servicebus.operations.dead_letter_facts import encrypted_facts
from servicebus.protocol.events import EventProtocol
from servicebus.protocol.interface import Incoming, RequestRefused
from servicebus.protocol.v2 import ProtocolV2
from servicebus.transport.interface import Delivery
from servicebus.wire.address import Address
from servicebus.wire.encryption import key_id_of
from servicebus.wire.envelope import CALL, DIRECT_REPLY_TO, MESSAGE, Envelope, Kind
from servicebus.wire.events import EventName, EventQueue
from servicebus.wire.fault import BUSY, EXPIRED, Fault, error_from_fault
from servicebus.wire.jsontext import decode_params, encode_params
from servicebus.wire.signing import Keyring
from servicebus.wire.streams import StreamTerms
from servicebus.wire.xmlcodec import decode_envelope, decode_reply

SIGNING, KEY, OLD = "the secret of the bus", "the key that encrypts, long enough", "the key from before, long enough"
SHOWN, HIDDEN = "a name", "DE89 3704 0044 0532 0130 00"
PARAMS = {"name": SHOWN, "iban": HIDDEN}
NOBODY: Any = None


def configured(encryption: dict[str, Any] | None, **values: Any) -> Configuration:
    given: dict[str, Any] = {"hosts": ["mq"], "secret_token": SIGNING, "node_name": "N", **values}
    return Configuration({**given, "encryption": encryption} if encryption else given)


def side(keys: str | Sequence[str] = KEY, **how: Any) -> ProtocolV2:
    config = configured({"keys": keys, **how} if keys else None)
    return ProtocolV2(config, Keyring(config.secrets))


def asked(params: Any = PARAMS, kind: Kind = CALL, target: str = "N.pay.pay", **how: Any) -> PendingRequest:
    return PendingRequest(
        7, "0123456789abcdef-7", Address.parse(target), kind, encode_params(params), timeout_s=5.0, **how
    )


def published(sender: ProtocolV2, request: PendingRequest) -> bytes:
    request.attempt = request.sent_as = 1
    return sender.encode_request(request).body


def read(node: ProtocolV2, body: bytes) -> Incoming:
    return node.decode_request(Delivery(NOBODY, 1, body, reply_to=f"{DIRECT_REPLY_TO}.g1h2"))


def refusal(node: ProtocolV2, body: bytes) -> EnvelopeError:
    with pytest.raises(RequestRefused) as refused:
        read(node, body)
    return refused.value.error


def changed(body: bytes, signer: str = SIGNING, **fields: Any) -> bytes:
    """*body* with other fields, signed once more: whoever may sign need not be one who may read."""
    other = replace(decode_envelope(body, 10**6), **fields)
    return encode_envelope(other, sign_envelope(Keyring([signer]), other))


@pytest.mark.parametrize("kind", [CALL, MESSAGE])
def test_a_request_travels_encrypted_and_is_read(kind: Kind) -> None:
    body = published(side(), asked(kind=kind))
    assert HIDDEN.encode() not in body and SHOWN.encode() not in body
    incoming = read(side(), body)
    assert type(incoming.raw_params) is SecretText and decode_params(incoming.raw_params) == PARAMS


def test_an_event_travels_encrypted_and_is_read_by_its_subscriber() -> None:
    name = EventName.parse("orders.made")
    request = PendingRequest(7, "0123456789abcdef-7", name, MESSAGE, encode_params(PARAMS), timeout_s=5.0)
    body = published(side(services=[]), request)
    assert HIDDEN.encode() not in body
    queue = EventQueue("log.note", "N.events.log.note", ("orders.*",))
    config = configured({"keys": KEY})
    reader = EventProtocol(config, Keyring([SIGNING]), queue)
    assert decode_params(read(reader, body).raw_params) == PARAMS
    plain = published(side(events=[]), request_of(name))
    assert refusal(reader, plain).reason == "not-encrypted"


def request_of(name: EventName) -> PendingRequest:
    return PendingRequest(8, "0123456789abcdef-8", name, MESSAGE, encode_params(PARAMS), timeout_s=5.0)


def test_each_attempt_is_encrypted_by_itself() -> None:
    sender, request = side(), asked()
    bodies = [published(sender, request)]
    for attempt in (2, 3):
        request.attempt = request.sent_as = attempt
        bodies.append(sender.encode_request(request).body)
    assert len({decode_envelope(each, 10**6).params for each in bodies}) == 3
    assert all(decode_params(read(side(), each).raw_params) == PARAMS for each in bodies)


# -- what is refused ---------------------------------------------------------------------------------------------------

CHANGES: dict[str, Any] = {
    "id": "0123456789abcdef-8",
    "node": "N",
    "category": "pay2",
    "service": "refund",
    "kind": MESSAGE,
    "sent_ms": lambda e: e.sent_ms + 1,
    "ttl_ms": lambda e: e.ttl_ms + 1,
    "reply": "",
    "attempt": 2,
    "contract": "0" * 24,
    "context": '{"tenant":"b"}',
    "stream": "1,1",
}


@pytest.mark.parametrize("field", CHANGES)
def test_a_changed_header_is_refused_also_if_it_is_well_signed(field: str) -> None:
    body = published(side(), asked(context='{"tenant":"a"}'))
    value = CHANGES[field]
    other = changed(body, **{field: value(decode_envelope(body, 10**6)) if callable(value) else value})
    if field == "node":
        assert decode_params(read(side(), other).raw_params) == PARAMS, "nothing has changed"
        return
    error = refusal(side(), other)
    assert (error.reason, HIDDEN in str(error)) == ("encryption", False)


def test_a_changed_due_time_is_refused() -> None:
    request = asked(kind=MESSAGE, options=MessageOptions(due_ms=4_000_000_000_000))
    body = side().encode_request(request).body
    assert refusal(side(), changed(body, due_ms=1)).reason == "encryption"


def test_a_ciphertext_that_was_moved_is_refused() -> None:
    one, other = published(side(), asked({"a": 1})), published(side(), asked({"b": 2}, target="N.pay.refund"))
    moved = changed(other, params=decode_envelope(one, 10**6).params)
    assert refusal(side(), moved).reason == "encryption"


def test_a_ciphertext_that_another_caller_signs_is_refused() -> None:
    callers = {"shop": {"key": "a key of shop alone, long", "allow": "*"}}
    config = configured({"keys": KEY}, callers=callers)
    node = ProtocolV2(config, Keyring(config.secrets, config.caller_secrets))
    body = published(side(), asked())
    assert read(node, body).caller == ""
    assert refusal(node, changed(body, "a key of shop alone, long")).reason == "encryption"


@pytest.mark.parametrize("keys", ["another key, long enough", [OLD, "another key, long enough"]])
def test_a_key_that_is_not_known_is_refused(keys: Any) -> None:
    error = refusal(side(keys), published(side(), asked()))
    assert error.reason == "encryption" and "no encryption key with the id" in error.detail


def test_what_is_encrypted_with_an_old_key_is_read_until_it_is_gone() -> None:
    body = published(side(OLD), asked())
    assert decode_params(read(side([KEY, OLD]), body).raw_params) == PARAMS
    assert refusal(side([KEY]), body).reason == "encryption"


def test_swapped_keys_are_refused() -> None:
    """The id of one key over what another has encrypted."""
    body = published(side(KEY), asked())
    envelope = decode_envelope(body, 10**6)
    swapped = changed(body, params=envelope.params.replace(key_id_of(KEY).encode(), key_id_of(OLD).encode()))
    assert refusal(side([KEY, OLD]), swapped).reason == "encryption"


def test_a_node_without_keys_says_so() -> None:
    incoming = read(side(""), published(side(), asked()))
    with pytest.raises(EnvelopeError, match="there are no keys for it") as found:
        decode_params(incoming.raw_params)
    assert found.value.reason == "encryption"


def test_what_came_in_plain_is_refused_where_it_must_not() -> None:
    plain = published(side(""), asked())
    assert refusal(side(), plain).reason == "not-encrypted"
    assert type(read(side(required=False), plain).raw_params) is bytes
    assert type(read(side(services=["N.other.*"]), plain).raw_params) is bytes
    assert refusal(side(services=["*.pay.*"]), plain).reason == "not-encrypted"


def test_only_what_the_configuration_names_is_encrypted() -> None:
    sender = side(services=["*.pay.*"])
    assert b"A256GCM" in published(sender, asked())
    assert b"A256GCM" not in published(sender, asked(target="N.math.add"))


# -- secrets -----------------------------------------------------------------------------------------------------------


def test_a_secret_is_encrypted_whatever_the_configuration_says() -> None:
    body = published(side(services=[]), asked({"name": SHOWN, "iban": Secret(HIDDEN)}))
    assert SHOWN.encode() in body and HIDDEN.encode() not in body
    assert decode_params(read(side(services=[]), body).raw_params) == {"name": SHOWN, "iban": Secret(HIDDEN)}


def test_a_secret_without_keys_is_not_sent() -> None:
    with pytest.raises(EnvelopeError, match="there are no keys") as refused:
        published(side(""), asked({"iban": Secret(HIDDEN)}))
    assert HIDDEN not in str(refused.value)


@pytest.mark.parametrize("how", [lambda p: p.replace(b"a name", b"b name"), lambda p: p.replace(b'"iban"', b'"name2"')])
def test_the_rest_of_params_with_secrets_cannot_be_changed(how: Callable[[bytes], bytes]) -> None:
    body = published(side(services=[]), asked({"name": SHOWN, "iban": Secret(HIDDEN)}))
    other = changed(body, params=how(decode_envelope(body, 10**6).params))
    assert refusal(side(services=[]), other).reason == "encryption"


# -- replies -----------------------------------------------------------------------------------------------------------


def answered(node: ProtocolV2, incoming: Incoming, result: Any) -> bytes:
    return node.encode_result(incoming, result)


@pytest.mark.parametrize("result", [None, {"total": HIDDEN}, [HIDDEN] * 100])
def test_the_reply_to_an_encrypted_request_is_encrypted(result: Any) -> None:
    sender, node, request = side(), side(), asked()
    reply = answered(node, read(node, published(sender, request)), result)
    assert HIDDEN.encode() not in reply
    assert sender.decode_result(sender.decode_reply(request, reply).message) == result


def test_the_reply_is_encrypted_with_the_key_of_its_request() -> None:
    sender, node, request = side(OLD), side([KEY, OLD]), asked()
    reply = answered(node, read(node, published(sender, request)), 1)
    assert sender.decode_result(sender.decode_reply(request, reply).message) == 1


def test_a_secret_in_the_result_is_encrypted_also_if_the_request_is_not() -> None:
    sender, node, request = side(services=[]), side(services=[]), asked()
    reply = answered(node, read(node, published(sender, request)), {"pin": Secret(HIDDEN), "n": 1})
    assert HIDDEN.encode() not in reply
    assert sender.decode_result(sender.decode_reply(request, reply).message) == {"pin": Secret(HIDDEN), "n": 1}


def test_a_reply_in_plain_is_not_believed() -> None:
    """Of a node that may sign, and may not read."""
    sender, request = side(), asked()
    body = published(sender, request)
    node = side("")
    for reply in (answered(node, read(node, body), 1), node.encode_fault(read(node, body), Fault("ValueError", "no"))):
        with pytest.raises(EnvelopeError, match="the reply has to be encrypted"):
            sender.decode_reply(request, reply)
    refused = node.encode_fault(read(node, body), Fault("refused", "encryption: no keys"))
    assert sender.decode_reply(request, refused).fault is not None


def test_a_reply_of_another_request_is_refused() -> None:
    sender, node = side(), side()
    one, other = asked(), asked()
    replies = [decode_reply(answered(node, read(node, published(sender, each)), 1), 10**6) for each in (one, other)]
    from servicebus.wire.envelope import OK
    from servicebus.wire.xmlcodec import write_answer

    moved = replies[0].message
    token = Keyring([SIGNING]).sign_reply(other.token, other.id, OK, moved, None)
    with pytest.raises(EnvelopeError, match="does not decrypt it"):
        sender.decode_reply(other, write_answer(other.id, token, moved))


def test_a_fault_is_encrypted_but_for_its_type() -> None:
    sender, node, request = side(), side(), asked()
    incoming = read(node, published(sender, request))
    reply = node.encode_fault(incoming, Fault("BadIban", HIDDEN, f"trace {HIDDEN}", data=f'["{HIDDEN}"]'))
    assert HIDDEN.encode() not in reply and b"BadIban" in reply
    fault = sender.decode_reply(request, reply).fault
    assert fault == Fault("BadIban", HIDDEN, f"trace {HIDDEN}", data=f'["{HIDDEN}"]')
    error = error_from_fault(fault, "N.pay.pay")
    assert isinstance(error, RemoteError) and HIDDEN in str(error)


@pytest.mark.parametrize("fault", [Fault(BUSY, "full", retry_after_ms=50), Fault("refused", "stale: late", data="[1]")])
def test_the_nodes_own_faults_are_read_as_they_were(fault: Fault) -> None:
    sender, node, request = side(), side(), asked()
    reply = node.encode_fault(read(node, published(sender, request)), fault)
    assert sender.decode_reply(request, reply).fault == fault


def test_a_fault_that_tells_the_time_is_read() -> None:
    sender, node, request = side(), side(), asked()
    reply = node.encode_fault(read(node, published(sender, request)), Fault(EXPIRED, "late"))
    fault = sender.decode_reply(request, reply).fault
    assert fault is not None and (fault.type, fault.text) == (EXPIRED, "late") and fault.clock_ms


@pytest.mark.parametrize("change", [{"type": "GoodIban"}, {"retry_after_ms": 7}])
def test_a_fault_whose_type_was_changed_is_refused(change: dict[str, Any]) -> None:
    from servicebus.wire.envelope import FAULT, Reply
    from servicebus.wire.xmlcodec import encode_reply

    sender, node, request = side(), side(), asked()
    incoming = read(node, published(sender, request))
    fault = decode_reply(node.encode_fault(incoming, Fault("BadIban", HIDDEN)), 10**6).fault
    assert fault is not None
    other = replace(fault, **change)
    token = Keyring([SIGNING]).sign_reply(request.token, request.id, FAULT, b"", other)
    with pytest.raises(EnvelopeError, match="does not decrypt it"):
        sender.decode_reply(request, encode_reply(Reply(request.id, token, FAULT, b"", other)))


# -- streams -----------------------------------------------------------------------------------------------------------


def test_the_chunks_of_an_encrypted_stream_are_encrypted() -> None:
    from servicebus.client.streams import StreamRequest

    address = Address.parse("N.pay.rows")
    request = StreamRequest(
        StreamTerms(10, 1000), 7, "0123456789abcdef-7", address, CALL, encode_params(PARAMS), timeout_s=5.0
    )
    sender, node = side(), side()
    incoming = read(node, published(sender, request))
    body = node.encode_chunk(incoming, 0, [b'"%b"' % HIDDEN.encode(), b"2"], "amq.gen-1", True)
    assert HIDDEN.encode() not in body
    assert decode_params(sender.decode_chunk(request, body).items) == [HIDDEN, 2]
    plain = side("").encode_chunk(read(side(""), published(sender, request)), 0, [b"1"], "amq.gen-1", True)
    with pytest.raises(EnvelopeError, match=r"signature|the chunk has to be encrypted"):
        sender.decode_chunk(request, plain)


# -- what is never encrypted -------------------------------------------------------------------------------------------


def test_control_requests_are_not_encrypted() -> None:
    sender = side()
    _, ping = sender.encode_ping("N", "0123456789abcdef-9", 1.0, [])
    assert b"<![CDATA[null]]>" in ping.body
    incoming = read(side(), ping.body)
    assert incoming.raw_params == b"null"


def test_without_the_section_nothing_is_loaded_and_nothing_looked_at() -> None:
    config = configured(None)
    assert config.encryption is None and ProtocolV2(config, Keyring(config.secrets))._encryption is None


def test_compressed_params_are_bounded_by_what_an_envelope_may_have() -> None:
    config = configured({"keys": KEY, "compress": "zlib"}, max_envelope_bytes=20_000)
    node = ProtocolV2(config, Keyring(config.secrets))
    body = published(side(compress="zlib"), asked(" " * 100_000))
    assert len(body) < 1500
    assert refusal(node, body).reason == "oversized"


def test_a_caller_is_refused_by_name() -> None:
    error = error_from_fault(Fault("refused", "encryption: key 1 does not decrypt it"), "N.pay.pay")
    assert isinstance(error, CallRefused) and error.reason == "encryption"


def test_an_envelope_says_nothing_of_its_params(caplog: pytest.LogCaptureFixture) -> None:
    request = asked({"iban": Secret(HIDDEN)})
    incoming = read(side(), published(side(), request))
    assert HIDDEN not in f"{request!r} {incoming!r}"
    assert isinstance(decode_envelope(published(side(), asked()), 10**6), Envelope)


def test_an_operator_sees_of_its_params_that_they_are_encrypted() -> None:
    whole = decode_envelope(published(side(), asked()), 10**6).params
    fields = published(side(services=[]), asked({"name": SHOWN, "iban": Secret(HIDDEN)}))
    assert encrypted_facts(whole) == {"params": None, "encrypted_with": key_id_of(KEY)}
    assert encrypted_facts(decode_envelope(fields, 10**6).params) == {
        "params": {"name": SHOWN, "iban": None},
        "encrypted_with": key_id_of(KEY),
    }
    assert encrypted_facts(b"[1]") is None
