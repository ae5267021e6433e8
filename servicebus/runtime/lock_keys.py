"""From a request's params to the lock that its service wants: the key, and the number of the lock on the node.

The number is one that every worker of the node computes alike. Two keys that happen to share one (62 bits: it
will not be seen) are run one after the other where they need not; nothing is ever run at once that must not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

from servicebus.runtime.registration import Service
from servicebus.services import Lock
from servicebus.wire.printable import unshown

__all__ = ["LockError", "lock_finder"]

LOCK_BITS = 62
"""A byte of a file is named by 63 bits; each lock has two."""


class LockError(Exception):
    """Raised when no key can be had from the params; the text says of which service and why."""


def lock_finder(service: Service) -> Callable[[Any], int | None]:
    """A function of a request's params: the number of the lock, None if they need none. It raises LockError."""
    if service.lock is None:
        number = _number_of(service, "")
        return lambda params: number
    return partial(_find, service, _key_reader(service.lock))


def singleton_number(service: Service) -> int:
    """The lock of the worker that runs a singleton service. It has no other one."""
    return _number_of(service, "singleton")


def _find(service: Service, read: Callable[[Any], Any], params: Any) -> int | None:
    try:
        key = read(params)
        return None if key is None else _number_of(service, _text_of(key))
    except Exception as error:  # it is the user's function, and the params may be anything
        cause = error if isinstance(error, _Absent) else unshown(error)
    raise LockError(f"no lock for service {service.key}: {cause}") from cause


def _number_of(service: Service, key: str) -> int:
    # The parts of a name have no dots, so nothing else can give the same text.
    named = f"{service.kind.value}.{service.key}.{key}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(named, digest_size=8).digest(), "big") >> (64 - LOCK_BITS)


def _text_of(key: Any) -> str:
    """7 and "7" are the same account."""
    return key if isinstance(key, str) else json.dumps(key, sort_keys=True)


def _key_reader(lock: Lock) -> Callable[[Any], Any]:
    if callable(lock):
        return lock
    parts = str(lock).split(".")
    return lambda params: reduce(_part, parts, params)


def _part(value: Any, name: str) -> Any:
    """One step of a path into what JSON can say."""
    if isinstance(value, dict):
        if name in value:
            return value[name]
        raise _Absent(f"the params have no {name!r}")
    if isinstance(value, list) and name.isdecimal() and int(name) < len(value):
        return value[int(name)]
    raise _Absent(f"the params have no {name!r}: there is {_shape_of(value)} in its place")


class _Absent(Exception):
    pass


_JSON_NAMES: dict[type, str] = {dict: "a mapping", str: "a text", int: "a number", float: "a number", bool: "a flag"}


def _shape_of(value: Any) -> str:
    return f"a list of {len(value)}" if isinstance(value, list) else _JSON_NAMES.get(type(value), "nothing")
