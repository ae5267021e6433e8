"""RedisJournal: one journal for a node that is spread over several machines, stored by a Redis server.

Each method is one round trip to the server, during which the worker's I/O thread waits: about a fifth of a millisecond
in a local network, and *timeout_s* at most when the server is away. What is kept, how long and how many, is as with
SharedJournal. Two things are different:

* A process on another machine cannot be seen to live. A worker renews a lease every second; when it has not for
  *lease_s*, others take it for dead. That must be longer than a master lets a frozen worker live (10 s): the ids of a
  worker that goes on after its lease ran out are run a second time where they may be. Its log says so.
* The server must not evict keys (``maxmemory-policy noeviction``), and remembers over its own restart only what it
  wrote (``appendonly yes``).

Needs ``pip install servicebus-failover[redis]``.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence, Set
from functools import partial
from typing import Any, TypeVar

from servicebus.runtime.journal.interface import (
    IdRecord,
    IdState,
    IdStatus,
    Journal,
    JournalUnavailable,
    Limits,
    Lookup,
    Release,
    Start,
    record_of,
)
from servicebus.runtime.journal.redis_scripts import SCRIPT
from servicebus.runtime.journal.state import CHUNK_IDS
from servicebus.transport.loggers import get_logger
from servicebus.wire.printable import counted

LOG = get_logger(__name__)

__all__ = ["RedisJournal", "connect", "open_redis", "without_password"]

T = TypeVar("T")

_RENEW_S = 1.0
_SWEEP_IDS = 4096
_SWEEP_EVERY_S = 10.0
_HOLD_EVERY_S = 1200.0
"""The server drops what was not held for an hour after its expiry."""
_SWEEP_CHUNKS = 1000
"""At once, so that the server is not kept busy."""
_SWEEPS = 8
"""At most, one after the other: more than one-shot Senders can add until the next time."""
_BATCH_IDS = 500
_UNTIL_DIGITS = 10
"""Before each answer stands until when it is given again."""


def open_redis(
    url: str, node: str, limits: Limits | None = None, *, lease_s: float = 30.0, timeout_s: float = 1.0
) -> RedisJournal:
    """This worker's door to the journal of *node* on the server at *url* (``redis://``, ``rediss://`` or ``unix://``).

    Args:
        lease_s: after so long without a sign of life a worker counts as dead.
        timeout_s: how long to wait for the server.

    Raises:
        JournalUnavailable: no such server, or one that evicts keys, or redis-py is not installed.
    """
    client, failure = connect(url, timeout_s)
    return RedisJournal(client, failure, without_password(url), node, limits or Limits(), lease_s)


def connect(url: str, timeout_s: float) -> tuple[Any, type[Exception]]:
    """A client of the server at *url*, which connects when it is asked first; and the class of what it raises.

    Raises:
        JournalUnavailable: *url* is no address, or redis-py is not installed.
    """
    try:
        redis = importlib.import_module("redis")
    except ImportError as error:
        raise JournalUnavailable(without_password(url), "needs pip install servicebus-failover[redis]") from error
    try:
        # One more try, when the server has closed the connection that we had: every command may be repeated.
        retry = importlib.import_module("redis.retry").Retry(importlib.import_module("redis.backoff").NoBackoff(), 1)
        client = redis.Redis.from_url(url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=retry)
    except ValueError as error:
        raise JournalUnavailable(without_password(url), f"is no address: {error}") from None
    return client, redis.exceptions.RedisError


class RedisJournal(Journal):
    """A Journal on a Redis server. Made by ``open_redis``."""

    def __init__(self, client: Any, failure: type[Exception], where: str, node: str, limits: Limits, lease_s: float):
        self._client = client
        self._failure = failure
        self._where = where
        self._prefix = f"servicebus:{{{node}}}:"
        self._limits = limits
        self._lease_s = lease_s
        self._script = client.register_script(SCRIPT)
        self._mine: set[str] = set()
        self._unswept = 0
        self._swept_at = 0.0
        self._renewed_at = -_RENEW_S
        self._held_at = time.monotonic()
        self._large_answers = 0
        self._sizes = [0] * 6
        self._is_closed = False
        self._check_server()
        self._me = str(self._ask(lambda: client.incr(self._prefix + "owners")))
        self._renew(is_first=True)

    def __repr__(self) -> str:
        return f"<RedisJournal {self._where} {self._prefix} owner={self._me} begun={len(self._mine)}>"

    def begin_many(self, starts: Sequence[Start], now: float) -> list[Lookup]:
        self._now = now
        found: list[Lookup] = []
        for first in range(0, len(starts), _BATCH_IDS):
            args: list[Any] = []
            for id, expires_at, rerun, sent_at in starts[first : first + _BATCH_IDS]:
                args += (id, *_place(id), expires_at + 1, int(rerun), int(sent_at))
            told = self._run("begin", *args)
            found += [self._known(start.id, *each) for start, each in zip(starts[first:], told, strict=False)]
        return found

    def finish_many(self, ends: Sequence[tuple[str, bytes | None]], now: float) -> None:
        self._now = now
        ends = [(id, self._storable(answer)) for id, answer in ends if id in self._mine]
        for first in range(0, len(ends), _BATCH_IDS):
            part = ends[first : first + _BATCH_IDS]
            args: list[Any] = [self._limits.reply_keep_s]
            for id, answer in part:
                args += (id, *_place(id), int(answer is not None), answer or b"")
            self._run("finish", *args)
            self._mine.difference_update(id for id, _ in part)
        self._unswept += len(ends)
        if self._unswept >= _SWEEP_IDS:
            self._sweep()

    def release_many(self, ids: Sequence[str], why: Release) -> None:
        mine = [id for id in ids if id in self._mine]
        if mine:
            self._run("release", why.name, *(arg for id in mine for arg in (id, _place(id)[0])))
            if why is not Release.REFUSED:
                self._mine.difference_update(mine)

    def finished(self, ids: Sequence[str]) -> list[str]:
        asked = self._client.pipeline(transaction=False)
        for id in ids:
            chunk, bit = _place(id)
            asked.getbit(f"{self._prefix}c:{chunk}", bit)
        return [id for id, bit in zip(ids, self._ask(asked.execute), strict=True) if bit]

    def look_up(self, ids: Sequence[str]) -> list[IdRecord | None]:
        asked = self._client.pipeline(transaction=False)
        for id in ids:
            chunk, bit = _place(id)
            asked.getbit(f"{self._prefix}c:{chunk}", bit)
            asked.get(f"{self._prefix}a:{id}")
            asked.hmget(f"{self._prefix}e:{id}", "o", "a", "d")
        told = iter(self._ask(asked.execute))
        found = [(bool(next(told)), next(told), next(told)) for _ in ids]
        owners = {entry[0] for _, _, entry in found if entry[0] not in (None, b"0")}
        alive = {each for each in owners if self._ask(partial(self._client.exists, f"{self._prefix}o:{each.decode()}"))}
        return [self._record(*each, alive) for each in found]

    def tick(self, now: float) -> None:
        self._now = now
        self._renew()
        self._hold()
        if self._unswept and now >= self._swept_at + _SWEEP_EVERY_S:
            self._sweep()

    def snapshot(self) -> dict[str, Any]:
        chunks, answer_bytes, answers, forgotten, forgotten_answers, forgotten_until = self._sizes
        return {
            "chunks": chunks,
            "unfinished": len(self._mine),
            "answers": answers,
            "answer_bytes": answer_bytes,
            "forgotten_early": forgotten,
            "forgotten_until": forgotten_until,
            "answers_forgotten_early": forgotten_answers + self._large_answers,
        }

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        try:
            self._client.delete(self._lease)
        except self._failure as error:
            LOG.warning("journal %s: not told that we stop, so others wait %g s: %s", self._where, self._lease_s, error)
        self._client.close()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _run(self, command: str, *args: Any) -> Any:
        return self._ask(lambda: self._script(keys=[self._prefix], args=[command, self._me, self._now, *args]))

    def _known(self, id: str, name: bytes, attempts: int, deaths: int, owner: Any, answer: bytes | None) -> Lookup:
        status = IdStatus[name.decode()]
        if status is IdStatus.RUNNING and owner == self._me.encode() and id not in self._mine:
            # The server gave it to us, and its response was lost on the way.
            status = IdStatus.NEW
        if status in (IdStatus.NEW, IdStatus.FORGOTTEN):
            self._mine.add(id)
        return Lookup(status, answer, attempts, deaths)

    def _record(
        self, is_finished: bool, answer: bytes | None, entry: Sequence[bytes | None], alive: Set[bytes | None]
    ) -> IdRecord | None:
        owner, attempts, deaths = entry
        if is_finished:
            is_kept = answer is not None and int(answer[:_UNTIL_DIGITS]) > time.time()
            return IdRecord(IdState.FINISHED, answer=answer[_UNTIL_DIGITS:] if answer and is_kept else None)
        if owner is None:
            return None
        is_owned, is_alive = owner != b"0", owner in alive
        return record_of(is_owned, int(attempts or 0), int(deaths or 0), is_alive=is_alive, has_started=True)

    def _storable(self, answer: bytes | None) -> bytes | None:
        if answer is None or len(answer) <= self._limits.max_answer_bytes // 2:
            return answer
        self._large_answers += 1
        return None

    @property
    def _lease(self) -> str:
        return f"{self._prefix}o:{self._me}"

    def _renew(self, *, is_first: bool = False) -> None:
        now = time.monotonic()
        if now - self._renewed_at < _RENEW_S:
            return
        had_it = self._ask(lambda: self._client.set(self._lease, 1, px=max(1, int(self._lease_s * 1000)), get=True))
        if not had_it and not is_first and self._mine:
            LOG.error(
                "journal %s: we were silent for over %g s, and %s that we are running may be run by others too",
                self._where,
                self._lease_s,
                counted(len(self._mine), "id"),
            )
        self._renewed_at = now

    def _hold(self) -> None:
        """What we are running must not be forgotten, however long that takes."""
        now = time.monotonic()
        if self._mine and now - self._held_at >= _HOLD_EVERY_S:
            self._run("hold", *self._mine)
            self._held_at = now

    def _sweep(self) -> None:
        limits = self._limits
        before = self._sizes[3:]
        for _ in range(_SWEEPS):
            self._sizes = self._run("sweep", limits.max_entries, limits.max_answer_bytes, _SWEEP_CHUNKS)
            if self._sizes[0] <= limits.max_entries:
                break
        if self._swept_at and self._sizes[3:] != before:
            ids, answers = self._sizes[3:5]
            forgotten = f"{counted(ids, 'id')} and {counted(answers, 'answer')}"
            LOG.warning("the journal is too small: %s were forgotten early in all", forgotten)
        self._unswept = 0
        self._swept_at = self._now

    def _check_server(self) -> None:
        info = self._ask(lambda: {**self._client.info("memory"), **self._client.info("persistence")})
        policy = info.get("maxmemory_policy", "noeviction")
        if info.get("maxmemory") and policy != "noeviction":
            reason = f"its maxmemory-policy is {policy}: it would throw ids away, and they would run twice"
            raise JournalUnavailable(self._where, f"{reason}; set noeviction")
        if not info.get("aof_enabled"):
            LOG.warning("journal %s: appendonly is off, so the server's restart forgets the last ids", self._where)

    def _ask(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except self._failure as error:
            raise JournalUnavailable(self._where, str(error)) from error


def _place(id: str) -> tuple[str, int]:
    """The chunk of an id, and its bit therein."""
    count = int(id[17:])
    return f"{id[:16]}:{count // CHUNK_IDS}", count % CHUNK_IDS


def without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"
