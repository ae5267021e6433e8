"""Tokens: which requests and replies are believed.

A token is ``<key id>:<HMAC-SHA256, 64 hex digits>`` over a canonical byte string: a domain word and then every field,
each as its length in bytes (decimal), a colon, and the bytes. The lengths make it impossible that two different lists
of fields give one string; the domain makes it impossible to pass a request's token for a reply's.

The key id says who has signed a request: a peer with a secret of the bus, or a caller with a key of its own. The reply
is signed with the key of its request, so that a caller can verify it, and can forge none for another.
docs/wire-format, "Signature", has the fields and worked examples.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NoReturn

from servicebus.errors import SignatureError
from servicebus.wire.envelope import FIRST_AND_PLAIN, Envelope, Kind, More, Reply
from servicebus.wire.fault import Fault

__all__ = [
    "EVENT_DOMAIN",
    "RESPONSE_DOMAIN",
    "Keyring",
    "canonical_bytes",
    "event_text",
    "response_text",
]

NO_CALLERS: Mapping[str, Sequence[str]] = MappingProxyType({})
EVENT_DOMAIN = b"servicebus/2 event"
RESPONSE_DOMAIN = b"servicebus/2 response"
_BLOCK_BYTES = 64  # of SHA-256


class _Key:
    """One secret, as the two hashes of its HMAC (RFC 2104). Copies of them sign: copying is safe in any thread.

    With the standard library's ``hmac`` the copies cost each end of a call 5 to 9 us more, a tenth of its CPU time with
    64 calls in flight: OpenSSL 3 makes contexts of its own for them.
    """

    __slots__ = ("_inner", "_outer", "caller", "id")

    def __init__(self, secret: bytes, caller: str = ""):
        self.id = hashlib.sha256(b"servicebus key id\0" + secret).hexdigest()[:8]
        self.caller = caller
        block = (secret if len(secret) <= _BLOCK_BYTES else hashlib.sha256(secret).digest()).ljust(_BLOCK_BYTES, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))

    def token(self, text: bytes) -> str:
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(text)
        outer.update(inner.digest())
        return f"{self.id}:{outer.hexdigest()}"


class Keyring:
    """Keys by their ids. May be used by any thread; shows only the ids.

    Args:
        secrets: of the bus, or of the one caller that a Sender is: the first signs, all verify.
        callers: the keys of others by their names. They verify requests, and sign the replies to them; nothing else.

    Raises:
        ValueError: there is no secret, one is empty, or two have the same key id.
    """

    __slots__ = ("_keys", "_known", "_signer")

    def __init__(self, secrets: Sequence[str], callers: Mapping[str, Sequence[str]] = NO_CALLERS):
        if isinstance(secrets, str) or not secrets or not all(secrets):
            raise ValueError("a Keyring needs a list of one secret or more, none of them empty")
        keys = [_Key(secret.encode()) for secret in dict.fromkeys(secrets)]
        self._signer = keys[0]
        self._keys = _by_id(keys)
        others = [_Key(secret.encode(), name) for name, own in callers.items() for secret in dict.fromkeys(own)]
        self._known = _by_id([*keys, *others]) if others else self._keys
        """With the keys of callers."""

    def __repr__(self) -> str:
        return f"<Keyring signs with {self.key_id}, knows {', '.join(self._known)}>"

    @property
    def key_id(self) -> str:
        """Of the secret that signs. Not secret itself: every token begins with it."""
        return self._signer.id

    @property
    def key_ids(self) -> tuple[str, ...]:
        """Of the secrets, without those of callers; the one that signs first."""
        return tuple(self._keys)

    def caller_of(self, token: str) -> str:
        """Whose key *token* claims to be made with; "" for a secret of the bus. It proves nothing.

        Raises:
            SignatureError: no such key is known.
        """
        return self._key_of(token, self._known).caller

    def __reduce__(self) -> str:
        raise TypeError("a Keyring is not pickled: it holds secrets")

    def sign_event(
        self,
        id: str,
        node: str,
        category: str,
        service: str,
        kind: Kind,
        sent_ms: int,
        ttl_ms: int,
        reply: str,
        params: bytes,
        more: More = FIRST_AND_PLAIN,
    ) -> str:
        """The token of the envelope that these fields make: it covers every field but itself."""
        names = _canonical_names(node, category, service, kind._value_, reply)
        return self._signer.token(_canonical_event(names, id, sent_ms, ttl_ms, params, more))

    def verify_envelope(self, envelope: Envelope) -> str:
        """The caller who has signed *envelope*, "" for a peer with a secret of the bus. Raises ``SignatureError``."""
        e = envelope
        names = _canonical_names(e.node, e.category, e.service, e.kind._value_, e.reply)
        text = _canonical_event(names, e.id, e.sent_ms, e.ttl_ms, e.params, e.more)
        key = self._known.get(e.token[:8])
        if key is not None and e.token.isascii() and hmac.compare_digest(key.token(text), e.token):
            return key.caller
        return self._verify(e.token, text, self._known).caller  # raises what is wrong

    def sign_reply(self, request_token: str, id: str, status: str, message: bytes, fault: Fault | None) -> str:
        """The token of a reply to the request that carried *request_token*, by the same key."""
        # A request whose key is retired, and for which a requeue ticket vouches, is a message: nobody reads that reply.
        signer = self._known.get(request_token[:8], self._signer)
        return signer.token(response_text(request_token, id, status, message, fault))

    def verify_reply(self, reply: Reply, request_token: str) -> None:
        """Accept *reply* as the answer to our request that carried *request_token*, or raise ``SignatureError``."""
        token, key = reply.token, self._keys.get(request_token[:8], self._signer)
        text = response_text(request_token, reply.id, reply.status, reply.message, reply.fault)
        if not (token.isascii() and hmac.compare_digest(key.token(text), token)):
            self._refuse_answer(token, request_token, key)

    def sign_answer(self, request_token: str, domain: bytes, *parts: bytes) -> str:
        """A token over *parts*, which answer the request that carried *request_token*, by the same key."""
        return self._known.get(request_token[:8], self._signer).token(canonical_bytes(domain, *parts))

    def verify_answer(self, token: str, request_token: str, domain: bytes, *parts: bytes) -> None:
        """Accept *token* as made by ``sign_answer``, or raise ``SignatureError``."""
        key = self._keys.get(request_token[:8], self._signer)
        if not (token.isascii() and hmac.compare_digest(key.token(canonical_bytes(domain, *parts)), token)):
            self._refuse_answer(token, request_token, key)

    def _refuse_answer(self, token: str, request_token: str, key: _Key) -> NoReturn:
        if self._key_of(token, self._keys) is not key:
            raise SignatureError(f"it is made with key {token[:8]}, its request with {request_token[:8]}")
        raise SignatureError()

    def sign_bytes(self, domain: bytes, *parts: bytes) -> str:
        """A token over *parts*; *domain* keeps this use apart from every other."""
        return self._signer.token(canonical_bytes(domain, *parts))

    def verify_bytes(self, token: str, domain: bytes, *parts: bytes) -> None:
        """Accept *token* as made by ``sign_bytes`` over the same *domain* and *parts*, or raise ``SignatureError``.

        No key of a caller is accepted.
        """
        self._verify(token, canonical_bytes(domain, *parts), self._keys)

    def _verify(self, token: str, text: bytes, keys: Mapping[str, _Key]) -> _Key:
        key = keys.get(token[:8]) or self._key_of(token, keys)
        # compare_digest takes text in ASCII only.
        if token.isascii() and hmac.compare_digest(key.token(text), token):
            return key
        raise SignatureError() if token.isascii() else SignatureError("the token is not made of ASCII characters")

    def _key_of(self, token: str, keys: Mapping[str, _Key]) -> _Key:
        if not token:
            raise SignatureError("it carries no token")
        if not token.isascii():
            raise SignatureError("the token is not made of ASCII characters")
        key = keys.get(token[:8])
        if key is None:
            known = f"{', '.join(self._keys)}{' and those of callers' if keys is not self._keys else ''}"
            raise SignatureError(
                f"no key with the id {token[:8]!r} is known here (but {known}); do both sides have the same secret?"
            )
        return key


def _by_id(keys: Sequence[_Key]) -> dict[str, _Key]:
    found: dict[str, _Key] = {}
    for key in keys:
        if found.setdefault(key.id, key) is not key:
            owners = [each.caller or "the bus" for each in (found[key.id], key)]
            raise ValueError(f"two keys have the id {key.id}, of {' and of '.join(owners)}: make another one")
    return found


def canonical_bytes(domain: bytes, *parts: bytes) -> bytes:
    """Join *domain* and *parts* so that no other list of parts gives the same bytes."""
    return b"".join([b"%d:%b" % (len(part), part) for part in (domain, *parts)])


def _canonical_event(
    names: bytes,
    id: str,
    sent_ms: int,
    ttl_ms: int,
    params: bytes,
    more: More,
) -> bytes:
    sent = str(sent_ms)
    ttl = str(ttl_ms)
    head = f"{len(sent)}:{sent}{len(ttl)}:{ttl}{len(id)}:{id}{len(params)}:"
    if more == FIRST_AND_PLAIN:
        return b"".join((names, head.encode(), params))
    said = len(more)  # up to the last that is there, and always the attempt
    while said > 1 and not more[said - 1]:
        said -= 1
    parts = [str(each).encode() for each in more[:said]]
    return b"".join((names, head.encode(), params, *(b"%d:%b" % (len(each), each) for each in parts)))


def event_text(fields: Sequence[Any], params: bytes, more: More) -> bytes:
    """The canonical bytes of the event that these make; *fields* are those of ``sign_event()`` before the params."""
    id, node, category, service, kind, sent_ms, ttl_ms, reply = fields
    names = _canonical_names(node, category, service, kind._value_, reply)
    return _canonical_event(names, id, sent_ms, ttl_ms, params, more)


@lru_cache(maxsize=1024)
def _canonical_names(node: str, category: str, service: str, kind: str, reply: str) -> bytes:
    """The part that is the same for all calls of one kind to one service: joined once, not for every call."""
    return canonical_bytes(EVENT_DOMAIN, *(text.encode() for text in (node, category, service, kind, reply)))


def response_text(request_token: str, id: str, status: str, message: bytes, fault: Fault | None) -> bytes:
    """The canonical bytes of a response.

    Request's token, id, status, message; then type, text, trace, retry hint of the fault, or four empty parts.

    A fault that tells the node's clock has that as one part more; one with data has two more, the clock first.
    """
    texts = (request_token, id, status)
    if fault is None:
        head = (
            f"21:servicebus/2 response{len(request_token)}:{request_token}{len(id)}:{id}{len(status)}:{status}"
            f"{len(message)}:"
        )
        if head.isascii():
            return b"".join((head.encode(), message, b"0:0:0:0:"))
        about: tuple[str, ...] = ("", "", "", "")
    else:
        retry = "" if fault.retry_after_ms is None else str(fault.retry_after_ms)
        more: tuple[str, ...] = () if fault.clock_ms is None else (str(fault.clock_ms),)
        if fault.data:
            more = (*(more or ("",)), fault.data)
        about = (fault.type, fault.text, fault.trace or "", retry, *more)
    parts = (*(text.encode() for text in texts), message, *(text.encode() for text in about))
    return canonical_bytes(RESPONSE_DOMAIN, *parts)
