"""Mocks: a node made from its contract answers as the node would, but for what its code decides."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from servicebus.cli.main import servicebus
from servicebus.contracts import NodeContract, ServiceContract
from servicebus.errors import ContractError, ContractMismatch, InvalidParams, RemoteError
from servicebus.services import UnboundParams
from servicebus.testing import MemoryBus, MockNode, bus, mock_of
from servicebus.testing.mock_service import MockService
from servicebus.testing.schema_check import SchemaCheck
from servicebus.typed import Services
from servicebus.typed.schema import schema_of

OpenBus = Callable[..., MemoryBus]


class Line(BaseModel):
    sku: Annotated[str, Field(min_length=1, examples=["s-1"])]
    count: Annotated[int, Field(gt=0, le=10)] = 1
    price: Decimal = Decimal("1.5")


class OutOfStock(Exception):
    def __init__(self, sku: str, left: int):
        super().__init__(f"{left} of {sku} left")
        self.sku, self.left = sku, left


def shop() -> Services:
    group = Services("shop")

    @group.rpc(errors=[OutOfStock], version="1.4")
    def order(lines: list[Line], at: datetime | None = None, *, kind: Literal["a", "b"] = "a") -> Line:
        return lines[0]

    @group.rpc
    def line(line: Line) -> dict[str, int]:
        return {line.sku: line.count}

    @group.rpc
    def placed(sku: str, count: int = 1, /) -> int:
        return count

    @group.message(retry=[5, 60])
    async def restocked(sku: str) -> None: ...

    return group


@pytest.fixture
def mock(tmp_path: Path) -> MockNode:
    """From a file: the code of the node is not there."""
    described = NodeContract(shop().contract().services, "NODE-07").to_json()
    (tmp_path / "shop.json").write_text(json.dumps(described))
    return mock_of(tmp_path / "shop.json")


@pytest.fixture
def world(mock: MockNode, memory_bus: OpenBus) -> MemoryBus:
    return memory_bus(mock)


def test_calls_get_what_the_schema_accepts_and_messages_are_taken(world: MemoryBus) -> None:
    _, result = world.sender.call("NODE-07.shop.order", {"lines": [{"sku": "s-9"}]})
    assert Line.model_validate(result).sku == "s-1"
    assert type(world.sender.call("NODE-07.shop.placed", ["s-9"])[1]) is int
    id = world.sender.send("NODE-07.shop.restocked", {"sku": "s-9"})
    world.assert_executed_once(id)


def test_a_mock_describes_itself_as_the_node_does(world: MemoryBus) -> None:
    described = world.sender.describe("NODE-07")
    assert described.services == shop().contract().services


BAD: list[tuple[str, Any]] = [
    ("order", None),
    ("order", {}),
    ("order", {"lines": [], "more": 1}),
    ("order", {"lines": {}}),
    ("order", {"lines": [{"sku": "s"}, {"count": 2}]}),
    ("order", {"lines": [{"sku": "", "count": 11}]}),
    ("order", {"lines": [], "at": "yesterday"}),
    ("order", {"lines": [], "kind": "c"}),
    ("order", [[{"sku": 5}]]),
    ("order", 7),
    ("line", None),
    ("line", []),
    ("line", {"sku": "s", "price": "dear"}),
    ("placed", None),
    ("placed", []),
    ("placed", ["s", "many"]),
    ("placed", ["s", 1, 2]),
    ("restocked", {"sku": None}),
    ("restocked", ["s", 1]),
]


@pytest.mark.parametrize(("name", "params"), BAD)
def test_the_mock_refuses_what_the_node_refuses(name: str, params: Any) -> None:
    text = json.dumps(params).encode()
    described = shop().contract().find(f"shop.{name}")
    real = next(each.make() for each in shop() if each.name == name)
    assert described is not None
    refusals = []
    for service in (real, MockService(described)):
        with pytest.raises(UnboundParams) as caught:
            service.bind(text)
        refusals.append({tuple(place) for place, _, _ in json.loads(caught.value.data)["errors"]})
    of_node, of_mock = refusals
    assert {place[:1] for place in of_mock} == {place[:1] for place in of_node}


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("order", {"lines": [{"sku": "s", "count": 10, "price": 2}], "at": "2026-01-31T12:30:00Z", "kind": "b"}),
        ("order", [[{"sku": "s", "price": "2.50"}], None]),
        ("line", {"sku": "s", "unknown": 1}),
        ("placed", ["s", 3]),
        ("restocked", ["s"]),
    ],
)
def test_the_mock_takes_what_the_node_takes(name: str, params: Any) -> None:
    text = json.dumps(params).encode()
    described = shop().contract().find(f"shop.{name}")
    assert described is not None
    for service in (next(each.make() for each in shop() if each.name == name), MockService(described)):
        service.bind(text)


def test_a_refusal_names_place_and_kind_and_never_the_value(world: MemoryBus) -> None:
    with pytest.raises(InvalidParams) as caught:
        world.sender.call("NODE-07.shop.order", {"lines": [{"count": "hidden"}], "more": 1, "kind": "hidden"})
    found = {(each.place, each.kind) for each in caught.value.errors}
    assert found == {
        (("lines", 0, "sku"), "missing"),
        (("lines", 0, "count"), "type"),
        (("more",), "unexpected_keyword_argument"),
        (("kind",), "enum"),
    }
    assert "hidden" not in str(caught.value)
    assert not isinstance(caught.value, ContractMismatch)
    with pytest.raises(ContractMismatch):
        world.sender.call("NODE-07.shop.order", {}, contract="0" * 24)


def test_a_message_that_is_refused_or_fails_goes_the_way_of_the_node(mock: MockNode, world: MemoryBus) -> None:
    world.sender.send("NODE-07.shop.restocked", {"sku": 5})
    assert world.history.only("dead-lettered")
    mock.fail("shop.restocked", "ValueError")
    id = world.sender.send("NODE-07.shop.restocked", {"sku": "s"})
    world.advance(6)
    mock.reset()
    world.advance(60)
    world.assert_executed_once(id)


def test_errors_can_be_asked_for(mock: MockNode, world: MemoryBus) -> None:
    call: tuple[str, Any] = ("NODE-07.shop.order", {"lines": []})
    mock.fail("shop.order", "OutOfStock", {"sku": "s-1", "left": 3})
    with pytest.raises(OutOfStock) as declared:  # the group is known to this program
        world.sender.call(*call)
    assert (declared.value.sku, declared.value.left) == ("s-1", 3)
    mock.fail("shop.order", "OutOfStock")
    with pytest.raises(OutOfStock):
        world.sender.call(*call)
    mock.fail("shop.order", "KeyError")
    with pytest.raises(RemoteError) as raised:
        world.sender.call(*call)
    assert raised.value.type == "KeyError"
    mock.reset()
    assert world.sender.call(*call)[1]["sku"] == "s-1"


def test_replies_can_be_given(mock: MockNode, world: MemoryBus) -> None:
    mock.fail("shop.placed", "KeyError")
    mock.reply("shop.placed", 7)
    assert world.sender.call("NODE-07.shop.placed", ["s"])[1] == 7


@pytest.mark.parametrize(
    ("do", "text"),
    [
        (lambda mock: mock.reply("shop.placed", "seven"), "the result of shop.placed is not what its schema says"),
        (lambda mock: mock.reply("shop.restocked", 1), "the contract has no call shop.restocked; it has: shop.order"),
        (lambda mock: mock.fail("shop.none", "KeyError"), "the contract has no service shop.none"),
        (
            lambda mock: mock.fail("shop.order", "OutofStock"),
            "does not declare an error OutofStock; it declares",
        ),
        (lambda mock: mock.fail("shop.order", "OutOfStock", {"sku": 1}), "OutOfStock of shop.order is not what"),
        (lambda mock: mock.fail("shop.order", "KeyError", {"sku": 1}), "does not declare an error KeyError"),
    ],
)
def test_what_the_contract_does_not_allow_is_refused(mock: MockNode, do: Callable[[MockNode], None], text: str) -> None:
    with pytest.raises(ContractError, match=text):
        do(mock)


def test_latency_takes_time_of_the_bus(memory_bus: OpenBus) -> None:
    world = memory_bus(mock_of(shop(), latency=2.5))
    began = world.now
    world.sender.call("NODE-01.shop.placed", ["s"])
    assert world.now - began > 2.499, "sums of seconds are rounded"


def test_what_is_not_known_is_anything_and_the_reply_is_null(memory_bus: OpenBus) -> None:
    world = memory_bus(mock_of(NodeContract((ServiceContract("call", "old", "style"),))))
    assert world.sender.call("NODE-01.old.style", {"any": ["thing"]})[1] is None


def test_a_service_without_a_reply_says_so(memory_bus: OpenBus) -> None:
    mock = mock_of(NodeContract((ServiceContract("call", "a", "b", True, False),)))
    assert list(mock.problems()) == ["a.b"]
    world = memory_bus(mock)
    with pytest.raises(RemoteError, match="give one by reply"):
        world.sender.call("NODE-01.a.b")
    mock.fail("a.b", "KeyError")
    assert mock.problems() == {}


def test_former_versions_are_served_to_their_callers(memory_bus: OpenBus) -> None:
    services = (
        ServiceContract("call", "a", "b", {"type": "integer"}, {"const": "new"}, whole="n"),
        ServiceContract("call", "a", "b", {"type": "string"}, {"const": "old"}, whole="n", former=True),
    )
    world = memory_bus(mock_of(NodeContract(services)))
    assert world.sender.call("NODE-01.a.b", 1)[1] == "new"
    assert world.sender.call("NODE-01.a.b", "x", contract=services[1].hash)[1] == "old"


def test_the_name_of_the_node_may_be_another(mock: MockNode) -> None:
    with bus(mock, node="NODE-08") as world:
        assert world.node.name == "NODE-08"


def test_jsonschema_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    with pytest.raises(ImportError, match=r"pip install servicebus-failover\[mock\]"):
        mock_of(shop())


@pytest.mark.parametrize("text", ["[]", '{"servicebus-contract": 1, "services": [{}]}', "{"])
def test_a_file_that_is_no_description_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "shop.json").write_text(text)
    with pytest.raises(ContractError, match=r"shop\.json"):
        mock_of(tmp_path / "shop.json")


def test_a_schema_that_is_none_is_refused() -> None:
    with pytest.raises(ContractError, match="no JSON Schema"):
        mock_of(NodeContract((ServiceContract("call", "a", "b", {"type": "text"}),)))


# -- formats and generated values --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotation", "texts"),
    [
        (date, ["2026-01-31", "2026-02-30", "31.1.2026", ""]),
        (
            datetime,
            ["2026-01-31T12:30:00Z", "2026-01-31 12:30:00.123+01:00", "2026-01-31T25:00:00", "2026-02-30T12:00:00"],
        ),
        (time, ["12:30:00", "12:30:00.5Z", "24:30:00", "noon"]),
        (timedelta, ["PT1H30M", "P1DT2S", "P", "PT", "an hour", "P1W"]),
        (UUID, ["123e4567-e89b-42d3-a456-426614174000", "123e4567"]),
        (Decimal, ["1.50", "-2", "many", "NaN"]),
    ],
)
def test_formats_are_checked_as_pydantic_does(annotation: Any, texts: list[str]) -> None:
    check, adapter = SchemaCheck(schema_of(annotation)), TypeAdapter(annotation)

    def is_right(text: str) -> bool:
        try:
            adapter.validate_json(json.dumps(text))
        except ValidationError:
            return False
        return True

    verdicts = {text: is_right(text) for text in texts}
    assert {text: not check.problems(text) for text in texts} == verdicts
    assert set(verdicts.values()) == {True, False}


_annotations = st.recursive(
    st.sampled_from(
        [
            *(int, float, str, bool, None, bytes, date, datetime, time, timedelta, UUID, Decimal, Line),
            Literal["a", 1],
            Annotated[int, Field(ge=5, lt=9, multiple_of=2)],
            Annotated[str, Field(min_length=3, max_length=4)],
            Annotated[float, Field(gt=0.5, lt=0.75)],
            Annotated[str, Field(pattern=r"^[a-z]{2}-\d+$", examples=["ab-1"])],
        ]
    ),
    lambda inner: st.one_of(
        inner.map(lambda each: list[each]),  # type: ignore[valid-type]
        inner.map(lambda each: each | None if each is not None else None),
        inner.map(lambda each: Annotated[list[each], Field(min_length=2, max_length=3)]),  # type: ignore[valid-type]
        inner.map(lambda each: dict[str, each]),  # type: ignore[valid-type]
        st.tuples(inner, inner).map(tuple.__class_getitem__),
    ),
    max_leaves=4,
)


@settings(max_examples=60, deadline=None)
@given(annotation=_annotations)
def test_what_a_mock_replies_is_what_the_annotation_says(annotation: Any) -> None:
    described = ServiceContract("call", "a", "b", {}, schema_of(annotation, "serialization"))
    service = MockService(described)
    assert service.problem == ""
    text = service.dump(service.call(None, None))  # type: ignore[arg-type]
    TypeAdapter(annotation).validate_json(text)


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, mock: MockNode, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SERVICEBUS_CONFIG", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "dev.yaml").write_text("hosts: [mq-1]\nsecret_token: a secret of some length\n")
    (tmp_path / "group.json").write_text(json.dumps(shop().contract().to_json()))
    yield tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(servicebus, ["mock", *arguments])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("shop.json",), "no configuration: name one with the brokers to serve on by -c FILE"),
        (("group.json", "-c", "dev.yaml"), "say which one by --node NAME"),
        (("shop.json", "-c", "dev.yaml", "--node", "a.b"), "Invalid value for --node"),
        (("shop.json", "-c", "dev.yaml", "--reply", "shop.placed"), "Invalid value for --reply: shop.placed"),
        (("shop.json", "-c", "dev.yaml", "--reply", 'shop.placed="x"'), "is not what its schema says"),
        (("shop.json", "-c", "dev.yaml", "--fail", "shop.order=None"), "it declares: OutOfStock"),
        (("shop.json", "-c", "dev.yaml", "--fail", "shop.order=OutOfStock:{"), "Invalid value for --fail"),
        (("shop.json", "-c", "dev.yaml", "--latency", "nan"), "is not a number of seconds"),
    ],
)
def test_wrong_arguments_end_with_2_before_a_broker_is_asked(
    arguments: tuple[str, ...], text: str, folder: Path
) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert text in " ".join(result.stderr.split())


def test_a_node_that_runs_is_not_mocked(folder: Path, world: MemoryBus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("servicebus.sender.Sender", lambda configuration: world.sender)
    result = run("shop.json", "-c", "dev.yaml")
    assert result.exit_code == 2
    assert "NODE-07 runs already, and would lose calls and messages to its mock" in result.stderr
