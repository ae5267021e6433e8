"""What the signature of a function says: which parameters come from the wire, which are injected, what it returns."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import types
import typing
from collections import abc
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Annotated, Any, Union, get_args, get_origin

import typing_extensions
from pydantic import BaseModel

from servicebus._plain import PlainMessage
from servicebus.client.plain_sending import AsyncPlainPublisher, PlainPublisher
from servicebus.errors import ConfigurationError
from servicebus.sender import Sender
from servicebus.services import Request
from servicebus.typed.depends import Depends, PublisherOf

__all__ = ["Signature", "read_signature"]

_ITERATORS = (
    abc.Iterator, abc.Iterable, abc.Generator, abc.AsyncIterator, abc.AsyncIterable, abc.AsyncGenerator,
)  # fmt: skip
_ALIASES = tuple({typing_extensions.TypeAliasType, getattr(typing, "TypeAliasType", typing_extensions.TypeAliasType)})
"""``type X = ...``, and what older versions of Python have in its place."""
_UNIONS = (Union, types.UnionType)
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL)


@dataclasses.dataclass(frozen=True)
class Signature:
    """Its annotations are resolved: types, no texts."""

    bound: inspect.Signature
    """Without what is injected."""
    injected: Mapping[str, Any]
    """``Request``, ``Sender``, ``PlainMessage``, a ``Depends`` and so on, by the name of the parameter."""
    whole: inspect.Parameter | None
    """The only parameter, if it takes the whole params."""

    @property
    def returns(self) -> Any:
        return self.bound.return_annotation

    @property
    def item(self) -> Any:
        """Of what a generator yields; anything, if its annotation is none of an iterator."""
        if get_origin(self.returns) not in _ITERATORS:
            return Any
        return get_args(self.returns)[0]


def read_signature(function: Callable[..., Any], local_names: Mapping[str, Any] | None = None) -> Signature:
    """The signature of *function*; *local_names* are those of the scope that it was defined in.

    Raises:
        ConfigurationError: an annotation cannot be resolved, an injected parameter cannot be passed by name, or a
            ``Depends`` stands where nothing is injected.
    """
    name = getattr(function, "__qualname__", repr(function))
    try:
        plain = inspect.signature(function)
        hints = _hints(function, local_names)
        sources = {key: _source(key, hints.get(key, Any)) for key in plain.parameters}
        hidden = {key for key, source in sources.items() if source is None and _holds_depends(hints.get(key, Any))}
    except Exception as error:  # an annotation is code of the program
        raise ConfigurationError(
            f"the signature of {name} cannot be read: {type(error).__name__}: {error}", key="services"
        ) from error
    bound: list[inspect.Parameter] = []
    injected: dict[str, Any] = {}
    for parameter in plain.parameters.values():
        annotation = hints.get(parameter.name, Any)
        source = sources[parameter.name]
        if parameter.name in hidden:
            if any(each is Depends for each in get_args(annotation)):
                what = f"{name}: {parameter.name}: write Depends(...), with what makes it"
                raise ConfigurationError(what, key="services")
            what = f"{name}: {parameter.name} has a Depends within its type, where nothing is injected"
            raise ConfigurationError(f"{what}; write Annotated[..., Depends(...)] around all of it", key="services")
        if source is None:
            _refuse_default(parameter, name)
            bound.append(parameter.replace(annotation=annotation))
        elif parameter.kind in _POSITIONAL:
            raise ConfigurationError(f"{name}: {parameter.name} is injected, so it needs a name", key="services")
        else:
            injected[parameter.name] = source
    if injected and any(parameter.kind in _POSITIONAL for parameter in bound):
        raise ConfigurationError(f"{name}: positional-only parameters and injected ones do not mix", key="services")
    returns = hints.get("return", inspect.Signature.empty)
    signature = inspect.Signature(bound, return_annotation=returns)
    return Signature(signature, injected, _whole(bound))


def _hints(function: Callable[..., Any], local_names: Mapping[str, Any] | None) -> dict[str, Any]:
    target: Any = function.__init__ if isinstance(function, type) else function  # type: ignore[misc]
    if not inspect.isroutine(target):
        target = type(target).__call__
    return typing.get_type_hints(target, localns=dict(local_names or {}), include_extras=True)


def _source(name: str, annotation: Any) -> Any:
    """Where an injected parameter comes from; None for one that comes from the wire."""
    is_wrapped = True
    while is_wrapped:
        if get_origin(annotation) is Annotated:
            for extra in get_args(annotation)[1:]:
                if isinstance(extra, Depends):
                    return extra
        is_wrapped, annotation = _without_wrapper(annotation)
    aio = sys.modules.get("servicebus.aio")  # there if one is annotated
    for kind in (Request, Sender, PlainMessage) if aio is None else (Request, Sender, PlainMessage, aio.AsyncSender):
        if isinstance(annotation, type) and issubclass(annotation, kind):
            return kind
    for kind in (PlainPublisher, AsyncPlainPublisher):
        if isinstance(annotation, type) and issubclass(annotation, kind):
            return PublisherOf(name, kind is AsyncPlainPublisher)
    return None


def _without_wrapper(annotation: Any) -> tuple[bool, Any]:
    """Whether *annotation* is ``Annotated``, the name of a type, or ``| None``; and what is in it.

    Before Python 3.11 a default of None is ``| None`` for ``get_type_hints()``.
    """
    if isinstance(annotation, _ALIASES):
        return True, annotation.__value__
    if get_origin(annotation) is Annotated:
        return True, get_args(annotation)[0]
    if get_origin(annotation) in _UNIONS:
        kinds = [each for each in get_args(annotation) if each is not type(None)]
        if len(kinds) == 1:
            return True, kinds[0]
    return False, annotation


def _holds_depends(annotation: Any) -> bool:
    """Whether a ``Depends`` stands anywhere in it. pydantic passes over it, and a caller could send the value."""
    return any(isinstance(each, Depends) or each is Depends for each in _parts(annotation, []))


def _parts(annotation: Any, known: list[Any]) -> Iterator[Any]:
    if any(each is annotation for each in known):  # types may hold themselves, and need no hash
        return
    known.append(annotation)
    yield annotation
    parts = [*get_args(annotation), *getattr(annotation, "__metadata__", ())]
    parts += [each.__value__ for each in (annotation, get_origin(annotation)) if isinstance(each, _ALIASES)]
    if _is_structure(get_origin(annotation) or annotation):
        with suppress(Exception):  # names that only pydantic resolves: of the function that the class stands in
            parts += typing.get_type_hints(get_origin(annotation) or annotation, include_extras=True).values()
    for each in parts:
        yield from _parts(each, known)


def _refuse_default(parameter: inspect.Parameter, name: str) -> None:
    if isinstance(parameter.default, Depends):
        hint = f"write {parameter.name}: Annotated[..., Depends(...)]"
        raise ConfigurationError(f"{name}: Depends is part of the annotation, no default; {hint}", key="services")


def _whole(bound: list[inspect.Parameter]) -> inspect.Parameter | None:
    if len(bound) != 1 or bound[0].kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
        return None
    kinds = _alternatives(bound[0].annotation)
    return bound[0] if all(_is_structure(get_origin(each) or each) for each in kinds) else None


def _alternatives(annotation: Any) -> list[Any]:
    """Those of a union, of whatever name; else *annotation* alone."""
    while isinstance(annotation, _ALIASES) or get_origin(annotation) is Annotated:
        _, annotation = _without_wrapper(annotation)
    if get_origin(annotation) in _UNIONS:
        return [one for each in get_args(annotation) for one in _alternatives(each)]
    return [annotation]


def _is_structure(kind: Any) -> bool:
    return isinstance(kind, type) and (
        issubclass(kind, BaseModel) or dataclasses.is_dataclass(kind) or typing_extensions.is_typeddict(kind)
    )
