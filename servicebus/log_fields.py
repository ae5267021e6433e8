"""The ids of a request in log records: of the call or message, of its trace, and of its caller.

``RequestFields`` is for Python's logging, ``add_fields()`` for structlog. Both need no other package; they know the
current span of OpenTelemetry if the program has imported it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any

from servicebus.services import current_request

__all__ = ["FIELDS", "FieldsFormatter", "RequestFields", "add_fields", "request_fields"]

FIELDS = ("request_id", "caller", "trace_id", "span_id")
"""The names of the fields."""

_API = "opentelemetry.trace"
_PARENT_PARTS = 4


def request_fields() -> dict[str, str]:
    """What the calling thread or task is serving: each of FIELDS, "" for what is not known. For any thread.

    ``request_id`` is the id on the wire, by which ``servicebus dead`` and agents' log lines name it too. ``trace_id``
    and ``span_id`` are those of the current span of OpenTelemetry, also outside of a service; without one those
    that the request came with.
    """
    request = current_request()
    if request is None:
        return {"request_id": "", "caller": "", **_span_ids("")}
    return {"request_id": request.id, "caller": request.caller, **_span_ids(request.context.get("traceparent", ""))}


class RequestFields(logging.Filter):
    """Gives each record that passes its handler FIELDS as attributes, and lets all pass. What has them keeps them.

    For handlers: ``handler.addFilter(RequestFields())``, or ``"()": "servicebus.log_fields.RequestFields"`` among the
    filters of ``logging.config.dictConfig()``. Formats may name the fields then: ``%(request_id)s``.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        fields = dict.fromkeys(FIELDS, "")
        with suppress(Exception):  # a record is worth more than its fields
            fields = request_fields()
        for name, value in fields.items():
            record.__dict__.setdefault(name, value)
        return True


class FieldsFormatter(logging.Formatter):
    """Writes a record, and behind the first line those of its fields that are known: ``text [request_id=... ...]``.

    For handlers that have the filter.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is logging's
        text = super().formatMessage(record)
        known = [f"{name}={value}" for name in FIELDS if (value := record.__dict__.get(name))]
        if not known:
            return text
        first, *others = text.split("\n", 1)
        return "\n".join([f"{first} [{' '.join(known)}]", *others])


def add_fields(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A processor of structlog: adds those of FIELDS that are known, and leaves what is there already."""
    for name, value in request_fields().items():
        if value:
            event.setdefault(name, value)
    return event


def _span_ids(traceparent: str) -> dict[str, str]:
    api = sys.modules.get(_API)
    if api is not None:
        span = api.get_current_span().get_span_context()
        if span.is_valid:
            return {"trace_id": f"{span.trace_id:032x}", "span_id": f"{span.span_id:016x}"}
    parts = traceparent.split("-")
    if len(parts) < _PARENT_PARTS:
        return {"trace_id": "", "span_id": ""}
    return {"trace_id": parts[1], "span_id": parts[2]}
