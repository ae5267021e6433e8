"""How long a request has been on its way, when the two clocks do not agree."""

from __future__ import annotations

from collections import OrderedDict

_REMEMBERED = 4096


class TransitClock:
    """Tells transit times per Sender from the difference "received minus sent": transit, plus the clocks' offset.

    The clocks are taken to agree until a request shows that they do not, by coming from the future. So a request that
    was held up in a network is never taken for one from a clock that is slow: a Sender whose clock is, is told the time
    (``time_for``) and dates its next attempt by it.
    """

    def __init__(self) -> None:
        self._offsets: OrderedDict[str, int] = OrderedDict()

    def transit_ms(self, sender: str, sent_ms: int, now_ms: int) -> int:
        """Milliseconds that a request of *sender* took, never below 0."""
        difference = now_ms - sent_ms
        offset = self._offsets.get(sender, 0)
        if difference < offset:
            self._offsets[sender] = offset = difference
            self._offsets.move_to_end(sender)  # those whose clocks are wrong and who talk stay, however many pass by
            if len(self._offsets) > _REMEMBERED:
                self._offsets.popitem(last=False)
        return difference - offset

    def time_for(self, sender: str, now_ms: int) -> int:
        """How a request of *sender* has to be dated that is sent at *now_ms*, to have been on its way for no time."""
        return now_ms - self._offsets.get(sender, 0)
