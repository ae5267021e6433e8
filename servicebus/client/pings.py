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
        for future in wait(asked, min(timeout_s / _PER_ANSWER, left_s), FIRST_COMPLETED).done:
            number = asked.pop(future)
            if future.exception() is None:
                answered.add(number)
        if not asked:
            break
    for future in asked:
        future.cancel()
    return len(answered)
