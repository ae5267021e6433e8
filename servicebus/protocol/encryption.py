"""Encryption of requests and replies of version 2: what is encrypted, what has to be, and to what it is bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from servicebus._secret import ENCRYPTED, SecretText
from servicebus.configuration import Configuration
from servicebus.configuration.values import EncryptionSettings
from servicebus.errors import ConfigurationError, EnvelopeError
from servicebus.policy.permissions import Permissions, Rules
from servicebus.protocol.interface import Incoming, OutgoingRequest
from servicebus.wire.encryption import NOT_ENCRYPTED, Bound, EncryptionKeys
from servicebus.wire.envelope import CONTROL, EVENT, FAULT, OK, Envelope, More, Reply
from servicebus.wire.events import EVENTS
from servicebus.wire.fault import EXPIRED, RESERVED, Fault
from servicebus.wire.jsontext import decode_json, encode_json
from servicebus.wire.signing import event_text, response_text
from servicebus.wire.streams import Chunk, chunk_text

__all__ = ["Encryption", "encryption_of", "is_secret", "needed"]

_ENCRYPTED = ENCRYPTED.decode()


def encryption_of(config: Configuration) -> Encryption | None:
    """By ``encryption`` of the configuration; None without it. Raises ConfigurationError: a library is missing."""
    if config.encryption is None:
        return None
    try:
        return Encryption(config.encryption, config.max_envelope_bytes)
    except (ImportError, ValueError) as error:
        raise ConfigurationError(str(error), path=config.path, key="encryption") from error


def needed(encryption: Encryption | None, why: str = "a Secret only travels encrypted") -> Encryption:
    """What encrypts a Secret. Raises EnvelopeError: there are no keys."""
    if encryption is None:
        raise EnvelopeError("unencodable", f"{why}, and there are no keys (encryption.keys)")
    return encryption


def is_secret(incoming: Incoming) -> bool:
    """Whether *incoming* has come encrypted, or a part of it."""
    return type(incoming.raw_params) is SecretText


class Encryption:
    """For any thread."""

    def __init__(self, settings: EncryptionSettings, max_bytes: int):
        self.keys = EncryptionKeys(settings.secrets, settings.compress)
        self._rules = Permissions({"": Rules(settings.services, (), settings.events)})
        self._is_required = settings.required
        self._max_bytes = max_bytes

    def __repr__(self) -> str:
        return f"<Encryption by {self.keys!r}>"

    def covers(self, target: str, *, is_event: bool) -> bool:
        """Whether the configuration says that what goes to the address or event *target* is encrypted."""
        return self._rules.decide("", target, is_event=is_event).is_allowed

    def check(self, target: str, *, is_event: bool = False) -> None:
        """Refuse what has come in plain to *target*, if it must not. Raises EnvelopeError."""
        if self._is_required and self.covers(target, is_event=is_event):
            raise not_encrypted(f"what goes to {target}", "by encryption of the configuration")

    # -- the Sender's side ---------------------------------------------------------------------------------------------

    def encrypts(self, request: OutgoingRequest) -> bool:
        """Whether *request* travels encrypted, or a part of it."""
        return type(request.params) is SecretText or self._covers(request)

    def _covers(self, request: OutgoingRequest) -> bool:
        return request.kind is not CONTROL and self.covers(
            str(request.address), is_event=request.address.node == EVENTS
        )

    def params_of(self, request: OutgoingRequest, signer: str, fields: Sequence[Any], more: More) -> bytes:
        """The params of *request* as they travel.

        Args:
            signer: the id of the key that signs it.
            fields: those of ``sign_event()`` before the params.
            more: those behind.
        """
        params, is_covered = request.params, self._covers(request)
        if type(params) is not SecretText and not is_covered:
            return params
        return self.keys.encrypt(params, _event_bound(signer, fields, more), is_whole=is_covered)

    def reply_to(self, request: OutgoingRequest, token: str, reply: Reply) -> Reply:
        """*reply*, which was verified with *token*, in plain.

        Raises:
            EnvelopeError: it cannot be decrypted, or it is in plain and must not be.
        """
        fault, message = reply.fault, reply.message
        if fault is None:
            if message.startswith(ENCRYPTED):
                text = self.keys.decrypt(message, _response_bound(token, reply.id), self._max_bytes)
                return Reply(reply.id, reply.token, OK, text, None, reply.attempt)
            if not self.encrypts(request):
                return reply
        elif not self.encrypts(request):
            return reply
        elif fault.text.startswith(_ENCRYPTED):
            return replace(reply, fault=self._fault_in_plain(fault, token, reply.id))
        elif fault.type in RESERVED:  # of a node that could not decrypt it, perhaps
            return reply
        raise not_encrypted("the reply", "as its request is encrypted")

    def _fault_in_plain(self, fault: Fault, token: str, id: str) -> Fault:
        told = self.keys.decrypt(fault.text.encode(), _fault_bound(token, id, fault), self._max_bytes)
        try:
            text, trace, data = decode_json(told)
        except (TypeError, ValueError):
            raise EnvelopeError("encryption", "what is in the fault is not [text, trace, data]") from None
        return replace(fault, text=text, trace=trace, data=data)

    def chunk_in_plain(self, request: OutgoingRequest, token: str, chunk: Chunk) -> Chunk:
        """The same of a chunk of a stream."""
        if not chunk.items.startswith(ENCRYPTED) and self.encrypts(request):
            raise not_encrypted("the chunk", "as its request is encrypted")
        return self.items_in_plain(token, chunk)

    def items_in_plain(self, token: str, chunk: Chunk) -> Chunk:
        """*chunk*, which was verified with *token*, decrypted if it is encrypted. Raises EnvelopeError."""
        if not chunk.items.startswith(ENCRYPTED):
            return chunk
        return replace(chunk, items=self.keys.decrypt(chunk.items, _chunk_bound(token, chunk), self._max_bytes))

    # -- the agent's side ----------------------------------------------------------------------------------------------

    def params_in_plain(self, envelope: Envelope) -> bytes:
        """The params of *envelope*, whose token is verified: a SecretText if they came encrypted.

        Raises:
            EnvelopeError: they cannot be decrypted, or are in plain and must not be.
        """
        e, params = envelope, envelope.params
        if e.kind is CONTROL:
            return params
        if not params.startswith(ENCRYPTED):
            self.check(e.address, is_event=e.kind is EVENT)
            return params
        fields = e.id, e.node, e.category, e.service, e.kind, e.sent_ms, e.ttl_ms, e.reply
        return self.keys.decrypt(params, _event_bound(e.token[:8], fields, e.more), self._max_bytes)

    def message(self, incoming: Incoming, text: bytes) -> bytes:
        """The message of the reply to *incoming* that says *text*."""
        bound = _response_bound(incoming.token, incoming.given_id)
        return self.keys.encrypt(text, bound, _key_of(incoming), is_whole=is_secret(incoming))

    def fault(self, incoming: Incoming, fault: Fault) -> Fault:
        """*fault* as the reply to *incoming*, which is encrypted, says it."""
        if fault.type == EXPIRED:  # it gets the time when it is written
            return fault
        told = encode_json([fault.text, fault.trace, fault.data])
        bound = _fault_bound(incoming.token, incoming.given_id, fault)
        text = self.keys.encrypt(told, bound, _key_of(incoming)).decode()
        return replace(fault, text=text, trace=None, data=None)

    def chunk(self, incoming: Incoming, chunk: Chunk) -> Chunk:
        """*chunk* as it travels."""
        bound = _chunk_bound(incoming.token, chunk)
        return replace(chunk, items=self.keys.encrypt(chunk.items, bound, _key_of(incoming)))


def not_encrypted(what: str, why: str) -> EnvelopeError:
    return EnvelopeError(NOT_ENCRYPTED, f"{what} has to be encrypted, {why}")


def _key_of(incoming: Incoming) -> str:
    return incoming.raw_params.key_id if isinstance(incoming.raw_params, SecretText) else ""


def _event_bound(signer: str, fields: Sequence[Any], more: More) -> Bound:
    return lambda head: signer.encode() + event_text(fields, head, more)


def _response_bound(request_token: str, id: str) -> Bound:
    return lambda head: response_text(request_token, id, OK, head, None)


def _fault_bound(request_token: str, id: str, fault: Fault) -> Bound:
    return lambda head: response_text(
        request_token, id, FAULT, b"", replace(fault, text=head.decode(), trace=None, data=None)
    )


def _chunk_bound(request_token: str, chunk: Chunk) -> Bound:
    return lambda head: chunk_text(request_token, replace(chunk, items=head))
