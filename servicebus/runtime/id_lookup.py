"""IdLookup: what the node knows of requests by their ids on the wire, for an operator who asks (``servicebus what``).

The journal knows most requests by the id that their Senders gave them, and some by one that is made of it: those of
callers with keys of their own, the runs of an event for each subscription, and dead letters that were sent back. All
that the node may have made of an id are looked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from servicebus.configuration import Configuration
from servicebus.errors import EnvelopeError
from servicebus.runtime.dispatcher import Dispatcher
from servicebus.runtime.journal import IdRecord
from servicebus.wire.envelope import callers_id
from servicebus.wire.events import event_key, event_queue, run_id
from servicebus.wire.stamps import requeued_id
from servicebus.wire.xmlcodec import decode_reply

__all__ = ["IdLookup"]

_REQUEUED = 3
"""A dead letter is looked for as sent back so often."""
_EVENT = event_key("")


class _Name(NamedTuple):
    """One id under which the journal may know a request."""

    id: str
    caller: str = ""
    subscription: str = ""
    requeued: int = 0
    """How often it was sent back from the dead letters."""


class IdLookup:
    """Belongs to the I/O thread."""

    def __init__(self, config: Configuration, dispatcher: Dispatcher):
        self._node = config.node_name
        self._callers = tuple(config.callers)
        self._max_bytes = config.max_envelope_bytes
        self._dispatcher = dispatcher

    def known(self, ids: Sequence[str], caller: str) -> dict[str, list[dict[str, Any]]]:
        """What the node knows of each of *ids* that it knows, as ``protocol.discovery.Answer.known``.

        Args:
            caller: who asks; one with a key of its own is told of its own requests alone.

        Raises:
            JournalUnavailable
        """
        names = [(id, name) for id in ids for name in self._names(id, caller)]
        found: dict[str, list[dict[str, Any]]] = {}
        for (id, name), record in zip(names, self._dispatcher.look_up([name.id for _, name in names]), strict=True):
            if record is not None:
                found.setdefault(id, []).append(self._told(id, name, record))
        return found

    def _names(self, id: str, caller: str) -> Iterator[_Name]:
        yield from self._runs(_Name(callers_id(id, caller) if caller else id, caller))
        for other in () if caller else self._callers:
            yield from self._runs(_Name(callers_id(id, other), other))

    def _runs(self, name: _Name) -> Iterator[_Name]:
        """As a message or call, and as an event for each subscription; and sent back from the dead letters."""
        keys = [key for _, key in self._dispatcher.services if key.startswith(_EVENT)]
        for subscription in ("", *(key.removeprefix(_EVENT) for key in keys)):
            queue = event_queue(self._node, subscription) if subscription else ""
            run, former = (run_id(name.id, queue) if queue else name.id), ""
            yield name._replace(id=run, subscription=subscription)
            for times in range(1, _REQUEUED + 1):
                former = requeued_id(name.id, former, queue)
                yield _Name(former, name.caller, subscription, times)

    def _told(self, id: str, name: _Name, record: IdRecord) -> dict[str, Any]:
        more = {**name._asdict(), "attempts": record.attempts, "deaths": record.deaths}
        if (known_as := more.pop("id")) != id:
            more["as"] = known_as
        if record.answer is not None:
            more["answer"] = self._what_was_answered(record.answer)
        return {"state": str(record.state), **{key: value for key, value in more.items() if value}}

    def _what_was_answered(self, answer: bytes) -> str:
        """Never what is in it."""
        try:
            reply = decode_reply(answer, self._max_bytes)
        except EnvelopeError:  # in version 1
            return "stored"
        return "ok" if reply.fault is None else reply.fault.type
