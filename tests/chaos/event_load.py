"""The events that a sender of the rig publishes, each told to the history."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from tests.chaos.history import History, op_number
from tests.chaos.services import LARGE
from tests.chaos.subscribers import EVENTS, subscribers

if TYPE_CHECKING:
    from servicebus.sender import Sender

__all__ = ["PUBLISHERS", "EventLoad"]

PUBLISHERS = 2
_TIMEOUTS_S = (2.0, 10.0)
_OUTBOX_SHARE = 0.25
_DELAYED_SHARE = 0.05


class EventLoad:
    """For the threads of sender *number*; *ops* counts its operations of all kinds."""

    def __init__(
        self, history: History, number: int, nodes: Sequence[str], ops: itertools.count[int], counts: Counter[str]
    ):
        self._history = history
        self._number = number
        self._nodes = nodes
        self._ops = ops
        self._counts = counts

    def publish(self, sender: Sender, outbox: Sender | None, pace: Iterable[int], rng: random.Random) -> None:
        """Publish at that *pace*, a part of them by the *outbox*."""
        for _ in pace:
            (event,) = rng.choices(list(EVENTS), list(EVENTS.values()))
            through = outbox if outbox is not None and rng.random() < _OUTBOX_SHARE else sender
            options: dict[str, Any] = {"timeout": rng.uniform(*_TIMEOUTS_S)}
            if rng.random() < _DELAYED_SHARE:
                options["delay"] = rng.uniform(0.1, 3.0)
            op = op_number(self._number, next(self._ops))
            params = {"op": op, "text": "x" * (LARGE if event == "chaos.large" else rng.randrange(200))}
            self._history.invoked(op, "event", event, subscribers=subscribers(event, self._nodes))
            self._counts["events"] += 1
            try:
                receipt = through.publish(event, params, **options)
            except Exception as error:
                self._history.refused(op, error)
                self._counts[f"error {type(error).__name__}"] += 1
            else:
                unheard = receipt.subscribers is False
                self._history.confirmed(op, receipt, outbox=receipt.in_outbox, unheard=unheard)
                self._counts["events in outbox" if receipt.in_outbox else "events confirmed"] += 1
