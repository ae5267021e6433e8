"""From ``services:`` of a configuration file to service objects: imports and makes what the entries name."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import reduce
from pathlib import Path
from typing import Any

from servicebus.configuration import Configuration, ServiceEntry
from servicebus.errors import ConfigurationError
from servicebus.runtime.registration import register
from servicebus.wire.envelope import Kind
from servicebus.wire.printable import describe

_KINDS = {"rpc": (Kind.CALL, "on_call"), "message": (Kind.MESSAGE, "on_message")}


def load_services(configuration: Configuration) -> Iterator[tuple[ServiceEntry, Any]]:
    """Each entry with a service object made for it.

    The folder of the configuration file and the current folder are importable from then on, behind all else: a file
    that lies there by chance, or by another user's hand, must not stand in for an installed package.

    Raises:
        ConfigurationError: a class cannot be imported or made, or its object cannot be registered as the entry says.
    """
    _make_importable(configuration.path)
    for index, entry in enumerate(configuration.services):
        try:
            yield entry, _make(entry)
        except _Unusable as problem:
            raise ConfigurationError(
                f"services[{index}].target {entry.target}: {problem}",
                path=configuration.path,
                line=entry.line,
                key=f"services[{index}].target",
            ) from problem.__cause__


class _Unusable(Exception):
    pass


def _make_importable(path: str | None) -> None:
    folders = [str(Path(path).resolve().parent)] if path else []
    with suppress(OSError):  # the current folder may be gone
        folders.append(str(Path.cwd()))
    sys.path += [folder for folder in dict.fromkeys(folders) if folder not in sys.path]


def _make(entry: ServiceEntry) -> Any:
    module, _, name = entry.target.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:  # whatever the module's own code raises
        raise _Unusable(f"cannot be imported: {describe(error)}") from error
    try:
        make = reduce(getattr, name.split("."), found)
    except AttributeError as error:
        raise _Unusable(f"{module} has no {name}") from error
    try:
        service = make()
    except Exception as error:
        raise _Unusable(f"cannot be made without arguments: {describe(error)}") from error
    kind, handler = _KINDS[entry.kind]
    if not callable(getattr(service, handler, None)):
        raise _Unusable(f"has no {handler}(), which a service of kind {entry.kind} needs")
    try:
        register(kind, entry.category, entry.name, service, **entry.options)
    except ConfigurationError as problem:
        raise _Unusable(str(problem)) from problem
    return service
