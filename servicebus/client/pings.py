"""Asking whether a node is there, on a user's behalf."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any

_PER_ANSWER = 6


def count_answers(asks: list[Callable[[float], Future[Any]]], timeout_s: float) -> int:
    """How many of *asks* lead to an answer within *timeout_s*; each sends a ping that is waited for as long as told.

    Each is asked several times: of several agents with one name a frozen one may get the first ping.
    """
    deadline = time.monotonic() + timeout_s
    asked: dict[Future[Any], int] = {}
    answered: set[int] = set()
    while (left_s := deadline - time.monotonic()) > 0 and len(answered) < len(asks):
        for number, ask in enumerate(asks):
            if number not in answered:
                asked[ask(left_s)] = number
        # Who has failed at once is asked again with the others, not sooner.
        until = min(time.monotonic() + timeout_s / _PER_ANSWER, deadline)
        while asked and len(answered) < len(asks) and (pause_s := until - time.monotonic()) > 0:
            answered |= _hear(asked, pause_s)
        if not asked:
            break
    for future in asked:
        future.cancel()
    return len(answered)


def _hear(asked: dict[Future[Any], int], pause_s: float) -> set[int]:
    """Wait for whatever ends first, take it out, and say whose answers were among it."""
    ended = {future: asked.pop(future) for future in wait(asked, pause_s, FIRST_COMPLETED).done}
    return {number for future, number in ended.items() if future.exception() is None}
