"""Bad requests to typed functions: the function never runs, the caller gets the list of errors and never a value."""

from __future__ import annotations

import enum
import pickle
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AfterValidator, BaseModel, Field, field_validator
from typed_world import typed_world

from servicebus.errors import CallRefused, EnvelopeError, InvalidParam, InvalidParams
from servicebus.typed import Services
from servicebus.typed.binding import make_binder
from servicebus.typed.signature import read_signature
from servicebus.wire import headers
from servicebus.wire.jsontext import decode_json

SECRET = "hunter2-secret"


class Color(enum.Enum):
    RED = "red"


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: Annotated[int, Field(ge=1, le=9)]


class Dog(BaseModel):
    kind: Literal["dog"]
    name: str


class Order(BaseModel):
    sku: str
    count: Annotated[int, Field(gt=0)]
    tags: list[str] = []

    @field_validator("sku")
    @classmethod
    def _known(cls, sku: str) -> str:
        if sku != "s-1":
            raise ValueError(f"no such sku: {sku}")
        return sku


Pet = Annotated[Cat | Dog, Field(discriminator="kind")]


def _even(value: int) -> int:
    assert value % 2 == 0, f"{value} is odd"
    return value


def make_group(ran: list[Any]) -> Services:
    group = Services("shop")

    @group.rpc
    def add(a: int, b: int = 0) -> int:
        ran.append(("add", a, b))
        return a + b

    @group.rpc
    def order(order: Order) -> str:
        ran.append(order)
        return order.sku

    @group.rpc
    def many(
        pet: Pet | None = None,
        either: int | list[int] = 0,
        color: Color = Color.RED,
        even: Annotated[int, AfterValidator(_even)] = 0,
        orders: dict[str, Order] = {},  # noqa: B006
        text: str = "",
        short: Annotated[str, Field(max_length=20)] = "",
        ratio: float = 0.0,
        anything: Any = None,
    ) -> str:
        ran.append(text)
        return text

    @group.message
    def note(text: str) -> None:
        ran.append(text)

    return group


BAD: list[tuple[str, bytes, list[tuple[str, str]]]] = [
    ("add", b"{}", [("a", "missing_argument")]),
    ("add", b"null", [("a", "missing_argument")]),
    ("add", b"[]", [("a", "missing_argument")]),
    ("add", b'{"a":1,"c":2}', [("c", "unexpected_keyword_argument")]),
    ("add", b"[1,2,3]", [("2", "unexpected_positional_argument")]),
    ("add", b'{"a":"hunter2-secret"}', [("a", "int_parsing")]),
    ("add", b'["hunter2-secret"]', [("0", "int_parsing")]),
    ("add", b'{"a":1.5}', [("a", "int_from_float")]),
    ("add", b'{"a":null,"b":[],"c":0}', [("a", "int_type"), ("b", "int_type"), ("c", "unexpected_keyword_argument")]),
    ("add", b"5", [("params", "arguments_type")]),
    ("add", b'"hunter2-secret"', [("params", "arguments_type")]),
    ("add", b'{"a":1e400}', [("a", "finite_number")]),
    ("add", b'{"a":"' + b"1" * 4400 + b'"}', [("a", "int_parsing_size")]),
    ("add", b'{"a":1,"a":"hunter2-secret"}', [("a", "int_parsing")]),
    ("order", b"null", [("params", "model_type")]),
    ("order", b"[1]", [("params", "model_type")]),
    ("order", b'{"sku":"hunter2-secret","count":1}', [("sku", "value_error")]),
    ("order", b'{"sku":"s-1","count":0}', [("count", "greater_than")]),
    ("order", b'{"sku":"s-1"}', [("count", "missing")]),
    ("order", b'{"sku":"s-1","count":1,"tags":["a",5,null]}', [("tags.1", "string_type"), ("tags.2", "string_type")]),
    ("many", b'{"pet":{"kind":"hunter2-secret"}}', [("pet", "union_tag_invalid")]),
    ("many", b'{"pet":{}}', [("pet", "union_tag_not_found")]),
    ("many", b'{"pet":{"kind":"cat","lives":10}}', [("pet.lives", "less_than_equal")]),
    ("many", b'{"either":"x"}', [("either", "int_parsing"), ("either", "list_type")]),
    ("many", b'{"color":"hunter2-secret"}', [("color", "enum")]),
    ("many", b'{"even":77777}', [("even", "assertion_error")]),
    ("many", b'{"orders":{"k":{"sku":"s-1","count":-1}}}', [("orders.k.count", "greater_than")]),
    ("many", b'{"short":"half \\ud800"}', [("short", "string_unicode")]),
    ("many", b'{"text":5}', [("text", "string_type")]),
]
NO_JSON: list[tuple[str, bytes, str]] = [
    ("many", b'{"ratio":NaN}', "bad-json"),
    ("many", b'{"anything":{"x":[-Infinity]}}', "bad-json"),
    ("many", b'{"text":"\xff"}', "bad-json"),
    ("many", b'{"text":"\xed\xa0\x80"}', "bad-json"),
    ("many", b'{"anything":1' + b"0" * 4400 + b"}", "bad-json"),
    ("many", b'{"anything":' + b"[" * 200 + b"]" * 200 + b"}", "too-deep"),
    ("many", b'{"anything":' + b"[" * 100_000, "too-deep"),
    ("many", b'{"text":"a\nb"}', "bad-json"),
    ("add", b'{"a":1,}', "bad-json"),
    ("add", b"", "bad-json"),
    ("add", b"\xef\xbb\xbf[1]", "bad-json"),
]


def place_and_kind(error: InvalidParams) -> list[tuple[str, str]]:
    return [(".".join(map(str, each.place)) or "params", each.kind) for each in error.errors]


def test_every_bad_request_lists_its_errors_and_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Any] = []
    with typed_world(monkeypatch, make_group(ran)) as world:
        for name, text, expected in BAD:
            error = world.call_text(name, text).exception()
            assert isinstance(error, InvalidParams) and isinstance(error, CallRefused), (text[:80], error)
            assert (place_and_kind(error), error.count, ran) == (expected, len(expected), []), text[:80]
            assert all(value not in str(error) + repr(error.errors) for value in (SECRET, "77777")), error
            assert (error.reason, error.address) == ("invalid-params", f"NODE-01.shop.{name}")
            assert all(each.message in str(error) for each in error.errors)
            assert world.call("add", [1, 2]) == 3 and ran.pop() == ("add", 1, 2), "the next call is fine"
        assert world.worker.dispatcher.counters["refused.invalid-params"] == len(BAD)


def test_what_is_no_json_is_refused_as_for_every_other_service(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Any] = []
    with typed_world(monkeypatch, make_group(ran)) as world:
        for name, text, reason in NO_JSON:
            error = world.call_text(name, text).exception()
            assert type(error) is CallRefused and (error.reason, ran) == (reason, []), (text[:80], error)
            future = world.bus.sender.call_async("NODE-01.test.echo", None)
            world.time.until(future.done)
            with pytest.raises(EnvelopeError) as same:
                decode_json(text)
            assert (same.value.reason, same.value.detail) == (error.reason, error.detail)


def test_half_of_a_surrogate_pair_travels_as_it_does_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    with typed_world(monkeypatch, make_group([])) as world:
        assert world.call("many", {"text": "half \ud800"}) == "half \ud800"


def test_a_message_that_does_not_bind_goes_to_the_dead_letters_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Any] = []
    with typed_world(monkeypatch, make_group(ran), schedule=(1.0, 5.0)) as world:
        world.send("note", {"text": 5, SECRET: 1})
        (letter,) = world.dead_letters()
        assert letter[headers.REASON] == "invalid-params"
        assert letter[headers.DETAIL].startswith("text: Input should be a valid string (string_type); ")
        world.send("note", {"text": "good"})
        assert ran == ["good"] and len(world.dead_letters()) == 1


def test_a_thousand_errors_are_counted_and_the_first_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Services("shop")

    @group.rpc
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    with typed_world(monkeypatch, group) as world:
        error = world.error("total", [["x" * 50] * 1000])
        assert (error.count, len(error.errors)) == (1000, 100)
        assert error.errors[99].place == (0, 99) and str(error).startswith("NODE-01.shop.total: refused by the node")
        assert len(str(error)) < 4000


def test_a_text_of_many_errors_is_cut_though_all_of_them_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    with typed_world(monkeypatch, make_group([])) as world:
        names = [f"{number:02}" + "x" * 190 for number in range(90)]
        error = world.error("add", {"a": 1, **dict.fromkeys(names, 1)})
        assert [each.place for each in error.errors] == [(name,) for name in names]
        assert "90 errors: 00xx" in str(error) and str(error).endswith("\u2026") and len(str(error)) < 4000


def test_hostile_names_are_shown_escaped_and_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    with typed_world(monkeypatch, make_group([])) as world:
        error = world.error("add", {"a": 1, "\x1b[2J\u202e" + "x" * 5000: 1})
        (one,) = error.errors
        assert "\x1b" not in one.place[0] and "\u202e" not in one.place[0] and len(one.place[0]) < 300


def test_the_error_survives_pickling() -> None:
    error = InvalidParams("N.c.s", [InvalidParam(("a", 0), "wrong", "int_type")])
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.errors, again.count) == (str(error), error.errors, 1)
    assert str(again) == "N.c.s: refused by the node (invalid-params): a.0: wrong (int_type)"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def anything(value: Any) -> Any:
    return value


BIND = make_binder(read_signature(anything))


@given(st.binary(max_size=30) | st.text(alphabet='[]{}:,"\\ud80eE+-.019NaInfitylrs \n', max_size=30).map(str.encode))
def test_both_forms_take_the_same_texts_for_json(inner: bytes) -> None:
    text = b'{"value":' + inner + b"}"
    try:
        value = decode_json(text)
    except EnvelopeError as error:
        with pytest.raises(EnvelopeError) as same:
            BIND(text)
        assert str(same.value) == str(error)
    else:
        try:
            args, kwargs = BIND(text)
        except EnvelopeError as error:  # it is JSON, and has other names
            assert set(value) != {"value"} and error.reason == "invalid-params"
        else:
            assert repr(kwargs) == repr(value) and args == ()
