"""Load: what the loads of a sender process share."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tests.chaos.history import History, op_number
from tests.chaos.rude import CHILDREN
from tests.chaos.services import HUGE, LARGE

__all__ = ["Load", "one_of", "params_for"]


class Load:
    """For the threads of sender *number*; *ops* counts its operations of all kinds."""

    def __init__(
        self, history: History, number: int, nodes: Sequence[str], ops: itertools.count[int], counts: Counter[str]
    ):
        self._history = history
        self._number = number
        self._nodes = nodes
        self._ops = ops
        self._counts = counts

    def next_op(self) -> int:
        return op_number(self._number, next(self._ops))

    def failed(self, error: BaseException) -> None:
        self._counts[f"error {type(error).__name__}"] += 1


def one_of(rng: random.Random, shares: dict[str, float]) -> str:
    return rng.choices(list(shares), list(shares.values()))[0]


def params_for(rng: random.Random, op: int, service: str) -> dict[str, Any]:
    """What a call or message to *service* says."""
    size = {"large": LARGE, "huge": HUGE}.get(service) or rng.randrange(200)
    params: dict[str, Any] = {"op": op, "text": "x" * size}
    if service in ("slow", "idem"):
        params["ms"] = rng.randrange(20, 400)
    if service == "forks":
        params["how"] = one_of(rng, CHILDREN)
    return params
