"""The words of a ContractMismatch: what differs between the contract that a caller was built against and the node's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from servicebus.contracts.description import Schema, ServiceContract
from servicebus.contracts.notation import Notation, Parameter, fields_of, parameters_of
from servicebus.contracts.schema_differences import compare_schemas, summary
from servicebus.errors import ContractError, ContractMismatch

__all__ = ["explained"]

_MAX_DEPTH = 6


class _Side(NamedTuple):
    """Parameters by name, and how their types are told."""

    fields: Mapping[str, Parameter]
    notation: Notation

    def told(self, name: str) -> str:
        return self.notation.of(self.fields[name].schema)


def explained(error: ContractMismatch, own: ServiceContract) -> ContractMismatch:
    """*error* with the difference in its text; *own* is what its caller was built against."""
    try:
        present = ServiceContract.from_json(error.present, "the node's answer")
    except ContractError:
        return error
    ours, theirs = _side(own), _side(present)
    if not theirs.fields:
        return error
    changes = list(_changes(ours, theirs, "", 0))
    mine = ", ".join(f"`{each}`" for each, _ in changes if each) or "the same params"
    needed = ", ".join(f"`{each}`" for _, each in changes if each.startswith("new "))
    changed = ", ".join(f"`{each}`" for _, each in changes if each and not each.startswith("new "))
    new = f"new and required: {needed.replace('`new ', '`')}" if needed else ""
    node, _, _ = error.address.partition(".")
    runs = f"node {node} runs {present.version or present.hash}"
    told = ", ".join(filter(None, (changed, new))) or _by_schema(own, present) or "it takes other values"
    text = f"{error.address}: the contract has changed: caller: {mine}; {runs}: {told}; {error.detail}"
    error.args = (text,)
    return error


def _by_schema(own: ServiceContract, present: ServiceContract) -> str:
    """What no parameter's notation shows: a field of a class in a map or in a union of several."""
    if own.params is None or present.params is None:
        return ""
    return summary(compare_schemas(own.key, "params", own.params, present.params))


def _side(service: ServiceContract) -> _Side:
    notation = Notation(service.params)
    parameters, _ = parameters_of(service)
    if service.whole and len(inner := _fields_within(notation, service.params)):
        return _Side(inner, notation)
    return _Side({each.name: each for each in parameters}, notation)


def _fields_within(notation: Notation, schema: Schema) -> Mapping[str, Parameter]:
    """The fields of the object that *schema* stands for, whatever leads to it."""
    found = notation.resolved(schema)
    if not isinstance(found, dict):
        return {}
    for alternative in (found, *found.get("anyOf", ()), found.get("items", {})):
        inner = notation.resolved(alternative)
        if isinstance(inner, dict) and "properties" in inner:
            return {each.name: each for each in fields_of(inner)}
    return {}


def _changes(ours: _Side, theirs: _Side, path: str, depth: int) -> Iterator[tuple[str, str]]:
    """What the caller has and what the node has in its place; "" for what one of them does not know."""
    for name, mine in ours.fields.items():
        where = f"{path}{name}"
        if name not in theirs.fields:
            yield f"{where}: {ours.told(name)}", f"no {where}"
            continue
        other = theirs.fields[name]
        before, after = ours.told(name), theirs.told(name)
        if other.is_required and not mine.is_required:
            yield f"{where}: {before}{mine.shown_default}", f"{where}: {after}"
            continue
        within = []
        inner = _inside(ours, mine.schema), _inside(theirs, other.schema)
        if depth < _MAX_DEPTH and inner[0].fields and inner[1].fields:
            within = list(_changes(*inner, f"{where}.", depth + 1))  # more than the name of a class
            yield from within
        if not within and before != after:
            yield f"{where}: {before}", f"{where}: {after}"
    for name, other in theirs.fields.items():
        if name not in ours.fields and other.is_required:
            yield "", f"new {path}{name}: {theirs.told(name)}"


def _inside(side: _Side, schema: Any) -> _Side:
    return _Side(_fields_within(side.notation, schema), side.notation)
