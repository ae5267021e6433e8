"""Ledger: the state that the rows of the shared log add up to. Pure: the same rows give every worker the same state.

Finished ids are bits: a Sender counts from 1, and 4,096 consecutive ids share one chunk, a number of 512 bytes. A chunk
lives as long as the longest-lived of its ids. Ids that are begun and not finished are few, and have an entry each. An
entry is not forgotten while a worker holds it; when it is let go of, its expiry and time of signing stay in its chunk.

Chunks expire, and if there are too many those go whose ids were signed first. From then on an unknown id that was
signed as early counts as *forgotten*: it may have been run. The worker that compacts decides this once and writes it
into the log, so no two workers disagree on what is known.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from servicebus.runtime.journal.answers import AnswerIndex
from servicebus.runtime.journal.interface import REFUSED, IdStatus, Lookup, Release
from servicebus.runtime.journal.records import Compaction, Numbered, OrphanedId, RowKind

__all__ = ["CHUNK_IDS", "COMPACT_IDS", "MARGIN_S", "UNOWNED", "Entry", "Ledger", "Limits", "State"]

CHUNK_BITS = 12
CHUNK_IDS = 1 << CHUNK_BITS
_BIT_MASK = CHUNK_IDS - 1

# A chunk is one number: when it expires in the lowest 32 bits, above them when the last of its ids was signed, above
# them one bit for each id.
_TIME_BITS = 32
_TIME_MASK = (1 << _TIME_BITS) - 1
_IDS_AT = 2 * _TIME_BITS
# The order in which chunks leave when there are too many: when signed, then when expired, but for its lowest bit.
_ORDER_MASK = (1 << 63) - 1
_SIGNED_AT = 31

_BUCKET_BITS = 4
"""Chunks are looked at by expiry, 16 seconds at once."""

MARGIN_S = 3600
"""An id is remembered for longer than asked for: a clock that is set forward by mistake is set back again."""
_ROOM_SHARE = 64
"""The part of the limit that is made free when there are too many chunks: looking for what to forget takes tens of
milliseconds, and must not be needed again soon."""

COMPACT_IDS = 4096
_COMPACT_EVERY_S = 10

UNOWNED = 0
_NO_ENTRY = (-1, 0, 0, 0, 0)
_FIRST = Lookup(IdStatus.NEW, None, 1)
_FORGOTTEN = Lookup(IdStatus.FORGOTTEN, None, 1)
_FINISH, _ANSWERS = RowKind.FINISH, RowKind.ANSWERS


@dataclass(frozen=True)
class Limits:
    """How much is remembered at most."""

    max_entries: int = 250_000
    """Chunks of 4,096 ids (of one Sender), and unfinished ids."""
    max_answer_bytes: int = 64 * 1024 * 1024
    """Of all stored answers together. One that is larger than half of it is not stored."""
    reply_keep_s: float = 3600.0
    """How long an answer is kept."""


Entry = tuple[int, int, int, int, int]
"""Of an id that is begun and not finished: owner (UNOWNED while it waits for its next attempt), attempts, how many of
them ended with a death, expiry, when it was signed. A plain tuple: one with names takes a third of a microsecond."""


End = tuple[int, bytes | None]
"""A number that was run, and the answer."""


@dataclass(slots=True)
class State:
    """What a snapshot stores."""

    owner: int = 0
    """The highest number that a worker ever got."""
    forgotten: int = 0
    """Ids that had to be forgotten before they expired."""
    forgotten_answers: int = 0
    forgotten_until: int = 0
    """The forgotten ids were signed until then: an unknown id that was too may be one of them."""
    compacted_at: int = 0
    keep_from: int = 1
    """Answers in rows before this one are not kept."""
    chunks: dict[int, int] = field(default_factory=dict)
    entries: dict[int, Entry] = field(default_factory=dict)


class Ledger:
    """Belongs to one thread. Methods named after rows apply one; times are whole Unix seconds.

    Args:
        seq: the last row that *state* knows; the ledger takes the state over.
    """

    def __init__(self, limits: Limits, seq: int = 0, state: State | None = None):
        self.state = state = state or State()
        self.applied = seq
        """The last row that this state knows."""
        self.pending = 0
        """Ids in rows since the last compaction."""
        self.large_answers = 0
        """Answers that were too large to store."""
        self.answers = AnswerIndex(limits.max_answer_bytes, limits.reply_keep_s)
        self.entries, self._chunks = state.entries, state.chunks
        self._limits = limits
        self._due: dict[int, list[int]] = {}
        self._due_order: list[int] = []
        self._by_kind: dict[int, Callable[..., None]] = {
            RowKind.BEGIN: self.begin,
            RowKind.RELEASE: self.release,
            RowKind.TAKE_OVER: self.take_over,
            RowKind.COMPACT: self.compact,
            RowKind.OWNER: self.own,
        }
        for key, value in self._chunks.items():
            self._note_due(key, value & _TIME_MASK)

    def __repr__(self) -> str:
        return f"<Ledger applied={self.applied} entries={len(self.entries)} chunks={len(self._chunks)}>"

    def copy_state(self) -> State:
        """For another thread. Takes milliseconds: values are never changed in place."""
        return replace(self.state, chunks=dict(self._chunks), entries=dict(self.entries))

    # -- asking ------------------------------------------------------------------------------------------------------

    def is_finished(self, number: int) -> bool:
        return self._chunks.get(number >> CHUNK_BITS, 0) >> (_IDS_AT + (number & _BIT_MASK)) & 1 == 1

    def granted(self, entry: Entry, sent: int) -> Lookup:
        """What a worker is told of an id that it has just become the owner of."""
        if entry[1] > 1:
            return Lookup(IdStatus.NEW, None, entry[1], entry[2])
        return _FORGOTTEN if 0 < sent <= self.state.forgotten_until else _FIRST

    def unknown(self, asked: Sequence[tuple[str, Numbered, bool]]) -> list[Numbered]:
        """Those that were never begun, as far as is remembered."""
        entries, get, found = self.entries, self._chunks.get, []
        for _, start, _ in asked:
            number = start[0]  # as is_finished() looks, without the call
            if number not in entries and not get(number >> CHUNK_BITS, 0) >> (_IDS_AT + (number & _BIT_MASK)) & 1:
                found.append(start)
        return found

    def outlives(self, number: int, expires: int, sent: int) -> bool:
        """Is what is known of this id remembered until *expires* anyway?"""
        entry = self.entries.get(number)
        if entry is not None:
            return entry[3] >= expires and entry[4] >= sent
        value = self._chunks.get(number >> CHUNK_BITS, 0)
        return value & _TIME_MASK >= expires and value >> _TIME_BITS & _TIME_MASK >= sent

    def ending(self, ends: list[End]) -> tuple[RowKind, int, list[End], list[tuple[int, int]]]:
        """What the row of these ends says: kind, when the last expires, the ends, the size of each answer or -1.

        Answers that are too large are left out.
        """
        get, largest = self.entries.get, self._limits.max_answer_bytes // 2
        kind, until, sizes, large = _FINISH, 0, [], 0
        for number, answer in ends:
            expires = get(number, _NO_ENTRY)[3]
            if expires > until:
                until = expires
            size = -1
            if answer is not None:
                size = len(answer)
                if size > largest:
                    large, size = large + 1, -1
                else:
                    kind = _ANSWERS
            sizes.append((number, size))
        if large:
            self.large_answers += large
            ends = [(end[0], None if size < 0 else end[1]) for (_, size), end in zip(sizes, ends, strict=True)]
        return kind, until, ends, sizes

    # -- rows ----------------------------------------------------------------------------------------------------------

    def apply(self, seq: int, kind: int, values: tuple[Any, ...], place: Any = 0) -> None:
        """The row *seq*; its answers are at *place*. Raises KeyError for an unknown kind."""
        apply = self._by_kind.get(kind)
        if apply is not None:
            apply(*values)
        else:
            owner, now, until, ends = values
            self.finish(owner, ends)
            if kind == _ANSWERS:
                self.answers.add(seq, place, now, until, ends)
        self.applied = seq

    def begin(self, owner: int, starts: Sequence[Numbered]) -> None:
        """*owner* gets what is unknown or waits for its next attempt; of the rest the expiry is noted."""
        self.pending += len(starts)
        entries, chunks = self.entries, self._chunks
        for number, expires, sent in starts:
            entry = entries.get(number)
            if entry is not None:
                holder, attempts, deaths, until, since = entry
                if holder == UNOWNED:
                    holder, attempts = owner, attempts + 1
                entries[number] = (holder, attempts, deaths, max(expires, until), max(sent, since))
            elif chunks.get(number >> CHUNK_BITS, 0) >> (_IDS_AT + (number & _BIT_MASK)) & 1:  # as is_finished() looks
                self._prolong(number >> CHUNK_BITS, expires, sent)
            else:
                entries[number] = (owner, 1, 0, expires, sent)

    def take_over(self, owner: int, starts: Sequence[OrphanedId]) -> None:
        """*owner* gets what a dead worker left behind, unless another worker was first."""
        self.pending += len(starts)
        for number, dead, expires, sent in starts:
            holder, attempts, deaths, until, since = self.entries.get(number, _NO_ENTRY)
            if holder == dead:
                self.entries[number] = (owner, attempts + 1, deaths + 1, max(expires, until), max(sent, since))

    def finish(self, owner: int, ends: Sequence[tuple[int, int]]) -> None:
        """Of each number the size of its answer is ignored here."""
        self.pending += len(ends)
        entries, chunks = self.entries, self._chunks
        for number, _ in ends:
            entry = entries.get(number)
            if entry is None or entry[0] != owner:
                continue
            del entries[number]
            key = number >> CHUNK_BITS
            value = chunks.get(key, 0)
            if value & _TIME_MASK < entry[3] or value >> _TIME_BITS & _TIME_MASK < entry[4]:
                value = self._prolong(key, entry[3], entry[4])
            chunks[key] = value | 1 << (_IDS_AT + (number & _BIT_MASK))

    def release(self, owner: int, why: Release, numbers: Sequence[int]) -> None:
        self.pending += len(numbers)
        for number in numbers:
            holder, attempts, deaths, expires, sent = self.entries.get(number, _NO_ENTRY)
            if holder != owner:
                continue
            attempts -= why is Release.NOT_RUN
            if why is Release.DEAD_LETTERED or not attempts:
                del self.entries[number]
                # Another worker may hold a copy that is good for longer than the next one to be run.
                self._prolong(number >> CHUNK_BITS, expires, sent)
            elif why is Release.REFUSED:
                self.entries[number] = (owner, attempts + REFUSED, deaths, expires, sent)
            else:
                self.entries[number] = (UNOWNED, attempts, deaths, expires, sent)

    def own(self, number: int) -> None:
        """A worker has got that number."""
        self.state.owner = max(self.state.owner, number)

    def compact(self, compaction: Compaction) -> None:
        """Two workers may have planned at once: each row does what the other has left."""
        state = self.state
        self._forget(compaction)
        if compaction.keep_from > state.keep_from:
            state.keep_from = compaction.keep_from
            state.forgotten_answers += compaction.forgotten_answers
            self.answers.drop_before(state.keep_from)
        state.compacted_at = compaction.at
        self.pending = 0

    def plan(self, now: int) -> Compaction:
        """What a compaction at *now* should do."""
        keep_from, early = self.answers.overdue(now)
        before = self._room_from()
        until = max(self.state.forgotten_until, before >> _SIGNED_AT)
        return Compaction(now, max(0, now - MARGIN_S), before, until, keep_from, early)

    def is_compaction_due(self, now: float) -> bool:
        # Further away in either direction: clocks are set back as well.
        pending = self.pending
        return pending >= COMPACT_IDS or (pending > 0 and abs(now - self.state.compacted_at) >= _COMPACT_EVERY_S)

    def sizes(self) -> dict[str, int]:
        """For the status."""
        return {
            "chunks": len(self._chunks),
            "unfinished": len(self.entries),
            "answers": self.answers.count,
            "answer_bytes": self.answers.size,
            "forgotten_early": self.state.forgotten,
            "forgotten_until": self.state.forgotten_until,
            "answers_forgotten_early": self.state.forgotten_answers + self.large_answers,
        }

    # -- inside --------------------------------------------------------------------------------------------------------

    def _prolong(self, key: int, expires: int, sent: int) -> int:
        """Have the chunk remembered until *expires*, and know that one of its ids was signed at *sent*."""
        value = self._chunks.get(key)
        if value is None:
            self._note_due(key, expires)
            value = 0
        later = max(expires - (value & _TIME_MASK), 0)
        newer = max(sent - (value >> _TIME_BITS & _TIME_MASK), 0)
        value = self._chunks[key] = value + (newer << _TIME_BITS) + later
        return value

    def _note_due(self, key: int, expires: int) -> None:
        bucket = expires >> _BUCKET_BITS
        keys = self._due.get(bucket)
        if keys is None:
            keys = self._due[bucket] = []
            heapq.heappush(self._due_order, bucket)
        keys.append(key)

    def _forget(self, compaction: Compaction) -> None:
        expired, before = compaction.expired_before, compaction.forget_before
        for number, entry in list(self.entries.items()):
            # What is held is run, however long that takes. A copy that is good for longer may have been let go of.
            until = max(entry[3], self._chunks.get(number >> CHUNK_BITS, 0) & _TIME_MASK)
            if entry[0] == UNOWNED and until < expired:
                del self.entries[number]
        while self._due_order and self._due_order[0] < expired >> _BUCKET_BITS:
            self._forget_bucket(heapq.heappop(self._due_order))
        self.state.forgotten_until = max(self.state.forgotten_until, compaction.forgotten_until)
        if before:
            for key in [key for key, value in self._chunks.items() if value >> 1 & _ORDER_MASK < before]:
                self.state.forgotten += (self._chunks.pop(key) >> _IDS_AT).bit_count()

    def _forget_bucket(self, bucket: int) -> None:
        """The chunks that expire in *bucket*; the others in it have been prolonged since, or were forgotten early."""
        for key in self._due.pop(bucket):
            expires = self._chunks.get(key, 0) & _TIME_MASK
            if expires >> _BUCKET_BITS == bucket:
                self._chunks.pop(key, None)
            elif expires:
                self._note_due(key, expires)

    def _room_from(self) -> int:
        """Before which place in their order chunks have to go, so that the others are few enough; 0 if they are."""
        limit = self._limits.max_entries
        excess = len(self._chunks) + len(self.entries) - limit
        if excess <= 0 or not self._chunks:
            return 0
        order = sorted(value >> 1 & _ORDER_MASK for value in self._chunks.values())
        return order[min(excess + limit // _ROOM_SHARE, len(order)) - 1] + 1
