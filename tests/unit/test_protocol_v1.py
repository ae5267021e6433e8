"""Version 1 as an agent reads it: who is believed, what is answered, and by what a call is known again."""

import time
from collections import Counter
from typing import Any
from unittest.mock import Mock

import pytest
from wire_forms import encode_envelope, sign_envelope

from servicebus.compat.envelope import OldEvent, decode_reply, encode_event
from servicebus.compat.tokens import DailyTokens
from servicebus.configuration import Configuration
from servicebus.errors import EnvelopeError
from servicebus.protocol.interface import RequestRefused
from servicebus.protocol.v1 import EitherProtocol, ProtocolV1
from servicebus.protocol.v2 import ProtocolV2
from servicebus.runtime.job import Disposition, Job
from servicebus.runtime.refusal_log import RefusalLog
from servicebus.runtime.validator import Validator
from servicebus.transport.failurelog import FailureLog
from servicebus.transport.interface import Delivery
from servicebus.wire.envelope import Envelope, Kind
from servicebus.wire.fault import Fault
from servicebus.wire.signing import Keyring

OWN_QUEUE = "amq.gen-JzTY20BRgKO-HjmUJj0wLg"


def config(**settings: Any) -> Configuration:
    return Configuration({"hosts": ["a"], "secret_token": "s", "node_name": "N", "compat": True, **settings})


def delivery(body: bytes, reply_to: str | None = OWN_QUEUE, correlation_id: str | None = "c-1") -> Delivery:
    return Delivery(None, 1, body, reply_to=reply_to, correlation_id=correlation_id)  # type: ignore[arg-type]


def event(id: str = "1", *, secret: str = "s") -> bytes:  # noqa: S107
    token = DailyTokens([secret]).make(time.time())
    return encode_event(OldEvent(id, token, "math", "add", b"[1, 2]"))


def text_of(reply: bytes | None) -> str:
    assert reply is not None
    return decode_reply(reply, 10_000).text


def test_a_call_is_one_that_wants_an_answer() -> None:
    protocol = ProtocolV1(config())
    call, message = protocol.decode_request(delivery(event())), protocol.decode_request(delivery(event(), None))
    assert (call.kind, call.reply_to, call.given_id, call.key) == (Kind.CALL, OWN_QUEUE, "1", "math.add")
    assert (message.kind, message.reply_to) == (Kind.MESSAGE, "")
    assert call.remaining_s is None, "an old caller does not tell its timeout"


def test_a_call_that_comes_again_is_known_again() -> None:
    """After a reconnect; ids alone would make the first call of each old process the same."""
    protocol = ProtocolV1(config())
    first = protocol.decode_request(delivery(event())).id
    assert ProtocolV1(config()).decode_request(delivery(event())).id == first
    others = [delivery(event("2")), delivery(event(), OWN_QUEUE + "x"), delivery(event(), OWN_QUEUE, "c-2")]
    assert len({first, *(protocol.decode_request(other).id for other in others)}) == 4


def test_two_equal_messages_are_two_messages() -> None:
    """A cron job sends the same bytes twice a day: the same count, the same token."""
    protocol = ProtocolV1(config())
    assert protocol.decode_request(delivery(event(), None)).id != protocol.decode_request(delivery(event(), None)).id


@pytest.mark.parametrize(
    ("body", "reason", "text"),
    [
        (event(secret="other"), "signature", "Token not valid!"),
        (b"garbage", "malformed", "Service Error: refused: malformed: it does not begin with an XML element"),
        (b"PING\n", "malformed", "Service Error: refused: malformed: it does not begin with an XML element"),
    ],
)
def test_who_is_refused_is_told_so(body: bytes, reason: str, text: str) -> None:
    with pytest.raises(RequestRefused) as refused:
        ProtocolV1(config()).decode_request(delivery(body))
    assert refused.value.error.reason == reason
    assert (text_of(refused.value.reply), refused.value.reply_to) == (text, OWN_QUEUE)


def test_who_wants_no_answer_gets_none() -> None:
    for body in (event(secret="other"), b"garbage"):
        with pytest.raises(RequestRefused) as refused:
            ProtocolV1(config()).decode_request(delivery(body, None))
        assert refused.value.reply_to == ""


@pytest.mark.parametrize("queue", ["N", "N.rpc", "other", "amq.direct"])
def test_who_names_anothers_queue_is_not_even_read(queue: str) -> None:
    with pytest.raises(RequestRefused, match="no queue that a sender makes for itself") as refused:
        ProtocolV1(config()).decode_request(delivery(event(), queue))
    assert refused.value.reply is None


def test_every_secret_of_the_list_is_accepted() -> None:
    protocol = ProtocolV1(config(secret_token=["new", "old"]))
    assert protocol.decode_request(delivery(event(secret="old"))).given_id == "1"


def test_a_result_that_xml_cannot_hold_is_an_error() -> None:
    """2.19 writes it, and its callers get None."""
    protocol = ProtocolV1(config())
    incoming = protocol.decode_request(delivery(event()))
    with pytest.raises(EnvelopeError, match=r"unencodable: the result holds U\+001B"):
        protocol.encode_result(incoming, "\x1b[0m")
    fault = Fault("ValueError", "\x1b[0m")
    assert text_of(protocol.encode_fault(incoming, fault)) == "Service Error: ValueError: \ufffd[0m"


def test_a_result_that_is_too_large_is_an_error() -> None:
    protocol = ProtocolV1(config(max_envelope_bytes=2000))
    incoming = protocol.decode_request(delivery(event()))
    assert len(text_of(protocol.encode_result(incoming, "x" * 1800))) == 1800
    with pytest.raises(EnvelopeError, match="oversized"):
        protocol.encode_result(incoming, "x" * 2000)


def test_errors_that_2_19_does_not_tell_are_told_only_if_wanted() -> None:
    protocol = ProtocolV1(config(compat_in_band_errors=False))
    incoming = protocol.decode_request(delivery(event()))
    assert protocol.encode_fault(incoming, Fault("ValueError", "x")) is None
    assert text_of(protocol.encode_fault(incoming, Fault("unknown-service", ""))) == "Cannot Find RPC Service: math.add"


def test_messages_of_both_versions_are_read_from_one_queue() -> None:
    keyring = Keyring(["s"])
    new = Envelope("0123456789abcdef-1", "N", "c", "s", Kind.MESSAGE, int(time.time() * 1000), 1000, "", b"1")
    both = EitherProtocol(ProtocolV2(config(), keyring), ProtocolV1(config()))
    assert both.decode_request(delivery(encode_envelope(new, sign_envelope(keyring, new)), None)).version == "2"
    assert both.decode_request(delivery(event(), None)).version == "1"
    with pytest.raises(RequestRefused):
        both.decode_request(delivery(b"garbage", None))


@pytest.mark.parametrize("wants_answer", [True, False], ids=["call", "message"])
def test_a_name_of_version_1_is_checked_before_it_is_logged(
    caplog: pytest.LogCaptureFixture, wants_answer: bool
) -> None:
    """Whoever has seen one message can send any name."""
    token = DailyTokens(["s"]).make(time.time())
    body = encode_event(OldEvent("1", token, "a\u202eb\u2028" + "x" * 10_000, "add", b"1"))
    failures: Any = None
    validator = Validator({}, Counter(), RefusalLog(Counter(), "mq-a"), failures)
    kind = Kind.CALL if wants_answer else Kind.MESSAGE
    got = validator.validate(delivery(body, OWN_QUEUE if wants_answer else None), 1, ProtocolV1(config()), kind)
    (line,) = caplog.messages
    assert "no service a\\u202eb\\u2028xxx" in line
    assert len(line) < 500
    if isinstance(got, Job):
        assert got.refusal is not None
        assert got.refusal.copy is not None
        assert got.refusal.copy.detail.isprintable()


@pytest.mark.parametrize(("secret", "is_answered"), [("s", True), ("other", False)])
def test_a_call_that_could_not_be_read_is_answered_if_it_is_known_who_asks(
    monkeypatch: pytest.MonkeyPatch, secret: str, is_answered: bool
) -> None:
    protocol = ProtocolV1(config())
    with monkeypatch.context() as broken:
        broken.setattr(protocol, "decode_request", Mock(side_effect=OverflowError("int too large")))
        failures = FailureLog("a")
        validator = Validator({}, Counter(), RefusalLog(Counter(), "a"), failures)
        disposition = validator.validate(delivery(event(secret=secret)), 1, protocol, Kind.CALL)
    assert isinstance(disposition, Disposition)
    expected = "Service Error: refused: defect: it could not be read: OverflowError: int too large"
    assert (text_of(disposition.reply) if is_answered else disposition.reply) == (expected if is_answered else None)
    assert disposition.pending[0].reply_to == (OWN_QUEUE if is_answered else "")
    assert failures.count == 1
