"""Services in the console: the form that a schema makes, and what a call of it shows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
from fleet_looks import drawn, look
from starlette.testclient import TestClient
from web_clients import client_of, token_in

from servicebus import Services
from servicebus.contracts import ServiceContract
from servicebus.fleet.load import ServiceLoad, WorkerLoad
from servicebus.fleet.view import FleetView, WorkerView
from servicebus.testing import MemoryBus, bus
from servicebus.web.access import OpenAccess
from servicebus.web.guard import COOKIE
from servicebus.web.params_form import FieldProblem, fields_of, params_of
from servicebus.web.users import Role

SCHEMA = {
    "type": "object",
    "properties": {
        "sku": {"type": "string", "description": "Of the article."},
        "count": {"type": "integer", "default": 1},
        "price": {"anyOf": [{"type": "number"}, {"type": "null"}], "default": None},
        "gift": {"type": "boolean"},
        "size": {"$ref": "#/$defs/Size"},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["sku", "gift"],
    "$defs": {"Size": {"enum": ["s", "m"]}},
}
SERVICE = ServiceContract("call", "shop", "order", params=SCHEMA)


def test_a_field_for_each_property() -> None:
    found = {field.label: (field.input, field.is_required, field.value) for field in fields_of(SERVICE)}
    assert found == {
        "sku": ("text", True, ""),
        "count": ("integer", False, "1"),
        "price": ("number", False, ""),
        "gift": ("choice", True, ""),
        "size": ("choice", False, ""),
        "tags": ("json", False, ""),
    }
    assert next(each for each in fields_of(SERVICE) if each.label == "size").choices == ('"s"', '"m"')


@pytest.mark.parametrize(
    ("form", "params"),
    [
        ({"p.sku": "", "p.gift": "true"}, {"sku": "", "gift": True}),
        (
            {"p.sku": " a ", "p.gift": "false", "p.count": " 2 ", "p.price": "1.5", "p.size": '"m"', "p.tags": '["x"]'},
            {"sku": " a ", "gift": False, "count": 2, "price": 1.5, "size": "m", "tags": ["x"]},
        ),
        ({"raw": "[1, 2]"}, [1, 2]),
        ({"raw": " "}, None),
    ],
)
def test_what_a_form_means(form: dict[str, str], params: Any) -> None:
    assert params_of(SERVICE, form) == params


@pytest.mark.parametrize(
    ("form", "problem"),
    [
        ({"p.sku": "a"}, "gift is required"),
        ({"p.sku": "a", "p.gift": "true", "p.count": "many"}, "count"),
        ({"p.sku": "a", "p.gift": "true", "p.count": "true"}, "count must be a number"),
        ({"p.sku": "a", "p.gift": "true", "p.tags": "[NaN]"}, "tags"),
        ({"raw": "{"}, "the params"),
    ],
)
def test_what_a_form_cannot_mean(form: dict[str, str], problem: str) -> None:
    with pytest.raises(FieldProblem, match=problem):
        params_of(SERVICE, form)


@pytest.mark.parametrize("schema", [None, True, {"type": "array"}, {"type": "object"}, {"properties": 3}])
def test_without_properties_one_field_takes_all(schema: Any) -> None:
    assert [each.name for each in fields_of(ServiceContract("call", "a", "b", params=schema))] == ["raw"]


math = Services("math")


@math.rpc
def add(a: int, b: int = 0) -> int:
    """The sum of <two> numbers."""
    return a + b


@math.rpc
def fail(text: str) -> None:
    raise RuntimeError(text)


@math.message
def note(text: str) -> None:
    pass


@pytest.fixture
def world() -> Iterator[MemoryBus]:
    with bus(math) as found:
        yield found


@pytest.fixture
def client(world: MemoryBus) -> Iterator[TestClient]:
    view = drawn(look({"NODE-01": ("mq-a",)}, services={"NODE-01": (("call", "math.add"), ("message", "math.note"))}))
    how: dict[str, Any] = {"sender": world.sender, "make_sender": lambda: nullcontext(world.sender)}
    with client_of(view, OpenAccess(Role.OPERATE), **how) as client:
        yield client


def call(client: TestClient, service: str, **fields: str) -> str:
    token = token_in(client.get(f"/service/NODE-01/{service}").text)
    form = {"form_token": token, "node": "NODE-01", "service": service, **fields}
    answer = client.post("/call", data=form)
    assert answer.status_code == 200, answer.text
    return str(answer.text)


def test_services_and_nodes_lead_to_each_other(client: TestClient) -> None:
    assert 'href="/service/NODE-01/math.add"' in client.get("/services").text
    assert "math.note" not in client.get("/services?q=add").text
    assert 'href="/service/NODE-01/math.add"' in client.get("/node/NODE-01").text
    assert client.get("/node/NODE-02").status_code == 404
    assert client.get("/service/NODE-01/no.such").status_code == 404


def test_a_node_says_why_a_broker_is_lost() -> None:
    view = drawn(
        look({"A": ("mq-a", "mq-b")}), look({"A": ("mq-b",)}, {"mq-a": "blocked by the broker (low on <memory>)"})
    )
    with client_of(view) as client:
        text = client.get("/node/A").text
    assert text.count("low on &lt;memory&gt;") == 1 and "broker lost" in text


def test_services_whose_nodes_are_all_lost_are_named_first() -> None:
    """The one that is missing is the one that is looked for."""
    listed = {"A": (("call", "x.one"), ("call", "x.two")), "B": (("call", "x.one"),)}
    worker = WorkerView("m-<1>", 7, 900.0, {}, {}, "mq-a")
    heard = look({"A": ("mq-a",), "B": ("mq-a",)}, services=listed)._replace(workers={"A": (worker,)})
    left = look({"B": ("mq-a",)})
    with client_of(drawn(heard, left, left)) as client:
        text = client.get("/services").text
        assert "1 service of nodes that answer" in text and "1 service without a node that answers" in text
        assert text.index(">x.two<") < text.index(">x.one<") and text.count(">x.one<") == 1
        assert 'class="bad">none answers:' in text and 'href="/node/A"' in text
        assert "x.two" not in client.get("/services?q=one").text
        node = client.get("/node/A").text
        assert "ran on m-&lt;1&gt;" in node and 'href="/dead/A"' in node and 'href="/timeline?node=A"' in node
        assert "ran on" not in client.get("/node/B").text


def test_a_service_shows_its_contract(client: TestClient) -> None:
    text = client.get("/service/NODE-01/math.add").text
    assert "The sum of &lt;two&gt; numbers." in text and 'name="p.a"' in text and 'name="p.b" value="0"' in text


def test_a_call_shows_its_answer_and_its_way(client: TestClient) -> None:
    text = call(client, "math.add", **{"p.a": "2", "p.b": "3"})
    assert ">5</pre>" in text and "answered" in text and "mq-1" in text
    assert "call math.add" in client.get("/timeline?kind=user").text


def test_a_call_that_fails_shows_the_error(client: TestClient) -> None:
    text = call(client, "math.fail", **{"p.text": "<boom>"})
    assert "RemoteError" in text and "RuntimeError: &lt;boom&gt;" in text
    assert "must be a number" in call(client, "math.add", **{"p.a": '"x"'})
    assert "Nothing was sent" in call(client, "math.add", **{"p.a": ""})


def test_a_message_is_stored(client: TestClient, world: MemoryBus) -> None:
    assert "Stored by a broker" in call(client, "math.note", **{"p.text": "x"})


def test_a_viewer_calls_nothing(world: MemoryBus) -> None:
    access = OpenAccess(Role.VIEW)
    with client_of(drawn(look({})), access, sender=world.sender) as client:
        text = client.get("/service/NODE-01/math.add").text
        assert "/call" not in text
        token = access.form_token(client.cookies[COOKIE], "")
        form = {"form_token": token, "node": "NODE-01", "service": "math.add", "p.a": "1"}
        assert client.post("/call", data=form).status_code == 403


def test_the_forecast_names_what_would_be_lost() -> None:
    services = {"A": (("call", "x.one"),), "B": (("call", "x.one"), ("call", "x.two"))}
    view = drawn(look({"A": ("mq-a", "mq-b"), "B": ("mq-b",)}, services=services))
    with client_of(view) as client:
        assert "would answer" not in client.get("/forecast?lost=mq-z").text
        text = client.get("/forecast?lost=mq-b").text
        assert "1 node of 2 would answer" in text and "1 service would have no node" in text
        assert "answers over mq-b alone" in text and 'class="bad">none<' in text
        assert "Every service would have a node" in client.get("/forecast?lost=mq-a").text


# -- rates and times ---------------------------------------------------------------------------------------------------


def loaded() -> FleetView:
    services = (
        ServiceLoad("call", "math.add", 3, 50, 120, 3, 12.5, 0.5, (8, 2), (10,)),
        ServiceLoad("message", "math.note", 1, 50, 5, 0, 1.0, 0.0),
        ServiceLoad("event", "math.note", 2, 50, 5, 0, 2.0, 0.0),
        ServiceLoad("event", "log.all", 0, 50),
    )
    worker = WorkerView("m-1", 7, 900.0, {}, {}, "mq-a", WorkerLoad(services=services, problems=("<full>",)))
    listed = {"N": (("call", "math.add"), ("call", "math.fail"), ("message", "math.note"))}
    return drawn(look({"N": ("mq-a",)}, services=listed)._replace(workers={"N": (worker,)}))


def cells(text: str, name: str) -> list[list[str]]:
    """The rows of a service, each as its cells but the name."""
    rows = [row for row in re.findall(r"<tr>.*?</tr>", text, re.DOTALL) if f">{name}<" in row]
    return [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in rows]


def test_a_node_shows_rates_times_and_what_is_in_flight() -> None:
    with client_of(loaded()) as client:
        text = client.get("/node/N").text
    assert cells(text, "math.add") == [["call", "12.5", "0.5", "0.3", "1.0", "3"]]
    assert cells(text, "math.note") == [["message", "3.0", "0.0", "-", "-", "3"]], "messages and events"
    assert cells(text, "math.fail") == [["call", "-", "-", "-", "-", "-"]], "the node does not say it"
    assert cells(text, "log.all") == [["event", "-", "-", "-", "-", "0"]], "in no list of what can be called"
    assert "mq-a: &lt;full&gt;" in text and "<td>mq-a</td>" in text


def test_services_are_shown_with_the_sums_of_all_nodes_and_renewed_with_them() -> None:
    with client_of(loaded()) as client:
        text = client.get("/services").text
        assert cells(text, "math.add")[0][:6] == ["call", "12.5", "0.5", "0.3", "1.0", "3"]
        seen = re.search(r"seen=([^\"&]*)", text)
        assert seen is not None
        how: dict[str, Any] = {"headers": {"HX-Request": "true"}}
        assert client.get(f"/services?seen={seen[1]}", **how).status_code == 204
        assert client.get("/services?seen=1+2", **how).status_code == 200


def test_a_large_fleet_is_shown_in_part_with_the_sums_of_all_of_it() -> None:
    """200 services of 20 nodes each would be half a megabyte of links."""
    load = WorkerLoad(services=(ServiceLoad("call", "math.add", 1, 50, 120, 3, 2.0, 0.5, (8, 2), (10,)),))
    names = [f"N-{number}" for number in range(7)]
    workers = {name: tuple(WorkerView("m", pid, 900.0, {}, {}, "mq-a", load) for pid in (1, 2)) for name in names}
    many = tuple(("call", f"many.s{number:03}") for number in range(205))
    listed = dict.fromkeys(names, (("call", "math.add"), *many))
    view = drawn(look(dict.fromkeys(names, ("mq-a",)), services=listed)._replace(workers=workers))
    assert [(each.load.backlog, each.nodes) for each in view.sums()] == [(14, names)]
    with client_of(view) as client:
        text = client.get("/services").text
        assert "200 of 206 are shown" in text and "math.add" not in text
        text = client.get("/services?q=math.add").text
        assert text.count('id="s-math.add-call-N-') == 5 and "and 2 more" in text
        assert cells(text, "math.add")[0][:6] == ["call", "28.0", "7.0", "0.3", "1.0", "14"]
