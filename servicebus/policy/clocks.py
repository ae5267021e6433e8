"""How long a request has been on its way, when the two clocks do not agree."""

from __future__ import annotations

from collections import OrderedDict

_REMEMBERED = 4096


class TransitClock:
    """Tells transit times per Sender from the difference "received minus sent": transit, plus the clocks' offset.

    The clocks are taken to agree until something shows that they do not: a request that seems to come from the future,
    or one that says of itself that it was sent just now, because its Sender was told "expired" while its own clock said
    otherwise. So a request that was held up in a network is never taken for one from a clock that is slow.
    """

    def __init__(self) -> None:
        self._offsets: OrderedDict[str, int] = OrderedDict()

    def transit_ms(self, sender: str, sent_ms: int, now_ms: int, *, is_fresh: bool = False) -> int:
        """Milliseconds that a request of *sender* took, never below 0.

        Args:
            is_fresh: it says that it was sent just now.
        """
        difference = now_ms - sent_ms
        offset = self._offsets.get(sender, 0)
        if is_fresh or difference < offset:
            self._offsets[sender] = offset = difference
            self._offsets.move_to_end(sender)  # those whose clocks are wrong and who talk stay, however many pass by
            if len(self._offsets) > _REMEMBERED:
                self._offsets.popitem(last=False)
        return difference - offset
