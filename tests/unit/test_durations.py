"""Every time in the public API is a number of seconds, or refused."""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

import servicebus.logging_service
import servicebus.plain
import servicebus.sender
import servicebus.service
import servicebus.services
import servicebus.testing
from servicebus._durations import LONGEST_S, to_seconds
from servicebus.aio import AsyncSender
from servicebus.client.future import CallFuture
from servicebus.configuration import Configuration
from servicebus.configuration.keys import KEYS
from servicebus.contracts import NodeContract
from servicebus.errors import ConfigurationError, DurationError, ServiceBusError
from servicebus.logging_service import LoggingService
from servicebus.plain import AsyncPlainPublisher
from servicebus.sender import Sender
from servicebus.services import Retry
from servicebus.testing import Broker, Cluster, FaultProxy, FaultyBroker, MemoryBus, MockNode, mock_of
from servicebus.transport.channel import AmqpChannel
from servicebus.typed import AsyncClient, Client, Services, TypedClient

CONFIG = Configuration({"hosts": ["127.0.0.1:1"], "secret_token": "a secret of sixteen", "node_name": "N"})
NO_TIMES = [
    math.nan, math.inf, -math.inf, -1, -0.001, -(10**400), "5", "", b"5", True, False, timedelta(seconds=5), [1],
    Decimal(5), 1j, object(),
]  # fmt: skip
SERVICE = type("Takes", (), {"on_message": lambda self, request: None})()

Use = Callable[[Any], Any]


def subscribe(retry: Any) -> None:
    group = Services("a")

    @group.event("c", retry=[retry])
    def b() -> None: ...

    servicebus.service.ServiceBus(CONFIG).include(group)


def consumes(**how: Any) -> None:
    group = Services("a")

    @group.consume("c", **how)
    def b() -> None: ...

    servicebus.service.ServiceBus(CONFIG).include(group)


def sender() -> Sender:
    return Sender(CONFIG)


def node() -> Any:
    return object.__new__(Broker)


TIMES: dict[str, Use] = {
    "Sender.call(timeout)": lambda it: sender().call("N.a.b", 1, it),
    "Sender.call(hedge_after)": lambda it: sender().call("N.a.b", 1, hedge_after=it),
    "StreamSource.stream(timeout)": lambda it: sender().stream("N.a.b", 1, it),
    "StreamSource.stream(item_timeout)": lambda it: sender().stream("N.a.b", 1, item_timeout=it),
    "Sender.call_async(timeout)": lambda it: sender().call_async("N.a.b", 1, it),
    "Sender.call_async(hedge_after)": lambda it: sender().call_async("N.a.b", 1, hedge_after=it),
    "Sender.send(timeout)": lambda it: sender().send("N.a.b", 1, it),
    "Sender.send(delay)": lambda it: sender().send("N.a.b", 1, delay=it),
    "Sender.send(expires)": lambda it: sender().send("N.a.b", 1, expires=it),
    "Sender.send_async(timeout)": lambda it: sender().send_async("N.a.b", 1, it),
    "Sender.send_async(delay)": lambda it: sender().send_async("N.a.b", 1, delay=it),
    "Sender.send_async(expires)": lambda it: sender().send_async("N.a.b", 1, expires=it),
    "EventPublisher.publish(timeout)": lambda it: sender().publish("a.b", 1, it),
    "EventPublisher.publish(delay)": lambda it: sender().publish("a.b", 1, delay=it),
    "EventPublisher.publish(expires)": lambda it: sender().publish("a.b", 1, expires=it),
    "PublishedEvent.publish(timeout)": lambda it: Services("a").publishes("a.b", int).publish(sender(), 1, it),
    "EventPublisher.publish_async(timeout)": lambda it: sender().publish_async("a.b", 1, it),
    "EventPublisher.publish_async(delay)": lambda it: sender().publish_async("a.b", 1, delay=it),
    "EventPublisher.publish_async(expires)": lambda it: sender().publish_async("a.b", 1, expires=it),
    "PlainSending.request(timeout)": lambda it: sender().request("", "q", b"", timeout=it),
    "PlainSending.request_async(timeout)": lambda it: sender().request_async("", "q", b"", timeout=it),
    "PlainPublisher.publish(timeout)": lambda it: sender().publisher_to("x").publish(b"", timeout=it),
    "PlainPublisher.publish_async(timeout)": lambda it: sender().publisher_to("x").publish_async(b"", timeout=it),
    "AsyncPlainPublisher.publish(timeout)": lambda it: AsyncPlainPublisher(sender().publisher_to("x")).publish(
        b"", timeout=it
    ),
    "Services.consume(retry)": lambda it: consumes(retry=[it]),
    "Services.consume(remember)": lambda it: consumes(remember=it),
    "Sender.ping(timeout)": lambda it: sender().ping("N", it),
    "Sender.ping_all(timeout)": lambda it: sender().ping_all("N", it),
    "Sender.ping_error(timeout)": lambda it: sender().ping_error("N", it),
    "Discovering.offers(timeout)": lambda it: sender().offers("N.a.b", timeout=it),
    "Sender.client(timeout)": lambda it: sender().client("N", Services("a"), it),
    "Client.__init__(timeout)": lambda it: Client(sender(), "N", Services("a"), it),
    "AsyncClient.__init__(timeout)": lambda it: AsyncClient(AsyncSender(CONFIG), "N", Services("a"), it),
    "TypedClient.__init__(timeout)": lambda it: TypedClient(sender(), "N", it),
    "Discovering.describe(timeout)": lambda it: sender().describe("N", timeout=it),
    "Discovering.nodes(timeout)": lambda it: sender().nodes("*", it),
    "Discovering.nodes(quiet)": lambda it: sender().nodes("*", quiet=it),
    "Discovering.services(timeout)": lambda it: sender().services("*", it),
    "Discovering.services(quiet)": lambda it: sender().services("*", quiet=it),
    "Discovering.gather(timeout)": lambda it: sender().gather("*.a.b", 1, it),
    "Discovering.gather(quiet)": lambda it: sender().gather("*.a.b", 1, quiet=it),
    "CallFuture.result(timeout)": lambda it: CallFuture().result(it),
    "CallFuture.exception(timeout)": lambda it: CallFuture().exception(it),
    "Retry.__init__(after)": Retry,
    "Registering.add_message_service(retry)": lambda it: servicebus.service.ServiceBus(CONFIG).add_message_service(
        "a", "b", SERVICE, retry=[it]
    ),
    "Registering.add_event_service(retry)": lambda it: servicebus.service.ServiceBus(CONFIG).add_event_service(
        "a", "b", SERVICE, "c", retry=[it]
    ),
    "Services.event(retry)": lambda it: subscribe(it),
    "LoggingService.statistics(timeout_s)": lambda it: LoggingService.statistics(1, timeout_s=it),
    "Broker.wait_ready(timeout_s)": lambda it: Broker.wait_ready(node(), it),
    "Broker.answers(timeout_s)": lambda it: Broker.answers(node(), it),
    "Broker.stop(timeout_s)": lambda it: Broker.stop(node(), it),
    "Broker.rabbitmqctl(timeout_s)": lambda it: Broker.rabbitmqctl(node(), timeout_s=it),
    "Cluster.wait_whole(timeout_s)": lambda it: Cluster.wait_whole(object.__new__(Cluster), it),
    "FaultProxy.set_delay(delay_s)": lambda it: FaultProxy(1).set_delay(it),
    "FaultyBroker.delay(seconds)": lambda it: FaultyBroker.delay(object.__new__(FaultyBroker), it),
    "MockNode.__init__(latency)": lambda it: MockNode(NodeContract(()), it),
    "mock_of(latency)": lambda it: mock_of(NodeContract(()), latency=it),
    "MemoryBus.advance(seconds)": lambda it: MemoryBus.advance(object.__new__(MemoryBus), it),
}
NO_TIME = {
    "FaultProxy.set_delay(loss)",
    "FaultProxy.set_rate(bytes_per_s)",
    "HistoryEntry.__init__(at)",
    "Request.__init__(deadline)",
}
WORDS = ("timeout", "delay", "expires", "after", "retry", "_s", "seconds", "interval", "limit", "deadline")


def parameters() -> Iterator[tuple[str, inspect.Parameter]]:
    """Every parameter of every public function and method that a program can call."""
    for module in (
        servicebus.plain,
        servicebus.sender,
        servicebus.service,
        servicebus.services,
        servicebus.logging_service,
        servicebus.testing,
        servicebus.typed,
    ):
        for owner in [getattr(module, name) for name in module.__all__] + (
            [CallFuture] if module is servicebus.sender else []
        ):
            for name, function in inspect.getmembers(owner) if inspect.isclass(owner) else [("", owner)]:
                if isinstance(function, types.FunctionType) and (name == "__init__" or not name.startswith("_")):
                    for parameter in inspect.signature(function).parameters.values():
                        yield f"{function.__qualname__}({parameter.name})", parameter


def is_time(parameter: inspect.Parameter) -> bool:
    annotation = str(parameter.annotation)
    return ("float" in annotation and not annotation.startswith("Callable[")) or (
        parameter.annotation is inspect.Parameter.empty and any(word in parameter.name for word in WORDS)
    )


def test_no_time_in_the_public_api_is_forgotten_here() -> None:
    # What a class inherits from the standard library is not ours to check.
    found = {name for name, parameter in parameters() if is_time(parameter)} - NO_TIME
    found = {name for name in found if not name.startswith(("Future.", "Process.", "BaseProcess."))}
    assert found - set(TIMES) == set(), "a time that nothing checks"
    assert set(TIMES) - found == set(), "no such parameter"


@pytest.mark.parametrize("name", TIMES)
def test_what_is_no_time_is_refused_before_anything_is_done(name: str) -> None:
    for value in NO_TIMES:
        if name.startswith(("Registering.", "Services.")) and value == "5":
            continue  # a text in a configuration is what YAML makes of a number
        with pytest.raises((DurationError, ConfigurationError)) as caught:
            TIMES[name](value)
        assert isinstance(caught.value, ServiceBusError)
        assert "seconds" in str(caught.value), (value, caught.value)


@pytest.mark.parametrize(
    "key", [name for name, key in KEYS.items() if "seconds" in key.check.__qualname__ or name == "retry_schedule"]
)
@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -1, "nan", "inf", "-1", "1e999", "soon", True, timedelta(1), 1e9]
)
def test_a_configuration_takes_no_other_times_either(key: str, value: Any) -> None:
    given = [value] if key == "retry_schedule" else value
    with pytest.raises(ConfigurationError, match="seconds"):
        Configuration({"hosts": ["127.0.0.1:1"], "secret_token": "a secret of sixteen", key: given})


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(5, 5), (0.25, 0.25), (0, 0), (1e9, 1e9), (1e300, LONGEST_S), (10**400, LONGEST_S), (Fraction(1, 4), 0.25)],
)
def test_a_number_is_so_many_seconds_and_at_most_a_hundred_years(value: Any, seconds: float) -> None:
    assert to_seconds("timeout", value) == seconds


def test_the_error_names_the_parameter_and_what_it_takes() -> None:
    with pytest.raises(DurationError, match=r"^timeout must be a number of seconds above 0, not 0$"):
        to_seconds("timeout", 0, zero=False)
    with pytest.raises(DurationError, match=r"^delay must be a number of seconds, 0 or more, not of type timedelta$"):
        to_seconds("delay", timedelta(1))


def test_an_expiration_is_at_most_what_a_broker_takes() -> None:
    written: list[bytes] = []
    channel = object.__new__(AmqpChannel)
    vars(channel).update(is_open=True, _published=0, _is_fast=True, _number=1, frame_max=4096, _write=written.append)
    channel.publish("x", "y", b"", expiration_ms=int(LONGEST_S * 1000))
    assert b"\x0a4294967295" in b"".join(written)
