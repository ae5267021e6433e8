from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from servicebus import errors
from servicebus.errors import ServiceBusError

ATTEMPTS = [("mq-a:5672", "connection refused"), ("mq-b:5672", "no connection within 2 s")]

EXAMPLES: list[tuple[ServiceBusError, dict[str, object], str]] = [
    (ServiceBusError("something"), {}, "something"),
    (
        errors.ConfigurationError("unknown key 'hots'", path="bus.yaml", line=3, key="hots"),
        {"path": "bus.yaml", "line": 3, "key": "hots"},
        "bus.yaml:3: unknown key 'hots'",
    ),
    (
        errors.AddressError("a.b", "it has 1 dot"),
        {"text": "a.b", "reason": "it has 1 dot"},
        "'a.b' is not an address NODE.category.name: it has 1 dot",
    ),
    (
        errors.InvalidReply("N.a.b", "bad-json: NaN is no JSON", [errors.InvalidParam((), "wrong", "int_type")]),
        {"address": "N.a.b", "reason": "bad-json: NaN is no JSON", "errors": (((), "wrong", "int_type"),)},
        "N.a.b: it has answered, and the answer cannot be read: bad-json: NaN is no JSON",
    ),
    (
        errors.InvalidParams("N.a.b", [errors.InvalidParam((), "wrong", "int_type")], sent=False),
        {"sent": False, "count": 1},
        "N.a.b: refused before it was sent (invalid-params): params: wrong (int_type)",
    ),
    (
        errors.NodeUnavailable("N.a.b", ATTEMPTS[:1], "it did not run"),
        {"address": "N.a.b"},
        "N.a.b: node is away: mq-a:5672 connection refused; it did not run",
    ),
    (
        errors.SendRefused("N.a.b", ATTEMPTS[:1]),
        {"target": "N.a.b"},
        "no broker took the message to N.a.b: mq-a:5672 connection refused; it is not stored",
    ),
    (errors.DurationError("timeout must be above 0"), {}, "timeout must be above 0"),
    (
        errors.LifecycleError("closed", "start"),
        {"state": "closed", "event": "start"},
        "start is not possible while closed",
    ),
    (
        errors.JournalUnavailable("/run/n.journal", "process 4711 has kept it locked for 1 s", holder=4711),
        {"where": "/run/n.journal", "reason": "process 4711 has kept it locked for 1 s", "holder": 4711},
        "journal /run/n.journal: process 4711 has kept it locked for 1 s",
    ),
    (
        errors.EnvelopeError("too-deep", "257 levels"),
        {"reason": "too-deep", "detail": "257 levels"},
        "too-deep: 257 levels",
    ),
    (
        errors.SignatureError(),
        {"reason": "signature"},
        "signature: the token does not match; do both sides have the same secret_token?",
    ),
    (
        errors.PermissionDenied("N.a.b", "caller 'shop' may not call N.a.b", "shop", "callers.shop.deny '*'"),
        {"address": "N.a.b", "reason": "permission-denied", "caller": "shop", "rule": "callers.shop.deny '*'"},
        "N.a.b: refused by the node (permission-denied): caller 'shop' may not call N.a.b",
    ),
    (errors.SignatureError("it carries no token"), {"detail": "it carries no token"}, "signature: it carries no token"),
    (errors.TransportError("broken"), {}, "broken"),
    (
        errors.ConnectFailed("mq-a:5672", "connection refused", kind="refused"),
        {"host": "mq-a:5672", "reason": "connection refused", "kind": "refused"},
        "mq-a:5672: connection refused",
    ),
    (
        errors.ContractError("services[0]: must be an object"),
        {},
        "services[0]: must be an object",
    ),
    (
        errors.ConnectionLost("mq-a:5672", "reset", sent=True),
        {"host": "mq-a:5672", "reason": "reset", "sent": True},
        "mq-a:5672: reset (after something was sent)",
    ),
    (
        errors.MessageTooLarge("mq-a:5672", size=20_000_000, limit=16_777_216),
        {"host": "mq-a:5672", "size": 20_000_000, "limit": 16_777_216, "sent": True},
        "mq-a:5672: a message of 20000000 bytes is larger than the broker takes (16777216): raise its max_message_size"
        " (after something was sent)",
    ),
    (
        errors.QueueConflict("mq-a:5672", "queue N.messages is classic", queue="N.messages"),
        {"host": "mq-a:5672", "kind": "topology", "queue": "N.messages"},
        "mq-a:5672: queue N.messages is classic",
    ),
    (
        errors.QueueStranded("mq-a:5672", "queue N.rpc is away", queue="N.rpc"),
        {"host": "mq-a:5672", "reason": "queue N.rpc is away", "queue": "N.rpc", "sent": False},
        "mq-a:5672: queue N.rpc is away",
    ),
    (
        errors.NoBrokerAvailable("N.c.s", ATTEMPTS),
        {"target": "N.c.s", "attempts": tuple(ATTEMPTS)},
        "no broker reachable for N.c.s: mq-a:5672 connection refused, mq-b:5672 no connection within 2 s"
        "; nothing was sent",
    ),
    (
        errors.SendUnconfirmed("N.c.s", ATTEMPTS[:1]),
        {"target": "N.c.s", "attempts": tuple(ATTEMPTS[:1])},
        "no broker confirmed the message to N.c.s: mq-a:5672 connection refused; whether it is stored is unknown",
    ),
    (errors.CallError("N.c.s", "broken"), {"address": "N.c.s"}, "N.c.s: broken"),
    (
        errors.CallTimeout("N.c.s", 2.5, ATTEMPTS[:1]),
        {"address": "N.c.s", "waited_s": 2.5, "attempts": tuple(ATTEMPTS[:1])},
        "N.c.s: no reply within 2.5 s; tried mq-a:5672 connection refused",
    ),
    (
        errors.CallInterrupted("N.c.s", "mq-a:5672 connection lost"),
        {"address": "N.c.s", "reason": "mq-a:5672 connection lost"},
        "N.c.s: interrupted, outcome unknown: mq-a:5672 connection lost",
    ),
    (
        errors.StreamInterrupted("N.c.s", 7, "mq-a:5672 connection lost"),
        {"address": "N.c.s", "position": 7, "reason": "mq-a:5672 connection lost"},
        "N.c.s: the stream was interrupted at item 7: mq-a:5672 connection lost",
    ),
    (
        errors.CallRefused("N.c.s", "stale", "3 s too old"),
        {"address": "N.c.s", "reason": "stale", "detail": "3 s too old"},
        "N.c.s: refused by the node (stale): 3 s too old",
    ),
    (
        errors.NodeUnavailable("N.c.s", ATTEMPTS[:1]),
        {"address": "N.c.s", "attempts": tuple(ATTEMPTS[:1])},
        "N.c.s: node is away: mq-a:5672 connection refused; nothing was sent",
    ),
    (
        errors.OutboxFull("N.c.s", "/var/out", 100_000, 12_345),
        {"address": "N.c.s", "path": "/var/out", "messages": 100_000, "size": 12_345},
        "N.c.s: no broker takes it, and outbox /var/out is full (100000 messages, 12345 bytes); it is not stored",
    ),
    (
        errors.OutboxUnavailable("/var/out", "is in use by another Sender"),
        {"path": "/var/out", "reason": "is in use by another Sender"},
        "outbox /var/out is in use by another Sender",
    ),
    (
        errors.ContractMismatch("N.c.s", [errors.InvalidParam((), "wrong", "int_type")], present={"version": "1.4"}),
        {"reason": "contract-mismatch", "count": 1, "present": {"version": "1.4"}},
        "N.c.s: refused by the node (contract-mismatch): params: wrong (int_type)",
    ),
    (
        errors.InvalidParams("N.c.s", [errors.InvalidParam(("a", 0), "no number", "int_type")]),
        {"reason": "invalid-params", "errors": ((("a", 0), "no number", "int_type"),), "count": 1},
        "N.c.s: refused by the node (invalid-params): a.0: no number (int_type)",
    ),
    (errors.UnknownService("N.c.s"), {"address": "N.c.s"}, "N.c.s: the node has no such service"),
    (
        errors.ServiceBusy("N.c.s", 0.05),
        {"address": "N.c.s", "retry_after_s": 0.05, "reason": ""},
        "N.c.s: the service's inbox is full",
    ),
    (
        errors.ServiceBusy("N.c.s", 2.0, "the database is away"),
        {"address": "N.c.s", "retry_after_s": 2.0, "reason": "the database is away"},
        "N.c.s: the database is away",
    ),
    (
        errors.RemoteError("N.c.s", "ValueError", "no such month", "Traceback ..."),
        {"address": "N.c.s", "type": "ValueError", "message": "no such month", "trace": "Traceback ..."},
        "N.c.s: ValueError: no such month",
    ),
]
WAYS = {
    "pickle": lambda error: pickle.loads(pickle.dumps(error)),
    "oldest pickle": lambda error: pickle.loads(pickle.dumps(error, 0)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


def label(value: object) -> str | None:
    return type(value).__name__ if isinstance(value, ServiceBusError) else None


def test_every_error_of_the_page_has_an_example_here() -> None:
    classes = {cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, ServiceBusError)}
    assert classes == {type(error) for error, _, _ in EXAMPLES}
    assert {cls.__name__ for cls in classes} == set(errors.__all__)


@pytest.mark.parametrize(("error", "facts", "text"), EXAMPLES, ids=label)
def test_an_error_says_what_broke_and_carries_the_facts(
    error: ServiceBusError, facts: dict[str, object], text: str
) -> None:
    assert str(error) == text
    assert {name: getattr(error, name) for name in facts} == facts
    assert text in repr(error).replace("\\'", "'")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("error", "facts", "text"), EXAMPLES, ids=label)
def test_an_error_survives_being_copied_and_pickled_with_all_its_facts(
    error: ServiceBusError, facts: dict[str, object], text: str, way: str
) -> None:
    """They cross process borders in multiprocessing and concurrent.futures; keyword-only facts must come along."""
    twin = WAYS[way](error)
    assert type(twin) is type(error)
    assert (str(twin), twin.args, twin.__dict__) == (text, error.args, error.__dict__)
    assert {name: getattr(twin, name) for name in facts} == facts


def test_the_tree_lets_callers_catch_by_what_they_can_do_about_it() -> None:
    assert issubclass(errors.CallTimeout, TimeoutError)
    assert issubclass(errors.AddressError, ValueError)
    assert issubclass(errors.DurationError, ValueError)
    assert issubclass(errors.SignatureError, errors.EnvelopeError)
    for of_call in (errors.NodeUnavailable, errors.ServiceBusy, errors.UnknownService, errors.CallRefused):
        assert issubclass(of_call, errors.CallError)
    for cls in (errors.NoBrokerAvailable, errors.SendUnconfirmed, errors.ConnectFailed, errors.ConnectionLost):
        assert issubclass(cls, errors.TransportError)


def test_a_remote_error_without_a_text_ends_with_its_type() -> None:
    assert str(errors.RemoteError("N.c.s", "KeyError", "")) == "N.c.s: KeyError"
