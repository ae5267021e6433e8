"""Asking whether a node is there, on a user's behalf."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any

_PER_ANSWER = 6
_MARGIN_S = 0.25
"""A ping that nothing answers ends by itself at its deadline, with an error that says what was tried."""


def ask_each(asks: list[Callable[[float], Future[Any]]], timeout_s: float) -> list[BaseException | None]:
    """What became of each of *asks*: None if it led to an answer within *timeout_s*, else why not.

    Each is asked several times: of several agents with one name a frozen one may get the first ping.

    Args:
        asks: send a ping that is waited for as long as they are told, in seconds.
    """
    deadline = time.monotonic() + timeout_s
    asked: dict[Future[Any], int] = {}
    found: dict[int, BaseException | None] = {}

    def hear(pause_s: float) -> None:
        """Wait for what ends first; an answer counts more than an error."""
        for future in wait(asked, pause_s, FIRST_COMPLETED).done:
            number, error = asked.pop(future), future.exception()
            if found.get(number, _SILENCE) is not None:
                found[number] = error

    def is_open() -> bool:
        return any(found.get(number, _SILENCE) is not None for number in range(len(asks)))

    while (left_s := deadline - time.monotonic()) > 0 and is_open():
        for number, ask in enumerate(asks):
            if found.get(number, _SILENCE) is not None:
                asked[ask(left_s)] = number
        # What failed at once is asked again with the others, not sooner.
        until = min(time.monotonic() + timeout_s / _PER_ANSWER, deadline)
        while asked and is_open() and (pause_s := until - time.monotonic()) > 0:
            hear(pause_s)
        if not asked:
            break
    until = time.monotonic() + _MARGIN_S
    while asked and len(found) < len(asks) and (pause_s := until - time.monotonic()) > 0:
        hear(pause_s)
    for future in asked:
        future.cancel()
    return [found.get(number, _SILENCE) for number in range(len(asks))]


_SILENCE = TimeoutError("no answer")
