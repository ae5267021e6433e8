"""The description of a node: made from typed functions and class services, to JSON and back, and its hashes."""

from __future__ import annotations

import enum
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field, PlainValidator

from servicebus.configuration import Configuration
from servicebus.contracts import NodeContract, ServiceContract, contract_hash
from servicebus.errors import ConfigurationError, ContractError
from servicebus.middleware import Middleware
from servicebus.service import ServiceBus
from servicebus.services import MessageService, Request, RpcService
from servicebus.typed import Services

CONFIG = Configuration({"hosts": ["mq-a"], "user": "u", "password": "p", "secret_token": "a secret of the tests"})


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Order(BaseModel):
    """What is ordered."""

    sku: str
    count: Annotated[int, Field(gt=0, description="How many.")] = 1
    colour: Colour = Colour.RED
    parts: list[Order] = []


class OutOfStock(Exception):
    """There is no more."""

    def __init__(self, sku: str, left: int):
        super().__init__(sku)
        self.sku, self.left = sku, left


@dataclass
class Broken(Exception):
    why: str


def shop() -> Services:
    group = Services("shop")

    @group.rpc(errors=[OutOfStock, Broken], idempotent=True, version="1.4", lock=lambda params: None)
    def price(order: Order, request: Request) -> Decimal:
        """What an order costs.

        In euros.
        """
        raise NotImplementedError

    @group.rpc(deprecated="use price")
    async def old_price(sku: str, count: int = 1, *, at: datetime | None = None) -> float:
        raise NotImplementedError

    @group.message(retry=(5, 60), name="restocked")
    def note(sku: str) -> None:
        raise NotImplementedError

    return group


def of(function: Callable[..., Any]) -> ServiceContract:
    group = Services("x")
    group.rpc(name="f")(function)
    return group.contract().services[0]


def test_a_group_describes_its_functions() -> None:
    price, old, note = shop().contract()
    assert (price.key, price.kind, price.version, price.whole) == ("shop.price", "call", "1.4", "order")
    assert price.docs == "What an order costs.\n\nIn euros."
    assert price.options == {"idempotent": True, "lock": True}
    assert price.result == {"type": "string", "format": "decimal"}
    assert [(each.name, each.docs) for each in price.errors] == [("OutOfStock", "There is no more."), ("Broken", "")]
    fields = price.errors[0].fields
    assert fields["properties"] == {"sku": {"type": "string"}, "left": {"type": "integer"}}
    assert (old.deprecated, old.whole, sorted(old.params["properties"])) == ("use price", "", ["at", "count", "sku"])
    assert old.params["required"] == ["sku"]
    assert (note.kind, note.name, note.options, note.result) == ("message", "restocked", {"retry": [5, 60]}, None)


def test_a_description_survives_the_way_through_json() -> None:
    contract = NodeContract(shop().contract().services, "NODE-01")
    text = json.dumps(contract.to_json(), allow_nan=False)
    again = NodeContract.from_json(json.loads(text))
    assert again == contract
    assert [each.hash for each in again] == [each.hash for each in contract]
    assert json.dumps(again.to_json(), allow_nan=False) == text


def test_an_agent_describes_what_is_registered() -> None:
    class Add(RpcService):
        """The sum of two numbers."""

        params_type = list[int]
        result_type = int
        threads = 2

        def handle(self, request: Request) -> int:
            """Not this docstring."""
            raise NotImplementedError

    class Note(MessageService):
        def handle(self, request: Request) -> None:
            """Write it down."""

    class Plain:
        def on_call(self, request: Any, response: Any) -> None: ...

    bus = ServiceBus(CONFIG.with_node_name("NODE-01"), middleware=[Middleware()])
    bus.include(shop())
    bus.add_rpc_service("math", "add", Add())
    bus.add_message_service("math", "note", Note())
    bus.add_rpc_service("math", "plain", Plain())
    contract = bus.contract()
    assert contract.node == "NODE-01" and len(contract) == 6
    for mine, groups in zip(contract, shop().contract(), strict=False):
        assert (mine.hash, mine.params, mine.docs) == (groups.hash, groups.params, groups.docs)
    assert contract.services[1].options == {"tasks": 100}
    add, note, plain = contract.services[3:]
    assert (add.docs, add.options, add.result) == ("The sum of two numbers.", {"threads": 2}, {"type": "integer"})
    assert add.params == {"type": "array", "items": {"type": "integer"}} and len(add.hash) == 24
    assert (note.kind, note.docs, note.params, note.hash) == ("message", "Write it down.", None, "")
    assert (plain.docs, plain.params, plain.result, plain.hash) == ("", None, None, "")


def test_middleware_hides_nothing_of_a_class_service() -> None:
    class Watching(Middleware):
        def serve(self, request: Request, proceed: Callable[[], Any]) -> Any:
            return proceed()

    class Add(RpcService):
        """The sum."""

        params_type = list[int]

        def handle(self, request: Request) -> None: ...

    bus = ServiceBus(CONFIG, middleware=[Watching()])
    bus.add_rpc_service("math", "add", Add())
    assert bus.contract().services[0].docs == "The sum." and bus.contract().services[0].params is not None


def test_a_type_without_a_schema_is_named() -> None:
    class Add(RpcService):
        params_type = object()

        def handle(self, request: Request) -> None: ...

    bus = ServiceBus(CONFIG)
    bus.add_rpc_service("math", "add", Add())
    with pytest.raises(ConfigurationError, match=r"service math.add: no schema for its params_type"):
        bus.contract()


def test_what_has_no_schema_may_be_anything() -> None:
    def f(odd: Annotated[object, PlainValidator(lambda value: value)], at: float = float("inf")) -> Any: ...

    contract = of(f)
    assert contract.params["properties"] == {"odd": {}, "at": {"type": "number"}}
    assert contract.result == {}


def test_functions_that_take_no_names_take_an_array() -> None:
    def placed(a: int, b: str = "", /) -> None: ...
    def rest(a: int, *more: int) -> None: ...
    def mixed(a: int, *more: int, k: int = 1, **named: str) -> None: ...
    def placed_and_named(a: int, /, *, k: int) -> None: ...
    def optional(order: Order | None = None) -> None: ...

    items = of(placed).params
    assert [each["title"] for each in items["prefixItems"]] == ["a", "b"] and items["minItems"] == 1
    assert of(rest).params["items"] == {"type": "integer"}
    array, named = of(mixed).params["anyOf"]
    assert array["type"] == "array" and sorted(named["properties"]) == ["a", "k"]
    assert of(placed_and_named).params == {"not": {}}


def test_a_whole_parameter_with_a_default_may_be_left_out() -> None:
    def f(order: Order = Order(sku="s")) -> None: ...  # noqa: B008

    params = of(f).params
    assert params["anyOf"][1] == {"type": "null"} and "Order" in params["$defs"]


class TestHash:
    def test_what_people_read_does_not_count(self) -> None:
        plain = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 1}}, "required": ["a", "b"]}
        told = {
            "title": "T", "description": "D", "required": ["b", "a"], "type": "object",
            "properties": {"a": {"minimum": 1.0, "type": "integer", "default": 3, "examples": [1]}},
        }  # fmt: skip
        assert contract_hash(plain, None, {}) == contract_hash(told, None, {})

    def test_a_definition_counts_wherever_it_stands(self) -> None:
        inner = {"type": "object", "properties": {"x": {"type": "integer"}}}
        inline = {"type": "array", "items": inner}
        referred = {"type": "array", "items": {"$ref": "#/$defs/Any~1Name"}, "$defs": {"Any/Name": inner}}
        assert contract_hash(inline, None, {}) == contract_hash(referred, None, {})

    def test_anything_or_something_is_anything(self) -> None:
        assert contract_hash({"anyOf": [{}, {"type": "null"}]}, None, {}) == contract_hash({"default": 1}, None, {})
        assert contract_hash({"anyOf": [{"type": "null"}]}, None, {}) != contract_hash({}, None, {})

    def test_what_refers_to_itself_has_a_hash(self) -> None:
        def tree(name: str, leaf: str) -> dict[str, Any]:
            node = {"type": "object", "properties": {"kids": {"items": {"$ref": f"#/$defs/{name}"}}, leaf: {}}}
            return {"$ref": f"#/$defs/{name}", "$defs": {name: node}}

        assert contract_hash(tree("A", "x"), None, {}) == contract_hash(tree("B", "x"), None, {})
        assert contract_hash(tree("A", "x"), None, {}) != contract_hash(tree("A", "y"), None, {})

    def test_two_that_refer_to_each_other_are_told_apart_from_one(self) -> None:
        def pair(second: str) -> dict[str, Any]:
            one = {"properties": {"next": {"$ref": "#/$defs/B"}, "same": {"$ref": "#/$defs/A"}}}
            two = {"properties": {"next": {"$ref": f"#/$defs/{second}"}}}
            return {"anyOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}], "$defs": {"A": one, "B": two}}

        assert contract_hash(pair("A"), None, {}) != contract_hash(pair("B"), None, {})

    @pytest.mark.parametrize(
        "other",
        [
            {"type": "integer", "minimum": 2},
            {"type": "number", "minimum": 1},
            {"type": "integer"},
            {"enum": [1]},
            {},
            False,
        ],
    )
    def test_what_is_accepted_counts(self, other: Any) -> None:
        first = {"type": "integer", "minimum": 1}
        assert contract_hash(first, None, {}) != contract_hash(other, None, {})
        assert contract_hash(None, first, {}) != contract_hash(None, other, {})
        assert contract_hash(None, None, {"E": first}) != contract_hash(None, None, {"E": other})
        assert contract_hash(first, None, {}) != contract_hash(None, first, {})

    def test_it_is_that_of_the_page(self) -> None:
        """Callers of another release, on another Python, have the same."""
        hashes = [each.hash for each in shop().contract()]
        assert hashes == ["e6c5c6a1c83f77d6a2a9d6f0", "99596a13ca771689e1a28f16", "faaf6925c2ea33dd0def6c9a"]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "no description of a node"),
        ({"servicebus-contract": 2}, "format 2"),
        ({"servicebus-contract": 1, "services": {}}, r"the description.services: cannot be dict"),
        ({"servicebus-contract": 1, "services": [1]}, r"services\[0\]: must be an object, not int"),
        ({"servicebus-contract": 1, "services": [{"kind": "call", "service": "a"}]}, r"services\[0\]: needs kind"),
        (
            {"servicebus-contract": 1, "services": [{"kind": "call", "service": "a.b", "params": "x"}]},
            r"services\[0\].params: cannot be str",
        ),
    ],
)
def test_what_is_no_description_is_refused(value: Any, said: str) -> None:
    with pytest.raises(ContractError, match=said):
        NodeContract.from_json(value)


def test_unknown_keys_of_a_later_version_are_ignored() -> None:
    service = {"kind": "call", "service": "a.b", "later": 1, "errors": {"E": {}}}
    (found,) = NodeContract.from_json({"servicebus-contract": 1, "node": "N", "more": 2, "services": [service]})
    assert (found.key, found.errors[0].fields) == ("a.b", True)


def test_without_pydantic_class_services_are_described_without_schemas() -> None:
    program = """
import sys
sys.modules["pydantic"] = None
from servicebus.configuration import Configuration
from servicebus.service import ServiceBus
from servicebus.services import RpcService
class Add(RpcService):
    "The sum."
    params_type = list[int]
    def handle(self, request): ...
bus = ServiceBus(Configuration({"hosts": ["mq"], "user": "u", "password": "p", "secret_token": "a secret of tests"}))
bus.add_rpc_service("math", "add", Add())
print(bus.contract().services[0].to_json())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "{'kind': 'call', 'service': 'math.add', 'hash': '', 'docs': 'The sum.'}"


def test_a_service_that_gets_events_is_described_with_them() -> None:
    group = Services("billing")

    @group.event("orders.*", "users.#", retry=(5,))
    def invoice(number: int) -> None:
        """Write one."""

    contract = group.contract()
    (found,) = contract
    assert (found.kind, found.key, found.events) == ("event", "billing.invoice", ("orders.*", "users.#"))
    assert NodeContract.from_json(contract.to_json()) == contract
    assert found.hash and found.options == {"retry": [5]}


@pytest.mark.parametrize("change", [{"kind": "message"}, {"events": []}, {"events": [1]}, {"events": None}], ids=str)
def test_a_description_names_the_events_of_an_event_service_alone(change: dict[str, Any]) -> None:
    described = {"kind": "event", "service": "a.b", "events": ["c"], **change}
    with pytest.raises(ContractError):
        NodeContract.from_json({"servicebus-contract": 1, "services": [described]})
