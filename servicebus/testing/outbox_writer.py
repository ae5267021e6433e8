"""SynchronousWriter: an outbox writer without a thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from servicebus.client.outbox_writer import OutboxWriter

__all__ = ["SynchronousWriter"]


class SynchronousWriter(OutboxWriter):
    """Waits for the disk where it is asked to, in the loop's thread."""

    def _begin(self) -> None: ...

    def ask(self, *job: Any) -> None:
        super().ask(*job)
        self._do([each for each in self._take() if each is not None])

    def close(self, on_closed: Callable[[], None]) -> None:
        super().close(on_closed)
        self._run()
