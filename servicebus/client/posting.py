"""What ``send()`` is told about time, checked before anything is sent."""

from __future__ import annotations

import math

from servicebus._durations import to_seconds
from servicebus.client.request import Post
from servicebus.errors import EnvelopeError


def make_post(delay_s: float, expires_s: float | None, max_age_s: float, now: float) -> Post:
    """When a message that is sent now is due, and when it expires; *now* is Unix time.

    Raises:
        DurationError: *delay_s* or *expires_s* is no time.
        EnvelopeError: no node would accept the message then.
    """
    delay_s = to_seconds("delay", delay_s)
    if delay_s == 0 and expires_s is None:
        return Post(expires_ms=int((now + max_age_s) * 1000))
    if delay_s >= max_age_s:
        limit = f"a message is accepted for {max_age_s:g} s after it was sent (token_max_age)"
        raise EnvelopeError("stale", f"a delay of {delay_s:g} s is too long: {limit}")
    if expires_s is not None:
        expires_s = to_seconds("expires", expires_s, zero=False)
    lives_s = max_age_s if expires_s is None else min(expires_s, max_age_s)
    now_ms = int(now * 1000)
    return Post(due_ms=now_ms + math.ceil(delay_s * 1000) if delay_s else None, expires_ms=now_ms + int(lives_s * 1000))
