"""Ledger: the state that the rows of the shared log add up to. Pure: the same rows give every worker the same state.

Finished ids are bits in chunks. Ids that are begun and not finished are few, and have an entry each. An entry is not
forgotten while a worker holds it; when it is let go of, its expiry and time of signing stay in its chunk.

If there are too many chunks, an unknown id that was signed as early as those that had to go counts as *forgotten*: it
may have been run. The worker that compacts decides this once and writes it into the log, so no two workers disagree on
what is known.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from servicebus.runtime.journal.interface import REFUSED, IdStatus, Limits, Lookup, Release
from servicebus.runtime.journal.records import Compaction, Numbered, OrphanedId, RowKind
from servicebus.runtime.journal.state import (
    BIT_MASK,
    CHUNK_BITS,
    IDS_AT,
    TIME_BITS,
    TIME_MASK,
    UNOWNED,
    Chunks,
    Entry,
    State,
    signed_before,
)

__all__ = ["COMPACT_IDS", "MARGIN_S", "AnswerIndex", "Ledger"]

MARGIN_S = 3600
"""An id is remembered for longer than asked for: a clock that is set forward by mistake is set back again."""
_ROOM_SHARE = 64
"""The part of the limit that is made free when there are too many chunks: looking for what to forget takes tens of
milliseconds, and must not be needed again soon."""

COMPACT_IDS = 4096
_COMPACT_EVERY_S = 10

_NO_ENTRY = (-1, 0, 0, 0, 0)
_FIRST = Lookup(IdStatus.NEW, None, 1)
_FORGOTTEN = Lookup(IdStatus.FORGOTTEN, None, 1)
_FINISH, _ANSWERS = RowKind.FINISH, RowKind.ANSWERS


End = tuple[int, bytes | None]
"""A number that was run, and the answer."""


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
        self.entries, self._finished = state.entries, state.chunks
        self._chunks = Chunks(state.chunks)
        self._limits = limits
        self._by_kind: dict[int, Callable[..., None]] = {
            RowKind.BEGIN: self.begin,
            RowKind.RELEASE: self.release,
            RowKind.TAKE_OVER: self.take_over,
            RowKind.COMPACT: self.compact,
            RowKind.OWNER: self.own,
        }

    def __repr__(self) -> str:
        return f"<Ledger applied={self.applied} entries={len(self.entries)} chunks={len(self._finished)}>"

    # -- asking ------------------------------------------------------------------------------------------------------

    def is_finished(self, number: int) -> bool:
        return self._finished.get(number >> CHUNK_BITS, 0) >> (IDS_AT + (number & BIT_MASK)) & 1 == 1

    def granted(self, entry: Entry, sent: int) -> Lookup:
        """What a worker is told of an id that it has just become the owner of."""
        if entry[1] > 1:
            return Lookup(IdStatus.NEW, None, entry[1], entry[2])
        return _FORGOTTEN if 0 < sent <= self.state.forgotten_until else _FIRST

    def unknown(self, asked: Sequence[tuple[str, Numbered, bool]]) -> list[Numbered]:
        """Those that were never begun, as far as is remembered."""
        entries, get, found = self.entries, self._finished.get, []
        for _, start, _ in asked:
            number = start[0]  # as is_finished() looks, without the call
            if number not in entries and not get(number >> CHUNK_BITS, 0) >> (IDS_AT + (number & BIT_MASK)) & 1:
                found.append(start)
        return found

    def outlives(self, number: int, expires: int, sent: int) -> bool:
        """Is what is known of this id remembered until *expires* anyway?"""
        entry = self.entries.get(number)
        if entry is not None:
            return entry[3] >= expires and entry[4] >= sent
        return self._chunks.outlives(number, expires, sent)

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
        entries, chunks = self.entries, self._finished
        for number, expires, sent in starts:
            entry = entries.get(number)
            if entry is not None:
                holder, attempts, deaths, until, since = entry
                if holder == UNOWNED:
                    holder, attempts = owner, attempts + 1
                entries[number] = (holder, attempts, deaths, max(expires, until), max(sent, since))
            elif chunks.get(number >> CHUNK_BITS, 0) >> (IDS_AT + (number & BIT_MASK)) & 1:  # as is_finished() looks
                self._chunks.prolong(number >> CHUNK_BITS, expires, sent)
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
        entries, chunks = self.entries, self._finished
        for number, _ in ends:
            entry = entries.get(number)
            if entry is None or entry[0] != owner:
                continue
            del entries[number]
            key = number >> CHUNK_BITS
            value = chunks.get(key, 0)
            if value & TIME_MASK < entry[3] or value >> TIME_BITS & TIME_MASK < entry[4]:
                value = self._chunks.prolong(key, entry[3], entry[4])
            chunks[key] = value | 1 << (IDS_AT + (number & BIT_MASK))

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
                self._chunks.prolong(number >> CHUNK_BITS, expires, sent)
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
        until = max(self.state.forgotten_until, signed_before(before))
        return Compaction(now, max(0, now - MARGIN_S), before, until, keep_from, early)

    def is_compaction_due(self, now: float) -> bool:
        # Further away in either direction: clocks are set back as well.
        pending = self.pending
        return pending >= COMPACT_IDS or (pending > 0 and abs(now - self.state.compacted_at) >= _COMPACT_EVERY_S)

    def sizes(self) -> dict[str, int]:
        """For the status."""
        return {
            "chunks": len(self._finished),
            "unfinished": len(self.entries),
            "answers": self.answers.count,
            "answer_bytes": self.answers.size,
            "forgotten_early": self.state.forgotten,
            "forgotten_until": self.state.forgotten_until,
            "answers_forgotten_early": self.state.forgotten_answers + self.large_answers,
        }

    # -- inside --------------------------------------------------------------------------------------------------------

    def _forget(self, compaction: Compaction) -> None:
        for number, entry in list(self.entries.items()):
            # What is held is run, however long that takes. A copy that is good for longer may have been let go of.
            until = max(entry[3], self._chunks.expires(number))
            if entry[0] == UNOWNED and until < compaction.expired_before:
                del self.entries[number]
        self.state.forgotten_until = max(self.state.forgotten_until, compaction.forgotten_until)
        self.state.forgotten += self._chunks.forget(compaction.expired_before, compaction.forget_before)

    def _room_from(self) -> int:
        """Before which place in their order chunks have to go, so that the others are few enough; 0 if they are."""
        limit = self._limits.max_entries
        excess = len(self._finished) + len(self.entries) - limit
        return self._chunks.place_after(excess + limit // _ROOM_SHARE) if excess > 0 and self._finished else 0


_BLOCK_ANSWERS = 1024
_BLOCK_S = 10
_BLOCKS = 32


@dataclass(slots=True)
class _Block:
    first_place: Any
    began_at: int
    places: dict[int, Any] = field(default_factory=dict)
    size: int = 0
    last_seq: int = 0
    answered_at: int = 0
    until: int = 0


class AnswerIndex:
    """Where the answer to an id is. Bounded by age and bytes. Times are Unix seconds.

    Answers are dropped oldest first, in blocks: that costs nothing per answer, and a look-up, which only a repeated id
    needs, asks a few dozen blocks, or a few hundred.
    """

    def __init__(self, max_bytes: int, keep_s: float):
        self.size = 0
        """Bytes of all answers."""
        self.count = 0
        self._max_bytes = max_bytes
        self._keep_s = keep_s
        self._blocks: deque[_Block] = deque()

    @property
    def first_place(self) -> Any:
        """Of the oldest; None if there are none."""
        return self._blocks[0].first_place if self._blocks else None

    def add(self, seq: int, place: Any, now: int, until: int, ends: Iterable[tuple[int, int]]) -> None:
        """The answers to *ends* (number, size or -1) of row *seq*, of *now*, are at *place*; needed up to *until*."""
        block = self._blocks[-1] if self._blocks else None
        if (
            block is None
            or len(block.places) >= _BLOCK_ANSWERS
            or block.size * _BLOCKS >= self._max_bytes
            or now - block.began_at >= _BLOCK_S
        ):
            block = _Block(place, now)
            self._blocks.append(block)
        size = count = 0
        for number, length in ends:
            if length >= 0:
                block.places[number] = place
                size += length
                count += 1
        block.size += size
        self.size += size
        self.count += count
        block.last_seq = seq
        if now > block.answered_at:
            block.answered_at = now
        if until > block.until:
            block.until = until

    def place_of(self, number: int) -> Any:
        """None if there is no answer any more."""
        for block in reversed(self._blocks):
            place = block.places.get(number)
            if place is not None:
                return place
        return None

    def overdue(self, now: int) -> tuple[int, int]:
        """The first row to keep when answers that are too old or too many go; and how many would go early."""
        keep_from = early = 0
        size = self.size
        for block in self._blocks:
            is_over = min(block.answered_at + self._keep_s, block.until) < now
            if not is_over and size <= self._max_bytes:
                break
            size -= block.size
            keep_from = block.last_seq + 1
            early += 0 if is_over else len(block.places)
        return keep_from, early

    def drop_before(self, seq: int) -> None:
        while self._blocks and self._blocks[0].last_seq < seq:
            block = self._blocks.popleft()
            self.size -= block.size
            self.count -= len(block.places)
