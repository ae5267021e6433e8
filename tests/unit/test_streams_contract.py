"""Streams in contracts and in what is made of them: stubs, pages, AsyncAPI, mocks and differences."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner
from stream_services import Countdown, Row

from servicebus.aio import AsyncSender
from servicebus.cli.describe import _heading
from servicebus.cli.main import servicebus
from servicebus.configuration import Configuration
from servicebus.contracts import NodeContract
from servicebus.contracts.asyncapi import asyncapi_document
from servicebus.contracts.differences import compare_contracts
from servicebus.contracts.notation import signature_of
from servicebus.contracts.pages import make_pages
from servicebus.contracts.site import make_site
from servicebus.contracts.stubs import stub_of
from servicebus.errors import ContractError, ContractMismatch, InvalidParams
from servicebus.sender import ItemStream, Sender
from servicebus.service import ServiceBus
from servicebus.testing import MemoryBus, mock_of
from servicebus.typed import AnySender, Items, Services, TypedClient

group = Services("report")


@group.rpc(resumable=True)
def rows(year: int, count: int = 2) -> Iterator[Row]:
    """The rows of a year."""
    for number in range(count):
        yield Row(id=number, text=str(year))


@group.rpc
async def ticks(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


@group.rpc
def anything(count: int) -> Any:
    yield from range(count)


class Report(TypedClient[AnySender], group=group):
    rows = Items(rows)
    ticks = Items(ticks)


def contract() -> NodeContract:
    return group.contract()


def of(name: str) -> Any:
    return next(each for each in contract() if each.name == name)


def test_a_contract_says_what_the_items_are() -> None:
    assert [each.kind for each in contract()] == ["stream"] * 3
    assert of("rows").result["properties"]["id"] == {"type": "integer"} and of("rows").options == {"resumable": True}
    assert of("ticks").result == {"type": "integer"} and of("anything").result == {}
    assert NodeContract.from_json(contract().to_json()) == contract()
    assert signature_of(of("rows")) == "report.rows(year: int, count: int = 2) -> Iterator[Row]"
    assert _heading(of("rows")) == "report.rows (stream)"


def test_a_stream_of_something_is_another_contract_than_a_call_for_it() -> None:
    calls = Services("report")

    @calls.rpc(name="ticks")
    def one(count: int) -> int:
        return count

    (call,) = calls.contract()
    assert call.params == of("ticks").params and call.result == of("ticks").result and call.hash != of("ticks").hash
    (difference,) = compare_contracts(calls.contract(), NodeContract((of("ticks"),)))
    assert difference.effect == "breaking" and difference.text == "was rpc service, is now stream service"


def test_the_class_form_says_it_too() -> None:
    class Typed(Countdown):
        params_type, result_type = list[int], int

    bus = ServiceBus(Configuration({"hosts": ["mq"], "node_name": "NODE-01", "secret_token": "of sixteen bytes"}))
    bus.add_rpc_service("stream", "countdown", Typed())
    (found,) = bus.contract()
    assert (found.kind, found.result, found.options) == ("stream", {"type": "integer"}, {"resumable": True})


def test_a_stub_has_it_for_threads_and_for_asyncio(
    memory_bus: Callable[..., MemoryBus], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = stub_of(contract())
    assert "def rows(self, year: int, count: int = MISSING) -> Iterator[Row]:" in text
    assert "def ticks(self, count: int) -> AsyncIterator[int]:" in text
    made: Any = ModuleType("report_client")
    monkeypatch.setitem(sys.modules, "report_client", made)
    exec(compile(text, "report_client.py", "exec"), vars(made))  # noqa: S102 - it is ours
    world = memory_bus(group)
    client = made.Report(world.sender, "NODE-01")
    found = list(client.rows(2026, 3))
    assert [(type(row).__name__, row.id, row.text) for row in found] == [("Row", n, "2026") for n in range(3)]

    async def read() -> list[Any]:
        return [item async for item in made.AsyncReport(AsyncSender.of(world.sender), "NODE-01").ticks(3)]

    assert asyncio.run(read()) == [0, 1, 2]


def test_a_typed_client_lists_it(memory_bus: Callable[..., MemoryBus]) -> None:
    world = memory_bus(group)
    client = world.sender.client("NODE-01", Report)
    found: ItemStream[Row] = client.rows(2026)
    assert list(found) == [Row(id=0, text="2026"), Row(id=1, text="2026")]
    assert list(client.ticks(2)) == [0, 1]

    async def read() -> list[int]:
        return [item async for item in Report(AsyncSender.of(world.sender), "NODE-01").ticks(3)]

    assert asyncio.run(read()) == [0, 1, 2]
    with pytest.raises(InvalidParams):
        client.rows("year")  # type: ignore[arg-type]


def test_a_caller_of_another_version_is_told_what_differs(memory_bus: Callable[..., MemoryBus]) -> None:
    older = Services("report")

    @older.rpc(name="rows")
    def old_rows(year: str) -> Iterator[Row]:
        yield from ()

    world = memory_bus(group)
    with pytest.raises(ContractMismatch, match="year"):
        list(world.sender.client("NODE-01", older).stream(old_rows, "soon"))


def test_documents_know_it() -> None:
    (page, *_) = [page for page in make_pages(contract()) if page.service.name == "rows"]
    assert page.kind == "stream" and page.command.startswith("servicebus stream ")
    assert "for item in sender.stream(" in page.program
    assert any("report.rows" in text for text in make_site(contract()).values())
    document = asyncapi_document(contract())
    (operation,) = [each for each in document["operations"].values() if each["title"].startswith("report.rows")]
    assert operation["channel"] == {"$ref": "#/channels/calls"}
    assert "report.rows.item" in document["components"]["messages"] and "reply" in operation


def test_a_mock_answers_items(memory_bus: Callable[..., MemoryBus]) -> None:
    mock = mock_of(contract())
    world = memory_bus(mock)
    (made,) = world.sender.stream("NODE-01.report.rows", [2026])
    assert set(made) == {"id", "text"}
    mock.reply("report.ticks", [5, 6, 7])
    assert list(world.sender.stream("NODE-01.report.ticks", [1])) == [5, 6, 7]
    mock.reply("report.rows", [{"id": 1, "text": ""}, {"id": 2, "text": ""}])
    assert [row["id"] for row in world.sender.stream("NODE-01.report.rows", [1], position=1)] == [2]
    with pytest.raises(ContractError, match="should be int"):
        mock.reply("report.ticks", ["five"])


def test_the_command_prints_a_line_for_each_item(
    memory_bus: Callable[..., MemoryBus], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world, asked = memory_bus(group), []

    class OfTheBus:
        def __init__(self, configuration: Configuration) -> None:
            asked.append(configuration.node_name)

        def __enter__(self) -> Sender:
            return world.sender

        def __exit__(self, *_: Any) -> None: ...

    monkeypatch.setattr("servicebus.sender.Sender", OfTheBus)
    file = tmp_path / "bus.yaml"
    file.write_text("hosts: [mq]\nsecret_token: of sixteen bytes\nnode_name: X\n")
    how = ["-c", str(file), "--position", "0", "--timeout", "5", "--item-timeout", "2"]
    done = CliRunner().invoke(servicebus, ["stream", "NODE-01.report.rows", "[2026, 3]", *how])
    assert done.exit_code == 0, done.output
    assert done.stdout == '{"id": 0, "text": "2026"}\n{"id": 1, "text": "2026"}\n{"id": 2, "text": "2026"}\n'
    assert asked == ["X"]
