"""The lines between the suite and a client: orders come on stdin, what became of them goes to stdout."""

from __future__ import annotations

import json
import sys
import time
from typing import Any


def say(kind: str, **fields: Any) -> None:
    """A line; the mark tells it from what a library may print."""
    assert sys.__stdout__ is not None
    sys.__stdout__.write("@" + json.dumps({"kind": kind, **fields}) + "\n")
    sys.__stdout__.flush()


def hear() -> dict[str, Any]:
    """The next order; to quit if the suite has gone."""
    line = sys.stdin.readline()
    return dict(json.loads(line)) if line else {"phase": "quit"}


def begin() -> float:
    """Says that the clock may start. The suite looks at the CPU times, then lets go; returns when."""
    say("begin")
    hear()
    return time.perf_counter()
