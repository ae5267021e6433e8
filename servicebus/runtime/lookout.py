"""Lookout: has the broker show what it knows of us: queues, bindings and consumers, which others may have deleted.

Our consumers would live on and never hear of a binding that is gone, nor of a broker that has forgotten them.

Every second look is a thorough one: exchange, bindings and all queues. The others only count who consumes the queues
that callers publish to. A binding costs the broker as much as three queues, and an agent at rest does hardly anything
but look.
"""

from __future__ import annotations

from collections.abc import Callable

from servicebus.configuration import Configuration
from servicebus.runtime.attendance import Attendance
from servicebus.runtime.fleeting import FleetingQueues
from servicebus.runtime.lanes import Lanes
from servicebus.runtime.topology import count_consumers, declare_again, lane_counts
from servicebus.transport.loggers import get_logger
from servicebus.transport.loop import EventLoop
from servicebus.transport.stored import StoredQueues

LOG = get_logger(__name__)

_LOOK_AGAIN_S = 1.0
"""When a look has found a queue with fewer consumers than the others."""


class Lookout:
    """Belongs to the I/O thread, and to one generation of a consumer's connections.

    Args:
        is_wanted: whether all of it should be there now.
        on_unattended: called with the reason when a queue of ours has no consumer at all.
    """

    def __init__(
        self,
        loop: EventLoop,
        host_name: str,
        config: Configuration,
        fleeting: FleetingQueues,
        stored: StoredQueues,
        lanes: Lanes,
        is_wanted: Callable[[], bool],
        on_unattended: Callable[[str], None],
    ):
        self._loop = loop
        self._host_name = host_name
        self._config = config
        self._fleeting = fleeting
        self._stored = stored
        self._lanes = lanes
        self._is_wanted = is_wanted
        self._on_unattended = on_unattended
        self._attendance = Attendance()
        self._is_looking = False
        self._was_thorough = True

    def look(self) -> None:
        """Have everything shown, or every other time the most important; not while the last answers are to come."""
        channel = self._lanes.channel("echo")
        if self._is_looking or channel is None or not self._is_wanted():
            return
        self._is_looking = True
        consumers: dict[str, int] = {}
        stored = None if self._lanes.problem else self._stored
        self._was_thorough = not self._was_thorough or self._attendance.is_in_doubt
        show = declare_again if self._was_thorough else count_consumers
        channel.run(show(self._config, self._fleeting, stored, consumers), lambda: self._looked(consumers))

    def _looked(self, consumers: dict[str, int]) -> None:
        self._is_looking = False
        if not self._is_wanted():
            return
        unattended = [queue for queue, count in consumers.items() if not count]
        if unattended:
            self._on_unattended(f"nobody consumes {', '.join(unattended)} any more")
            return
        short = self._attendance.look(lane_counts(self._config.node_name, consumers))
        if short:
            # One of the node's workers is not consuming there, and nobody knows which: all of them begin anew.
            text = ", ".join(sorted(short))
            LOG.warning("%s: a consumer of %s is missing; consuming anew", self._host_name, text)
            self._lanes.consume_again(short)
        elif self._attendance.is_in_doubt:
            self._loop.call_later(_LOOK_AGAIN_S, self.look)
