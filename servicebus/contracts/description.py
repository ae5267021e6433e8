"""The description of a node: NodeContract, of its services and the events that it publishes, to and from JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

from servicebus.contracts.hashing import contract_hash
from servicebus.errors import ContractError

__all__ = ["FORMAT", "ErrorContract", "EventContract", "NodeContract", "Schema", "ServiceContract", "ServiceKind"]

FORMAT = 1
_MARK = "servicebus-contract"
"""The key by which a description is known; its value is the format's number."""

Schema = Any
"""A JSON Schema 2020-12 with definitions of its own (``$defs``): a dict, or True and False."""


ServiceKind = Literal["call", "message", "event", "stream"]


@dataclass(frozen=True)
class ErrorContract:
    """An error that a service declares, and the schema of its fields: an object, or an array for ``args``."""

    name: str
    fields: Schema = True
    docs: str = ""


@dataclass(frozen=True)
class ServiceContract:
    """One service: what it takes, returns and raises. A schema is None where the service says nothing of it."""

    kind: ServiceKind
    category: str
    name: str
    params: Schema = None
    """Of the params as they travel: an object by name, or an array by position where a function has no names. Where
    nothing is required, ``null`` says the same as an empty object or array."""
    result: Schema = None
    """Of a call's result, or of each item of a stream; None for a message or event."""
    errors: tuple[ErrorContract, ...] = ()
    whole: str = ""
    """The name of the only parameter, if that takes the whole params; "" if each parameter takes a part of them."""
    docs: str = ""
    version: str = ""
    deprecated: str | bool = False
    """True, or what to use instead."""
    former: bool = False
    """An earlier version, which is served to the callers that were built against it."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """How it is run, where that is not the default: ``idempotent``, ``threads`` and the like."""
    events: tuple[str, ...] = ()
    """The names or patterns of the events that it has subscribed to, if its kind is ``event``."""

    @property
    def key(self) -> str:
        """``category.name``."""
        return f"{self.category}.{self.name}"

    @cached_property
    def hash(self) -> str:
        """24 hex digits over the schemas; "" if none is known. Equal hashes mean that callers need not care."""
        if self.params is None and self.result is None and not self.errors:
            return ""
        errors = {each.name: each.fields for each in self.errors}
        return contract_hash(self.params, self.result, errors, is_stream=self.kind == "stream")

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is not known, empty or the default is left out."""
        found: dict[str, Any] = {"kind": self.kind, "service": self.key, "hash": self.hash}
        for name in ("version", "deprecated", "former", "docs", "options", "whole"):
            if value := getattr(self, name):
                found[name] = value
        if self.events:
            found["events"] = list(self.events)
        for name in ("params", "result"):
            if (schema := getattr(self, name)) is not None:
                found[name] = schema
        if self.errors:
            found["errors"] = {
                each.name: {"fields": each.fields, **({"docs": each.docs} if each.docs else {})} for each in self.errors
            }
        return found

    @classmethod
    def from_json(cls, value: Any, where: str = "") -> ServiceContract:
        """Raises ContractError. Unknown keys, of a later version, are left aside; the hash is computed again."""
        read = _FieldReader(value, where)
        kind, (category, dot, name) = read("kind", str, ""), read("service", str, "").partition(".")
        if kind not in get_args(ServiceKind) or not (category and dot and name):
            kinds = ", ".join(get_args(ServiceKind))
            raise ContractError(f'{where}: needs kind (one of {kinds}) and service ("category.name")')
        events = tuple(read("events", list, []))
        if bool(events) != (kind == "event") or not all(isinstance(each, str) for each in events):
            raise ContractError(f"{where}.events: names what a service of kind event has subscribed to, and no other")
        errors = tuple(
            ErrorContract(error, each("fields", _is_schema, True), each("docs", str, ""))
            for error, about in read("errors", dict, {}).items()
            for each in [_FieldReader(about, f"{where}.errors.{error}")]
        )
        return cls(
            kind,
            category,
            name,
            read("params", _is_schema, None),
            read("result", _is_schema, None),
            errors,
            read("whole", str, ""),
            read("docs", str, ""),
            read("version", str, ""),
            _deprecated(read),
            read("former", bool, False),
            read("options", dict, {}),
            events,
        )


@dataclass(frozen=True)
class EventContract:
    """An event that a node says it publishes."""

    event: str
    """Its name."""
    category: str = ""
    """Of the group that declares it."""
    payload: Schema = None
    """Of the params that subscribers get; None if nothing is said of them."""
    docs: str = ""
    version: str = ""
    deprecated: str | bool = False
    """True, or what to subscribe to instead."""

    @cached_property
    def hash(self) -> str:
        """As that of a service, over the payload."""
        return "" if self.payload is None else contract_hash(None, self.payload, {})

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is not known, empty or the default is left out."""
        found: dict[str, Any] = {"event": self.event, "hash": self.hash}
        for name in ("category", "version", "deprecated", "docs"):
            if value := getattr(self, name):
                found[name] = value
        return found if self.payload is None else {**found, "payload": self.payload}

    @classmethod
    def from_json(cls, value: Any, where: str = "") -> EventContract:
        """Raises ContractError. Unknown keys are left aside; the hash is computed again."""
        read = _FieldReader(value, where)
        event = read("event", str, "")
        if not event:
            raise ContractError(f"{where}: needs the name of an event")
        texts = read("docs", str, ""), read("version", str, "")
        return cls(event, read("category", str, ""), read("payload", _is_schema, None), *texts, _deprecated(read))


@dataclass(frozen=True)
class NodeContract:
    """The services of a node, or of a group; iterating gives them in order."""

    services: tuple[ServiceContract, ...]
    node: str = ""
    """Its name; "" for a group that no node serves yet."""
    publishes: tuple[EventContract, ...] = ()
    """The events that it says it publishes."""

    def __iter__(self) -> Iterator[ServiceContract]:
        return iter(self.services)

    def __len__(self) -> int:
        return len(self.services)

    def find(self, key: str, kind: str | None = None) -> ServiceContract | None:
        """The service ``category.name``, of *kind* if it is given; of several versions the present one."""
        found = [each for each in self.services if each.key == key and kind in (None, each.kind)]
        return min(found, key=lambda each: each.former, default=None)

    def to_json(self) -> dict[str, Any]:
        """Plain values, as ``servicebus describe --json`` prints them."""
        found = {_MARK: FORMAT, "node": self.node, "services": [each.to_json() for each in self.services]}
        if self.publishes:
            found["publishes"] = [each.to_json() for each in self.publishes]
        return found

    @classmethod
    def from_json(cls, value: Any) -> NodeContract:
        """Raises ContractError: *value* is no description, or one of a later format."""
        if not isinstance(value, dict) or _MARK not in value:
            raise ContractError(f"no description of a node: it has no key {_MARK!r}")
        if value[_MARK] != FORMAT:
            raise ContractError(f"a description of format {value[_MARK]!r}; this version of servicebus knows {FORMAT}")
        read = _FieldReader(value, "the description")
        services = read("services", list, [])
        found = [ServiceContract.from_json(each, f"services[{index}]") for index, each in enumerate(services)]
        events = enumerate(read("publishes", list, []))
        published = [EventContract.from_json(each, f"publishes[{index}]") for index, each in events]
        return cls(tuple(found), read("node", str, ""), tuple(published))


def shown_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those that are given, as JSON has them: of one that is a function, only that there is one."""
    found = {name: value for name, value in options.items() if value not in (None, False)}
    found.update((name, True) for name, value in found.items() if callable(value))
    if "retry" in found:
        found["retry"] = list(found["retry"])
    return found


def _deprecated(read: _FieldReader) -> str | bool:
    found: str | bool = read("deprecated", (str, bool), False)
    return found


def _is_schema(value: Any) -> bool:
    return isinstance(value, (dict, bool))


class _FieldReader:
    """Reads the keys of an object, each of its type."""

    def __init__(self, value: Any, where: str):
        if not isinstance(value, dict):
            raise ContractError(f"{where}: must be an object, not {type(value).__name__}")
        self._value = value
        self._where = where

    def __call__(self, key: str, kind: Any, default: Any) -> Any:
        value = self._value.get(key, default)
        is_right: Callable[[Any], bool] = kind if kind is _is_schema else lambda each: isinstance(each, kind)
        if value is not default and not is_right(value):
            raise ContractError(f"{self._where}.{key}: cannot be {type(value).__name__}")
        return value
