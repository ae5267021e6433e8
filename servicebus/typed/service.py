"""TypedService: a function as the agent runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, ExitStack
from typing import Any, Literal

from pydantic import ValidationError

from servicebus._draining import draining, draining_async
from servicebus.contracts import ServiceContract
from servicebus.errors import ConfigurationError, EnvelopeError
from servicebus.services import Request, TextService
from servicebus.transport.loggers import get_logger
from servicebus.typed.binding import Bound
from servicebus.typed.declared import DeclaredError
from servicebus.typed.injection import Injector
from servicebus.typed.problems import without_values
from servicebus.typed.results import InvalidResult
from servicebus.typed.schema import docs_of, errors_of
from servicebus.typed.signature import Signature
from servicebus.typed.typed_function import TypedFunction
from servicebus.wire.printable import unshown

LOG = get_logger(__name__)

__all__ = ["TypedService"]

_dump_nothing: Callable[[Any], bytes] = lambda _: b"null"  # noqa: E731 - the reply of a stream tells its length alone
Call = Callable[[Bound, Request], Any]


class TypedService(TextService):
    """Binds, calls and writes by the signature of a function."""

    def __init__(
        self,
        name: str,
        typed: TypedFunction,
        errors: Mapping[type, DeclaredError],
        deprecated: str | bool = False,
        tasks: int | None = None,
        version: str = "",
        former: bool = False,
    ):
        self.name = name
        self.typed_function, self.function, self.signature = typed, typed.function, typed.signature
        self.is_async, self.is_stream = typed.is_async, typed.is_stream
        self.former = former
        self._deprecated, self._version = deprecated, version
        self._errors = errors
        self.bind = typed.bind
        self.holds_secret = getattr(self.bind, "holds_secret", False)
        self.dump = _dump_nothing if self.is_stream else typed.write
        if tasks is not None:
            self.tasks = _checked_tasks(name, tasks, self.is_async)
        self._injector = Injector(name, self.signature.injected, self.is_async, typed.local_names)
        make_call = _make_async_call if self.is_async else _make_call
        run = self.function
        if self.is_stream:
            run = (draining_async if self.is_async else draining)(run, typed.write)
        call = make_call(run, self.signature, self._injector)
        self.call = _deprecated(name, deprecated, call) if deprecated else call

    def __repr__(self) -> str:
        return f"<TypedService {self.name}>"

    @property
    def needed_publishers(self) -> set[str]:
        """The names of the publishers that its parameters and dependencies ask for."""
        return self._injector.publishers

    def contract(self, kind: Literal["call", "message"], options: Mapping[str, Any]) -> ServiceContract:
        """How this node describes it."""
        whole, (category, _, name) = self.signature.whole, self.name.partition(".")
        return ServiceContract(
            "stream" if self.is_stream else kind,
            category,
            name,
            self.typed_function.params_schema,
            self.typed_function.result_schema if kind == "call" else None,
            errors_of(self._errors.values()),
            "" if whole is None else whole.name,
            docs_of(self.function),
            self._version,
            self._deprecated,
            self.former,
            options,
        )

    def setup(self) -> None:
        """Called in each of the service's threads, as that of the class form."""
        try:
            self._injector.open()
        except BaseException:  # it is called again
            self._injector.close()
            raise

    def teardown(self) -> None:
        self._injector.close()

    async def setup_async(self) -> None:
        try:
            await self._injector.open_async()
        except BaseException:
            await self._injector.close_async()
            raise

    async def teardown_async(self) -> None:
        await self._injector.close_async()

    def declared(self, error: BaseException) -> tuple[str, str] | None:
        if not self._errors:
            return None
        for kind in type(error).__mro__:
            known = self._errors.get(kind)
            if known is not None:
                return self._written(known, error)
        return None

    def shown(self, error: BaseException) -> BaseException:
        """pydantic quotes the value that it refuses."""
        return without_values(error) if isinstance(error, ValidationError) else error

    def _written(self, known: DeclaredError, error: BaseException) -> tuple[str, str] | None:
        try:
            return known.name, known.write(error)
        except Exception as broken:
            why = broken if isinstance(broken, (InvalidResult, EnvelopeError)) else unshown(broken)
            LOG.warning("service %s: the fields of %s cannot be sent: %s", self.name, known.name, why)
            return None


def _checked_tasks(name: str, tasks: int, is_async: bool) -> int:
    if not is_async:
        raise ConfigurationError(f"service {name}: tasks is for async def; say threads", key="services")
    if not isinstance(tasks, int) or isinstance(tasks, bool) or tasks < 1:
        raise ConfigurationError(f"service {name}: tasks must be a whole number from 1", key="services")
    return tasks


def _deprecated(name: str, instead: str | bool, call: Call) -> Call:
    """*call*, which says once in each worker that the service is still in use."""
    hint = "" if instead is True else f": {instead}"
    told: list[bool] = []

    def deprecated(bound: Bound, request: Request) -> Any:
        if not told:
            told.append(True)
            LOG.warning("service %s is deprecated and still in use%s", name, hint)
        return call(bound, request)

    return deprecated


def _make_call(function: Callable[..., Any], signature: Signature, injector: Injector) -> Call:
    """A function of the bound arguments and the request. Without injected parameters it costs one call."""
    if not signature.injected:
        return lambda bound, request: function(*bound[0], **bound[1])
    names = list(signature.bound.parameters)

    def call(bound: Bound, request: Request) -> Any:
        kwargs = _by_name(bound, names)
        kwargs.update(injector.arguments(request, None))
        return function(**kwargs)

    def call_and_tear_down(bound: Bound, request: Request) -> Any:
        kwargs = _by_name(bound, names)
        raised: BaseException | None = None
        with ExitStack() as stack:
            kwargs.update(injector.arguments(request, stack))
            try:
                result = function(**kwargs)
            except BaseException as error:
                raised = error
                raise
        if raised is not None:
            raise raised  # a dependency has swallowed it: its caller is told all the same
        return result

    return call_and_tear_down if injector.has_teardown else call


def _make_async_call(function: Callable[..., Any], signature: Signature, injector: Injector) -> Call:
    """The same of an ``async def`` function; what is returned is to be awaited."""
    if not signature.injected:
        return lambda bound, request: function(*bound[0], **bound[1])
    names = list(signature.bound.parameters)

    async def call(bound: Bound, request: Request) -> Any:
        kwargs = _by_name(bound, names)
        raised: BaseException | None = None
        async with AsyncExitStack() as stack:
            kwargs.update(await injector.arguments_async(request, stack))
            try:
                result = await function(**kwargs)
            except BaseException as error:
                raised = error
                raise
        if raised is not None:
            raise raised  # a dependency has swallowed it: its caller is told all the same
        return result

    return call


def _by_name(bound: Bound, names: list[str]) -> dict[str, Any]:
    args, kwargs = bound
    if args:
        kwargs.update(zip(names, args, strict=False))
    return kwargs
