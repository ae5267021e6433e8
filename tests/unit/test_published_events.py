"""What a group says it publishes: in the contract and in what is made of it, and published by its type."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pydantic import BaseModel, create_model

import servicebus.testing
from servicebus.cli.main import servicebus as command
from servicebus.cli.run import build
from servicebus.configuration import Configuration
from servicebus.contracts import EventContract, NodeContract
from servicebus.contracts.asyncapi import asyncapi_document
from servicebus.contracts.differences import compare_contracts
from servicebus.contracts.site import make_site
from servicebus.errors import AddressError, ConfigurationError, ContractError, InvalidParams
from servicebus.service import ServiceBus
from servicebus.testing import mock_of
from servicebus.typed import Services

CONFIG = Configuration({"hosts": ["mq"], "node_name": "NODE-01", "secret_token": "secret"})


class Colour(Enum):
    RED = "red"


class Order(BaseModel):
    """What was ordered."""

    id: int
    total: Decimal = Decimal(0)
    colour: Colour = Colour.RED


def shop() -> Services:
    group = Services("shop")
    group.publishes("orders.created", Order, docs="An order is there.\n\nIt is paid later.", version="2")
    group.publishes("orders.deleted", int, deprecated="orders.ended")
    group.publishes("orders.noted")

    @group.rpc
    def price(sku: str) -> int:
        return 1

    return group


# -- declared ----------------------------------------------------------------------------------------------------------


def test_it_is_part_of_the_contract() -> None:
    created, deleted, noted = shop().contract().publishes
    assert (created.event, created.category, created.version) == ("orders.created", "shop", "2")
    assert created.payload["properties"]["total"] == {"default": "0", "format": "decimal", "type": "string"}
    assert (deleted.payload, deleted.deprecated) == ({"type": "integer"}, "orders.ended")
    assert noted.payload == {} and len({created.hash, deleted.hash, noted.hash}) == 3


@pytest.mark.parametrize("event", ["", "orders.*", "a..b", "x" * 201])
def test_what_is_no_name_is_refused(event: str) -> None:
    with pytest.raises(AddressError):
        Services("shop").publishes(event)


def test_a_group_declares_an_event_once() -> None:
    group = shop()
    with pytest.raises(ConfigurationError, match=r"publishes orders\.created already"):
        group.publishes("orders.created")


def test_groups_of_an_agent_may_declare_the_same_and_nothing_else() -> None:
    bus = ServiceBus(CONFIG)
    bus.include(shop())
    other = Services("other")
    other.publishes("orders.deleted", int)
    bus.include(other)
    assert [each.event for each in bus.contract().publishes] == ["orders.created", "orders.deleted", "orders.noted"]
    third = Services("third")
    third.publishes("orders.deleted", str)
    with pytest.raises(ConfigurationError, match=r"event orders\.deleted: shop and third declare different payloads"):
        bus.include(third)


def test_an_agent_of_a_file_declares_what_its_groups_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = ["from servicebus import Services", "group = Services('kiosk')", "group.publishes('sold', int)"]
    (tmp_path / "kiosk_of_tests.py").write_text("\n".join([*lines, "@group.rpc", "def sell() -> None: ..."]))
    settings = {"hosts": ["mq"], "node_name": "N", "secret_token": "secret of the test"}
    text = json.dumps({**settings, "services": [{"group": "kiosk_of_tests:group"}]})
    (tmp_path / "agent.yaml").write_text(text)
    (event,) = build(Configuration.load(tmp_path / "agent.yaml")).contract().publishes
    assert (event.event, event.payload) == ("sold", {"type": "integer"})


def test_a_type_without_a_schema_is_refused() -> None:
    group = Services("shop")
    group.publishes("orders.created", object())
    with pytest.raises(ConfigurationError, match=r"event orders\.created: no schema"):
        ServiceBus(CONFIG).include(group)


def test_a_node_describes_it_and_a_single_service_does_not() -> None:
    with servicebus.testing.bus(shop(), node="NODE-01") as world:
        described = world.sender.describe("NODE-01")
        assert described.publishes == shop().contract().publishes
        assert not world.sender.describe("NODE-01.shop.price").publishes


def test_a_mock_says_what_its_node_publishes() -> None:
    with servicebus.testing.bus(mock_of(shop())) as world:
        assert world.sender.describe("NODE-01").publishes == shop().contract().publishes


# -- as JSON -----------------------------------------------------------------------------------------------------------


def test_a_description_is_read_again() -> None:
    contract = replace(shop().contract(), node="NODE-01")
    found = NodeContract.from_json(json.loads(json.dumps(contract.to_json())))
    assert found == contract and [each.hash for each in found.publishes] == [each.hash for each in contract.publishes]


def test_a_description_without_events_is_as_before() -> None:
    assert "publishes" not in NodeContract((), "NODE-01").to_json()
    assert EventContract("a.b").hash == "" and EventContract("a.b").to_json() == {"event": "a.b", "hash": ""}


@pytest.mark.parametrize("wrong", [5, [5], [{}], [{"event": 5}], [{"event": "a", "payload": 5}]])
def test_what_is_no_description_of_events_is_refused(wrong: Any) -> None:
    with pytest.raises(ContractError, match="publishes"):
        NodeContract.from_json({"servicebus-contract": 1, "publishes": wrong})


# -- differences -------------------------------------------------------------------------------------------------------


def with_payload(payload: Any, **about: Any) -> NodeContract:
    group = Services("shop")
    group.publishes("orders.created", payload, **about)
    return group.contract()


WIDE = create_model("Wide", id=(int | str, ...), note=(str, ...))
NARROW = create_model("Narrow", id=(int, ...), note=(str, ...))
SHORT = create_model("Short", id=(int | str, ...))


@pytest.mark.parametrize(
    ("old", "new", "breaks"),
    [(WIDE, NARROW, False), (NARROW, WIDE, True), (WIDE, SHORT, True), (SHORT, WIDE, False), (int, str, True)],
)
def test_what_a_node_publishes_may_narrow_and_not_widen(old: Any, new: Any, breaks: bool) -> None:
    """The subscribers are the readers: it is the other way round than with params."""
    found = compare_contracts(with_payload(old), with_payload(new))
    assert found and any(each.breaks for each in found) is breaks
    assert {(each.service, each.direction) for each in found} == {("event orders.created", "payload")}
    assert not any("caller" in each.text for each in found)


def test_an_event_that_is_not_published_any_more_breaks_and_a_new_one_does_not() -> None:
    nothing = NodeContract(())
    (gone,) = compare_contracts(with_payload(int), nothing)
    (new,) = compare_contracts(nothing, with_payload(int))
    assert gone.breaks and not new.breaks


def test_what_is_said_of_it_breaks_nothing() -> None:
    found = compare_contracts(with_payload(int), with_payload(int, version="2", deprecated=True))
    assert [(each.keyword, each.effect) for each in found] == [("version", "compatible"), ("deprecated", "compatible")]


def test_a_payload_that_is_no_longer_described_counts_as_breaking() -> None:
    known, unknown = with_payload(int), NodeContract((), publishes=(EventContract("orders.created", "shop"),))
    assert [each.effect for each in compare_contracts(known, unknown)] == ["unknown"]
    assert [each.effect for each in compare_contracts(unknown, known)] == ["compatible"]


def test_the_command_compares_what_belongs_to_a_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = "from servicebus import Services\nshop = Services('shop')\nshop.publishes('orders.created', str)\n"
    (tmp_path / "events_of_shop.py").write_text(text)
    other = Services("other")
    other.publishes("users.created", int)
    old = replace(with_payload(int), publishes=with_payload(int).publishes + other.published)
    (tmp_path / "old.json").write_text(json.dumps(old.to_json()))
    found = CliRunner().invoke(command, ["contract", "diff", "old.json", "events_of_shop:shop"])
    assert found.exit_code == 1
    assert "event orders.created" in found.stdout and "BREAKING" in found.stdout
    assert "users.created" not in found.stdout and "break" in found.stdout.splitlines()[-1]
    assert "subscribers" in found.stdout.splitlines()[-1]


# -- what is made of it ------------------------------------------------------------------------------------------------


def test_the_node_sends_it_in_asyncapi() -> None:
    document = asyncapi_document(shop().contract(), node="NODE-01")
    operation = document["operations"]["orders.created.published"]
    assert operation["action"] == "send" and operation["summary"] == "An order is there."
    channel = document["channels"][operation["channel"]["$ref"].rpartition("/")[2]]
    assert channel["address"] == "orders.created"
    assert channel["bindings"]["amqp"]["exchange"]["name"] == "servicebus.events"
    (message,) = operation["messages"]
    assert message["$ref"].rpartition("/")[2] in channel["messages"]
    assert document["components"]["messages"]["orders.created.published"]["payload"]
    assert document["operations"]["orders.deleted.published"]["tags"][-1] == {"name": "deprecated"}


def test_a_node_that_subscribes_to_what_it_publishes_has_both_in_one_channel() -> None:
    group = shop()

    @group.event("orders.created")
    def note(order: Order) -> None: ...

    document = asyncapi_document(group.contract(), node="NODE-01")
    sends = document["operations"]["orders.created.published"]
    receives = document["operations"]["shop.note.event"]
    assert sends["channel"] == receives["channel"] and receives["action"] == "receive"


def test_another_payload_is_another_version_of_the_document() -> None:
    versions = {asyncapi_document(with_payload(each))["info"]["version"] for each in (int, str)}
    assert len(versions) == 2


def test_the_site_has_a_page_for_it() -> None:
    files = make_site(replace(shop().contract(), node="NODE-01"))
    page = files["services/event.orders.created.html"]
    assert "An order is there." in page and "total" in page and "@group.event" in page and "red" in page
    assert "add_event_service" in files["services/event.orders.deleted.html"]
    assert "services/event.orders.created.html" in files["index.html"]
    assert "3 published events" in files["index.html"]
    assert "orders.created" in files["static/search-index.js"]


def test_the_page_of_a_subscriber_says_what_it_is() -> None:
    group = Services("shop")

    @group.event("orders.*", "users.created")
    def note(order: Order) -> None: ...

    page = make_site(group.contract())["services/shop.note.html"]
    assert "orders.*, users.created" in page and "How to publish for it" in page
    assert ">event</span>" in page and 'id="result"' not in page and "Typed client" not in page


# -- published by its type ---------------------------------------------------------------------------------------------


def test_a_value_is_published_as_its_type_writes_it() -> None:
    group, seen = Services("shop"), list[Any]()
    created = group.publishes("orders.created", Order)

    @group.event("orders.created")
    def note(**params: Any) -> None:
        seen.append(params)

    with servicebus.testing.bus(group) as world:
        receipt = created.publish(world.sender, Order(id=1, total=Decimal("9.50")))
        assert receipt.subscribers
        created.publish(world.sender, {"id": "2"})  # type: ignore[call-overload]
        with pytest.raises(InvalidParams, match=r"orders\.created.*id"):
            created.publish(world.sender, {"id": "x"})  # type: ignore[call-overload]

        async def publish() -> Any:
            async with world.async_sender as sender:
                return await created.publish(sender, Order(id=3))

        assert asyncio.run(publish()).subscribers
    red = {"colour": "red"}
    assert seen == [{"id": 1, "total": "9.50", **red}, {"id": 2, "total": "0", **red}, {"id": 3, "total": "0", **red}]
    assert repr(created) == "<PublishedEvent orders.created of shop>"
