"""TextRequest: a request whose params nobody has read yet."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from servicebus.runtime.job import Job
from servicebus.services import Event, Request
from servicebus.wire.jsontext import decode_params

__all__ = ["TextRequest"]


class TextRequest(Request):
    """A request whose params and event are made when they are asked for: a typed function has its own."""

    def __init__(self, job: Job, make_sender: Callable[[], Any]):
        self._job = job
        self._deadline = job.deadline
        self._make_sender = make_sender
        self._fate = job
        self._sender = None
        if job.incoming.context is not None:
            self._context = job.incoming.context

    @property
    def id(self) -> str:
        return self._job.incoming.given_id or self._job.incoming.id

    @cached_property
    def _event(self) -> Event:  # type: ignore[override]
        incoming = self._job.incoming
        id, params = incoming.given_id or incoming.id, decode_params(incoming.raw_params)
        return Event(id, incoming.category, incoming.service, incoming.token, params, incoming.version)
