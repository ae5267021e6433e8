"""TypedFunction: what pydantic makes of one function; once, though each bus of a program's tests serves it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from servicebus.contracts import Schema
from servicebus.errors import ConfigurationError
from servicebus.typed.binding import make_binder
from servicebus.typed.results import make_writer
from servicebus.typed.schema import params_schema, result_schema
from servicebus.typed.signature import read_signature

__all__ = ["TypedFunction"]


class TypedFunction:
    """How the params and results of a function are read, written and described: the same for all that serve it.

    Raises:
        ConfigurationError: the signature cannot be read, or pydantic has no schema for it.
    """

    def __init__(self, name: str, function: Callable[..., Any], local_names: Mapping[str, Any] | None):
        self.function, self.local_names = function, local_names
        self.is_async = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
        self.is_stream = inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function)
        self.signature = read_signature(function, local_names)
        try:
            self.bind = make_binder(self.signature)
            self.write = make_writer(self.signature.item if self.is_stream else self.signature.returns)
        except Exception as error:  # by pydantic, which asks the types of the program
            what = f"service {name}: no schema for its signature: {type(error).__name__}: {error}"
            raise ConfigurationError(what, key="services") from error

    @cached_property
    def params_schema(self) -> Schema:
        return params_schema(self.signature)

    @cached_property
    def result_schema(self) -> Schema:
        return result_schema(self.signature, self.is_stream)
