"""The vectors of tests/data/wire: made by another program than the codec, from docs/wire-format.rst alone."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from wire_forms import canonical_event, encode_envelope, sign_envelope

from servicebus._context import decode_context, encode_context
from servicebus.errors import EnvelopeError
from servicebus.wire.envelope import Envelope, Kind, Reply
from servicebus.wire.fault import Fault
from servicebus.wire.signing import Keyring
from servicebus.wire.xmlcodec import decode_envelope, decode_json, decode_reply, encode_reply

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data" / "wire"
MAX_BYTES = 1_000_000


def vectors(name: str) -> Any:
    return json.loads((DATA / name).read_text())


def named(cases: list[dict[str, Any]]) -> Any:
    return [pytest.param(case, id=case["name"].replace(" ", "-")) for case in cases]


def envelope_of(case: dict[str, Any]) -> Envelope:
    fields = {name: case[name] for name in ("id", "node", "category", "service", "sent_ms", "ttl_ms", "reply", "token")}
    more = {"attempt": case.get("attempt", 1), "due_ms": case.get("due_ms", 0), "contract": case.get("contract", "")}
    more |= {"context": case.get("context", ""), "stream": case.get("stream", "")}
    return Envelope(**fields, kind=Kind(case["kind"]), params=case["params"].encode(), **more)


def reply_of(case: dict[str, Any]) -> Reply:
    fault = Fault(**case["fault"]) if case["fault"] else None
    return Reply(case["id"], case["token"], case["status"], case["message"].encode(), fault, case.get("attempt", 1))


@pytest.mark.parametrize("case", named(vectors("events.json")))
def test_an_event_is_written_read_and_signed_as_its_vector_says(case: dict[str, Any]) -> None:
    envelope = envelope_of(case)
    keyring = Keyring([case["secret"]])
    assert canonical_event(envelope).decode() == case["canonical"]
    assert sign_envelope(keyring, envelope) == case["token"]
    assert encode_envelope(envelope).decode() == case["body"]
    read = decode_envelope(case["body"].encode(), MAX_BYTES)
    assert read == envelope
    keyring.verify_envelope(read)
    assert decode_json(read.params) == case["value"]


@pytest.mark.parametrize("case", named([case for case in vectors("events.json") if "context" in case]))
def test_a_context_is_read_as_its_vector_says(case: dict[str, Any]) -> None:
    assert decode_context(case["context"]) == case["pairs"]
    if case["name"] != "context as another client writes it":
        assert encode_context(case["pairs"]) == case["context"]


@pytest.mark.parametrize("case", named(vectors("refused.json")["contexts"]))
def test_a_context_that_is_none_is_refused_without_its_values(case: dict[str, Any]) -> None:
    with pytest.raises(EnvelopeError, match="context: ") as refusal:
        decode_context(case["text"])
    assert refusal.value.reason == "malformed"
    assert case["says"] in refusal.value.detail


@pytest.mark.parametrize("case", named(vectors("responses.json")))
def test_a_response_is_written_read_and_signed_as_its_vector_says(case: dict[str, Any]) -> None:
    reply = reply_of(case)
    keyring = Keyring([case["secret"]])
    token = keyring.sign_reply(case["request_token"], reply.id, reply.status, reply.message, reply.fault)
    assert token == case["token"]
    assert encode_reply(reply).decode() == case["body"]
    read = decode_reply(case["body"].encode(), MAX_BYTES)
    assert read == reply
    keyring.verify_reply(read, case["request_token"])


def body_of(case: dict[str, Any]) -> bytes:
    return bytes.fromhex(case["body_hex"]) if "body_hex" in case else case["body"].encode()


@pytest.mark.parametrize("case", named(vectors("refused.json")["events"]))
def test_an_event_that_is_none_is_refused_with_its_reason(case: dict[str, Any]) -> None:
    with pytest.raises(EnvelopeError) as refusal:
        decode_envelope(body_of(case), MAX_BYTES)
    assert refusal.value.reason == case["reason"]
    assert case["says"] in refusal.value.detail


@pytest.mark.parametrize("case", named(vectors("refused.json")["responses"]))
def test_a_response_that_is_none_is_refused_with_its_reason(case: dict[str, Any]) -> None:
    with pytest.raises(EnvelopeError) as refusal:
        decode_reply(body_of(case), MAX_BYTES)
    assert refusal.value.reason == case["reason"]
    assert case["says"] in refusal.value.detail


@pytest.mark.parametrize("case", named([*vectors("events.json"), *vectors("responses.json")]))
def test_the_vectors_are_right_by_the_standard_library_alone(case: dict[str, Any]) -> None:
    """Not our codec: hmac, hashlib and xml.etree, as a client in another language would use its own."""
    root = ElementTree.fromstring(case["body"])  # noqa: S314 (our own file)
    if root.tag == "event":
        parts = [root.get("node"), root.findtext("category"), root.findtext("service"), root.get("kind")]
        parts += [root.get("reply"), root.get("sent"), root.get("ttl"), root.findtext("id"), case["params"]]
        attempt, due, contract = root.get("attempt"), root.get("due"), root.get("contract")
        context, stream = root.findtext("context"), root.get("stream")
        parts += [attempt or "1"] if attempt or due or contract or context or stream else []
        parts += [due or "0"] if due or contract or context or stream else []
        parts += [contract] if contract or context or stream else []
        parts += [context] if context or stream else []
        parts += [stream] if stream else []
        domain = "servicebus/2 event"
    else:
        fault = root.find("fault")
        about: list[str | None] = ["", "", "", ""]
        if fault is not None:
            about = [fault.get("type"), fault.findtext("text"), fault.findtext("trace"), fault.get("retry-after")]
            clock, data = fault.get("clock"), fault.findtext("data")
            about += [clock] if clock or data else []
            about += [data] if data else []
        parts = [case["request_token"], root.findtext("id"), root.findtext("status"), case["message"], *about]
        domain = "servicebus/2 response"
    text = b"".join(b"%d:%s" % (len(part), part) for part in ((part or "").encode() for part in [domain, *parts]))
    secret = case["secret"].encode()
    key_id = hashlib.sha256(b"servicebus key id\0" + secret).hexdigest()[:8]
    assert text.decode() == case["canonical"]
    assert root.findtext("token") == f"{key_id}:{hmac.new(secret, text, hashlib.sha256).hexdigest()}"


def test_the_documentation_shows_the_vectors_and_nothing_else() -> None:
    """Its worked examples are the first event and the first response, byte for byte."""
    shown = re.sub(r"\n   ", "\n", (ROOT / "docs" / "wire-format.rst").read_text())
    for case in (vectors("events.json")[0], vectors("responses.json")[0]):
        assert case["canonical"] in shown
        assert case["token"] in shown
        assert case["body"] in shown
    for name in ("events.json", "responses.json", "refused.json"):
        assert f".. literalinclude:: ../tests/data/wire/{name}" in shown
