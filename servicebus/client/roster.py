"""Roster: every unfinished request of a Sender, by where it is."""

from __future__ import annotations

from servicebus.client.deadlines import Deadlines
from servicebus.client.request import Request


class Roster:
    """Requests by their ids, in the order in which they came to where they are. Belongs to the engine's thread."""

    def __init__(self) -> None:
        self.travelling: dict[str, Request] = {}
        """Published on a link."""
        self.waiting: dict[str, Request] = {}
        """For a usable path."""
        self.pausing: dict[str, Request] = {}
        """Answered "busy", and asked again in a moment."""
        self.deadlines = Deadlines()

    def __len__(self) -> int:
        return len(self.travelling) + len(self.waiting) + len(self.pausing)

    def __repr__(self) -> str:
        return f"<Roster travelling={len(self.travelling)} waiting={len(self.waiting)} pausing={len(self.pausing)}>"

    def find(self, wire_id: str) -> Request | None:
        """The unfinished request with that id."""
        return self.travelling.get(wire_id) or self.waiting.get(wire_id) or self.pausing.get(wire_id)

    def finish(self, request: Request) -> None:
        """Strike *request* off."""
        self.travelling.pop(request.id, None)
        self.waiting.pop(request.id, None)
        self.pausing.pop(request.id, None)
        if request.path is not None:
            request.path.outstanding.pop(request.id, None)
        if request.copy is not None:
            request.copy.outstanding.pop(request.id, None)

    def give_up(self, request: Request) -> None:
        """Strike *request* off unanswered: its caller or its deadline says so."""
        for path in (request.path, request.copy):
            if path is not None:
                path.give_up(request)
        self.finish(request)

    def take_all(self) -> list[Request]:
        """Strike everybody off."""
        everybody = [*self.travelling.values(), *self.waiting.values(), *self.pausing.values()]
        for requests in (self.travelling, self.waiting, self.pausing):
            requests.clear()
        return everybody
