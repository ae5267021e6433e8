"""Stubs: the description of a node -> one Python file with a client for it, for threads and for asyncio."""

from __future__ import annotations

import builtins
import json
import re
from collections.abc import Iterator

from servicebus.contracts.description import NodeContract, ServiceContract
from servicebus.contracts.notation import MISSING, Parameter, parameters_of
from servicebus.contracts.stub_types import StubNotation, StubTypes, class_name, identifier, in_docs

__all__ = ["stub_of"]

_HEAD = '''\
"""A client of {node}, made by ``servicebus stubs``. Make it again rather than change it.

{listed}
"""

# ruff: noqa
from __future__ import annotations

import enum
{iterators}from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

from servicebus.sender import Receipt
from servicebus.stub import MISSING, AsyncStub, Stub, StubError, StubService
'''
_ITERATORS = "from collections.abc import AsyncIterator, Iterator\n"
_USED = frozenset(
    {"AsyncIterator", "AsyncSender", "AsyncStub", "Any", "Decimal", "Iterator", "Literal", "MISSING", "Receipt"}
    | {"Sender", "Stub", "StubError", "StubService", "TYPE_CHECKING", "UUID", "dataclass", "date", "datetime", "enum"}
    | {"field", "time", "timedelta"}
)
_TYPES = frozenset(
    ["bool", "bytes", "date", "datetime", "dict", "float", "int", "list", "set", "str", "time", "timedelta", "tuple"]
)
"""A method of such a name would stand for the type in the annotations behind it."""


def stub_of(contract: NodeContract) -> str:
    """The text of a module: models, errors, and for each category a client and its async twin.

    It needs this package alone, without pydantic. Former versions of services are left out. What the callers of a
    service may leave out is ``MISSING`` by default, and is not sent: the node's default holds.
    """
    services = [each for each in contract if not each.former and each.kind != "event"]  # an event has no address
    types = StubTypes(_USED | set(dir(builtins)))
    categories: dict[str, list[_Method]] = {}
    for service in services:
        categories.setdefault(service.category, []).append(_Method(service, types))
    clients = [
        text
        for name, methods in categories.items()
        for text in _clients(types.taken(class_name(name)), methods, contract)
    ]
    listed = "\n".join(f"{each.key}: {each.version or each.hash or 'without a schema'}" for each in services)
    iterators = _ITERATORS if any(each.kind == "stream" for each in services) else ""
    head = _HEAD.format(node=in_docs(contract.node or "a group"), listed=in_docs(listed), iterators=iterators)
    constants = [method.constant for methods in categories.values() for method in methods]
    return "\n\n".join([head, *types.texts, "\n".join(constants), *clients]).rstrip() + "\n"


class _Method:
    """One service, as a method of both clients."""

    def __init__(self, service: ServiceContract, types: StubTypes):
        self.service = service
        self.name = identifier(service.name) + ("_" if service.name in _TYPES else "")
        self._constant = "_" + re.sub(r"\W", "_", service.key).upper()
        parameters, self._is_named = parameters_of(service)
        params = StubNotation(service.params, types)
        self._parameters = [(identifier(each.name), self._annotation(params, each), each) for each in parameters]
        """Name in Python, annotation, and what the contract says."""
        self._result = "Any" if service.result is None else StubNotation(service.result, types).of(service.result)
        errors = [types.error(each) for each in service.errors]
        names = [
            name if name == each.name else f"{each.name}={name}"
            for name, each in zip(errors, service.errors, strict=True)
        ]
        raises = f".raises({', '.join(names)})" if names else ""
        about = ServiceContract(service.kind, service.category, service.name, service.params, whole=service.whole)
        text = json.dumps(about.to_json(), separators=(",", ":"))
        self.constant = f"{self._constant} = StubService({service.key!r}, {service.hash!r}, {text!r}){raises}"

    def _annotation(self, notation: StubNotation, parameter: Parameter) -> str:
        if self.service.whole and not parameter.is_required:
            inner = notation.resolved(parameter.schema)
            others = [each for each in inner["anyOf"] if each != {"type": "null"}]
            return notation.of(others[0]) if len(others) == 1 else notation.union(others)
        return notation.of(parameter.schema)

    def lines(self, is_async: bool) -> Iterator[str]:
        """Of its definition."""
        if self.service.kind == "stream":
            yield f"    def {self.name}({', '.join(['self', *self._signature()])}) -> {self._items(is_async)}:"
            yield from self._docs()
            yield f"        return self._stream({self._constant}, {self._result}, {self._params()})"
            return
        word, wait = ("async def", "await ") if is_async else ("def", "")
        is_call = self.service.kind == "call"
        returns = self._result if is_call else "Receipt"
        yield f"    {word} {self.name}({', '.join(['self', *self._signature()])}) -> {returns}:"
        yield from self._docs()
        args = f"{self._constant}, {self._result}" if is_call else self._constant
        ask = f"{wait}self.{'_call' if is_call else '_send'}({args}, {self._params()})"
        if not is_call:
            yield f"        return {ask}"
        elif self._result == "None":
            yield f"        {ask}"
        else:
            yield f"        _found: {self._result} = {ask}"
            yield "        return _found"

    def _items(self, is_async: bool) -> str:
        return f"{'Async' if is_async else ''}Iterator[{self._result}]"

    def _signature(self) -> Iterator[str]:
        if self.service.params is None:
            yield "params: Any = None"
        told = [(f"{each.stars}{name}: {kind}", each) for name, kind, each in self._parameters]
        yield from (text for text, each in told if each.is_required)
        yield from (f"{text} = MISSING" for text, each in told if not (each.is_required or each.stars))
        yield from (text for text, each in told if each.stars)
        if told and not self._is_named and not any(each.stars for _, each in told):
            yield "/"

    def _params(self) -> str:
        """What travels, made of the arguments."""
        if self.service.params is None:
            return "params"
        names = [name for name, _, _ in self._parameters]
        if self.service.whole:
            return names[0]
        if not self._is_named:
            return f"[{', '.join(f'{each.stars}{name}' for name, _, each in self._parameters)}]"
        pairs = (f"**{name}" if each.stars else f"{each.name!r}: {name}" for name, _, each in self._parameters)
        return f"{{{', '.join(pairs)}}}"

    def _docs(self) -> Iterator[str]:
        lines = self.service.docs.splitlines() or [f"{self.service.key}."]
        if self.service.deprecated:
            instead = "" if self.service.deprecated is True else f": {self.service.deprecated}"
            lines += ["", f"Deprecated{instead}."]
        defaults = [
            f"    {name}: {each.default!r} if it is not given."
            for name, _, each in self._parameters
            if not each.is_required and each.default is not MISSING
        ]
        if defaults:
            lines += ["", "Args:", *defaults]
        if self.service.errors:
            lines += [
                "",
                f"Raises: {', '.join(each.name for each in self.service.errors)}, and what the Sender raises.",
            ]
        first, *more = [in_docs(each) for each in lines]
        if not more:
            yield f'        """{first}{" " if first.endswith(chr(34)) else ""}"""'
            return
        yield f'        """{first}'
        yield from (f"        {each}".rstrip() for each in more)
        yield '        """'


def _clients(name: str, methods: list[_Method], contract: NodeContract) -> Iterator[str]:
    for is_async in (False, True):
        prefix = "Async" if is_async else ""
        lines = [f"class {prefix}{name}({prefix}Stub):"]
        lines += [
            f'    """The services of {methods[0].service.category}{", for asyncio programs" if is_async else ""}."""',
            "",
        ]
        lines += [f"    NODE = {contract.node!r}"]
        for method in methods:
            lines += ["", *method.lines(is_async)]
        yield "\n".join(lines)
