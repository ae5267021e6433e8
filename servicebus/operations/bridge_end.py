"""BridgeEnd: the connection of a bridge to one of its two brokers."""

from __future__ import annotations

from collections.abc import Callable

from servicebus.configuration import BrokerHost, Configuration
from servicebus.errors import TransportError
from servicebus.policy.connection import ConnectionState
from servicebus.transport.connection_manager import ConnectionManager, Loss
from servicebus.transport.interface import BrokerConnection, Connect
from servicebus.transport.loop import EventLoop

__all__ = ["BridgeEnd"]


class BridgeEnd:
    """Belongs to the loop's thread; opened again whenever it is lost.

    Args:
        on_up: called when the connection is open.
        on_lost: called with the reason when it is not any more.
    """

    def __init__(
        self,
        loop: EventLoop,
        config: Configuration,
        host: BrokerHost,
        label: str,
        on_up: Callable[[], None],
        on_lost: Callable[[str], None],
        connect: Connect,
    ):
        self.host = host
        self._on_up, self._on_lost = on_up, on_lost
        self.connections = ConnectionManager(
            loop, host, config, self, connect, labels=[label], timeout_s=config.socket_timeout
        )

    def __repr__(self) -> str:
        return f"<BridgeEnd {self.host.name} {self.connections.state.value}>"

    @property
    def is_open(self) -> bool:
        return self.connections.state is ConnectionState.UP

    @property
    def connection(self) -> BrokerConnection:
        return self.connections.connections[0]

    def broken(self) -> Callable[[TransportError], None]:
        """What ends this connection when one of its channels cannot go on."""
        return self.connections.in_this_epoch(lambda error: self.connections.lose(Loss.of(error)))

    def connections_open(self) -> None:
        self.connections.ready()
        self._on_up()

    def connections_lost(self, loss: Loss) -> None:
        self._on_lost(f"{self.host.name}: {loss.reason}")

    def connection_blocked(self, reason: str | None) -> None:
        """Confirms do not come meanwhile, and the window of what is unacknowledged is full soon."""
