"""Headers of a stored message, cut to what one frame holds: AMQP 0-9-1 cannot split a header frame (4.2.6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from servicebus.transport.frames import FRAME_OVERHEAD, table_bytes
from servicebus.wire import headers

__all__ = ["fitted"]

_OTHER_PROPERTIES = 14 + 1 + 256
"""The fixed part of a header frame, the delivery mode and the longest message id."""
_MARK = "\u2026"


def fitted(given: Mapping[str, Any], frame_max: int) -> dict[str, Any]:
    """*given*, or as much of it as a frame of *frame_max* bytes (0: of any size) holds.

    The trace goes first, from its start; then the detail, from its end; then the sender's own headers, the largest
    first. What cannot be encoded is left out.
    """
    kept = {name: value for name, value in given.items() if table_bytes({name: value}) is not None}
    room = frame_max - FRAME_OVERHEAD - _OTHER_PROPERTIES
    if not frame_max or _excess(kept, room) <= 0:
        return kept
    for name in (headers.TRACE, headers.DETAIL):
        excess = _excess(kept, room)
        text = kept.get(name)
        if excess > 0 and isinstance(text, str):
            kept[name] = _cut(text, excess, keeps_end=name == headers.TRACE)
    others = sorted(
        (name for name in kept if not headers.is_ours(name)), key=lambda name: table_bytes({name: kept[name]}) or 0
    )
    while others and _excess(kept, room) > 0:
        del kept[others.pop()]
    return kept


def _excess(kept: Mapping[str, Any], room: int) -> int:
    return (table_bytes(kept) or 0) - room


def _cut(text: str, excess: int, *, keeps_end: bool) -> str:
    raw = text.encode("utf-8", "replace")
    left = max(0, len(raw) - excess - len(_MARK.encode()))
    if not left:
        return ""
    if keeps_end:
        return _MARK + raw[-left:].decode("utf-8", "ignore")
    return raw[:left].decode("utf-8", "ignore") + _MARK
