"""Canceller: tells nodes of calls that nobody waits for any more. Best effort: no answer, no second attempt."""

from __future__ import annotations

import itertools
import os

from servicebus.client.path import Path
from servicebus.client.request import Request
from servicebus.wire.envelope import Kind, make_id


class Canceller:
    """Belongs to the engine's thread."""

    def __init__(self) -> None:
        self._incarnation = os.urandom(8).hex()
        self._count = itertools.count(1)

    def cancel(self, request: Request) -> None:
        """The caller of *request* has given up."""
        if request.kind is Kind.CALL:
            for path in (request.path, request.copy):
                if path is not None:
                    self.cancel_on(path, request)

    def cancel_on(self, path: Path, request: Request) -> None:
        """What *request* asks for is not needed from *path* any more."""
        if not path.link.is_usable:
            return
        wire_id = make_id(self._incarnation, next(self._count))
        said = path.version.cancel(path.node, request.id, wire_id)
        if said is not None:
            parcel, worth_s = said
            path.link.publish_control(parcel, wire_id, int(worth_s * 1000))
