"""Secret: a value that never shows itself, and SecretText: JSON text that holds some of them."""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Generic, get_args

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    T = TypeVar("T", default=str)
else:
    from typing import TypeVar

    T = TypeVar("T")

__all__ = [
    "ENCRYPTED",
    "DumpedSecrets",
    "Place",
    "Secret",
    "SecretText",
    "hidden_at",
    "is_dump_of_secret",
    "put_back",
    "revealed",
    "secret_text",
]

ENCRYPTED = b"A256GCM:"
"""Begins what is encrypted (``wire.encryption``). No JSON text begins so."""
Place = tuple[str | int, ...]
"""Where a value stands in another: the keys and indexes that lead to it."""


class Secret(Generic[T]):
    """A value that is only given out by ``reveal()``: repr, str and format show stars, whatever it is.

    Among the params or in the result of a service it travels encrypted (docs/encryption). As an annotation of a typed
    function, ``Secret[str]`` is a text that arrives so.

    A pickle of it holds the value in plain, for ``multiprocessing`` hands a configuration to its children by one: do
    not store or send any.
    """

    __slots__ = ("_value",)

    def __init__(self, value: T):
        self._value = value

    def reveal(self) -> T:
        """The value in plain; pass it on, never keep or log it."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    def __str__(self) -> str:
        return "***"

    def __copy__(self) -> Secret[T]:
        return self

    def __deepcopy__(self, memo: object) -> Secret[T]:
        return self

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        if isinstance(self._value, str) and isinstance(other._value, str):
            mine, others = (each.encode("utf-8", "surrogatepass") for each in (self._value, other._value))
            return hmac.compare_digest(mine, others)
        return bool(self._value == other._value)

    def __hash__(self) -> int:
        return hash(self._value)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema  # only pydantic asks

        inner = handler.generate_schema((get_args(source) or (str,))[0])
        dump = core_schema.wrap_serializer_function_ser_schema(_dump, info_arg=True, schema=inner)
        return core_schema.no_info_wrap_validator_function(_read, inner, serialization=dump)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> Any:
        return {**handler(schema), "writeOnly": True}


class DumpedSecrets(dict[str, Secret[Any]]):
    """The context of a dump by pydantic that is to be encrypted: the secrets, by what stands in their places."""


def _read(value: Any, validate: Callable[[Any], Any]) -> Secret[Any]:
    return Secret(validate(value.reveal() if isinstance(value, Secret) else value))


def _dump(value: Any, dump: Callable[[Any], Any], info: Any) -> Any:
    if isinstance(info.context, DumpedSecrets):
        mark = f"secret {os.urandom(16).hex()}"
        info.context[mark] = Secret(dump(value.reveal() if isinstance(value, Secret) else value))
        return mark
    return value if info.mode == "python" else str(Secret(None))


def is_dump_of_secret(function: Any) -> bool:
    """Whether *function* is how pydantic dumps a Secret."""
    return function is _dump


def put_back(dumped: Any, secrets: DumpedSecrets) -> Any:
    """*dumped*, in which marks stand for *secrets*, with the secrets themselves."""
    if isinstance(dumped, str):
        return secrets.get(dumped, dumped)
    if isinstance(dumped, dict):
        return {key: put_back(each, secrets) for key, each in dumped.items()}
    return [put_back(each, secrets) for each in dumped] if isinstance(dumped, list) else dumped


class SecretText(bytes):
    """JSON text that is secret, or that holds what is: it travels encrypted, and its repr does not show it."""

    places: Sequence[Place] = ()
    """Of the values that are; none if all of it is secret."""
    key_id: str = ""
    """Of the key with which it has come encrypted; "" for what has not come."""

    def __repr__(self) -> str:
        return f"<SecretText of {len(self)} bytes>"

    __str__ = __repr__


def secret_text(text: bytes, places: Iterable[Place], key_id: str = "") -> SecretText:
    """A SecretText with these attributes."""
    made = SecretText(text)
    if places:
        made.places = tuple(places)
    made.key_id = key_id
    return made


def revealed(value: Any) -> tuple[Any, list[Place]]:
    """*value* with what its Secrets hold in their places, and these places. The value itself is left as it is."""
    places: list[Place] = []
    return _revealed(value, (), places), places


def _revealed(value: Any, place: Place, places: list[Place]) -> Any:
    if isinstance(value, Secret):
        places.append(place)
        value = value.reveal()
        while isinstance(value, Secret):
            value = value.reveal()
        inner: list[Place] = []
        return _revealed(value, place, inner)
    if isinstance(value, dict):
        return {key: _revealed(each, (*place, _key(key)), places) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_revealed(each, (*place, index), places) for index, each in enumerate(value)]
    return value


def _key(key: Any) -> str:
    """*key* as JSON has it."""
    if isinstance(key, bool) or key is None:
        return {True: "true", False: "false", None: "null"}[key]
    return key if isinstance(key, str) else str(key)


def hidden_at(value: Any, places: Sequence[Place]) -> Any:
    """*value*, which was read from JSON, with a Secret around what stands at each of *places*."""
    for place in places:
        if not place:
            return Secret(value)
        *way, last = place
        holder = value
        for step in way:
            holder = holder[step]
        holder[last] = Secret(holder[last])
    return value
