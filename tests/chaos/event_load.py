"""The events that a sender of the rig publishes, each told to the history."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tests.chaos.load import Load
from tests.chaos.services import LARGE
from tests.chaos.subscribers import EVENTS, subscribers

if TYPE_CHECKING:
    from servicebus.sender import Sender

__all__ = ["PUBLISHERS", "EventLoad"]

PUBLISHERS = 2
_TIMEOUTS_S = (2.0, 10.0)
_OUTBOX_SHARE = 0.25
_DELAYED_SHARE = 0.05


class EventLoad(Load):
    def publish(self, sender: Sender, outbox: Sender, pace: Iterable[int], rng: random.Random) -> None:
        """Publish at that *pace*, a part of them by the *outbox*."""
        for _ in pace:
            (event,) = rng.choices(list(EVENTS), list(EVENTS.values()))
            through = outbox if rng.random() < _OUTBOX_SHARE else sender
            options: dict[str, Any] = {"timeout": rng.uniform(*_TIMEOUTS_S)}
            if rng.random() < _DELAYED_SHARE:
                options["delay"] = rng.uniform(0.1, 3.0)
            op = self.next_op()
            params = {"op": op, "text": "x" * (LARGE if event == "chaos.large" else rng.randrange(200))}
            self._history.invoked(op, "event", event, subscribers=subscribers(event, self._nodes))
            self._counts["events"] += 1
            try:
                receipt = through.publish(event, params, **options)
            except Exception as error:
                self._history.refused(op, error)
                self.failed(error)
            else:
                unheard = receipt.subscribers is False
                self._history.confirmed(op, receipt, outbox=receipt.in_outbox, unheard=unheard)
                self._counts["events in outbox" if receipt.in_outbox else "events confirmed"] += 1
