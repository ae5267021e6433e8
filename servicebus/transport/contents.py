"""Contents: deliveries and returns whose header or body frames are still to come, and bodies that are too long."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from servicebus.transport.frames import Properties, read_properties
from servicebus.transport.interface import Flaw, Origin
from servicebus.transport.properties import read_checked

__all__ = ["HEAD_BYTES", "Content", "WholeContent", "cut_off"]

HEAD_BYTES = 65536
"""So much is kept of a body that is too long."""


class Content:
    """A delivery, or what came back, whose header or body frames are still to come."""

    __slots__ = ("detail", "digest", "missing", "on_deliver", "pieces", "properties", "redelivered", "size", "tag")

    def __init__(self, on_deliver: Callable[..., None], tag: int, redelivered: bool):
        self.on_deliver = on_deliver
        self.tag = tag
        self.redelivered = redelivered
        self.properties: Properties | None = None
        self.detail = ""
        """Why the properties cannot be read."""
        self.size = self.missing = 0
        self.pieces: list[bytes] = []
        self.digest: Any = None
        """Of a body that is too long."""

    def read(self, data: bytes, at: int, end: int, flags: int) -> None:
        self.properties = read_properties(data, at, end, flags)

    def add(self, piece: bytes) -> None:
        if self.digest is None:
            self.pieces.append(piece)
            return
        self.digest.update(piece)
        if not self.pieces:
            self.pieces.append(piece[:HEAD_BYTES])

    def deliver(self, most_bytes: int) -> None:
        """Hand it on; all of it is here."""
        body = b"".join(self.pieces) if len(self.pieces) != 1 else self.pieces[0]
        if self.digest is not None:
            what = _oversized(self.size, most_bytes, self.digest)
            flaw = Flaw("oversized", f"{what}; {self.detail}" if self.detail else what)
        elif self.detail:
            flaw = Flaw("unreadable", self.detail)
        else:
            self.on_deliver(self.tag, self.redelivered, self.properties, body)
            return
        self.on_deliver(self.tag, self.redelivered, self.properties, body, flaw)


class WholeContent(Content):
    """The same of a message whose origin is of interest."""

    __slots__ = ("_take", "exchange", "origin", "routing_key")

    def __init__(self, on_deliver: Callable[..., None], tag: int, redelivered: bool, exchange: str, routing_key: str):
        super().__init__(self._with_origin, tag, redelivered)
        self.exchange, self.routing_key = exchange, routing_key
        self.origin = Origin(exchange, routing_key, 0, b"")
        self._take = on_deliver

    def read(self, data: bytes, at: int, end: int, flags: int) -> None:
        raw = data[at:end]
        # What of it cannot be read is this delivery's flaw, not a surprise later.
        self.properties = read_checked(flags, raw)
        self.origin = Origin(self.exchange, self.routing_key, flags, raw)

    def _with_origin(
        self, tag: int, redelivered: bool, properties: Properties, body: bytes, flaw: Flaw | None = None
    ) -> None:
        self._take(tag, redelivered, properties, body, flaw, self.origin)


def cut_off(body: bytes, most_bytes: int) -> tuple[Flaw, bytes]:
    """What is kept of a *body* that is too long, and why it is not to be executed."""
    return Flaw("oversized", _oversized(len(body), most_bytes, hashlib.sha256(body))), body[:HEAD_BYTES]


def _oversized(size: int, most_bytes: int, digest: Any) -> str:
    return f"{size} bytes, allowed are {most_bytes}; SHA-256 {digest.hexdigest()}, kept is the beginning"
