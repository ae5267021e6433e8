"""RefusalLog: counts and logs the envelopes that are not accepted, calls, messages and control requests alike."""

from __future__ import annotations

from collections import Counter

from servicebus.errors import EnvelopeError
from servicebus.transport.loggers import get_logger
from servicebus.transport.ratelimitedlog import RateLimitedLog
from servicebus.wire.envelope import Kind

LOG = get_logger(__name__)

_SECRET_PERIOD_S = 60.0
"""A Sender with a secret of its own is refused all day: its calls, and the pings by which it looks for the node."""
_COMPARE = "compare secret_token of its sender with this agent's; servicebus config check shows the ids of the keys"


class RefusalLog:
    """Belongs to the I/O thread."""

    def __init__(self, counters: Counter[str], host_name: str):
        self.log = RateLimitedLog(LOG, host_name)
        self._counters = counters
        self._secrets = RateLimitedLog(LOG, host_name, period_s=_SECRET_PERIOD_S, burst=1)

    def __repr__(self) -> str:
        return f"<RefusalLog {self._counters!r}>"

    def refused(self, kind: Kind, error: EnvelopeError) -> None:
        """A request that came in the queue for *kind* is not accepted."""
        self._counters[f"refused.{error.reason}"] += 1
        if error.reason == "signature":
            self._secrets.warning(f"{kind.value} refused: {error}; {_COMPARE}")
        else:
            self.log.warning(f"{kind.value} refused: {error}")
