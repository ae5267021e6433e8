"""The names of events, and the patterns of subscriptions."""

from __future__ import annotations

import pytest

from servicebus.errors import AddressError, EnvelopeError
from servicebus.wire.address import is_stored
from servicebus.wire.envelope import EVENT, Kind
from servicebus.wire.events import EVENTS, EventName, check_pattern, event_queue, is_event_queue, matches, run_id
from servicebus.wire.signing import Keyring
from servicebus.wire.xmlcodec import decode_envelope, write_event

ID = "0123456789abcdef-7"


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("a", "a"),
        ("*", "a"),
        ("#", "a"),
        ("#", "a.b.c"),
        ("a.#", "a"),
        ("a.#", "a.b.c"),
        ("#.c", "c"),
        ("#.c", "a.b.c"),
        ("a.#.c", "a.c"),
        ("a.#.c", "a.b.b.c"),
        ("a.*.c", "a.b.c"),
        ("#.#", "a"),
        ("*.#", "a"),
        ("#.b.#", "a.b.c"),
    ],
)
def test_a_pattern_takes_a_name(pattern: str, name: str) -> None:
    assert matches(pattern, name)


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("a", "b"),
        ("a", "a.a"),
        ("*", "a.b"),
        ("a.*", "a"),
        ("a.*", "a.b.c"),
        ("*.#.*", "a"),
        ("a.#.c", "a.b"),
        ("#.b", "a.b.c"),
        ("a.b", "a"),
    ],
)
def test_a_pattern_does_not_take_a_name(pattern: str, name: str) -> None:
    assert not matches(pattern, name)


@pytest.mark.parametrize("text", ["", "a.", ".a", "a..b", "a b", "*", "a.#", "a*", "x" * 201, "ü" * 101, "a\n"])
def test_what_names_no_event(text: str) -> None:
    with pytest.raises(AddressError, match="not the name of an event"):
        EventName.parse(text)


@pytest.mark.parametrize("text", ["", "a.", "a*", "#b", "a.**", "a b"])
def test_what_is_no_pattern(text: str) -> None:
    with pytest.raises(AddressError, match="not a pattern of events"):
        check_pattern(text)


@pytest.mark.parametrize("text", ["*", "#", "a.*.b", "a.#", "ü.b"])
def test_a_pattern(text: str) -> None:
    check_pattern(text)


def test_an_event_stands_where_an_address_does() -> None:
    name = EventName.parse("orders.created")
    assert (str(name), name.node, name.category, name.service) == ("orders.created", EVENTS, "", "orders.created")


def test_the_queue_of_a_subscription_stores() -> None:
    queue = event_queue("NODE", "billing.invoice")
    assert queue == "NODE.events.billing.invoice" and is_stored(queue) and is_event_queue(queue)
    assert not any(map(is_event_queue, ["NODE.messages", "NODE.messages.delay.5", "NODE.rpc", "NODE.dead"]))


def test_each_subscription_runs_an_event_under_an_id_of_its_own() -> None:
    ids = {run_id(id, event_queue(node, "b.c")) for id in (ID, "0123456789abcdef-8") for node in ("A", "B")}
    assert len(ids | {ID}) == 5
    assert run_id(ID, "A.events.b.c") == run_id(ID, "A.events.b.c")


def written(*, node: str = "", category: str = "", kind: Kind = EVENT, name: str = "a.b", due_ms: int = 0) -> bytes:
    fields = (ID, node, category, name, kind, 1, 0, "", b"[1]")
    more = (1, due_ms, "", "", "")
    token = Keyring(["secret"]).sign_event(*fields, more)
    return write_event(*fields, token, more)


@pytest.mark.parametrize("due_ms", [0, 5])
def test_an_event_is_read_as_it_was_written(due_ms: int) -> None:
    envelope = decode_envelope(written(due_ms=due_ms), 1000)
    Keyring(["secret"]).verify_envelope(envelope)
    assert (envelope.kind, envelope.address, envelope.due_ms) == (EVENT, "a.b", due_ms)


@pytest.mark.parametrize("how", [{"node": "N"}, {"category": "c"}, {"name": "a..b"}, {"name": "a.*"}], ids=str)
def test_an_event_has_a_name_and_nothing_else(how: dict[str, str]) -> None:
    with pytest.raises(EnvelopeError, match="unencodable"):
        written(**how)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["call", "message", "control"])
def test_a_request_of_another_kind_is_no_event(kind: str) -> None:
    body = written().replace(b'kind="event"', f'kind="{kind}"'.encode())
    with pytest.raises(EnvelopeError, match="malformed"):
        decode_envelope(body, 1000)
    other = written(node="N", category="c", name="s", kind=Kind(kind)).replace(kind.encode(), b"event")
    with pytest.raises(EnvelopeError, match="malformed"):
        decode_envelope(other, 1000)
