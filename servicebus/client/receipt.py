"""Receipt: what ``send()`` returns."""

from __future__ import annotations

from typing import Any


class Receipt(int):
    """The event id, which also says where the message is now."""

    confirmed_by: str | None = None
    """The broker that has it in a durable queue; None if it is in the outbox."""
    in_outbox: bool = False
    """No broker took it; it is on disk, and delivered when one does."""

    def __new__(cls, event_id: int, confirmed_by: str | None = None, in_outbox: bool = False) -> Receipt:
        receipt = super().__new__(cls, event_id)
        receipt.confirmed_by = confirmed_by
        if in_outbox:
            receipt.in_outbox = True
        return receipt

    def __getnewargs__(self) -> tuple[Any, ...]:
        return int(self), self.confirmed_by, self.in_outbox
