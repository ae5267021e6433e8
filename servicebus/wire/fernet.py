"""Fernet tokens among the fields of other programs' messages, as callers of cyberfusion's RabbitMQ consumer make them.

A token binds nothing but its own text: a program that may publish can move it to another field or message. Programs
that have envelopes have ``wire.encryption`` in its place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from servicebus._secret import Place, secret_text
from servicebus.errors import EnvelopeError
from servicebus.wire.encryption import EncryptionError
from servicebus.wire.jsontext import decode_json, encode_json

__all__ = ["FernetKeys"]

_BEGIN = b"gAAAAA"
"""Version 0x80, and the first bytes of a time until the year 2242, in base64."""
_TOKEN = re.compile(r"gAAAAA[0-9A-Za-z_-]{90,}={0,2}")


class FernetKeys:
    """Of one broker. For any thread.

    Args:
        keys: each as ``Fernet.generate_key()`` makes them; all decrypt.

    Raises:
        ValueError: one is none.
        ImportError: ``cryptography`` is not installed.
    """

    def __init__(self, keys: Sequence[str]):
        try:
            from cryptography.fernet import Fernet, InvalidToken, MultiFernet
        except ImportError as error:
            raise ImportError("fernet_key needs cryptography: pip install servicebus-failover[crypto]") from error
        self._invalid: type[Exception] = InvalidToken
        try:
            self._fernet = MultiFernet([Fernet(key) for key in keys])
        except ValueError:
            raise ValueError(
                "fernet_key must be 32 bytes in URL-safe base64, as Fernet.generate_key() makes it"
            ) from None

    def __repr__(self) -> str:
        return "<FernetKeys>"

    def in_plain(self, body: bytes) -> bytes:
        """*body* with the text of each token in place of it: a SecretText, if there are some; else as it is.

        Raises:
            EncryptionError: a token is made with another key, or was changed.
        """
        if _BEGIN not in body:
            return body
        try:
            value = decode_json(body)
        except EnvelopeError:
            return body  # the service says what is wrong
        places: list[Place] = []
        for holder, key, place in list(_tokens(value)):
            holder[key] = self._text(holder[key], place)
            places.append(place)
        return secret_text(encode_json(value), places) if places else body

    def _text(self, token: str, place: Place) -> str:
        try:
            return self._fernet.decrypt(token.encode()).decode()
        except (self._invalid, UnicodeDecodeError):
            where = ".".join(map(str, place))
            raise EncryptionError(f"the Fernet token at {where} is made with another key, or was changed") from None


def _tokens(value: Any, place: Place = ()) -> Iterator[tuple[Any, Any, Place]]:
    """What holds each token, under which key or index, and its place."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        if isinstance(each, str) and _TOKEN.fullmatch(each):
            yield value, key, (*place, key)
        else:
            yield from _tokens(each, (*place, key))
