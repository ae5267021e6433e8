"""What a sender of the rig publishes in the form of other programs, each told to the history."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from servicebus._plain import MessageProperties
from tests.chaos.load import Load, one_of
from tests.chaos.pipelines import BRIDGED, EXCHANGE, PATHS, moved_stage, stages

if TYPE_CHECKING:
    from servicebus.sender import Sender

__all__ = ["PlainLoad"]

_TIMEOUTS_S = (2.0, 10.0)


class PlainLoad(Load):
    def publish(self, sender: Sender, bridged_host: str, pace: Iterable[int], rng: random.Random) -> None:
        """Publish at that *pace*, a part of it to the queue of the bridge on *bridged_host*."""
        for _ in pace:
            path, node, then = one_of(rng, PATHS), rng.choice(self._nodes), rng.choice(self._nodes)
            op = self.next_op()
            body: dict[str, Any] = {"op": op}
            if path == BRIDGED:
                publisher, passes = (
                    sender.publisher_to(EXCHANGE, BRIDGED, host=bridged_host),
                    [moved_stage(self._nodes)],
                )
            else:
                publisher, passes = sender.publisher_to(EXCHANGE, f"{node}.step"), stages(node, then)
                body |= {"how": path, "then": then}
            about = MessageProperties(message_id=f"message-{op}")
            self._history.invoked(op, "plain", path, subscribers=passes)
            self._counts["plain"] += 1
            try:
                host = publisher.publish(body, timeout=rng.uniform(*_TIMEOUTS_S), properties=about)
            except Exception as error:
                self._history.refused(op, error)
                self.failed(error)
            else:
                self._history.confirmed(op, host)
