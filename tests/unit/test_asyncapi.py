"""AsyncAPI documents: valid by the official schema, complete, and their draft 7 schemas mean what ours do."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bus_services
import pytest
import typed_functions
import yaml
from click.testing import CliRunner, Result
from hypothesis import given, settings
from jsonschema import Draft7Validator, Draft202012Validator
from pydantic import BaseModel, Field, create_model
from random_schemas import VALUES, schema_pairs

from servicebus.cli.main import servicebus
from servicebus.configuration import Configuration
from servicebus.contracts import ErrorContract, NodeContract, ServiceContract
from servicebus.contracts.asyncapi import asyncapi_document
from servicebus.contracts.draft7 import SharedSchemas
from servicebus.typed import Services

OFFICIAL = Draft7Validator(
    json.loads((Path(__file__).parents[1] / "data" / "asyncapi" / "schema-3.0.0.json").read_text())
)
CONFIG = Configuration(
    {
        "hosts": ["mq-a", {"name": "both", "members": ["mq-b", "mq-c:5673"]}, "amqps://guest-user:geheim@[::1]/shop"],
        "user": "anna",
        "password": "hidden-1",
        "secret_token": "known-to-us-alone",
        "exchange_name": "shop-bus",
    }
)


class Cat(BaseModel):
    kind: str = "cat"
    friends: list[Cat] = Field(default=[], description="Other cats.", deprecated=True)


def pets(cat: type[BaseModel]) -> Services:
    group = Services("pets")

    @group.rpc(deprecated="use feed_all")
    def feed(one: cat, other: cat | None = None, /) -> tuple[cat, int]:  # type: ignore[valid-type]
        """Feed it.

        And the other one.
        """
        raise NotImplementedError

    @group.message
    def feed_all(pets: dict[str, cat]) -> None: ...  # type: ignore[valid-type]

    return group


UNKNOWN = NodeContract(
    (
        ServiceContract("call", "käse", "a~b/c$d", {"$ref": "#/$defs/Nothing"}, True, (ErrorContract("E r r", True),)),
        ServiceContract("message", "käse", "a~b/c$d", False),
        ServiceContract("call", "käse", "a~b/c$d", {"x": {}, "deprecated": "yes"}, former=True, version="0.1"),
        ServiceContract("call", "käse", "a~b?c$d"),
    ),
    "NODE-ö",
)


@pytest.mark.parametrize(
    "contract",
    [
        typed_functions.group.contract(),
        bus_services.shop.contract(),
        pets(Cat).contract(),
        UNKNOWN,
        NodeContract((), "EMPTY"),
    ],
)
@pytest.mark.parametrize("hosts", [(), CONFIG.hosts])
def test_documents_are_valid_and_complete(contract: NodeContract, hosts: Any) -> None:
    document = asyncapi_document(contract, hosts=hosts)
    assert [f"{list(each.absolute_path)}: {each.message}" for each in OFFICIAL.iter_errors(document)] == []
    assert len(document["operations"]) == len(contract)
    for pointer in references(document):
        found: Any = document
        for part in pointer.removeprefix("#/").split("/"):
            found = found[part]


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for each in value.values():
            yield from references(each)
    elif isinstance(value, list):
        for each in value:
            yield from references(each)


def test_a_call_is_an_operation_with_reply_and_errors() -> None:
    document = asyncapi_document(typed_functions.group.contract(), node="NODE-01")
    operation = document["operations"]["shop.price.call"]
    assert operation["action"] == "receive"
    assert operation["channel"] == {"$ref": "#/channels/calls"}
    assert operation["reply"]["address"] == {"location": "$message.header#/reply_to"}
    assert [each["$ref"].rpartition("/")[2] for each in operation["reply"]["messages"]] == [
        "shop.price.result",
        "shop.price.error.SoldOut",
    ]
    calls = document["channels"]["calls"]
    assert calls["address"] == "NODE-01.rpc" and "parameters" not in calls
    assert calls["bindings"]["amqp"]["exchange"]["name"] == "servicebus"
    assert document["channels"]["messages"]["address"] == "NODE-01.messages"
    assert "reply" not in document["operations"]["shop.restocked.message"]
    schemas = document["components"]["schemas"]
    assert schemas["shop.price.call"]["properties"]["count"] == {"exclusiveMinimum": 0, "type": "integer"}


def test_messages_have_examples_that_their_schemas_accept() -> None:
    contract = typed_functions.group.contract()
    messages = asyncapi_document(contract)["components"]["messages"]
    service = contract.find("shop.price")
    assert service is not None
    (example,) = messages["shop.price.call"]["examples"]
    assert Draft202012Validator(service.params).is_valid(example["payload"]) and example["payload"]
    assert messages["shop.price.result"]["examples"] and messages["shop.price.error.SoldOut"]["examples"]
    unknown = asyncapi_document(NodeContract((ServiceContract("call", "c", "s"),)))
    assert not any("examples" in each for each in unknown["components"]["messages"].values())


def test_docstrings_deprecations_and_categories_are_told() -> None:
    document = asyncapi_document(pets(Cat).contract())
    feed = document["operations"]["pets.feed.call"]
    assert feed["summary"] == "Feed it."
    assert feed["description"] == "Feed it.\n\nAnd the other one.\n\nDeprecated: use feed_all"
    assert feed["tags"] == [{"name": "pets"}, {"name": "deprecated"}]
    assert feed["x-servicebus"]["deprecated"] == "use feed_all"
    assert document["components"]["messages"]["pets.feed.call"]["deprecated"] is True
    assert document["channels"]["calls"]["address"] == "{node}.rpc"
    assert document["info"]["tags"] == [{"name": "pets"}]


def test_what_documents_define_alike_is_there_once_and_what_differs_twice() -> None:
    other = create_model("Cat", name=(str, ...))
    schemas = SharedSchemas("#/components/schemas")
    for contract in (pets(Cat).contract(), pets(other).contract()):
        for service in contract:
            schemas.add(service.name, service.params)
    assert sorted(schemas.components) == ["Cat", "Cat-2", "feed", "feed-2", "feed_all", "feed_all-2"]
    one = schemas.components["feed-2"]["items"][0]
    assert one == {"title": "one", "allOf": [{"$ref": "#/components/schemas/Cat-2"}]}
    assert schemas.components["Cat-2"]["required"] == ["name"]


def test_servers_are_the_brokers_without_credentials() -> None:
    document = asyncapi_document(UNKNOWN, hosts=CONFIG.hosts, exchange=CONFIG.exchange_name)
    assert [(name, each["protocol"], each["host"]) for name, each in document["servers"].items()] == [
        ("mq-a-5672", "amqp", "mq-a:5672"),
        ("both", "amqp", "mq-b:5672"),
        ("both-2", "amqp", "mq-c:5673"),
        ("---1--5671-shop", "amqps", "[::1]:5671"),
    ]
    assert document["servers"]["---1--5671-shop"]["pathname"] == "/shop"
    assert document["channels"]["calls"]["bindings"]["amqp"]["exchange"]["name"] == "shop-bus"
    for secret in ("anna", "hidden-1", "guest-user", "geheim", "known-to-us"):
        assert secret not in json.dumps(document)


@settings(max_examples=40, deadline=None)
@given(schema_pairs())
def test_schemas_of_draft_7_accept_the_same(pair: tuple[Any, Any]) -> None:
    schemas = SharedSchemas("#/components/schemas")
    for number, schema in enumerate(pair):
        reference = schemas.add(f"payload-{number}", schema)
        draft_7 = Draft7Validator({**reference, "components": {"schemas": schemas.components}})
        own = Draft202012Validator(schema)
        for value in VALUES:
            assert draft_7.is_valid(value) == own.is_valid(value), (schema, schemas.components, value)


@pytest.mark.parametrize(
    ("schema", "converted"),
    [
        (
            {"prefixItems": [True], "items": False, "contains": {"type": "null"}, "minContains": 0},
            {"items": [{}], "additionalItems": False},
        ),
        (
            {"dependentRequired": {"a": ["b"]}, "dependentSchemas": {"a": {"minProperties": 3}, "c": False}},
            {"dependencies": {"a": {"allOf": [{"required": ["b"]}, {"minProperties": 3}]}, "c": {"not": {}}}},
        ),
        ({"$schema": "x", "$id": "y", "discriminator": {"propertyName": "kind"}, "unevaluatedItems": False}, {}),
        ({"$ref": "https://example.com/other", "title": "Other"}, {"title": "Other"}),
        (
            {"properties": {"$ref": {"$ref": "#"}, "items": {"type": "array", "items": {"type": "null"}}}},
            {
                "properties": {
                    "$ref": {"$ref": "#/s/one"},
                    "items": {"type": "array", "items": {"type": "null"}},
                }
            },
        ),
        ({"allOf": [{"$ref": "#/allOf/1"}, {"maximum": 1}]}, {"allOf": [{"$ref": "#/s/1"}, {"maximum": 1}]}),
    ],
)
def test_what_draft_7_has_other_words_for(schema: Any, converted: Any) -> None:
    schemas = SharedSchemas("#/s")
    assert schemas.add("one", schema) == {"$ref": "#/s/one"}
    assert schemas.components["one"] == converted


def test_the_version_is_that_of_all_services_or_changes_with_their_schemas() -> None:
    def version(*services: ServiceContract) -> Any:
        return asyncapi_document(NodeContract(services))["info"]["version"]

    one, two = (ServiceContract("call", "a", name, {}, version="1.4") for name in "bc")
    assert version(one, two) == "1.4"
    mixed = version(one, ServiceContract("call", "a", "c", {}))
    assert len(mixed) == 12
    assert version(one, ServiceContract("call", "a", "c", False)) != mixed
    assert version(ServiceContract("call", "a", "c", {}), one) == mixed
    assert asyncapi_document(NodeContract((one,)), version="7")["info"]["version"] == "7"


# -- the command -------------------------------------------------------------------------------------------------------

MODULE = """
from servicebus.typed import Services

group = Services("shop")

@group.rpc
def price(sku: str) -> int:
    "What it costs: \\N{EURO SIGN}."
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "asyncapi_shop.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SERVICEBUS_CONFIG", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("asyncapi_shop", None)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(servicebus, ["asyncapi", *arguments])


def test_the_command_prints_json(folder: Path) -> None:
    found = json.loads(run("asyncapi_shop:group", "--api-version", "2").stdout)
    assert found == asyncapi_document(sys.modules["asyncapi_shop"].group.contract(), version="2")
    (folder / "shop.json").write_text(json.dumps(sys.modules["asyncapi_shop"].group.contract().to_json()))
    assert json.loads(run("--json", "shop.json", "--api-version", "2").stdout) == found


def test_the_command_writes_json_or_yaml(folder: Path) -> None:
    for name, read in (("shop.json", json.loads), ("shop.yaml", yaml.safe_load)):
        result = run("asyncapi_shop:group", "-o", name, "--node", "NODE-07")
        assert (result.exit_code, result.output) == (0, f"{name}: 1 operation\n")
        document = read((folder / name).read_text(encoding="utf-8"))
        assert document == asyncapi_document(sys.modules["asyncapi_shop"].group.contract(), node="NODE-07")
        assert document["operations"]["shop.price.call"]["summary"].endswith("€.")
    assert "&id" not in (folder / "shop.yaml").read_text()


@pytest.mark.parametrize("command", ["asyncapi", "stubs"])
def test_nothing_is_said_behind_a_document_that_goes_to_a_device(folder: Path, command: str) -> None:
    done = CliRunner().invoke(servicebus, [command, "asyncapi_shop:group", "-o", "/dev/null"])
    assert (done.exit_code, done.output) == (0, "")


def test_brokers_are_those_of_the_configuration(folder: Path) -> None:
    services = "services: [{group: 'asyncapi_shop:group'}]\n"
    (folder / "agent.yaml").write_text(f"hosts: [mq-x]\nnode_name: NODE-09\nsecret_token: of this test\n{services}")
    (folder / "sender.yaml").write_text("hosts: [mq-y]\nsecret_token: of this test\nexchange_name: other\n")
    agent = json.loads(run("agent.yaml", "-c", "sender.yaml").stdout)
    assert [each["host"] for each in agent["servers"].values()] == ["mq-x:5672"]
    assert agent["channels"]["calls"]["address"] == "NODE-09.rpc"
    group = json.loads(run("asyncapi_shop:group", "-c", "sender.yaml").stdout)
    assert [each["host"] for each in group["servers"].values()] == ["mq-y:5672"]
    assert group["channels"]["calls"]["bindings"]["amqp"]["exchange"]["name"] == "other"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("asyncapi_shop:group", "-o", "none/shop.json"), "none/shop.json: No such file or directory"),
        (("asyncapi_shop:group", "--node", "a.b"), "Invalid value for --node"),
        (("NODE-01",), "to ask a node, name a configuration by -c FILE"),
    ],
)
def test_wrong_arguments_end_with_2(arguments: tuple[str, ...], text: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert text in result.stderr


def test_a_service_that_gets_events_is_an_operation_for_each_pattern() -> None:
    group = Services("billing")

    @group.event("orders.*", "users.#")
    def invoice(number: int) -> None: ...

    document = asyncapi_document(group.contract(), node="NODE")
    assert {each["address"] for each in document["channels"].values()} == {"orders.*", "users.#"}
    for channel in document["channels"].values():
        exchange = channel["bindings"]["amqp"]["exchange"]
        assert (exchange["name"], exchange["type"]) == ("servicebus.events", "topic")
    assert [each["action"] for each in document["operations"].values()] == ["receive", "receive"]
    for each in document["operations"].values():
        assert each["channel"]["$ref"].removeprefix("#/channels/") in document["channels"]
