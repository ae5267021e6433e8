"""Encryption, whatever carries the requests: the same in memory and on RabbitMQ."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bus_worlds import NODE, RealWorld, World, in_asyncio, real_world
from kept_world import KeptWorld
from secret_services import Fragile, User, keep, make_bus, open_it, rows, rows_async, safe

from servicebus import Secret
from servicebus.aio import AsyncSender
from servicebus.errors import CallRefused, EnvelopeError, RemoteError, ServiceBusError, ServiceBusy
from servicebus.testing import BrokerPool, HistoryEntry

NEW, OLD, OTHER = "the key that encrypts from now on", "the key that has encrypted until now", "a key of others alone"
ENCRYPTION = {"keys": [NEW, OLD], "services": ["*.vault.*"], "events": "vault.#"}
PIN = "4711-0815-1234"
DO, OPEN = f"{NODE}.vault.do", f"{NODE}.open.do"


@pytest.fixture(scope="module")
def bus_in_memory() -> Iterator[KeptWorld]:
    kept = KeptWorld(make_bus, encryption=ENCRYPTION)
    yield kept
    kept.close()


@pytest.fixture(scope="module")
def bus_of_secrets(broker_pool: BrokerPool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealWorld]:
    folder = tmp_path_factory.mktemp("bus")
    with real_world(broker_pool.heal(2), folder, "secret_services", encryption=ENCRYPTION) as world:
        yield world


@pytest.fixture(params=["memory", pytest.param("amqp", marks=pytest.mark.broker)])
def world(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[World]:
    """In the end nothing secret stands in a log, or in a file of the node: its journal, its log, its state."""
    caplog.set_level(logging.DEBUG)
    if request.param == "memory":
        kept: KeptWorld = request.getfixturevalue("bus_in_memory")
        yield kept.begin()
        kept.end()
    else:
        real: RealWorld = request.getfixturevalue("bus_of_secrets")
        yield real.begin()
        real.end()
        for path in filter(Path.is_file, real.node.folder.rglob("*")):
            # The test's own notes of what its services did are no part of the node.
            assert path == real.node.history or PIN.encode() not in path.read_bytes(), path
    shown = [each for each in caplog.records if PIN in logging.Formatter().format(each)]
    assert not shown, [each.getMessage() for each in shown]


def sender_of(world: World, **encryption: Any) -> Any:
    return world.make_sender(encryption={**ENCRYPTION, **encryption})


def dead(world: World) -> list[HistoryEntry]:
    return world.history.only("dead-lettered")


def the_dead_letter(world: World) -> str:
    world.until(lambda: bool(dead(world)))
    (letter,) = dead(world)
    assert PIN not in letter.detail
    return letter.detail


# -- what the configuration names --------------------------------------------------------------------------------------


@pytest.mark.parametrize("params", [["echo"], ["echo", PIN, {"a": [None, 1.5]}], ["echo", "x" * 200_000]], ids=len)
def test_a_call_is_encrypted_and_answered(world: World, params: Any) -> None:
    assert world.sender.call(DO, params)[1] == params[1:]


@pytest.mark.parametrize("keys", [[NEW], [OLD], [OLD, NEW], [NEW, OTHER]])
def test_each_key_that_the_node_has_is_good(world: World, keys: Any) -> None:
    assert sender_of(world, keys=keys).call(DO, ["echo", PIN])[1] == [PIN]


@pytest.mark.parametrize("keys", [[OTHER], [OTHER, NEW]])
def test_a_key_that_the_node_has_not_is_refused(world: World, keys: Any) -> None:
    with pytest.raises(CallRefused, match="no encryption key with the id") as refusal:
        sender_of(world, keys=keys).call(DO, ["echo", PIN])
    assert refusal.value.reason == "encryption"
    assert not world.history.only("executed")


def test_what_comes_in_plain_is_refused(world: World) -> None:
    for sender in (world.make_sender(encryption=None), sender_of(world, services=[])):
        with pytest.raises(CallRefused) as refusal:
            sender.call(DO, ["echo", 1])
        assert refusal.value.reason == "not-encrypted"
    assert not world.history.only("executed")


def test_what_the_configuration_does_not_name_is_not(world: World) -> None:
    assert world.make_sender(encryption=None).call(OPEN, ["echo", 1])[1] == [1]
    assert sender_of(world, services="*").call(OPEN, ["echo", PIN])[1] == [PIN], "but it may be"


def test_a_program_that_does_not_ask_for_it_may_use_compression(world: World) -> None:
    for compress in ("zlib", "zstd"):
        assert sender_of(world, compress=compress).call(DO, ["echo", PIN * 1000])[1] == [PIN * 1000]


def test_the_same_from_coroutines(world: World) -> None:
    async def ask(sender: AsyncSender) -> Any:
        return (await sender.call(DO, ["echo", PIN]))[1]

    assert in_asyncio(world, ask) == [PIN]


def test_what_a_service_asks_is_encrypted_too(world: World) -> None:
    assert world.sender.call(OPEN, ["ask", DO, ["echo", 1]])[1] == [1]


def test_many_calls_at_a_time(world: World) -> None:
    futures = [world.sender.call_async(DO, ["echo", n]) for n in range(50)]
    assert [each.result()[1] for each in futures] == [[n] for n in range(50)]


def test_another_attempt_over_another_broker_is_read(world: World) -> None:
    """Each attempt is encrypted by itself, as its header is another."""
    assert world.sender.call(DO, ["echo", 1])[1] == [1]
    world.brokers[0].stop()
    assert world.sender.call(DO, ["echo", PIN])[1] == [PIN]
    world.brokers[0].start()


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("how", "kind"), [("value", "ValueError"), ("chain", "ValueError"), ("reject", "Reject")])
def test_an_error_reaches_its_caller_and_no_log(world: World, how: str, kind: str) -> None:
    with pytest.raises(RemoteError) as raised:
        world.sender.call(DO, [how, PIN])
    assert raised.value.type == kind and PIN in raised.value.message


def test_why_a_service_is_not_ready_reaches_its_caller_alone(world: World) -> None:
    with pytest.raises(ServiceBusy, match=PIN):
        world.sender.call(DO, ["retry", PIN], timeout=0.5)


def test_why_a_caller_is_denied_reaches_it_alone(world: World) -> None:
    with pytest.raises(ServiceBusError, match=PIN) as refusal:
        world.sender.call(DO, ["deny", PIN])
    assert isinstance(refusal.value, CallRefused)


def test_a_declared_error_has_its_fields(world: World) -> None:
    with pytest.raises(Fragile) as raised:
        world.sender.client(NODE, safe).call(open_it, "a", Secret(PIN), fails=True)
    assert raised.value.pin == PIN


@pytest.mark.parametrize("how", ["value", "chain", "reject", "deny"])
def test_a_dead_letter_shows_what_was_raised_and_not_why(world: World, how: str) -> None:
    world.sender.send(f"{NODE}.vault.keep", [how, PIN])
    assert "not shown" in the_dead_letter(world) or how == "deny"


def test_a_message_of_another_key_is_a_dead_letter(world: World) -> None:
    sender_of(world, keys=OTHER).send(f"{NODE}.vault.keep", ["keep", PIN])
    assert the_dead_letter(world).startswith("encryption")


def test_a_message_in_plain_is_a_dead_letter(world: World) -> None:
    sender_of(world, services=[]).send(f"{NODE}.vault.keep", ["keep", 1])
    assert the_dead_letter(world).startswith("not-encrypted")


@pytest.mark.parametrize("delay", [None, 0.5])
def test_a_message_is_handled(world: World, delay: float | None) -> None:
    world.sender.send(f"{NODE}.vault.keep", ["keep", PIN], delay=delay)
    world.until(lambda: bool(world.history.only("executed")))
    assert not dead(world)


def test_an_outbox_does_not_show_its_messages(world: World, tmp_path: Path) -> None:
    sender = world.make_sender(outbox=tmp_path / "outbox", send_timeout=1.0)
    for broker in world.brokers:
        broker.stop()
    for target, params in ((f"{NODE}.vault.keep", ["keep", PIN]), (f"{NODE}.open.keep", ["keep", Secret(PIN)])):
        assert sender.send(target, params).in_outbox
    stored = b"".join(each.read_bytes() for each in tmp_path.iterdir())
    assert b"A256GCM:" in stored and PIN.encode() not in stored
    for broker in world.brokers:
        broker.start()
    world.until(lambda: len(world.history.only("executed")) == 2)


# -- secrets -----------------------------------------------------------------------------------------------------------


def test_a_typed_service_gets_and_returns_secrets(world: World) -> None:
    client = world.sender.client(NODE, safe)
    assert client.call(open_it, "a", Secret(PIN)) == Secret(f"a by {PIN}")
    assert client.open_it("a", PIN) == Secret(f"a by {PIN}"), "a plain value is taken for one"
    user = User(name="Ada", pins=[Secret(1), Secret(2)])
    assert client.add_user(user, {"a": Secret(["x"])}).pins == [Secret(3), Secret(1)]


def test_a_secret_is_one_for_programs_without_types(world: World) -> None:
    user = {"name": "a", "pins": [Secret(1)]}
    _, result = world.sender.call(f"{NODE}.safe.add_user", {"user": user, "keys": {"a": Secret([])}})
    assert result == {"name": "a", "pins": [Secret(1), Secret(1)]}
    assert world.sender.call(f"{NODE}.safe.open_it", {"name": "a", "pin": Secret(PIN)})[1] == f"a by {PIN}"
    assert world.sender.call(OPEN, ["kinds", 1, Secret(PIN), [Secret(2)]])[1] == ["int", "Secret", "list"]
    assert PIN not in world.sender.call(OPEN, ["shown", Secret(PIN)])[1]


def test_params_that_are_a_secret_as_a_whole(world: World) -> None:
    assert world.sender.call(OPEN, Secret(["echo", PIN]))[1] == [PIN]
    assert world.sender.call(f"{NODE}.safe.sealed", Secret(["text"]))[1] == "TEXT"


def test_a_secret_that_comes_in_plain_is_refused(world: World) -> None:
    for target, params in ((f"{NODE}.safe.open_it", ["a", "1"]), (f"{NODE}.safe.sealed", ["a"])):
        with pytest.raises(CallRefused) as refusal:
            world.sender.call(target, params)
        assert refusal.value.reason == "not-encrypted"
    world.sender.send(f"{NODE}.safe.keep", ["a", "1"])
    assert the_dead_letter(world).startswith("not-encrypted")


def test_a_client_encrypts_for_a_service_that_wants_it(world: World) -> None:
    client = world.sender.client(NODE, safe)
    assert (client.sealed("a"), client.plain("a")) == ("A", "A")


def test_without_keys_a_secret_is_not_sent(world: World) -> None:
    sender = world.make_sender(encryption=None)
    for target in (OPEN, f"{NODE}.open.keep"):
        with pytest.raises(EnvelopeError, match="no keys") as refused:
            (sender.call if target == OPEN else sender.send)(target, ["keep", Secret(PIN)])
        assert PIN not in str(refused.value)
    assert not world.history.only("executed") and not dead(world)


def test_what_is_no_secret_is_said_of_its_params_without_it(world: World) -> None:
    with pytest.raises(CallRefused) as refusal:
        world.sender.call(f"{NODE}.safe.add_user", {"user": {"name": "a", "pins": [Secret(PIN)]}, "keys": {}})
    assert refusal.value.reason == "invalid-params" and PIN not in str(refusal.value)


@pytest.mark.parametrize("how", ["value", "chain", "reject"])
def test_a_message_with_secrets_that_fails_shows_none(world: World, how: str) -> None:
    world.sender.client(NODE, safe).send(keep, "a", Secret(PIN), how)
    assert "not shown" in the_dead_letter(world)


# -- streams and events ------------------------------------------------------------------------------------------------


def test_the_items_of_a_stream_are_encrypted(world: World) -> None:
    client = world.sender.client(NODE, safe)
    assert list(client.stream(rows, Secret(PIN), 30)) == [Secret(f"{PIN} {n}") for n in range(30)]
    assert list(client.stream(rows_async, 300))[-1] == "row 299 of the vault"
    with pytest.raises(CallRefused, match="has to be encrypted"):
        list(world.sender.stream(f"{NODE}.safe.rows_async", [3]))


def test_an_event_is_encrypted_for_its_subscribers(world: World) -> None:
    world.sender.publish("vault.opened", ["a", PIN])
    world.until(lambda: bool(world.history.only("executed")))
    sender_of(world, events=[]).publish("vault.opened", ["a", "1"])
    assert the_dead_letter(world).startswith("not-encrypted")


def test_an_event_that_fails_shows_nothing(world: World) -> None:
    world.sender.publish("vault.opened", ["a", PIN, "chain"])
    assert "not shown" in the_dead_letter(world)
