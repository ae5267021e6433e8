"""What a newcomer guesses wrong: the error says what is wrong and what to write, and comes where it was written."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from pydantic import BaseModel
from virtual_bus import configuration

import servicebus.testing
from servicebus.aio import AsyncSender
from servicebus.errors import (
    AddressError,
    ConfigurationError,
    EnvelopeError,
    InvalidReply,
    LifecycleError,
    NoBrokerAvailable,
    RemoteError,
    ServiceBusError,
    ServiceBusy,
    UnknownService,
)
from servicebus.middleware import Middleware, MiddlewareSender
from servicebus.sender import Sender
from servicebus.service import ServiceBus
from servicebus.services import MessageService, Request, Retry
from servicebus.testing import MemoryBus
from servicebus.typed import Depends, Services, TypedClient

CONFIG = configuration("127.0.0.1:1", path_wait=0.01)
books = Services("books")


class Book(BaseModel):
    title: str


@dataclass
class Loan:
    who: str


@books.rpc
def find(title: str) -> str:
    return title


@books.rpc
def every(count: int) -> Iterator[int]:
    yield from range(count)


@books.message
def lend(title: str) -> None: ...


@books.event("books.*")
def note(title: str) -> None: ...


@pytest.fixture
def bus() -> Iterator[MemoryBus]:
    with servicebus.testing.bus(books) as bus:
        yield bus


# -- addresses and names -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [None, b"NODE-01.books.find", object()])
@pytest.mark.parametrize(
    "ask",
    [
        Sender.call, Sender.call_async, Sender.send, Sender.send_async, Sender.publish, Sender.publish_async,
        Sender.stream, Sender.gather, Sender.nodes, Sender.services, Sender.describe, Sender.offers, Sender.ping,
        Sender.ping_error, Sender.ping_all, lambda sender, name: sender.client(name, books),
        lambda sender, name: sender.gather("*.books.find", nodes=[name]),
    ],
)  # fmt: skip
def test_what_is_no_text_is_no_address(ask: Callable[..., Any], wrong: Any) -> None:
    with Sender(CONFIG) as sender, pytest.raises(AddressError, match=r"not a text|has to be a text"):
        ask(sender, wrong)


@pytest.mark.parametrize("wrong", [None, 5, b"books"])
def test_what_is_no_text_names_no_service(wrong: Any) -> None:
    bus = ServiceBus(CONFIG)
    not_text: Any = 1
    for declare in (
        lambda: Services(wrong),
        lambda: Services("books").rpc(name=wrong or not_text)(find),
        lambda: bus.add_rpc_service(wrong, "find", object()),
        lambda: bus.add_message_service("books", wrong, object()),
        lambda: Services("books").event(wrong),
        lambda: Services("books").publishes(wrong),
    ):
        with pytest.raises(AddressError, match=r"not a text|has to be a text"):
            declare()


def test_a_list_of_names_is_no_text() -> None:
    with Sender(CONFIG) as sender, pytest.raises(ValueError, match=r"write \['NODE-01'\]"):
        sender.gather("*.books.find", nodes="NODE-01")


# -- asking ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("service", "way"), [("lend", r"send\(\)"), ("note", r"publish\(\) of an event"), ("nothing", "")]
)
def test_a_call_of_what_is_not_called_says_how_to_ask_it(bus: MemoryBus, service: str, way: str) -> None:
    hint = f"; it is asked by {way}" if way else ""
    with pytest.raises(UnknownService, match=f"the node has no such service{hint}$"):
        bus.sender.call(f"NODE-01.books.{service}")


@pytest.mark.parametrize(
    ("service", "way"), [("find", "; it is asked by call()"), ("every", "; it is asked by stream()")]
)
def test_the_dead_letter_of_a_message_to_what_is_called_says_so(bus: MemoryBus, service: str, way: str) -> None:
    bus.sender.send(f"NODE-01.books.{service}")
    (letter,) = bus.history.only("dead-lettered")
    assert letter.detail == f"unknown-service: no message service books.{service}{way}"


@pytest.mark.parametrize(
    ("value", "hint"),
    [(Book(title="x"), r'write its \.model_dump\(mode="json"\)'), (Loan("bob"), r"write its dataclasses\.asdict\(\)")],
)
def test_a_model_in_the_params_is_told_what_to_write(bus: MemoryBus, value: Any, hint: str) -> None:
    with pytest.raises(EnvelopeError, match=hint):
        bus.sender.call("NODE-01.books.find", {"title": [value]})


@pytest.mark.parametrize("wrong", [None, "books", find, 5])
@pytest.mark.parametrize("make", [Sender, AsyncSender])
def test_a_client_needs_a_group(make: Callable[..., Any], wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"client\(\) takes a group of typed functions .*, not "):
        make(CONFIG).client("NODE-01", wrong)


def test_a_client_takes_a_node_and_no_address() -> None:
    with Sender(CONFIG) as sender:
        for group in (books, type("Books", (TypedClient,), {}, group=books)):
            with pytest.raises(AddressError, match="node name holds a dot"):
                sender.client("NODE-01.books", group)


# -- declaring ---------------------------------------------------------------------------------------------------------


def method() -> Any:
    class Shop:
        def find(self, title: str) -> str:
            return title

    return Shop.find


@pytest.mark.parametrize(
    ("declare", "says"),
    [
        (lambda group: group.rpc(timeout=5), r"rpc\(\) takes no timeout$"),
        (lambda group: group.rpc(thread=5), r"takes no thread; did you mean threads\?"),
        (lambda group: group.rpc(retry=(1,)), r"rpc\(\) takes no retry; that is for messages and events"),
        (lambda group: group.message(idempotent=True), r"message\(\) takes no idempotent; that is for calls"),
        (lambda group: group.message(resumable=True), r"message\(\) takes no resumable; that is for calls"),
        (lambda group: group.rpc(errors=ValueError), "errors must be a list of exception classes"),
        (lambda group: group.event("a", errors=ValueError), "errors must be a list of exception classes"),
        (lambda group: group.rpc(version=2), "version must be a text, not 2"),
        (lambda group: group.rpc(former="yes"), "former must be True or False, not 'yes'"),
        (lambda group: group.rpc(deprecated=3), "deprecated must be a text, True or False, not 3"),
        (lambda group: group.event(find), r"event\(\) needs the name or pattern of an event"),
        (lambda group: group.rpc(Book), "Book is a class; it decorates functions"),
        (lambda group: group.rpc(method()), r"Shop\.find is a method, which has no self here"),
        (lambda group: group.rpc(functools.partial(find, "x")), r"has no name; say name=\.\.\."),
    ],
)
def test_a_wrong_declaration_is_refused_where_it_stands(declare: Callable[[Services], Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        declare(Services("books"))


def test_what_has_no_name_is_served_under_one_that_is_given(bus: MemoryBus) -> None:
    group = Services("more")
    group.rpc(name="half")(functools.partial(find, title="x"))
    assert [each.key for each in group] == ["more.half"]


def test_depends_without_anything_to_make_is_no_value_of_the_wire() -> None:
    group = Services("books")

    @group.rpc
    def guess(title: Annotated[str, Depends]) -> str:
        return title

    with pytest.raises(ConfigurationError, match=r"guess: title: write Depends\(\.\.\.\), with what makes it"):
        group.contract()


@pytest.mark.parametrize("wrong", [None, 5, "shop:books", find, [books], pytest])
def test_include_takes_a_group(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"include\(\) takes a group of typed functions .*, not "):
        ServiceBus(CONFIG).include(wrong)


def test_a_function_is_no_service_object() -> None:
    bus = ServiceBus(CONFIG)
    for add in (bus.add_rpc_service, bus.add_message_service):
        with pytest.raises(ConfigurationError, match="a function is served by a group"):
            add("books", "find", find)
    with pytest.raises(ConfigurationError, match="not iterable"):
        bus.add_event_service("books", "note", Note(), 5)  # type: ignore[arg-type]


class Note(MessageService):
    def handle(self, request: Request) -> None: ...


class Timing(Middleware): ...


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (Timing(), "must be a list"),
        (5, "must be a list"),
        ([Timing], r"Timing is a class; write Timing\(\)"),
        ([5], "5 is no Middleware"),
    ],
)
@pytest.mark.parametrize("make", [ServiceBus, MiddlewareSender, AsyncSender])
def test_middleware_is_a_list_of_objects(make: Callable[..., Any], wrong: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        make(CONFIG, middleware=wrong)


# -- testing -----------------------------------------------------------------------------------------------------------


def test_a_sender_on_real_brokers_does_not_hang_beside_a_bus_in_memory() -> None:
    own = Sender(CONFIG)
    with servicebus.testing.bus(books):
        for ask in (lambda: own.call("NODE-01.books.find", ["x"]), own.status, own.nodes):
            with pytest.raises(LifecycleError, match="a bus in memory is open in this process; use its sender"):
                ask()
    with own, pytest.raises(NoBrokerAvailable):
        own.call("NODE-01.books.find", ["x"])


@pytest.mark.parametrize("wrong", ["2", 1.5, None, True, 0, -1])
def test_a_bus_in_memory_has_a_whole_number_of_brokers(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="a bus needs a broker, not "):
        servicebus.testing.bus(books, brokers=wrong)


@pytest.mark.parametrize("wrong", [{1: find}, {None: find}, {"find": find}, {"books.find": find}])
def test_a_bus_in_memory_says_what_is_wrong_with_its_services(wrong: Any) -> None:
    with pytest.raises(ServiceBusError):
        servicebus.testing.bus(wrong)


# -- what failed -------------------------------------------------------------------------------------------------------

later = Services("later")


@later.rpc
def busy() -> None:
    raise Retry


@later.rpc
def wrong(value: str) -> int:
    return value  # type: ignore[return-value]


@later.rpc
def wrong_items(value: str) -> Iterator[list[int]]:
    yield [value]  # type: ignore[list-item]


def test_a_service_that_says_later_has_no_full_inbox() -> None:
    with servicebus.testing.bus(later) as bus, pytest.raises(ServiceBusy, match="asked to be called later"):
        bus.sender.call("NODE-01.later.busy", timeout=1)


def test_what_is_wrong_with_a_result_is_not_said_of_the_params() -> None:
    with servicebus.testing.bus(later) as bus:
        with pytest.raises(RemoteError, match="does not allow: result: Input should be a valid integer"):
            bus.sender.call("NODE-01.later.wrong", ["x"])
        with pytest.raises(RemoteError, match="does not allow: 0: Input should be a valid integer"):
            list(bus.sender.stream("NODE-01.later.wrong_items", ["x"]))


def test_a_result_that_a_client_cannot_read_is_not_said_of_the_params() -> None:
    group = Services("later")

    @group.rpc
    def wrong(value: str) -> str:
        return value

    with servicebus.testing.bus(group) as bus, pytest.raises(InvalidReply, match=r"cannot be read: result: Input"):
        bus.sender.client("NODE-01", later).wrong("x")
