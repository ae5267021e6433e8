"""How long a request has been on its way, when the two clocks do not agree."""

from __future__ import annotations

from collections import OrderedDict

_WINDOW_MS = 60_000
_REMEMBERED = 4096


class TransitClock:
    """Estimates transit times per Sender from the smallest difference seen between its clock and ours.

    The difference "received minus sent" is the clocks' offset plus the transit time. Its minimum over the last one to
    two minutes is close to the offset, since some request had next to no transit; what exceeds it is transit. The first
    request of a Sender counts as having had none: how long it waited at the broker is bounded by its expiration there.
    """

    def __init__(self) -> None:
        self._seen: OrderedDict[str, tuple[int, int, int]] = OrderedDict()

    def transit_ms(self, sender: str, sent_ms: int, now_ms: int) -> int:
        """Milliseconds that a request of *sender* took, never below 0."""
        difference = now_ms - sent_ms
        since, smallest, previous = self._seen.get(sender, (now_ms, difference, difference))
        if not 0 <= now_ms - since < _WINDOW_MS:
            since, smallest, previous = now_ms, difference, smallest
        smallest = min(smallest, difference)
        self._seen[sender] = (since, smallest, previous)
        self._seen.move_to_end(sender)  # those who talk stay, however many pass by
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return difference - min(smallest, previous)
