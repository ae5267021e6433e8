"""Encryption: AES-256-GCM of the params of requests, the messages of replies, and the fields in them that are secret.

What is encrypted has the form ``A256GCM:<key id>:<form>:<base64>``, or, where only some fields are, the same with a
colon and the rest of the JSON text behind it. What is bound to it, so that it is refused anywhere else, its caller
gives: the canonical string that the token signs, with the base64 left out (docs/wire-format, "Encryption").

No nonce repeats. Each EncryptionKeys encrypts with a key of its own: HMAC-SHA256 of the secret and 128 random bits, the
salt, which is renewed after a million uses; nonces are 96 random bits. Two of them are equal with a probability of
2**-57 for each million, however many processes have the same secret. Nothing is counted that a fork or the copy of a
virtual machine could repeat. For any thread.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from servicebus._secret import ENCRYPTED, SecretText, hidden_at, secret_text
from servicebus.errors import EnvelopeError
from servicebus.wire.compression import JSON, compressed, decompressed
from servicebus.wire.jsontext import decode_json, encode_json

__all__ = ["ENCRYPTED", "NOT_ENCRYPTED", "EncryptionError", "EncryptionKeys", "key_id_of"]

NOT_ENCRYPTED = "not-encrypted"
"""Reason of a refusal: it has to be encrypted, and is not."""
FIELDS = "fields"
"""The form in which some values of a JSON text are encrypted, and the rest stands behind them."""
MARKED = "marked"
"""The form in which all of it is encrypted, with the places of what is secret in it."""
_SALT_BYTES, _NONCE_BYTES, _TAG_BYTES = 16, 12, 16
_BEGIN_BYTES = _SALT_BYTES + _NONCE_BYTES
_USES = 2**20
_KNOWN = 1024
_MAX_PARTS = 5
_HIDDEN = None
"""What stands in the place of a value that is encrypted."""

Bound = Callable[[bytes], bytes]
"""The associated data of a payload, of which it gets all but the base64."""


class EncryptionError(EnvelopeError):
    """Raised when something cannot be decrypted: by a wrong key, changed, or moved from where it belongs."""

    def __init__(self, detail: str):
        super().__init__("encryption", detail)


def key_id_of(secret: str) -> str:
    """By which a key is known. It is not secret."""
    return hashlib.sha256(b"servicebus encryption key id\0" + secret.encode()).hexdigest()[:8]


class _EncryptionKey:
    """One secret, and the keys derived of it: one to encrypt with, and those that others encrypt with."""

    __slots__ = ("_ciphers", "_keyed", "_left", "_own", "head", "id")

    def __init__(self, secret: str):
        self.id = key_id_of(secret)
        self.head = f"A256GCM:{self.id}:{JSON}:".encode()
        """Begins what is encrypted with it and neither compressed nor of fields."""
        self._keyed = hmac.new(secret.encode(), b"servicebus/2 encryption\0", hashlib.sha256)
        self._ciphers: dict[bytes, Any] = {}
        self._left = 0

    def encrypt(self, text: bytes, bound: bytes) -> bytes:
        if self._left <= 0:
            salt = os.urandom(_SALT_BYTES)
            # Two threads may both do it, and then one of the two salts is used by one of them once.
            self._own, self._left = (salt, self._cipher(salt)), _USES
        self._left -= 1
        salt, cipher = self._own
        nonce = os.urandom(_NONCE_BYTES)
        return salt + nonce + cipher.encrypt(nonce, text, bound)  # type: ignore[no-any-return]

    def decrypt(self, raw: bytes, bound: bytes) -> bytes:
        salt, nonce = raw[:_SALT_BYTES], raw[_SALT_BYTES:_BEGIN_BYTES]
        known = self._ciphers.get(salt)
        cipher = known or self._cipher(salt)
        text: bytes = cipher.decrypt(nonce, raw[_BEGIN_BYTES:], bound)
        if known is None:  # who has not the key cannot fill this
            if len(self._ciphers) >= _KNOWN:
                self._ciphers.clear()
            self._ciphers[salt] = cipher
        return text

    def _cipher(self, salt: bytes) -> Any:
        keyed = self._keyed.copy()
        keyed.update(salt)
        return _aes_gcm()[0](keyed.digest())


class EncryptionKeys:
    """Keys by their ids: the first encrypts, all decrypt. May be used by any thread; shows only the ids.

    Args:
        secrets: texts.
        compression: what a text is compressed with before, ``zlib`` or ``zstd``; "" for nothing.

    Raises:
        ValueError: there is no secret, or two have the same key id.
        ImportError: ``cryptography`` or what compresses is not installed.
    """

    def __init__(self, secrets: Sequence[str], compression: str = ""):
        keys = [_EncryptionKey(secret) for secret in dict.fromkeys(secrets)]
        self._keys = {key.id: key for key in keys}
        if not keys or len(self._keys) < len(keys):
            raise ValueError("encryption needs one key or more, no two of them with the same key id")
        self._first = keys[0]
        self._compression = compression
        self._invalid = _aes_gcm()[1]
        if compression:
            compressed(b"", compression)

    def __repr__(self) -> str:
        return f"<EncryptionKeys encrypts with {self.key_id}, knows {', '.join(self._keys)}>"

    def __reduce__(self) -> str:
        raise TypeError("EncryptionKeys are not pickled: they hold secrets")

    @property
    def key_id(self) -> str:
        """Of the key that encrypts."""
        return self._first.id

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The one that encrypts first."""
        return tuple(self._keys)

    def encrypt(self, text: bytes, bound: Bound, key_id: str = "", *, is_whole: bool = True) -> bytes:
        """*text* encrypted; or only what stands at the places of a SecretText, if it has some and not *is_whole*.

        Args:
            key_id: of the key; the first one if it is not known.
        """
        key = self._keys.get(key_id, self._first)
        head, behind = key.head, b""
        if type(text) is SecretText and text.places:
            form = MARKED if is_whole else FIELDS
            if is_whole:
                text = _marked(text)
            else:
                text, rest = _without(text)
                behind = b":" + rest
            head = f"A256GCM:{key.id}:{form}:".encode()
        elif self._compression:
            text, form = compressed(text, self._compression)
            head = f"A256GCM:{key.id}:{form}:".encode()
        raw = key.encrypt(text, bound(head + behind))
        return head + b2a_base64(raw, newline=False) + behind

    def decrypt(self, payload: bytes, bound: Bound, max_bytes: int) -> SecretText:
        """What ``encrypt()`` has made *payload* of, at most *max_bytes* long.

        Raises:
            EncryptionError: the key is not known, or it was encrypted with another one, changed, or moved here from
                where it belongs: which of these cannot be known.
            EnvelopeError: ``oversized``; it is too long.
        """
        key = self._first
        if payload.startswith(key.head) and payload.find(b":", len(key.head)) < 0:
            return secret_text(self._opened(key, payload[len(key.head) :], bound(key.head)), (), key.id)
        parts = payload.split(b":", _MAX_PARTS - 1)
        _, id, form, text, *rest = parts if len(parts) > _MAX_PARTS - 2 else [b""] * 4
        known = self._keys.get(id.decode("ascii", "replace"))
        if known is None:
            ids = ", ".join(self._keys)
            raise EncryptionError(f"no encryption key with the id {id[:8].decode('ascii', 'replace')!r} (but {ids})")
        head = payload[: len(ENCRYPTED) + len(id) + len(form) + 2]
        plain = self._opened(known, text, bound(head + b":" + rest[0] if rest else head))
        word = form.decode("ascii", "replace")
        if word == FIELDS and rest:
            return _with(plain, rest[0], known.id)
        if rest:
            raise EncryptionError("there is something behind what is encrypted")
        if word == MARKED:
            return _unmarked(plain, known.id)
        return secret_text(decompressed(plain, word, max_bytes), (), known.id)

    def _opened(self, key: _EncryptionKey, text: bytes, bound: bytes) -> bytes:
        try:
            return key.decrypt(_from_base64(text), bound)
        except (self._invalid, ValueError):
            why = "it was encrypted with another key, changed, or does not belong here"
            raise EncryptionError(f"key {key.id} does not decrypt it: {why}") from None


def _from_base64(text: bytes) -> bytes:
    """Raises ValueError: it is not written as ``b2a_base64()`` does. There is one way to write each."""
    raw = a2b_base64(text)
    size = len(raw)
    # Of this length it holds no foreign characters; and nothing may stand in the bits that are left over.
    is_so = 3 * len(text) == 4 * (size + -size % 3) and text.endswith(
        b2a_base64(raw[-(size % 3 or 3) :], newline=False)
    )
    if not is_so or size < _SALT_BYTES + _NONCE_BYTES + _TAG_BYTES:
        raise ValueError("no base64")
    return raw


def _without(text: SecretText) -> tuple[bytes, bytes]:
    """The places and values that are secret, and the rest; both as JSON."""
    value = decode_json(text)
    taken = []
    for place in text.places:
        *way, last = place
        holder = value
        for step in way:
            holder = holder[step]
        taken.append([list(place), holder[last]])
        holder[last] = _HIDDEN
    return encode_json(taken), encode_json(value)


def _marked(text: SecretText) -> bytes:
    return b"[%b,%b]" % (encode_json(text.places), bytes(text))


def _unmarked(text: bytes, key_id: str) -> SecretText:
    try:
        places, value = decode_json(text)
        hidden_at(decode_json(text)[1], places)
    except (TypeError, ValueError, LookupError):
        raise EncryptionError("its fields are not where it says") from None
    return secret_text(encode_json(value), map(tuple, places), key_id)


def _with(taken: bytes, rest: bytes, key_id: str) -> SecretText:
    """The text of which these two were made. A program with the key has made them, and may have been mistaken."""
    value, places = decode_json(rest), []
    try:
        for place, secret in decode_json(taken):
            *way, last = place
            holder = value
            for step in way:
                holder = holder[step]
            holder[last] = secret
            places.append(tuple(place))
    except (TypeError, ValueError, LookupError):
        raise EncryptionError("its fields are not where it says") from None
    return secret_text(encode_json(value), places, key_id)


@cache
def _aes_gcm() -> tuple[Any, type[Exception]]:
    """The cipher, and what it raises for what it does not decrypt."""
    try:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise ImportError("encryption needs cryptography: pip install servicebus-failover[crypto]") from error
    return AESGCM, InvalidTag
