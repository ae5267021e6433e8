"""What the agent runs in the place of a service: middleware around it, and what drains its generator."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from servicebus._draining import draining
from servicebus._steps import Middleware, Step, run_steps, steps_of
from servicebus.runtime.execution import refuse_lazy
from servicebus.runtime.instances import copies_of
from servicebus.runtime.registration import Service
from servicebus.services import Request, Response, TextService
from servicebus.wire.jsontext import encode_json

__all__ = ["as_registered", "prepared", "with_middleware"]


def prepared(service: Service, middleware: Sequence[Middleware]) -> Service:
    """What the agent runs for *service*. Raises as ``with_middleware()``."""
    if service.stream_method and not isinstance(service.instance, TextService):
        service = replace(service, instance=DrainedService(service.instance, service.stream_method))
    return with_middleware(service, middleware) if middleware else service


def with_middleware(service: Service, middleware: Sequence[Middleware]) -> Service:
    """*service* with *middleware* around it; itself if none of it is for services.

    Raises:
        ConfigurationError: the service is ``async def``, and one has ``serve()`` and no ``serve_async()``; or the other
            way round.
    """
    instance = service.instance
    is_async = isinstance(instance, TextService) and instance.is_async
    methods = ("serve_async", "serve") if is_async else ("serve", "serve_async")
    steps = steps_of(middleware, *methods)
    if not steps:
        return service
    return replace(
        service, instance=_typed(instance, steps) if isinstance(instance, TextService) else _Around(instance, steps)
    )


def as_registered(instance: Any) -> Any:
    """What the user has registered, of the class form."""
    while isinstance(instance, (_Around, DrainedService)):
        instance = instance._instance
    return instance


def _typed(instance: TextService, steps: Sequence[Step]) -> TextService:
    around, call = copy.copy(instance), instance.call
    around.call = lambda bound, request: run_steps(steps, request, lambda: call(bound, request))
    return around


class _Around:
    """A service of the class form."""

    def __init__(self, instance: Any, steps: Sequence[Step]):
        self._instance = instance
        self._copy = copies_of(instance)
        self._steps = steps

    def __getattr__(self, name: str) -> Any:
        """``setup``, ``teardown``, and what 2.x knows."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._instance, name)

    def on_call(self, request: Request, response: Response) -> None:
        def proceed() -> Any:
            inner = Response()
            returned = self._copy().on_call(request, inner)
            if returned is not None:
                refuse_lazy(returned)
            return inner.value

        response.send(run_steps(self._steps, request, proceed))

    def on_message(self, request: Request) -> Any:
        return run_steps(self._steps, request, lambda: self._copy().on_message(request))


class DrainedService:
    """Runs the generator of a service of the class form; the agent serves it in its place."""

    def __init__(self, instance: Any, method: str):
        self._instance = instance
        self._copy = copies_of(instance)
        self._method = method

    def __getattr__(self, name: str) -> Any:
        """``setup``, ``teardown``, and what 2.x knows."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._instance, name)

    def on_call(self, request: Request, response: Response) -> None:
        arguments = (request,) if self._method == "handle" else (request, response)
        draining(getattr(self._copy(), self._method), encode_json)(*arguments)
