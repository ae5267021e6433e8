"""Typed functions as services: binding, results, declared errors, on a whole bus in memory."""

from __future__ import annotations

import enum
import logging
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Generic, TypeVar
from uuid import UUID

import pytest
from pydantic import BaseModel, Field
from typed_world import typed_world
from typing_extensions import TypedDict
from virtual_bus import configuration

from servicebus.errors import AddressError, ConfigurationError, RemoteError
from servicebus.sender import Sender
from servicebus.service import ServiceBus
from servicebus.services import Request, Retry, current_request
from servicebus.typed import Services, declare_errors
from servicebus.wire.envelope import CALL, MESSAGE

T = TypeVar("T")


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Point(BaseModel):
    x: int
    y: int = 0


@dataclass
class Order:
    sku: str
    count: int
    price: Decimal


class Options(TypedDict):
    deep: bool


class Page(BaseModel, Generic[T]):
    items: list[T]


@pytest.fixture
def group() -> Services:
    return Services("math")


def echo(group: Services, annotation: Any) -> None:
    """The service ``same``, which returns ``repr()`` of its parameter."""

    def same(value: Any) -> str:
        return repr(value)

    same.__annotations__["value"] = annotation
    group.rpc(same)


# -- the function ------------------------------------------------------------------------------------------------------


def test_a_decorated_function_is_called_as_before(group: Services) -> None:
    @group.rpc
    def add(a: int, b: int = 1) -> int:
        return a + b

    @group.message(retry=(1, 2))
    def note(text: str) -> None: ...

    assert add(1) == 2 and add.__name__ == "add"
    assert [(each.kind.value, each.key, each.options) for each in group] == [
        ("call", "math.add", {}),
        ("message", "math.note", {"retry": (1, 2)}),
    ]


@pytest.mark.parametrize("params", [[1, 2], {"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": "1", "b": 2.0}])
def test_an_object_binds_by_name_and_an_array_by_position(
    monkeypatch: pytest.MonkeyPatch, group: Services, params: Any
) -> None:
    @group.rpc
    def add(a: int, b: int) -> int:
        return 10 * a + b

    with typed_world(monkeypatch, group) as world:
        assert world.call("add", params) == 12


def test_defaults_keyword_only_and_rest_bind_as_in_python(monkeypatch: pytest.MonkeyPatch, group: Services) -> None:
    @group.rpc
    def join(first: str, /, second: str = "b", *more: str, end: str = ".", **named: int) -> str:
        return first + second + "".join(more) + end + "".join(f"{name}{value}" for name, value in named.items())

    @group.rpc
    def key(*, end: str = "!") -> str:
        return end

    with typed_world(monkeypatch, group) as world:
        assert world.call("join", ["a"]) == "ab."
        assert world.call("join", ["a", "c", "d"]) == "acd."
        assert world.call("key", {"end": "?"}) == "?"
        assert world.call("key") == "!"


def test_a_call_without_params_calls_a_function_without_parameters(
    monkeypatch: pytest.MonkeyPatch, group: Services
) -> None:
    @group.rpc
    def now() -> str:
        return "noon"

    with typed_world(monkeypatch, group) as world:
        given: list[Any] = [None, [], {}]
        assert [world.call("now", params) for params in given] == ["noon"] * 3


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        (Annotated[int, Field(ge=1)], 3, 3),
        (Color, "red", Color.RED),
        (date, "2026-11-29", date(2026, 11, 29)),
        (datetime, "2026-11-29T10:00:00", datetime(2026, 11, 29, 10)),
        (timedelta, "PT1S", timedelta(seconds=1)),
        (Decimal, "1.10", Decimal("1.10")),
        (UUID, "12345678-1234-5678-1234-567812345678", UUID("12345678-1234-5678-1234-567812345678")),
        (bytes, "abc", b"abc"),
        (int | str, "x", "x"),
        (list[Point], [{"x": 1}], [Point(x=1)]),
        ("list[Point]", [{"x": 1}], [Point(x=1)]),
        (Page[Point] | None, {"items": [{"x": 1}]}, Page[Point](items=[Point(x=1)])),
        (set[int], [1, 1], {1}),
        (tuple[int, str], [1, "a"], (1, "a")),
        (dict[str, Order], {"a": {"sku": "s", "count": 1, "price": "2"}}, {"a": Order("s", 1, Decimal(2))}),
    ],
)
def test_a_value_becomes_what_its_annotation_says(
    monkeypatch: pytest.MonkeyPatch, group: Services, annotation: Any, value: Any, expected: Any
) -> None:
    echo(group, annotation)
    with typed_world(monkeypatch, group) as world:
        assert world.call("same", {"value": value}) == repr(expected)


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        (Point, {"x": 1}, Point(x=1)),
        (Annotated[Point, "of the test"], {"x": 1}, Point(x=1)),
        (Page[int], {"items": [1]}, Page[int](items=[1])),
        (Order, {"sku": "s", "count": 1, "price": 2}, Order("s", 1, Decimal(2))),
        (Options, {"deep": True}, {"deep": True}),
    ],
)
def test_a_structure_as_the_only_parameter_takes_the_whole_params(
    monkeypatch: pytest.MonkeyPatch, group: Services, annotation: Any, value: Any, expected: Any
) -> None:
    echo(group, annotation)

    @group.rpc
    def named(request: Request, *, value: Point) -> int:
        return value.x

    @group.rpc
    def two(value: Point, other: int = 0) -> int:
        return value.x

    with typed_world(monkeypatch, group) as world:
        assert world.call("same", value) == repr(expected)
        assert world.call("named", {"x": 7}) == 7
        assert world.call("two", {"value": {"x": 8}}) == 8, "with a second parameter it goes by name"


def test_an_annotation_may_name_what_is_defined_later(monkeypatch: pytest.MonkeyPatch, group: Services) -> None:
    @group.rpc
    def later(value: Later) -> int:
        return value.x

    with typed_world(monkeypatch, group) as world:
        assert world.call("later", {"x": 4}) == 4


class Later(BaseModel):
    x: int


def test_injected_parameters_are_known_by_their_annotations_alone(
    monkeypatch: pytest.MonkeyPatch, group: Services
) -> None:
    @group.rpc
    def add(request: Request, a: int, sender: Sender, b: int) -> list[Any]:
        assert current_request() is request and request.params in ([1, 2], {"a": 1, "b": 2})
        return [a + b, request.attempts, isinstance(sender, Sender), request.get_event().category]

    @group.rpc(name="request")
    def no_request(request: int) -> int:
        return request

    with typed_world(monkeypatch, group) as world:
        assert world.call("add", {"a": 1, "b": 2}) == [3, 1, True, "math"]
        assert world.call("add", [1, 2]) == [3, 1, True, "math"]
        assert world.call("request", {"request": 5}) == 5
        assert world.error("add", {"a": 1, "b": 2, "sender": 1}).errors[0].place == ("sender",)


# -- results -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotation", "returned", "result"),
    [
        (int, 3, 3),
        (float, 1, 1),
        (str, "\u00e9 ]]> <&>\U0001f600\uffff", "\u00e9 ]]> <&>\U0001f600\uffff"),
        (None, None, None),
        (Point, Point(x=1), {"x": 1, "y": 0}),
        (Point, {"x": 1}, {"x": 1, "y": 0}),
        (list[date], [date(2026, 1, 2)], ["2026-01-02"]),
        (list[int], (1, 2), [1, 2]),
        (Any, {"at": date(2026, 1, 2), "p": Point(x=2)}, {"at": "2026-01-02", "p": {"x": 2, "y": 0}}),
        (Decimal, Decimal("1.10"), "1.10"),
        (str, "NaN", "NaN"),
    ],
)
def test_a_result_is_written_by_its_annotation(
    monkeypatch: pytest.MonkeyPatch, group: Services, annotation: Any, returned: Any, result: Any
) -> None:
    def give() -> Any:
        return returned

    give.__annotations__["return"] = annotation
    group.rpc(give)
    with typed_world(monkeypatch, group) as world:
        assert world.call("give") == result


@pytest.mark.parametrize(
    ("annotation", "returned", "type", "text"),
    [
        (int, "secret", "InvalidResult", "result: Input should be a valid integer"),
        (Point, {"y": "secret"}, "InvalidResult", "x: Field required (missing); y: Input should be a valid integer"),
        (Any, object(), "InvalidResult", "JSON has no word for"),
        (float, float("nan"), "EnvelopeError", "unencodable"),
        (list[float], [float("inf")], "EnvelopeError", "unencodable"),
    ],
)
def test_a_bad_result_is_the_services_fault(
    monkeypatch: pytest.MonkeyPatch,
    group: Services,
    caplog: pytest.LogCaptureFixture,
    annotation: Any,
    returned: Any,
    type: str,
    text: str,
) -> None:
    def give() -> Any:
        return returned

    give.__annotations__["return"] = annotation
    group.rpc(give)
    with typed_world(monkeypatch, group) as world, caplog.at_level(logging.WARNING):
        error = world.error("give")
    assert isinstance(error, RemoteError) and error.type == type and text in error.message
    assert "service math.give failed" in caplog.text and type in caplog.text
    assert "secret" not in caplog.text + str(error)


def test_a_coroutine_as_the_result_says_what_it_is(monkeypatch: pytest.MonkeyPatch, group: Services) -> None:
    async def work() -> int:
        return 1

    @group.rpc
    def give() -> Any:
        return work()

    with typed_world(monkeypatch, group) as world:
        assert "returned a coroutine" in world.error("give").message


# -- messages ----------------------------------------------------------------------------------------------------------


def test_a_message_runs_by_the_retry_schedule_of_its_function(monkeypatch: pytest.MonkeyPatch, group: Services) -> None:
    seen: list[tuple[str, int]] = []

    @group.message(retry=(1,))
    def note(request: Request, text: str) -> None:
        seen.append((text, request.attempts))
        raise Retry(reason="of the test")

    with typed_world(monkeypatch, group) as world:
        world.send("note", {"text": "a"})
        world.time.until(lambda: bool(world.dead_letters()))
    assert seen == [("a", 1), ("a", 2)]


# -- declared errors ---------------------------------------------------------------------------------------------------


@dataclass
class OutOfStock(Exception):
    sku: str
    left: Decimal


class NotHere(OutOfStock):
    """Not declared itself."""


class Plain(Exception):
    pass


class Odd(Exception):
    def __init__(self, code: int):
        super().__init__(f"code {code}")


def test_a_declared_error_arrives_as_its_class_with_its_fields(
    monkeypatch: pytest.MonkeyPatch, group: Services, caplog: pytest.LogCaptureFixture
) -> None:
    @group.rpc(errors=[OutOfStock, Plain])
    def take(how: str) -> None:
        raise {"stock": OutOfStock("s-1", Decimal("0.5")), "sub": NotHere("s-2", Decimal(2)), "plain": Plain("a", 1)}[
            how
        ]

    with typed_world(monkeypatch, group) as world:
        error = world.error("take", ["stock"])
        assert type(error) is OutOfStock and (error.sku, error.left) == ("s-1", Decimal("0.5"))
        cause = error.__cause__
        assert isinstance(cause, RemoteError) and cause.type == "OutOfStock" and cause.address == "NODE-01.math.take"
        assert world.error("take", ["sub"]) == OutOfStock("s-2", Decimal(2))
        assert world.error("take", ["plain"]).args == ("a", 1)
    assert not [record for record in caplog.records if record.levelno > logging.INFO], "it is an answer"


def test_an_error_that_the_caller_does_not_know_is_a_remote_error(
    monkeypatch: pytest.MonkeyPatch, group: Services
) -> None:
    monkeypatch.setattr("servicebus.wire.fault._declared", {})
    other = Services("other")

    @group.rpc(errors=[OutOfStock, Odd])
    def take(how: str) -> None:
        raise Odd(5) if how == "odd" else OutOfStock("s-1", Decimal(1))

    @other.rpc(errors=[OutOfStock])
    def elsewhere() -> None: ...

    with typed_world(monkeypatch, group) as world:
        assert type(world.error("take", ["odd"])) is RemoteError, "its field has no attribute"
        monkeypatch.setattr("servicebus.wire.fault._declared", {})
        error = world.error("take", ["stock"])
        assert type(error) is RemoteError and error.type == "OutOfStock"
        declare_errors("math.take", OutOfStock)
        assert type(world.error("take", ["stock"])) is OutOfStock


def test_an_error_whose_fields_have_changed_is_a_remote_error(monkeypatch: pytest.MonkeyPatch, group: Services) -> None:
    @group.rpc(errors=[OutOfStock])
    def take() -> None:
        raise OutOfStock("s-1", Decimal(1))

    def other(module: Any) -> type[Exception]:
        class OutOfStock(Exception):
            def __init__(self, sku: int):
                self.sku = sku

        return OutOfStock

    declare_errors("math.take", other(None))
    with typed_world(monkeypatch, group) as world:
        assert type(world.error("take")) is RemoteError


# -- what is refused at the start --------------------------------------------------------------------------------------


def include(group: Services) -> None:
    ServiceBus(configuration("mq-a")).include(group)


def test_what_no_call_could_reach_is_refused_at_the_start() -> None:
    def names(problem: str, define: Any) -> None:
        group = Services("math")
        with pytest.raises(ConfigurationError, match=problem):
            define(group)
            include(group)

    def no_type(value: "Missing") -> None: ...  # type: ignore[name-defined]  # noqa: F821, UP037
    def no_schema(value: pytest.MonkeyPatch) -> None: ...
    def lazy(value: int) -> Any:
        yield value

    def by_position(request: Request, /, value: int) -> None: ...
    def fine(value: int) -> None: ...

    names("the signature of .*no_type cannot be read: NameError", lambda group: group.rpc(no_type))
    names("service math.no_schema: no schema for its signature", lambda group: group.rpc(no_schema))

    async def lazy_async(value: int) -> Any:
        yield value

    names("the function is a generator function", lambda group: group.message(lazy))
    names("the function is an asynchronous generator function", lambda group: group.message(lazy_async))
    names("threads is for def; say tasks", lambda group: group.rpc(threads=2)(lazy_async))
    names("resumable is for generators", lambda group: group.rpc(resumable=True)(fine))
    names("request is injected, so it needs a name", lambda group: group.rpc(by_position))
    names("threads must be", lambda group: group.rpc(threads=0)(fine))
    names("takes one of lock, concurrency and singleton", lambda group: group.rpc(lock="a", concurrency="node")(fine))
    names("has a service fine for calls already", lambda group: [group.rpc(fine), group.rpc(fine)])
    names("which is no Exception", lambda group: group.rpc(errors=[int])(fine))
    names("two Plain", lambda group: group.rpc(errors=[Plain, type("Plain", (Exception,), {})])(fine))
    names("an error named busy, as the bus", lambda group: group.rpc(errors=[type("busy", (Exception,), {})])(fine))
    with pytest.raises(AddressError):
        Services("no.name")
    with pytest.raises(AddressError):
        Services("math").rpc(name="no name")(fine)


def test_a_call_and_a_message_may_have_one_name(group: Services) -> None:
    def note(value: int) -> None: ...

    group.rpc(note)
    group.message(note)
    bus = ServiceBus(configuration("mq-a"))
    bus.include(group)
    assert [(each.kind, each.name) for each in group] == [(CALL, "note"), (MESSAGE, "note")]


def test_a_service_of_the_class_form_stands_beside_a_group(group: Services) -> None:
    class Add:
        def on_call(self, request: Any, response: Any) -> None: ...

    @group.rpc
    def add(a: int) -> int:
        return a

    bus = ServiceBus(configuration("mq-a"))
    bus.include(group)
    bus.add_rpc_service("math", "sub", Add())
    with pytest.raises(ConfigurationError, match=r"math\.add for calls is registered already"):
        bus.add_rpc_service("math", "add", Add())


def test_a_deprecated_service_says_once_that_it_is_in_use(
    monkeypatch: pytest.MonkeyPatch, group: Services, caplog: pytest.LogCaptureFixture
) -> None:
    @group.rpc(deprecated="use math.sum", version="1.2")
    def add(a: int) -> int:
        return a

    with typed_world(monkeypatch, group) as world:
        assert [world.call("add", [1]), world.call("add", [2])] == [1, 2]
    assert caplog.text.count("math.add is deprecated and still in use: use math.sum") == 1


def test_an_integer_that_no_caller_can_read_is_a_result_that_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Services("math")
    digits = 4300

    @group.rpc
    def power(exponent: int) -> list[int]:
        return [1, 10**exponent]

    @group.rpc
    def padded(exponent: int, before: int) -> dict[str, Any]:
        return {"text": "7" * 5000 + "x" * before, "number": -(10**exponent)}

    with typed_world(monkeypatch, group) as world:
        assert world.call("power", [digits - 1]) == [1, 10 ** (digits - 1)]
        assert world.call("padded", [digits - 1, 1])["number"] == -(10 ** (digits - 1))
        for before in (0, 1, digits - 1, digits):
            with pytest.raises(RemoteError, match=r"the result: .*4300"):
                world.call("padded", [digits, before])
        with pytest.raises(RemoteError, match=r"the result: .*4300"):
            world.call("power", [digits])


def test_the_name_of_a_service_in_place_of_its_function_is_refused() -> None:
    group = Services("math")
    for decorate in (group.rpc, group.message):
        with pytest.raises(ConfigurationError, match="decorates a function, not 'add'; the name of a service is name="):
            decorate("add")  # type: ignore[call-overload]
