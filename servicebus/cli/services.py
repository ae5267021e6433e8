"""From ``services:`` and ``middleware:`` of a configuration file to objects: imports and makes what they name."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from servicebus._steps import Middleware
from servicebus.cli.importing import Unusable, imported, make_importable
from servicebus.configuration import Configuration, ServiceEntry
from servicebus.contracts import EventContract
from servicebus.errors import ConfigurationError
from servicebus.runtime.registration import register
from servicebus.wire.envelope import Kind
from servicebus.wire.printable import describe

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

_KINDS = {"rpc": (Kind.CALL, "on_call"), "message": (Kind.MESSAGE, "on_message")}
_ENTRY_POINTS = "servicebus.services"
_ALL = "*"


class LoadedService(NamedTuple):
    """A service as ``ServiceBus.add_rpc_service()`` and ``add_message_service()`` take it."""

    kind: Kind
    category: str
    name: str
    instance: Any
    options: Mapping[str, Any]


def load_services(configuration: Configuration) -> Iterator[LoadedService]:
    """All services that the entries name; a group has any number.

    The folder of the configuration file and the current folder are importable from then on, behind all else.

    Raises:
        ConfigurationError: something cannot be imported or made, cannot be registered as the entry says, or is there
            already.
    """
    make_importable(configuration.path)
    places: dict[tuple[Any, ...], int] = {}
    for index, entry in enumerate(configuration.services):
        try:
            for service in _load(entry):
                form = "events" in service.options, "plain" in service.options
                first = places.setdefault((*service[:3], *form), index)
                if first != index:
                    raise Unusable(f"has {service.category}.{service.name}, which services[{first}] has, too")
                yield service
        except Unusable as problem:
            raise ConfigurationError(
                f"services[{index}].{entry.form} {entry.target}: {problem}",
                path=configuration.path,
                line=entry.line,
                key=f"services[{index}].{entry.form}",
            ) from problem.__cause__


def load_published(configuration: Configuration) -> Iterator[EventContract]:
    """The events that the groups of the entries say they publish; after ``load_services()``.

    Raises:
        ConfigurationError: a type has no schema.
    """
    for entry in configuration.services:
        if entry.form in ("group", "entry_point"):
            for group in _groups(entry):
                yield from group.published


def load_middleware(configuration: Configuration) -> list[Middleware]:
    """What ``middleware:`` names: a class is made without arguments, an object is taken as it is.

    Raises:
        ConfigurationError: one cannot be imported or made, or is no Middleware.
    """
    make_importable(configuration.path)
    found: list[Middleware] = []
    for index, target in enumerate(configuration.middleware):
        try:
            each: Any = imported(target)
            found.append(each := _made(each) if isinstance(each, type) else each)
            if not isinstance(each, Middleware):
                raise Unusable(f"is no servicebus.middleware.Middleware but a {type(each).__name__}")
        except Unusable as problem:
            key = f"middleware[{index}]"
            raise ConfigurationError(f"{key} {target}: {problem}", path=configuration.path, key=key) from problem
    return found


def _load(entry: ServiceEntry) -> Iterator[LoadedService]:
    groups = _groups(entry)
    for group in groups:
        yield from _services_of(group)
    if not groups:
        kind, handler = _KINDS[entry.kind]
        if entry.form == "function":
            instance = _typed(entry)
        else:
            instance = _made(imported(entry.target))
            if not callable(getattr(instance, handler, None)):
                raise Unusable(f"has no {handler}(), which a service of kind {entry.kind} needs")
        yield _checked(LoadedService(kind, entry.category, entry.name, instance, entry.options))


def _groups(entry: ServiceEntry) -> list[Any]:
    """What should be groups; none of an entry for one service."""
    if entry.form == "entry_point":
        return [_loaded(point) for point in _entry_points(entry.target)]
    if entry.form == "group":
        return [imported(entry.target)]
    return [_group_of(entry)] if entry.kind == "consume" else []


def _entry_points(name: str) -> list[EntryPoint]:
    # Here: it loads 40 modules, email and zipfile among them, and few agents have such entries.
    from importlib.metadata import entry_points

    found = sorted(entry_points(group=_ENTRY_POINTS), key=lambda point: point.name)
    chosen = [point for point in found if name in (_ALL, point.name)]
    if not chosen:
        known = ", ".join(point.name for point in found) or "none at all"
        raise Unusable(f"no installed distribution has it in {_ENTRY_POINTS}; there is: {known}")
    return chosen


def _loaded(point: EntryPoint) -> Any:
    try:
        return point.load()
    except Exception as error:  # whatever the module's own code raises
        raise Unusable(f"{point.value} cannot be imported: {describe(error)}") from error


def _made(make: Any) -> Any:
    try:
        return make()
    except Exception as error:
        raise Unusable(f"cannot be made without arguments: {describe(error)}") from error


def _typed(entry: ServiceEntry) -> Any:
    """The service of a function that stands in no group."""
    (service,) = _services_of(_group_of(entry))
    return service.instance


def _group_of(entry: ServiceEntry) -> Any:
    """A group for a function that stands in none."""
    function = imported(entry.target)
    try:
        from servicebus.typed import Services
    except ImportError as error:
        raise Unusable(str(error)) from error
    if isinstance(function, type) or not callable(function):
        raise Unusable("is no function; the key for a class is target")
    group = Services(entry.category)
    try:
        if entry.kind == "consume":
            group.consume(name=entry.name, **entry.options)(function)
        else:
            (group.rpc if entry.kind == "rpc" else group.message)(name=entry.name)(function)
    except ConfigurationError as problem:
        raise Unusable(str(problem)) from problem
    return group


def _services_of(group: Any) -> Iterator[LoadedService]:
    typed = sys.modules.get("servicebus.typed")  # there if it is one
    if typed is None or not isinstance(group, typed.Services):
        raise Unusable(f"is no group (servicebus.typed.Services) but a {type(group).__name__}")
    for each in group:
        try:
            instance = each.make()
        except ConfigurationError as problem:
            raise Unusable(str(problem)) from problem
        yield _checked(
            LoadedService(each.kind, each.category, each.name, instance, {**each.options, **each.subscription})
        )


def _checked(service: LoadedService) -> LoadedService:
    try:
        register(service.kind, service.category, service.name, service.instance, **service.options)
    except ConfigurationError as problem:
        raise Unusable(str(problem)) from problem
    return service
