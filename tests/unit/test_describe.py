"""A node describes itself on its control queue, and ``servicebus describe`` prints that."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from test_contracts import shop

from servicebus.aio import AsyncSender
from servicebus.cli.main import servicebus
from servicebus.contracts import NodeContract, ServiceContract
from servicebus.errors import CallRefused, ContractError, UnknownService
from servicebus.testing import MemoryBus
from servicebus.wire.address import Address


@pytest.fixture
def world(memory_bus: Callable[..., MemoryBus]) -> MemoryBus:
    return memory_bus(shop())


@pytest.fixture
def run(world: MemoryBus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Result]]:
    """The command, whose Sender is that of the bus in memory."""
    monkeypatch.setattr("servicebus.sender.Sender", lambda configuration: world.sender)
    config = tmp_path / "sender.yaml"
    config.write_text("hosts: [mq-1]\nsecret_token: a secret of some length\n")
    yield lambda *arguments: CliRunner().invoke(servicebus, ["describe", "-c", str(config), *arguments])


def test_a_node_describes_itself(world: MemoryBus) -> None:
    contract = world.sender.describe("NODE-01")
    assert contract.node == "NODE-01"
    told = [(each.key, each.kind, each.hash, each.docs) for each in shop().contract()]
    assert [(each.key, each.kind, each.hash, each.docs) for each in contract] == told
    assert contract.services[1].options == {"tasks": 100}


def test_or_one_service(world: MemoryBus) -> None:
    assert [each.key for each in world.sender.describe("NODE-01.shop.price")] == ["shop.price"]
    assert len(world.sender.describe("NODE-01")) == 3
    with pytest.raises(UnknownService):
        world.sender.describe("NODE-01.shop.cost")


def test_from_a_task(world: MemoryBus) -> None:
    contract = asyncio.run(AsyncSender.of(world.sender).describe("NODE-01.shop.price"))
    assert contract == world.sender.describe("NODE-01.shop.price")


def test_nothing_but_a_name_is_asked_for(world: MemoryBus, monkeypatch: pytest.MonkeyPatch) -> None:
    for params in (5, ["a", "b"], [], {"a": 1, "b": 2}):
        monkeypatch.setattr("servicebus._discovering.description_question", _question(params))
        with pytest.raises(CallRefused):
            world.sender.describe("NODE-01")
    monkeypatch.undo()
    assert len(world.sender.describe("NODE-01")) == 3


def _question(params: Any) -> Callable[[str], Any]:
    return lambda target: (Address(target, "servicebus", "describe"), params)


def test_a_description_that_is_too_long_is_refused(memory_bus: Callable[..., MemoryBus]) -> None:
    world = memory_bus(shop(), max_envelope_bytes=1500)
    with pytest.raises(CallRefused, match="max_envelope_bytes allows 1500"):
        world.sender.describe("NODE-01")
    assert world.sender.describe("NODE-01.shop.old_price").services[0].docs == ""


def test_what_is_no_description_is_said(world: MemoryBus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("servicebus.runtime.control.ControlRequests._described", _pong)
    with pytest.raises(ContractError, match="no description of a node"):
        world.sender.describe("NODE-01")


def _pong(control: Any, incoming: Any, describe: Any) -> bytes:
    """What an agent of version 2.x answers, whatever it is asked."""
    body: bytes = control.protocol.encode_result(incoming, "PONG")
    return body


def test_the_command_prints_signatures_and_first_lines(run: Callable[..., Result]) -> None:
    done = run("NODE-01")
    assert (done.exit_code, done.output.splitlines()) == (
        0,
        [
            "NODE-01 offers 3 services",
            "",
            "  shop.price version 1.4",
            "      shop.price(order: Order) -> Decimal",
            "      What an order costs.",
            "",
            "  shop.old_price deprecated: use price",
            "      shop.old_price(sku: str, count: int = 1, at: datetime | None = None) -> float",
            "",
            "  shop.restocked (message)",
            "      shop.restocked(sku: str)",
        ],
    )


@pytest.mark.parametrize("target", [["NODE-01", "shop.price"], ["NODE-01.shop.price"]])
def test_the_command_prints_one_service_in_full(run: Callable[..., Result], target: list[str]) -> None:
    assert run(*target).output.splitlines() == [
        "NODE-01.shop.price version 1.4",
        "    shop.price(order: Order) -> Decimal",
        "    What an order costs.",
        "",
        "    In euros.",
        "  Colour",
        "    'red'",
        "    'blue'",
        "  Order",
        "    sku: str",
        "    count: int(exclusiveMinimum=0) = 1",
        "    colour: Colour = 'red'",
        "    parts: list[Order] = []",
        "  raises OutOfStock: There is no more.",
        "  raises Broken",
        "  options: idempotent True, lock True",
        f"  hash: {shop().contract().services[0].hash}",
    ]


def test_the_command_prints_what_files_hold(run: Callable[..., Result], world: MemoryBus) -> None:
    document = json.loads(run("NODE-01", "--json").output)
    assert document == world.sender.describe("NODE-01").to_json()


def test_a_service_that_is_not_there_is_status_8(run: Callable[..., Result]) -> None:
    assert run("NODE-01", "shop.cost").exit_code == 8


def test_what_a_node_says_moves_no_cursor(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("servicebus._discovering.read_description", lambda target, value: _with_docs("a\x1b[2Jb\nc"))
    assert "      a\\x1b[2Jb\n" in run("NODE-01").output


def _with_docs(docs: str) -> NodeContract:
    return NodeContract((ServiceContract("call", "a", "b", docs=docs),), "NODE-01")


# -- the argument SOURCE of all commands that read a contract ----------------------------------------------------------

SOURCE_COMMANDS = ("asyncapi", "describe", "docs", "mock", "stubs")


@pytest.mark.parametrize("name", SOURCE_COMMANDS)
def test_the_commands_name_it_alike(name: str) -> None:
    done = CliRunner().invoke(servicebus, [name, "--help"])
    assert " SOURCE" in done.output.splitlines()[0] + done.output.splitlines()[1]
    assert "module:group" in done.output and "YAML file of an agent" in " ".join(done.output.split())


@pytest.mark.parametrize("name", sorted({*SOURCE_COMMANDS, "contract diff"} - {"mock"}))
@pytest.mark.parametrize("form", ["group", "file", "agent", "stdin"])
def test_a_source_that_is_no_node_needs_no_configuration(
    name: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SERVICEBUS_CONFIG", raising=False)
    monkeypatch.syspath_prepend(Path(__file__).parent)
    text = json.dumps(shop().contract().to_json())
    (tmp_path / "shop.json").write_text(text)
    agent = {"hosts": ["mq-1"], "secret_token": "a secret of some length", "node_name": "NODE-01"}
    (tmp_path / "agent.yaml").write_text(json.dumps({**agent, "services": [{"group": "test_describe:group"}]}))
    source = {"group": "test_describe:group", "file": "shop.json", "agent": "agent.yaml", "stdin": "-"}[form]
    monkeypatch.chdir(tmp_path)
    more = {"contract diff": ["shop.json"], "docs": ["-o", "site"]}.get(name, [])
    done = CliRunner().invoke(servicebus, [*name.split(), source, *more], input=text)
    assert done.exit_code == 0, done.output


def test_a_group_is_described_and_one_service_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    all_of_it = CliRunner().invoke(servicebus, ["describe", "test_describe:group"])
    assert all_of_it.output.startswith("test_describe:group offers 3 services")
    one = CliRunner().invoke(servicebus, ["describe", "test_describe:group", "shop.price"])
    assert one.output.startswith("shop.price") and "hash: " in one.output and "shop.note" not in one.output
    none = CliRunner().invoke(servicebus, ["describe", "test_describe:group", "shop.cost", "--json"])
    assert (none.exit_code, json.loads(none.output)["error"]) == (8, "UnknownService")


def test_a_node_needs_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SERVICEBUS_CONFIG", raising=False)
    done = CliRunner().invoke(servicebus, ["describe", "NODE-01"])
    assert done.exit_code == 2 and "name a configuration by -c FILE" in done.output


group = shop()
