"""FaultyBroker: one broker of a bus in memory, with the faults that a test can give it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from servicebus._durations import to_seconds
from servicebus.errors import LifecycleError
from servicebus.transport.memory import MemoryBroker

__all__ = ["FaultyBroker"]


class FaultyBroker:
    """A broker in memory. Its methods have the names of those of a private broker and of the fault proxy.

    Each is for any thread, takes effect while the bus is at rest, and returns when the bus is at rest again.
    """

    def __init__(self, broker: MemoryBroker, name: str, order: Callable[[Callable[[], Any]], Any]):
        self.name = name
        self._broker = broker
        self._order = order
        self._is_down = False

    def __repr__(self) -> str:
        return f"<FaultyBroker {self.name} {self.state}>"

    @property
    def state(self) -> str:
        """``running``, ``frozen`` or ``down``."""
        return "down" if self._is_down else "frozen" if self._broker.is_frozen else "running"

    @property
    def queues(self) -> dict[str, int]:
        """How many messages are ready in each of its queues."""
        found: dict[str, int] = self._order(
            lambda: {name: len(queue.ready) for name, queue in self._broker.queues.items()}
        )
        return found

    def kill(self) -> None:
        """It dies: connections are reset and refused; what is durable is there again after ``start()``."""
        self._down("Connection reset by peer")

    def stop(self) -> None:
        """As an operator stops it: it closes its connections first."""
        self._down("closed: 320 CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'")

    def start(self) -> None:
        """Start it again after ``kill()`` or ``stop()``, or let it accept connections again after ``refuse()``."""
        self._is_down = False
        self._order(self._broker.accept)

    def freeze(self) -> None:
        """Nothing moves any more, in either direction: SIGSTOP, or a network that swallows all packets.

        Raises:
            LifecycleError: it is down.
        """
        if self._is_down:
            raise LifecycleError(f"broker {self.name} is down", "freeze")
        self._order(self._broker.freeze)

    def thaw(self) -> None:
        """It goes on as if nothing had happened."""
        self._order(self._broker.thaw)

    def cut(self) -> None:
        """Reset its open connections once."""
        self._order(self._broker.drop)

    def refuse(self) -> None:
        """Refuse new connections until ``start()``; open ones go on."""
        self._order(self._broker.refuse)

    def delay(self, seconds: float) -> None:
        """Hold back everything that passes for *seconds*, in each direction; 0 for no more delay."""
        seconds = to_seconds("seconds", seconds)
        self._order(lambda: setattr(self._broker, "delay_s", seconds))

    def _down(self, reason: str) -> None:
        def end() -> None:
            self._is_down = True
            self._broker.stop(reason)

        self._order(end)
