"""Service: what was registered, and how it is to be run: checked before anything is forked."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from servicebus._nearest import nearest
from servicebus._plain import PlainQueue, plain_key
from servicebus.configuration import checks
from servicebus.configuration.checks import Unacceptable
from servicebus.errors import AddressError, ConfigurationError
from servicebus.services import Authorize, Lock, MessageService, RpcService, TextService
from servicebus.wire.envelope import Kind
from servicebus.wire.events import check_pattern, event_key

__all__ = [
    "Service",
    "former_key",
    "how_it_is_lazy",
    "is_former",
    "name_of_key",
    "plain_hook",
    "register",
    "stream_key",
    "takes",
]

_HANDLERS = {Kind.CALL: "on_call", Kind.MESSAGE: "on_message"}
_BASES: dict[Kind, Any] = {Kind.CALL: RpcService, Kind.MESSAGE: MessageService}
_ARGUMENTS = {"on_call": ("request", "response"), "on_message": ("request",), "handle": ("request",)}
"""What each handler is called with."""
_GENERATOR = "a generator function (yield)"
_LAZY: tuple[tuple[Callable[[Any], bool], str], ...] = (
    (inspect.iscoroutinefunction, "a coroutine function (async def)"),
    (inspect.isasyncgenfunction, "an asynchronous generator function (async def with yield)"),
    (inspect.isgeneratorfunction, _GENERATOR),
)


@dataclass(frozen=True)
class Service:
    """A registered service object and how it is run."""

    kind: Kind
    category: str
    name: str
    instance: Any
    threads: int = 1
    idempotent: bool = False
    """A call that was interrupted by its worker's death may be run again."""
    resumable: bool = False
    """A stream that can begin at any of its items."""
    stream_method: str = ""
    """What of the instance is a generator, whose items are a stream: ``handle``, ``on_call`` or ``function``; or ""."""
    retry_schedule: tuple[float, ...] | None = None
    """Seconds before each further attempt at a message; None for the configuration's ``retry_schedule``."""
    lock: Lock | None = None
    """What of the params never runs twice at a time on the node."""
    concurrency: Literal["node"] | None = None
    singleton: bool = False
    """One worker of the node at a time runs it."""
    priority: int = 0
    """Of the requests that say none, where the node has priorities."""
    authorize: Authorize | None = None
    """Asked before anything of it runs."""
    encrypted: bool = False
    """What has not come encrypted is refused."""
    events: tuple[str, ...] = ()
    """The patterns of the events that it gets, in place of messages; empty for every other service."""
    plain: PlainQueue | None = None
    """The queue of other programs that it consumes, in place of messages."""
    former: str = ""
    """The hash of the contract of an earlier version, which serves the callers that know it; "" for the present one."""

    @property
    def key(self) -> str:
        return f"{self.category}.{self.name}"

    @property
    def lookup_key(self) -> str:
        """Under which a request finds it."""
        if self.events:
            return event_key(self.key)
        if self.plain is not None:
            return plain_key(self.key)
        key = stream_key(self.key) if self.stream_method else self.key
        return former_key(key, self.former) if self.former else key

    @property
    def rival_key(self) -> str:
        """That of the same service in the other form, one result or a stream; "" for one that has no such form."""
        if self.kind is not Kind.CALL or self.former:
            return ""
        return self.key if self.stream_method else stream_key(self.key)

    @property
    def lookup_keys(self) -> list[tuple[Kind, str]]:
        """The same with the kinds of requests that find it: a message of another program may be a call."""
        kinds = (self.kind,) if self.plain is None else (Kind.CALL, Kind.MESSAGE)
        return [(kind, self.lookup_key) for kind in kinds]

    @property
    def is_locked(self) -> bool:
        return self.lock is not None or self.concurrency is not None

    @property
    def needs_locks(self) -> bool:
        """Of the node."""
        return self.is_locked or self.singleton


def register(
    kind: Kind,
    category: str,
    name: str,
    instance: Any,
    *,
    events: str | Sequence[str] | None = None,
    plain: PlainQueue | None = None,
    **options: Any,
) -> Service:
    """The service, with each of the *options* that is not None; for the others its own attributes hold.

    Only of our two base classes: in a service of py-servicebus 2.x ``lock`` is anything.

    Raises:
        ConfigurationError: it has no handler, or one that cannot take what it is called with, or one that returns
            before its code has run, or an option is none.
    """
    wanted = f"service {category}.{name}"
    stream_method = _stream_method(kind, instance)
    for method, function in _run_by_us(kind, instance, options.get("lock")):
        if method != stream_method and (how := how_it_is_lazy(function)):
            owner = "the function" if method == "function" else f"{method}() of {type(instance).__name__}"
            what = f"{owner} is {how}: calling it runs none of its code"
            hint = "use a plain function, or an async def of a group (servicebus.Services)"
            raise ConfigurationError(f"{wanted}: {what}; {hint}", key="services")
    if wrong := _wrong_handler(kind, instance):
        raise ConfigurationError(f"{wanted}: {wrong}", key="services")
    found = _checked_options(wanted, instance, options)
    if stream_method:
        if found.get("idempotent"):
            raise ConfigurationError(f"{wanted}: idempotent is for calls; of a stream say resumable", key="services")
        found["stream_method"] = stream_method
    elif found.get("resumable"):
        raise ConfigurationError(f"{wanted}: resumable is for generators, whose items are a stream", key="services")
    if found.get("singleton") and (plain is not None or stream_method):
        but = f"not for {'generators' if plain is None else 'the queues of other programs'}"
        raise ConfigurationError(f"{wanted}: singleton is for calls, messages and events, {but}", key="services")
    if events is not None:
        found["events"] = checked_patterns(wanted, events)
    if plain is not None:
        found["plain"] = plain
    elif isinstance(instance, TextService) and instance.holds_secret:
        found["encrypted"] = True
    if isinstance(instance, TextService) and instance.former:
        found["former"] = instance.contract("call" if kind is Kind.CALL else "message", {}).hash
    return Service(kind, category, name, instance, **found)


def _checked_options(wanted: str, instance: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a Service that *options* are, or the attributes of *instance*."""
    found: dict[str, Any] = {}
    for option, given in options.items():
        check, field = _OPTIONS[option]
        if given is None and isinstance(instance, (RpcService, MessageService)):
            given = getattr(instance, option, None)
        if given is not None:
            try:
                found[field] = check(given)
            except Unacceptable as problem:
                raise ConfigurationError(f"{wanted}: {option} {problem}", key="services") from None
    if sum(("lock" in found, "concurrency" in found, bool(found.get("singleton")))) > 1:  # a lock may be 0, a place
        raise ConfigurationError(f"{wanted}: takes one of lock, concurrency and singleton, not two", key="services")
    if "authorize" in found:
        _check_authorize(wanted, found["authorize"], instance)
    return found


def _check_authorize(wanted: str, authorize: Any, instance: Any) -> None:
    is_async = isinstance(instance, TextService) and instance.is_async
    how = how_it_is_lazy(authorize)
    if how and not (is_async and "async def)" in how):
        what = f"authorize is {how}: calling it runs none of its code"
        hint = "use a plain function" if not is_async else "use a function or an async def"
        raise ConfigurationError(f"{wanted}: {what}; {hint}", key="services")
    if not takes(authorize, ("request", "context")):
        raise ConfigurationError(f"{wanted}: authorize cannot take (request, context)", key="services")


def checked_patterns(wanted: str, events: str | Sequence[str]) -> tuple[str, ...]:
    """The patterns of *events*, one or several. Raises ConfigurationError."""
    try:
        patterns = (events,) if isinstance(events, str) else tuple(events)
        for pattern in patterns:
            check_pattern(pattern)
    except (AddressError, TypeError) as error:
        raise ConfigurationError(f"{wanted}: {error}", key="services") from None
    if not patterns:
        raise ConfigurationError(f"{wanted}: subscribes to no event; name one at least", key="services")
    return patterns


def stream_key(key: str) -> str:
    """How the engine knows a service that answers a stream: it is not found by calls."""
    return f"stream {key}"


def name_of_key(key: str) -> tuple[str, bool]:
    """The ``category.name`` of a lookup key that names no former version, and whether it is that of a stream."""
    name = key.removeprefix("stream ")
    return name, name != key


def former_key(key: str, contract: str) -> str:
    """No service has such a name: a space does not stand in one."""
    return f"{key} {contract}"


def is_former(key: str) -> bool:
    """Whether *key* is one of these."""
    return " " in name_of_key(key)[0]


def _wrong_handler(kind: Kind, instance: Any) -> str:
    """Why no call can reach the code of *instance*, and what to write; "" if one can."""
    if isinstance(instance, TextService):
        return ""  # made by servicebus.typed, which has looked at the function
    method, base = _HANDLERS[kind], _BASES[kind]
    handler = getattr(instance, method, None)
    if inspect.isroutine(instance):
        return "a function is served by a group: group = servicebus.Services(category), @group.rpc or @group.message"
    if not callable(handler):
        return f"{type(instance).__name__} has no {method}()"
    if isinstance(instance, type):
        name = instance.__name__
        return "" if takes(handler, _ARGUMENTS[method]) else f"{name} is a class; register an instance: {name}()"
    name = type(instance).__name__
    if isinstance(instance, base) and getattr(handler, "__func__", None) is getattr(base, method):
        method, handler = "handle", instance.handle  # the handler is ours, and calls the user's
        if getattr(handler, "__func__", None) is getattr(base, method):
            own = [each for each in (*vars(instance), *dir(type(instance))) if not hasattr(base, each)]
            meant = nearest(method, own)
            hint = f", but {meant}()" if meant else ""
            return f"{name} has no handle(){hint}; write def handle(self, request)"
    if takes(handler, _ARGUMENTS[method]):
        return ""
    arguments = ", ".join(_ARGUMENTS[method])
    return f"{method}() of {name} cannot take ({arguments}); write def {method}(self, {arguments})"


def takes(function: Callable[..., Any], arguments: tuple[str, ...]) -> bool:
    """Whether *function* can be called with so many arguments. What cannot tell is believed."""
    if hasattr(function, "__signature__"):
        return True  # what a decorator claims, which may be the signature of the function inside
    try:
        signature = inspect.signature(function, follow_wrapped=False)
    except (TypeError, ValueError):
        return True  # written in C
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True


def how_it_is_lazy(function: Any) -> str:
    """Which kind of function *function* is if calling it does not run its code; "" for an ordinary one."""
    # From Python 3.14 on, a partial in a class is bound to its instance as a function is.
    while isinstance(function, (functools.partial, types.MethodType)):
        function = function.func if isinstance(function, functools.partial) else function.__func__
    # An object that can be called: what counts is the __call__() of its class.
    for candidate in (function, inspect.getattr_static(type(function), "__call__", None)):
        for is_lazy, how in _LAZY:
            if is_lazy(candidate):
                return how
    return ""


def plain_hook(hook: Callable[[], Any], name: str) -> Callable[[], Any]:
    """*hook*; *name* says what it is. Raises ConfigurationError: calling it runs none of its code."""
    if how := how_it_is_lazy(hook):
        raise ConfigurationError(f"the {name} is {how}: calling it runs none of its code", key="services")
    return hook


def _run_by_us(kind: Kind, instance: Any, lock: Any) -> Iterator[tuple[str, Any]]:
    """What the agent calls of a service, by name. ``handle`` and ``lock`` mean something in our base classes alone."""
    names = [_HANDLERS[kind], "setup", "teardown"]
    if isinstance(instance, (RpcService, MessageService)):
        names += ["handle", "lock"]
    if isinstance(instance, TextService):
        names = [] if instance.is_async and (kind is Kind.CALL or not instance.is_stream) else ["function"]
    for name in names:
        yield name, getattr(instance, name, None)
    yield "lock", lock


def _stream_method(kind: Kind, instance: Any) -> str:
    """What of *instance* is a generator that answers calls; "" for nothing."""
    if kind is not Kind.CALL:
        return ""
    if isinstance(instance, TextService):
        return "function" if instance.is_stream else ""
    is_ours = isinstance(instance, RpcService) and getattr(instance.on_call, "__func__", None) is RpcService.on_call
    method = "handle" if is_ours else "on_call"
    return method if how_it_is_lazy(getattr(instance, method, None)) == _GENERATOR else ""


def _lock(value: Any) -> Lock:
    if not callable(value) and (isinstance(value, bool) or not isinstance(value, (str, int)) or value == ""):
        raise Unacceptable("must be the place of a value in the params, or a function of the params")
    found: Lock = value
    return found


def _authorize(value: Any) -> Authorize:
    if not callable(value):
        raise Unacceptable("must be a function of the request and its context")
    found: Authorize = value
    return found


_OPTIONS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "threads": (checks.whole(1, 1024), "threads"),
    "idempotent": (checks.flag, "idempotent"),
    "resumable": (checks.flag, "resumable"),
    "retry": (checks.retry_schedule, "retry_schedule"),
    "lock": (_lock, "lock"),
    "concurrency": (checks.one_of("node"), "concurrency"),
    "singleton": (checks.flag, "singleton"),
    "priority": (checks.whole(0, 9), "priority"),
    "authorize": (_authorize, "authorize"),
    "encrypted": (checks.flag, "encrypted"),
}
"""How each option is checked, and which field it becomes."""
