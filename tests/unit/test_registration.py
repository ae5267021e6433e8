"""How a service is run: what is given where it is registered, else its own attributes."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from servicebus.cli.run import build
from servicebus.configuration import Configuration
from servicebus.errors import ConfigurationError
from servicebus.runtime.registration import former_key, is_former, name_of_key, register, stream_key
from servicebus.service import ServiceBus
from servicebus.services import MessageService, Request, Response, RpcService
from servicebus.wire.envelope import Kind

CONFIG = Configuration({"hosts": ["mq-a"], "node_name": "NODE-01", "secret_token": "secret token"})


class Plain:
    def on_call(self, request: Request, response: Response) -> None: ...


class Transfer(RpcService):
    threads = 4
    idempotent = True

    def lock(self, params: Any) -> str:
        return str(params["account"])

    def handle(self, request: Request) -> None: ...


class Nightly(MessageService):
    retry = (1, 5)
    concurrency = "node"

    def handle(self, request: Request) -> None: ...


def test_without_a_word_it_is_one_thread_without_locks() -> None:
    service = register(Kind.CALL, "a", "b", Plain(), threads=None, lock=None)
    assert (service.threads, service.idempotent, service.retry_schedule, service.is_locked) == (1, False, None, False)


def test_a_service_of_ours_says_itself_how_it_is_run() -> None:
    transfer = register(Kind.CALL, "a", "b", Transfer(), threads=None, idempotent=None, lock=None, concurrency=None)
    assert (transfer.threads, transfer.idempotent, transfer.is_locked) == (4, True, True)
    assert callable(transfer.lock)
    assert transfer.lock({"account": 7}) == "7"
    nightly = register(Kind.MESSAGE, "a", "b", Nightly(), threads=None, retry=None, lock=None, concurrency=None)
    assert (nightly.retry_schedule, nightly.concurrency, nightly.lock) == ((1.0, 5.0), "node", None)


def test_what_is_given_where_it_is_registered_comes_first() -> None:
    assert register(Kind.CALL, "a", "b", Transfer(), threads=2, idempotent=False).threads == 2
    assert register(Kind.CALL, "a", "b", Transfer(), threads=2, idempotent=False).idempotent is False
    assert register(Kind.MESSAGE, "a", "b", Nightly(), retry=()).retry_schedule == ()


def test_attributes_of_any_other_service_mean_what_they_meant_in_2() -> None:
    """Many have a lock of their own."""

    class Old(Plain):
        def __init__(self) -> None:
            self.lock = threading.Lock()
            self.threads = "many"

    service = register(Kind.CALL, "a", "b", Old(), threads=None, lock=None, concurrency=None)
    assert (service.threads, service.is_locked) == (1, False)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"threads": 0}, "service a.b: threads must be a whole number from 1 to 1024, not 0"),
        ({"retry": [-1]}, "service a.b: retry must be a number of seconds above 0, at most a year, not -1"),
        ({"lock": ""}, "service a.b: lock must be the place of a value in the params, or a function of the params"),
        (
            {"lock": threading.Lock()},
            "service a.b: lock must be the place of a value in the params, or a function of the params",
        ),
        ({"concurrency": "machine"}, "service a.b: concurrency must be one of node"),
        ({"lock": "x", "concurrency": "node"}, "service a.b: takes one of lock, concurrency and singleton, not two"),
    ],
)
def test_an_option_that_is_none_is_named(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        register(Kind.CALL, "a", "b", Plain(), **options)
    assert str(caught.value) == text


def test_the_bus_takes_them() -> None:
    bus = ServiceBus(CONFIG)
    bus.add_rpc_service("a", "b", Plain(), threads=2, idempotent=True, lock="account")
    bus.add_message_service("a", "c", Nightly(), retry=(2,))
    call, message = bus._services.values()
    assert (call.threads, call.idempotent, call.lock) == (2, True, "account")
    assert (message.retry_schedule, message.concurrency) == ((2.0,), "node")
    with pytest.raises(ConfigurationError, match="has no on_message"):
        bus.add_message_service("a", "d", Plain())


# -- code that a call does not run --------------------------------------------------------------------------------


async def coroutine(*_: Any) -> None: ...


async def async_generator(*_: Any) -> Any:
    yield


def generator(*_: Any) -> Iterator[None]:
    yield


class LaterCall:
    async def __call__(self, *_: Any) -> None: ...


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def wrapped(*args: Any) -> Any:
        return await function(*args)

    return wrapped


LAZY = {
    "coroutine": coroutine,
    "asynchronous generator": async_generator,
    "generator": generator,
    "partial": functools.partial(functools.partial(coroutine), 1),
    "partial generator": functools.partial(generator, 1),
    "callable": LaterCall(),
    "partial callable": functools.partial(LaterCall()),
    "wrapped": logged(coroutine),
    "static": staticmethod(coroutine),
    "partial method": functools.partialmethod(coroutine, 1),
}


@pytest.mark.filterwarnings("ignore:functools.partial will be a method descriptor:FutureWarning")  # Python 3.13
@pytest.mark.parametrize("function", LAZY.values(), ids=LAZY.keys())
@pytest.mark.parametrize(
    ("kind", "base", "method"),
    [
        (Kind.CALL, object, "on_call"),
        (Kind.CALL, RpcService, "handle"),
        (Kind.CALL, RpcService, "setup"),
        (Kind.CALL, RpcService, "lock"),
        (Kind.MESSAGE, object, "on_message"),
        (Kind.MESSAGE, MessageService, "handle"),
        (Kind.MESSAGE, MessageService, "teardown"),
    ],
)
def test_a_method_whose_code_a_call_does_not_run_is_refused(kind: Kind, base: type, method: str, function: Any) -> None:
    service = type("Lazy", (base,), {"on_call": Plain.on_call} if method == "setup" else {})()
    setattr(type(service), method, function)
    if function in (generator, LAZY["partial generator"]) and method in ("on_call", "handle") and kind is Kind.CALL:
        assert register(kind, "a", "b", service).stream_method == method  # its items are a stream
        return
    with pytest.raises(ConfigurationError, match=rf"service a\.b: {method}\(\) of Lazy is an? .*runs none of its code"):
        register(kind, "a", "b", service)


@pytest.mark.parametrize("function", LAZY.values(), ids=LAZY.keys())
def test_so_is_a_lock_or_a_hook_whose_code_a_call_does_not_run(function: Any) -> None:
    function = getattr(function, "__func__", function)
    if isinstance(function, functools.partialmethod):
        function = function.func
    with pytest.raises(ConfigurationError, match="runs none of its code"):
        register(Kind.CALL, "a", "b", Plain(), lock=function)
    for set_hook in (ServiceBus(CONFIG).set_after_fork_hook, ServiceBus(CONFIG).set_on_exit_hook):
        with pytest.raises(ConfigurationError, match=r"hook is an? .*runs none of its code"):
            set_hook(function)


def test_a_plain_function_around_a_coroutine_is_the_way_to_run_one() -> None:
    class Runs:
        @functools.wraps(coroutine)
        def on_call(self, request: Request, response: Response) -> None:
            with pytest.raises(StopIteration):
                coroutine().send(None)

    register(Kind.CALL, "a", "b", Runs())


def test_options_of_streams_and_of_calls_are_two() -> None:
    class Yields(RpcService):
        handle: Any = generator

    class Returns(RpcService):
        def handle(self, request: Request) -> None: ...

    assert register(Kind.CALL, "a", "b", Yields(), resumable=True).resumable
    with pytest.raises(ConfigurationError, match="idempotent is for calls; of a stream say resumable"):
        register(Kind.CALL, "a", "b", Yields(), idempotent=True)
    with pytest.raises(ConfigurationError, match="resumable is for generators"):
        register(Kind.CALL, "a", "b", Returns(), resumable=True)


@pytest.mark.parametrize("is_stream_first", [False, True])
def test_one_name_is_that_of_a_call_or_of_a_stream(is_stream_first: bool) -> None:
    class Yields(RpcService):
        handle: Any = generator

    bus, both = ServiceBus(CONFIG), [Plain(), Yields()]
    first, second = reversed(both) if is_stream_first else both
    bus.add_rpc_service("a", "b", first)
    with pytest.raises(ConfigurationError, match=r"service a\.b for calls is registered already"):
        bus.add_rpc_service("a", "b", second)


def test_keys_of_streams_are_told_from_those_of_calls() -> None:
    assert name_of_key(stream_key("a.b")) == ("a.b", True) and name_of_key("a.b") == ("a.b", False)
    assert not is_former(stream_key("a.b")) and is_former(former_key(stream_key("a.b"), "0" * 24))


def test_a_service_of_2_may_have_a_generator_named_handle() -> None:
    """There it is a name like any other."""

    class Old(Plain):
        handle = generator

    register(Kind.CALL, "a", "b", Old())


# -- handlers that no call could reach ----------------------------------------------------------------------------


class Short:
    def on_call(self, request: Request) -> None: ...

    def on_message(self) -> None: ...


class ShortHandle(RpcService):
    def handle(self) -> None: ...  # type: ignore[override]


class LongHandle(MessageService):
    def handle(self, request: Request, response: Response) -> None: ...  # type: ignore[override]


class Misspelt(RpcService):
    def handel(self, request: Request) -> None: ...


@pytest.mark.parametrize(
    ("kind", "service", "text"),
    [
        (Kind.CALL, Plain, "Plain is a class; register an instance: Plain()"),
        (Kind.CALL, Transfer, "Transfer is a class; register an instance: Transfer()"),
        (Kind.MESSAGE, Nightly, "Nightly is a class; register an instance: Nightly()"),
        (
            Kind.CALL,
            Short(),
            "on_call() of Short cannot take (request, response); write def on_call(self, request, response)",
        ),
        (Kind.MESSAGE, Short(), "on_message() of Short cannot take (request); write def on_message(self, request)"),
        (Kind.CALL, ShortHandle(), "handle() of ShortHandle cannot take (request); write def handle(self, request)"),
        (Kind.MESSAGE, LongHandle(), "handle() of LongHandle cannot take (request); write def handle(self, request)"),
        (Kind.CALL, Misspelt(), "Misspelt has no handle(), but handel(); write def handle(self, request)"),
        (Kind.MESSAGE, MessageService(), "MessageService has no handle(); write def handle(self, request)"),
    ],
)
def test_a_handler_that_no_call_can_reach_is_refused(kind: Kind, service: Any, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        register(kind, "a", "b", service)
    assert str(caught.value) == f"service a.b: {text}"


def shorter_inside(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapped(self: Any, request: Request, response: Response) -> Any:
        return function(self, request)

    return wrapped


class AnyArguments:
    def on_call(self, *args: Any) -> None: ...


class Defaults:
    def on_call(self, request: Request, response: Response, extra: int = 1, *, more: int = 2) -> None: ...


class Decorated:
    @shorter_inside
    def on_call(self, request: Request) -> None: ...


class CallsItself:
    def __call__(self, request: Request, response: Response) -> None: ...


class Static:
    @staticmethod
    def on_call(request: Request, response: Response) -> None: ...


class OwnOnCall(RpcService):
    """Its handle() is its own business."""

    def on_call(self, request: Request, response: Response) -> None: ...

    def handle(self, what: str, how: str) -> None: ...  # type: ignore[override]


def with_attribute(service: Any, name: str, function: Any) -> Any:
    setattr(service, name, function)
    return service


@pytest.mark.parametrize(
    "service",
    [
        AnyArguments(),
        Defaults(),
        Decorated(),
        Static(),
        Static,
        OwnOnCall(),
        with_attribute(Short(), "on_call", lambda request, response: None),
        with_attribute(Short(), "on_call", CallsItself()),
        with_attribute(Short(), "on_call", functools.partial(lambda extra, request, response: None, 1)),
        with_attribute(Short(), "on_call", print),
        with_attribute(Misspelt(), "handle", lambda request: None),
    ],
)
def test_a_handler_that_can_take_its_arguments_is_accepted(service: Any) -> None:
    register(Kind.CALL, "a", "b", service)


def test_a_reload_with_a_journal_that_can_never_be_opened_changes_nothing() -> None:
    bus = ServiceBus(CONFIG)
    bus.set_reload(
        lambda: Configuration({"hosts": ["mq-b"], "node_name": "NODE-01", "secret_token": "s" * 16, "journal": "/"})
    )
    with pytest.raises(ConfigurationError, match="journal / is a folder; name a file in it"):
        bus._given_again()
    assert bus._config is CONFIG


def test_options_of_a_file_that_was_read_again_are_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tuned_services.py").write_text(
        "from servicebus.services import MessageService\n\n"
        "class Note(MessageService):\n    retry = (7,)\n    def handle(self, request): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    note = {"kind": "message", "category": "audit", "name": "note", "target": "tuned_services:Note"}

    def written(**options: Any) -> Configuration:
        given = {"hosts": ["mq-a"], "secret_token": "s" * 16, "node_name": "N", "services": [{**note, **options}]}
        (path := tmp_path / "agent.yaml").write_text(json.dumps(given))
        return Configuration.load(path)

    bus = build(written(threads=2))
    (service,) = bus._services.values()
    assert (service.threads, service.retry_schedule) == (2, (7.0,))
    bus._take(written(retry=[1, 2], priority=4))
    (tuned,) = bus._services.values()
    assert (tuned.threads, tuned.retry_schedule, tuned.priority) == (1, (1.0, 2.0), 4)
    assert tuned.instance is service.instance
    bus._take(written(threads=2))
    assert bus._services == {(service.kind, service.lookup_key): service}
