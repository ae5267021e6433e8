"""The messages that a sender of the rig sends, each told to the history."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tests.chaos.load import Load, one_of, params_for
from tests.chaos.services import MESSAGES, RUDE_MESSAGES, TELLING

if TYPE_CHECKING:
    from servicebus.sender import Sender

__all__ = ["SENDERS", "MessageLoad"]

SENDERS = 3
_TIMEOUTS_S = (2.0, 10.0)
_OUTBOX_SHARE = 0.15
_DELAYED_SHARE = 0.03
_POISON_SHARE = 0.002


class MessageLoad(Load):
    def send(
        self, sender: Sender, outbox: Sender, pace: Iterable[int], rng: random.Random, has_poison: bool = False
    ) -> None:
        """Send at that *pace*, a part of them by the *outbox*."""
        for _ in pace:
            is_poison = has_poison and rng.random() < _POISON_SHARE
            service = "poison" if is_poison else one_of(rng, MESSAGES | RUDE_MESSAGES | TELLING)
            target = f"{rng.choice(self._nodes)}.jobs.{service}"
            op = self.next_op()
            params = params_for(rng, op, service)
            through = outbox if rng.random() < _OUTBOX_SHARE else sender
            options: dict[str, Any] = {"timeout": rng.uniform(*_TIMEOUTS_S)}
            if rng.random() < _DELAYED_SHARE:
                options["delay"] = rng.uniform(0.1, 3.0)
            self._history.invoked(op, "message", target, too_large=service == "huge")
            self._counts["messages"] += 1
            try:
                receipt = through.send(target, params, **options)
            except Exception as error:
                self._history.refused(op, error)
                self.failed(error)
            else:
                self._history.confirmed(op, receipt, outbox=receipt.in_outbox)
                self._counts["kept in outbox" if receipt.in_outbox else "confirmed"] += 1
