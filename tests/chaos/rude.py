"""What users' code does to a process of the bus: forks and pools, signals to children, broken logging, no stderr."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import random
import signal
import sys
import time
from concurrent.futures import Future
from typing import Any

from tests.chaos.history import History

__all__ = ["CHILDREN", "make_child", "raise_something", "spoil_logging"]

CHILDREN = {"exits": 0.3, "raises": 0.3, "gets TERM": 0.3, "pool": 0.1}
"""How a child ends, and how often."""
_ENDS_WITHIN_S = 20.0
_SPOILT_SHARE = 0.05


def make_child(params: dict[str, Any], history: History) -> None:
    """Make a child that ends as *params* say, and tell the history whether it did. Does not return in the child."""
    how = params["how"]
    has_ended = _use_pool() if how == "pool" else _fork(how)
    history.child(params["op"], how, has_ended)


def _fork(how: str) -> bool:
    child = os.fork()
    if child == 0:
        _end(how)
    if how == "gets TERM":
        os.kill(child, signal.SIGTERM)
    deadline = time.monotonic() + _ENDS_WITHIN_S
    with contextlib.suppress(ChildProcessError):  # somebody else has seen it end
        while os.waitpid(child, os.WNOHANG)[0] == 0:
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return False
            time.sleep(0.002)
    return True


def _end(how: str) -> None:
    if how == "exits":
        sys.exit(7)
    if how == "gets TERM":
        time.sleep(_ENDS_WITHIN_S + 5.0)
        os._exit(0)  # its worker was killed before it could send the TERM
    raise ValueError("a child that fails")


def _use_pool() -> bool:
    with multiprocessing.get_context("fork").Pool(1) as pool, contextlib.suppress(multiprocessing.TimeoutError):
        return bool(pool.apply_async(abs, (-1,)).get(_ENDS_WITHIN_S))
    return False


class _Unreliable(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        if random.random() < _SPOILT_SHARE:
            raise SystemExit(f"a filter that fails at a record of {record.name}")
        return True


_UNRELIABLE = _Unreliable()


def spoil_logging(_params: dict[str, Any]) -> None:
    """Close stderr, and have filters raise at some records; both for as long as this process lives."""
    sys.stderr.close()
    root = logging.getLogger()
    for each in (root, *root.handlers):
        each.addFilter(_UNRELIABLE)


def raise_something(_future: Future[Any]) -> None:
    """A callback that ends as no callback should."""
    raise random.choice([SystemExit, KeyboardInterrupt, ValueError])("a callback that fails")
