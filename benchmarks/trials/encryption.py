#!/usr/bin/env python3
"""Random changes of encrypted envelopes, most of them well signed: none may be accepted.

Who changes them may sign, for that is what encryption is for: other programs of the bus, which have the secret and not
the key. So a changed envelope gets a new token, by the same secret or by that of another caller, but for one in four,
whose bytes are changed as they are. What is read is what a node or a Sender reads::

    python -m benchmarks.trials.encryption                # 1,000,000 changes
    python -m benchmarks.trials.encryption --plant        # the header is not bound to the text: it must be found

Exit status 1 if a change was accepted. A change that made nothing else of an envelope is not counted.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

from servicebus import Secret
from servicebus._secret import SecretText
from servicebus.configuration.values import EncryptionSettings
from servicebus.errors import EnvelopeError
from servicebus.protocol import encryption as bound_by
from servicebus.protocol.encryption import Encryption
from servicebus.wire.address import Address
from servicebus.wire.envelope import CALL, EVENT, MESSAGE, OK, Envelope, Kind
from servicebus.wire.jsontext import encode_json, encode_params
from servicebus.wire.signing import Keyring
from servicebus.wire.xmlcodec import decode_envelope, decode_reply, write_answer, write_event

KEYS = ["the key that encrypts", "a key that encrypted before"]
SECRET, OF_SHOP = "the secret that signs", "the key with which shop signs"
MAX_BYTES = 1 << 20
RING = Keyring([SECRET], {"shop": [OF_SHOP]})
SIGNERS = [Keyring([SECRET]), Keyring([OF_SHOP])]
REQUEST: Any = SimpleNamespace(params=b"", kind=CALL, address=Address.parse("NODE-01.pay.transfer"))
BYTES = bytes(range(256))


@dataclass
class Original:
    """An envelope or a reply, encrypted."""

    body: bytes
    envelope: Envelope | None
    """None for a reply, to the request with *request_token*."""
    request_token: str = ""
    id: str = ""
    message: bytes = b""


class Trial:
    def __init__(self, seed: int, *, is_planted: bool):
        self.random = random.Random(seed)
        self.encryption = Encryption(EncryptionSettings(tuple(map(Secret, KEYS))), MAX_BYTES)
        if is_planted:
            _plant()
        self.originals = [self._made(n) for n in range(120)]
        self.accepted: list[tuple[str, bytes]] = []
        self.refused: Counter[str] = Counter()

    # -- what is changed -----------------------------------------------------------------------------------------------

    def _made(self, n: int) -> Original:
        keys = [KEYS[n % 2], KEYS[1 - n % 2]]
        settings = EncryptionSettings(
            tuple(map(Secret, keys)), () if n % 4 == 3 else ("*",), (), True, ("", "zlib", "zstd")[n % 3]
        )
        own = Encryption(settings, MAX_BYTES)
        value: Any = {"name": f"n {n}", "iban": Secret(f"DE{n}"), "rows": list(range(n * 3))}
        text = encode_params(value if n % 2 else {**value, "iban": f"DE{n}"} if n % 4 != 3 else value)
        id, kind = f"{n:016x}-{n + 1}", (CALL, MESSAGE)[n % 2]
        fields = id, "NODE-01", "pay", "transfer", kind, 1_700_000_000_000 + n, 5000 + n, "amq.rabbitmq.reply-to"
        more = 1 + n % 3, 0 if kind is CALL else n % 2, "", ("", '{"tenant":"a"}')[n % 2], ""
        asked: Any = SimpleNamespace(params=text, kind=kind, address=REQUEST.address)
        params = own.params_of(asked, SIGNERS[0].key_id, fields, more)
        token = SIGNERS[0].sign_event(*fields, params, more)
        body = write_event(*fields, params, token, more)
        if n % 3:
            return Original(body, decode_envelope(body, MAX_BYTES))
        incoming: Any = SimpleNamespace(token=token, given_id=id, raw_params=SecretText(b"1"))
        message = own.message(incoming, encode_json({"result": n}))
        answer = write_answer(id, SIGNERS[0].sign_reply(token, id, OK, message, None), message)
        return Original(answer, None, token, id, message)

    # -- changing ------------------------------------------------------------------------------------------------------

    def change(self) -> None:
        original = self.random.choice(self.originals)
        if self.random.random() < 0.25:
            self._judge("bytes", original, self._bytes(original.body))
        elif original.envelope is None:
            message = self._payload(original.message)
            token = SIGNERS[0].sign_reply(original.request_token, original.id, OK, message, None)
            self._judge("reply", original, write_answer(original.id, token, message))
        else:
            what, other = self._envelope(original.envelope)
            signer = SIGNERS[self.random.random() < 0.2]
            self._judge(what, original, _signed(other, signer))

    def _envelope(self, envelope: Envelope) -> tuple[str, Envelope]:
        if self.random.random() < 0.5:
            return "payload", replace(envelope, params=self._payload(envelope.params))
        what, make = self.random.choice(list(_FIELDS.items()))
        return f"field {what}", replace(envelope, **{what: make(self.random, getattr(envelope, what))})

    def _payload(self, payload: bytes) -> bytes:
        if self.random.random() < 0.1:  # moved here from another envelope
            other = self.random.choice(self.originals)
            return other.message if other.envelope is None else other.envelope.params
        return self._bytes(payload)

    def _bytes(self, text: bytes) -> bytes:
        at, how = self.random.randrange(len(text)), self.random.randrange(5)
        if how == 0:
            return text[:at] + bytes([text[at] ^ (1 << self.random.randrange(7))]) + text[at + 1 :]
        if how == 1:
            return text[:at] + text[at + self.random.randrange(1, 9) :]
        if how == 2:
            return text[:at] + bytes(self.random.choices(BYTES, k=self.random.randrange(1, 5))) + text[at:]
        if how == 3:
            to = self.random.randrange(len(text))
            low, high = min(at, to), max(at, to)
            return text[:low] + text[high : high + 1] + text[low + 1 : high] + text[low : low + 1] + text[high + 1 :]
        return text[:at]

    # -- judging -------------------------------------------------------------------------------------------------------

    def _judge(self, what: str, original: Original, body: bytes) -> None:
        if body == original.body:
            return
        try:
            if original.envelope is None:
                reply = decode_reply(body, MAX_BYTES)
                RING.verify_reply(reply, original.request_token)
                self.encryption.reply_to(REQUEST, original.request_token, reply)
                if reply.message == original.message:
                    return
            else:
                envelope = decode_envelope(body, MAX_BYTES)
                RING.verify_envelope(envelope)
                self.encryption.params_in_plain(envelope)
                if replace(envelope, token="") == replace(original.envelope, token="") and (
                    envelope.token[:8] == original.envelope.token[:8]
                ):
                    return
        except EnvelopeError as error:
            self.refused[error.reason] += 1
            return
        self.accepted.append((what, body))


def _other(values: list[Any]) -> Callable[[random.Random, Any], Any]:
    return lambda source, now: source.choice([each for each in values if each != now])


_FIELDS: dict[str, Callable[[random.Random, Any], Any]] = {
    "id": lambda source, _: f"{source.getrandbits(64):016x}-{source.randrange(1, 10**9)}",
    "node": _other(["NODE-01", "NODE-02", "N"]),
    "category": _other(["pay", "math", "p"]),
    "service": _other(["transfer", "refund", "t"]),
    "kind": _other([Kind.CALL, Kind.MESSAGE]),
    "sent_ms": lambda source, now: now + source.randrange(1, 10**6),
    "ttl_ms": lambda source, now: now + source.randrange(1, 10**6),
    "reply": _other(["amq.rabbitmq.reply-to", "", "q"]),
    "attempt": lambda source, now: now + source.randrange(1, 9),
    "contract": lambda source, _: f"{source.getrandbits(96):024x}",
    "context": lambda source, _: f'{{"tenant":"{source.getrandbits(32)}"}}',
}


def _signed(envelope: Envelope, signer: Keyring) -> bytes:
    e = envelope
    reply, due_ms = e.reply, 0 if e.kind not in (MESSAGE, EVENT) else e.due_ms
    fields = e.id, e.node, e.category, e.service, e.kind, e.sent_ms, e.ttl_ms, reply, e.params
    more = e.attempt, due_ms, e.contract, e.context, e.stream
    return write_event(*fields, signer.sign_event(*fields, more), more)


def _plant() -> None:
    """The header is not bound to what is encrypted: only the head of the payload is."""
    for name in ("_event_bound", "_response_bound"):
        setattr(bound_by, name, lambda *_: lambda head: head)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--changes", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plant", action="store_true", help="a defect that must be found")
    given = parser.parse_args(arguments)
    trial, began = Trial(given.seed, is_planted=given.plant), time.monotonic()
    while trial.refused.total() + len(trial.accepted) < given.changes:
        trial.change()
    took_s = time.monotonic() - began
    print(f"seed {given.seed}: {given.changes} changes in {took_s:.0f} s, {len(trial.accepted)} accepted")
    print("refused:", ", ".join(f"{reason} {count}" for reason, count in trial.refused.most_common()))
    for what, count in Counter(what for what, _ in trial.accepted).most_common():
        print(
            f"ACCEPTED {count} x {what}, such as {next(body for each, body in trial.accepted if each == what)[:300]!r}"
        )
    return 1 if trial.accepted else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
