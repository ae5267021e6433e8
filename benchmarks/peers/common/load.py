"""What is sent: two numbers to be added and, where sizes are measured, a text that makes the params as long as wanted.

The text is that of a log, with the characters that XML and JSON must escape.
"""

from __future__ import annotations

import json
from typing import Any

ANSWER = 3
_LINE = '10.0.0.7 - - "GET /orders?first=10&count=20 HTTP/1.1" 200 1834 <0.0021 s>\n'


def params(size: int | None = None) -> list[Any]:
    """``[1, 2]``, or params whose JSON has *size* bytes, 10 at least."""
    if size is None:
        return [1, 2]
    room = size - len(json.dumps([1, 2, ""]))
    if room < 0:
        raise ValueError(f"params have 10 bytes at least, not {size}")
    line = len(json.dumps(_LINE)) - 2
    return [1, 2, _LINE * (room // line) + "." * (room % line)]


def add(numbers: list[Any]) -> int:
    """What the service does."""
    return int(numbers[0] + numbers[1])
