"""BaseChannel: what the channels of all transports have in common: scripts, questions and guarded callbacks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

from servicebus.errors import TransportError
from servicebus.transport.frames import Properties
from servicebus.transport.interface import Asked, BrokerConnection, Returned, Script

__all__ = ["BaseChannel", "ChannelConnection"]


class ChannelConnection(BrokerConnection, Protocol):
    """A connection, as the channels that it has made use it."""

    def forget(self, channel: Any) -> None:
        """*channel* is closed."""


class BaseChannel:
    """Belongs to the loop's thread. Runs scripts, and notes which question to the broker is unanswered.

    The arguments are those of ``BrokerConnection.open_channel()``.
    """

    def __init__(
        self,
        connection: ChannelConnection,
        on_open: Callable[[Any], None],
        on_closed: Callable[[TransportError], None],
        on_returned: Callable[[Returned], None] | None,
        on_confirmed: Callable[[int, bool, bool], None] | None,
    ):
        self.is_open = False
        """Also kept by the connection, when that ends: it is read for each call."""
        self.asked: Asked | None = None
        self.has_unanswered = False
        """Something was asked without an answer: a refusal may be about that."""
        self.connection = connection
        self._on_open = on_open
        self._on_closed = on_closed
        self._on_returned = on_returned
        self._on_confirmed = on_confirmed
        self._published = 0
        self._script: Script | None = None

    def run(self, script: Script, on_done: Callable[[], None] | None = None) -> None:
        self._script = script
        self._advance(on_done, None)

    def _advance(self, on_done: Callable[[], None] | None, answer: Any) -> None:
        script = self._script
        if script is None or not self.is_open:
            return
        try:
            step = script.send(answer)
        except StopIteration:
            if self._script is script:  # the script's own end may have started the next one
                self._script = None
            if on_done is not None:
                on_done()
            return
        step(self, functools.partial(self._advance, on_done))  # type: ignore[arg-type]

    def _end_script(self) -> None:
        """The channel has closed."""
        if self._script is not None:
            self._script.close()
            self._script = None

    def _asking(
        self, queue: str, on_answer: Callable[[Any], None], *, is_declaration: bool = False
    ) -> Callable[[Any], None]:
        """*on_answer*, and note until then what the broker was asked about."""
        self.asked = Asked(queue, is_declaration)

        def answered(answer: Any) -> None:
            self.asked = None
            self.has_unanswered = False
            on_answer(answer)

        return answered

    def _refused_question(self) -> Asked | None:
        """The question that a refusal is about, if that is known."""
        return None if self.has_unanswered else self.asked

    def _end_cancelled(self, reason: TransportError) -> None:
        if self.is_open:
            self._on_closed(reason)

    def _returned(self, reason: str, exchange: str, routing_key: str, about: Properties, body: bytes) -> None:
        """What was mandatory has no queue."""
        if self._on_returned is not None:
            correlation_id, _, message_id, _ = about
            returned = Returned(exchange, routing_key, correlation_id, message_id, body, reason)
            self._guarded(self._on_returned, returned)

    def _guarded(self, callback: Callable[..., None] | None, *about: Any) -> None:
        """An exception of *callback* costs its own frame, not what was read with it."""
        assert callback is not None
        try:
            callback(*about)
        except Exception as error:
            self.connection.loop.failed(callback, error)
