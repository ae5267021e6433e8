"""RedisLocks: which locks this worker has, on all machines of a node whose journal is on a Redis server.

A lock is a lease: a key with this worker's name that ends by itself. A thread renews what is held once a second. So a
worker that dies, or its machine, has no lock after ``LEASE_S``; nor has one that was frozen, though it may go on. Each
lease has a number higher than those before it, the *fence*: what a service writes to can refuse a lower one than it
has seen (``request.fence``).
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from servicebus.runtime.journal.redis_journal import connect, without_password
from servicebus.transport.loggers import get_logger
from servicebus.transport.ratelimitedlog import RateLimitedLog

LOG = get_logger(__name__)

__all__ = ["LEASE_S", "RedisLocks"]

T = TypeVar("T")

LEASE_S = 4.0
_RENEW_S = 1.0
_TIMEOUT_S = 0.5
"""The inbox of a service waits for the server's answer, and with it the I/O thread that has a request for it."""
_AGAIN_S = 1.0
"""A server that did not answer is asked again after so long."""
_WANTED_MS = 1000
"""Who waits says so each time it tries, every few milliseconds."""

_TAKE = """
local key = KEYS[1] .. 'lock:' .. ARGV[2]
local owner = redis.call('GET', key)
if owner and owner ~= ARGV[1] then
    if ARGV[4] == '1' then
        redis.call('SET', KEYS[1] .. 'want:' .. ARGV[2], ARGV[1], 'PX', ARGV[5])
    end
    return 0
end
redis.call('SET', key, ARGV[1], 'PX', ARGV[3])
return redis.call('INCR', KEYS[1] .. 'fence')
"""
# The same key, if it is still ours: it lives for so many milliseconds more, or ends.
_RENEW = """
local kept = {}
for i = 3, #ARGV do
    local key = KEYS[1] .. 'lock:' .. ARGV[i]
    kept[i - 2] = redis.call('GET', key) == ARGV[1] and redis.call('PEXPIRE', key, ARGV[2]) or 0
end
return kept
"""


class RedisLocks:
    """For all threads of one process, which is the one that makes it. Connects when it is asked for a lock first.

    Raises:
        JournalUnavailable: *url* is no address, or redis-py is not installed.
    """

    def __init__(self, url: str, node: str, lease_s: float = LEASE_S):
        client, self._failure = connect(url, _TIMEOUT_S)
        self._client = client
        self._take_script, self._renew_script = client.register_script(_TAKE), client.register_script(_RENEW)
        self._prefix = f"servicebus:{{{node}}}:"
        self._me = os.urandom(8).hex()
        self._lease_s = lease_s
        self._fences: dict[int, int] = {}
        """Of the locks that we have; 0 while one is asked for."""
        self._until: dict[int, float] = {}
        """``time.monotonic()`` at which each of them ends, unless it is renewed."""
        self._wanted: set[int] = set()
        self._lock = threading.Lock()
        self._asked_again_at = 0.0
        self._renewer: threading.Thread | None = None
        self._is_closed = threading.Event()
        self._log = RateLimitedLog(LOG, f"locks on {without_password(url)}", period_s=60.0, burst=1)

    def __repr__(self) -> str:
        return f"<RedisLocks {self._prefix} owner={self._me} taken={len(self._fences)}>"

    def take(self, lock: int) -> bool:
        """Have *lock* from now on, unless it is taken, or the server does not answer."""
        with self._lock:
            if lock in self._fences:
                return False
            self._fences[lock] = 0
        wants, asked_at = int(lock in self._wanted), time.monotonic()
        lease_ms = int(self._lease_s * 1000)
        fence = self._ask(lambda: self._take_script([self._prefix], [self._me, lock, lease_ms, wants, _WANTED_MS]))
        with self._lock:
            if not fence:
                del self._fences[lock]
                return False
            self._fences[lock], self._until[lock] = fence, asked_at + self._lease_s
            if self._renewer is None:
                self._is_closed.clear()
                self._renewer = threading.Thread(target=self._renew_again, name="servicebus-locks", daemon=True)
                self._renewer.start()
        return True

    def has(self, lock: int) -> bool:
        """Whether *lock* is ours still, for certain: its lease is not over by our clock."""
        return lock in self._fences and time.monotonic() < self._until.get(lock, 0.0)

    def release(self, lock: int) -> None:
        with self._lock:
            self._fences.pop(lock, None)
            self._until.pop(lock, None)
        self._ask(lambda: self._renew_script([self._prefix], [self._me, 0, lock]))  # else it ends by itself

    def fence(self, lock: int) -> int | None:
        """The number of our lease of *lock*."""
        return self._fences.get(lock)

    def want(self, lock: int) -> None:
        """Let the others know that we wait for *lock*: each ``take()`` says so."""
        self._wanted.add(lock)

    def want_no_more(self, lock: int) -> None:
        self._wanted.discard(lock)

    def is_wanted(self, lock: int) -> bool:
        """Does another worker wait for *lock*?"""
        found = self._ask(lambda: self._client.get(f"{self._prefix}want:{lock}"))
        return found is not None and found != self._me.encode()

    def look(self) -> None:
        """Nothing to look after: a thread of its own renews the leases, whatever keeps the worker's busy."""

    def close(self) -> None:
        """Renew nothing any more: what is held ends by itself, within the lease."""
        with self._lock:
            self._fences.clear()
            renewer = self._renewer
        self._is_closed.set()
        if renewer is not None:
            renewer.join()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _renew_again(self) -> None:
        while True:
            self._is_closed.wait(_RENEW_S)
            with self._lock:
                if not self._fences:  # the next lease begins another thread
                    self._renewer = None
                    return
            try:
                self._renew()
            except Exception:  # what is raised here must not cost the locks
                LOG.exception("the locks could not be renewed; tried again")

    def _renew(self) -> None:
        with self._lock:
            held = {lock: fence for lock, fence in self._fences.items() if fence}
        if not held:
            return
        lease_ms, asked_at = int(self._lease_s * 1000), time.monotonic()
        kept = self._ask(lambda: self._renew_script([self._prefix], [self._me, lease_ms, *held]), is_urgent=True)
        for (lock, fence), is_kept in zip(held.items(), kept or (), strict=False):
            with self._lock:
                if self._fences.get(lock) != fence:  # released meanwhile
                    continue
                # At once, though by our clock it is not over: a server that has lost its data gives it to others.
                self._until[lock] = asked_at + self._lease_s if is_kept else 0.0
            if not is_kept:
                text = (
                    f"a service holds a lock (fence {fence}) that was not renewed for {self._lease_s:g} s, because "
                    "this worker was frozen or cut off: another one may run the same request now"
                )
                self._log.log(logging.ERROR, text, str(fence))

    def _ask(self, question: Callable[[], T], *, is_urgent: bool = False) -> T | None:
        """None if the server does not answer, or has not a moment ago."""
        if not is_urgent and time.monotonic() < self._asked_again_at:
            return None
        try:
            return question()
        except self._failure as error:
            self._asked_again_at = time.monotonic() + _AGAIN_S
            self._log.log(logging.ERROR, f"{error}; what needs a lock waits until it answers again", "away")
            return None
