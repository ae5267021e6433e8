"""What goes wrong with a value never shows it: to callers, in dead letters, in logs, on any way that a value takes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import pytest
from pydantic import AfterValidator, BaseModel, BeforeValidator, PlainSerializer, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError
from typed_world import TypedWorld, typed_world

from servicebus.errors import CallRefused, InvalidParams, InvalidReply, RemoteError, ServiceBusError
from servicebus.typed import Services
from servicebus.typed.problems import problems_of, without_values
from servicebus.wire import headers

SECRET = "Hunter2-Secret 77777"
PARTS = ("hunter2", "secret", "77777", "hunt")


def _raise(make: Callable[[Any], BaseException]) -> Callable[[Any], Any]:
    def validate(value: Any) -> Any:
        raise make(value)

    return validate


WAYS: dict[str, Callable[[Any], BaseException]] = {
    "a text": lambda value: ValueError(f"{value} is not known"),
    "its repr": lambda value: ValueError(f"no such thing: {value!r}"),
    "a part": lambda value: ValueError(f"begins with {str(value)[:4]}"),
    "changed": lambda value: ValueError(f"no {str(value).lower()} nor {str(value).upper()}"),
    "an assertion": lambda value: AssertionError(f"{value} is odd"),
    "a kind of its own": lambda value: PydanticCustomError("own", "not {it}", {"it": str(value)}),
    "a KeyError": lambda value: KeyError(value),
    "a TypeError": lambda value: TypeError(f"what is {value}?"),
    "an exit": lambda value: SystemExit(str(value)),
}


def hides(text: str) -> bool:
    return not any(part in text.casefold() for part in PARTS)


@pytest.fixture(params=WAYS)
def raising(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    return _raise(WAYS[request.param])


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    caplog.set_level(logging.DEBUG)
    yield caplog
    formatter = logging.Formatter()
    assert all(hides(formatter.format(record)) for record in caplog.records)


def make_group(raising: Callable[[Any], Any], ran: list[Any]) -> Services:
    group = Services("shop")
    Bad = Annotated[str, BeforeValidator(raising)]  # noqa: N806 - a type
    BadResult = Annotated[str, BeforeValidator(raising), PlainSerializer(raising)]  # noqa: N806

    class Order(BaseModel):
        sku: Annotated[str, AfterValidator(raising)]
        password: str = ""

    @group.rpc
    def named(value: Bad, other: str = "") -> None:
        ran.append(value)

    @group.rpc
    def whole(order: Order) -> None:
        ran.append(order)

    @group.rpc
    async def task(order: Order) -> None:
        ran.append(order)

    @group.rpc(lock="sku")
    def locked(order: Order) -> None:
        ran.append(order)

    @group.rpc
    def result() -> BadResult:
        return SECRET

    @group.rpc
    def items() -> Iterator[BadResult]:
        yield SECRET

    @group.rpc
    def inside() -> None:
        TypeAdapter(Order).validate_python({"sku": "a", "password": [SECRET]})

    @group.message
    def note(order: Order) -> None:
        ran.append(order)

    return group


PARAMS = {"sku": SECRET, "password": SECRET}


def test_no_way_shows_it(
    monkeypatch: pytest.MonkeyPatch, raising: Callable[[Any], Any], log: pytest.LogCaptureFixture
) -> None:
    ran: list[Any] = []
    with typed_world(monkeypatch, make_group(raising, ran)) as world:
        for name, params in (("named", {"value": SECRET, "other": SECRET}), ("whole", PARAMS), ("locked", PARAMS)):
            error = world.error(name, params)
            assert isinstance(error, CallRefused) and hides(str(error) + repr(vars(error))), error
            assert error.reason in ("invalid-params", "defect")
        for error in (world.error("result"), _error_of_items(world)):
            assert isinstance(error, RemoteError) and hides(str(error) + repr(vars(error))), error
            assert error.type == "InvalidResult"
        world.send("note", PARAMS)
        (letter,) = world.dead_letters()
        assert hides(repr(letter)) and letter[headers.REASON] in ("invalid-params", "defect")
        assert not ran


def _error_of_items(world: TypedWorld) -> BaseException:
    stream = world.bus.sender.stream(world.address("items"))
    inbox = stream._inbox
    assert inbox is not None
    world.time.until(lambda: inbox.has_ended)
    with pytest.raises(ServiceBusError) as caught:
        next(stream)
    return caught.value


def test_a_validation_error_of_the_function_itself_keeps_its_places_and_kinds(
    monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    with typed_world(monkeypatch, make_group(lambda value: value, [])) as world:
        error = world.error("inside")
        assert isinstance(error, RemoteError) and error.type == "ValidationError" and hides(str(error))
        assert "password" in error.message and "Input should be a valid string" in error.message
        assert "string_type" in error.message
    assert "in inside" in log.text, "where it was raised"


def test_a_mistake_of_a_validator_is_in_the_log_with_its_place(
    monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    with typed_world(monkeypatch, make_group(_raise(KeyError), [])) as world:
        error = world.error("named", {"value": SECRET})
        assert "(defect): its params could not be read: KeyError (its text may show a value)" in str(error)
    assert "raise make(value)" in log.text


def test_the_callers_side_hides_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    served, known = Services("shop"), Services("shop")

    @served.rpc(name="price")
    def as_text() -> str:
        return SECRET

    @known.rpc(name="price")
    def as_number() -> int:
        return 0

    @known.rpc
    def order(sku: Annotated[str, AfterValidator(_raise(lambda value: ValueError(f"no {value}")))]) -> int:
        return 0

    with typed_world(monkeypatch, served) as world:
        client: Any = world.bus.sender.client("NODE-01", known)
        future = []
        monkeypatch.setattr(world.bus.sender, "call", lambda *a, **k: (1, world.call("price")))
        with pytest.raises(InvalidReply) as caught:
            future.append(client.price())
        assert hides(str(caught.value)) and caught.value.__cause__ is None is caught.value.__context__
        assert [(each.place, each.kind) for each in caught.value.errors] == [((), "int_parsing")]
        with pytest.raises(InvalidParams) as refused:
            client.order(["x", SECRET])
        assert hides(str(refused.value)) and not refused.value.sent and "before it was sent" in str(refused.value)


def test_a_rule_stays_readable() -> None:
    """What is taken out are the words that occur in the params, in any case, or as parts of them."""

    def check(value: str) -> str:
        raise ValueError(f"{value!r} is no sku: it must begin with S and not be {value[:4]}")

    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Annotated[str, AfterValidator(check)]).validate_python("hunter2")
    (problem,) = problems_of(caught.value, {"sku": "hunter2"})
    assert problem.message == "Value error, '\u2026' is no sku: it must begin with S and not be \u2026"


def test_the_words_of_other_fields_are_taken_out_too() -> None:
    class Login(BaseModel):
        password: str
        again: str

        def model_post_init(self, _: Any) -> None:
            if self.password != self.again:
                raise ValueError(f"{self.again} is not {self.password}")

    params = {"password": SECRET, "again": "other"}
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Login).validate_python(params)
    (problem,) = problems_of(caught.value, params)
    assert hides(problem.message) and "other" not in problem.message and " is not " in problem.message


def test_of_more_than_can_be_looked_through_all_of_the_message_is_left_out() -> None:
    def check(value: Any) -> Any:
        raise ValueError(f"no: {SECRET}")

    many: list[Any] = [[SECRET] * 10_000, ["x" * 100_000, SECRET], [[]] * 10_000]
    for params in many:
        with pytest.raises(ValidationError) as caught:
            TypeAdapter(Annotated[list[Any], AfterValidator(check)]).validate_python(params)
        (problem,) = problems_of(caught.value, params)
        assert problem.message == "A validator refuses it" and problem.kind == "value_error"


def test_an_error_without_its_values_is_of_the_same_class_and_says_where() -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(dict[str, int]).validate_python({"a": SECRET, "{b}": [SECRET]})
    again = without_values(caught.value)
    assert type(again) is ValidationError and hides(str(again)) and hides(repr(again.errors()))
    assert [(each["loc"], each["type"]) for each in again.errors()] == [(("a",), "int_parsing"), (("{b}",), "int_type")]
    assert again.__traceback__ is not None
