"""Generators as services: plain functions that run one to its end, and send what it yields as the items of a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any

from servicebus.services import current_request

__all__ = ["draining", "draining_async"]

Write = Callable[[Any], bytes]
"""The JSON text of an item."""

_BREATH = 100
"""After so many items without a pause an asynchronous generator lets others run."""


def draining(function: Callable[..., Generator[Any, Any, Any]], write: Write) -> Callable[..., None]:
    """What runs the generator that *function* makes; when nobody takes its items any more, it is closed."""

    def drain(*args: Any, **kwargs: Any) -> None:
        put = _output().put
        items = function(*args, **kwargs)
        try:
            for item in items:
                put(write(item))
        finally:
            items.close()

    return drain


def draining_async(function: Callable[..., AsyncGenerator[Any, Any]], write: Write) -> Callable[..., Any]:
    """The same of an asynchronous generator: a coroutine function."""

    async def drain(*args: Any, **kwargs: Any) -> None:
        output, count = _output(), 0
        items = function(*args, **kwargs)
        try:
            async for item in items:
                count += 1
                if not output.put_now(write(item)):
                    await output.ready()
                elif count % _BREATH == 0:
                    await asyncio.sleep(0)
        finally:
            await items.aclose()

    return drain


def _output() -> Any:
    """Of the stream that this thread or task serves: a ``runtime.streams.StreamOutput``."""
    request = current_request()
    assert request is not None
    return request._fate.output  # type: ignore[union-attr]
