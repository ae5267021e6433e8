"""Ledger: the state that the rows of the shared log add up to. Pure: the same rows give every worker the same state.

Finished ids are bits. A Sender counts from 1, so 4,096 ids in a row share one chunk of 512 bytes, one number in memory
and one row on disk: ten million ids of one Sender are 2,442 chunks. A chunk lives as long as the longest-lived of its
ids. Ids that are begun and not finished are few, and have an entry each. An entry is not forgotten while a worker holds
it; what is known of the tokens of an id that is let go of (expiry, time of signing) stays in its chunk.

Chunks leave by the clock, and if there are too many those whose ids were signed first. From then on an id that was
signed as early and is not known counts as *forgotten*: it may have been run. All of this is decided once, by the worker
that compacts, and written into the log, so that no two workers ever disagree on what is known.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from servicebus.runtime.journal.answers import AnswerIndex
from servicebus.runtime.journal.interface import REFUSED, Release
from servicebus.runtime.journal.records import Compaction, Estate, Numbered

__all__ = ["CHUNK_IDS", "GRACE_S", "NOBODY", "Changes", "Entry", "Ledger", "Limits"]

CHUNK_BITS = 12
CHUNK_IDS = 1 << CHUNK_BITS
_BIT_MASK = CHUNK_IDS - 1

# A chunk is one number: when it expires in the lowest 32 bits, above them when the last of its ids was signed, above
# them one bit for each id.
_TIME_BITS = 32
_TIME_MASK = (1 << _TIME_BITS) - 1
_IDS_AT = 2 * _TIME_BITS
# The order in which chunks leave when there are too many: when signed, then when expired. Without the lowest bit, as
# SQLite's numbers have 63.
_ORDER_MASK = (1 << 63) - 1
_SIGNED_AT = 31

_BUCKET_BITS = 4
"""Chunks are looked at by expiry, 16 seconds at once."""

_LINGER_S = 10
"""Rows stay in the log for so long after they were compacted: a worker that lags behind less than that reads on."""
GRACE_S = 3600
"""How much longer than asked for an id is remembered: a clock that is set forward by mistake is set back again."""
_ROOM_SHARE = 64
"""When there are too many chunks, so much of the limit (one part in ...) is made free: looking for what to forget takes
tens of milliseconds, and must not be needed again soon."""

NOBODY = 0
_NOTHING = (-1, 0, 0, 0, 0)


@dataclass(frozen=True)
class Limits:
    """How much is remembered at most."""

    max_entries: int = 250_000
    """Chunks of 4,096 ids (of one Sender), and unfinished ids."""
    max_answer_bytes: int = 64 * 1024 * 1024
    """Of all stored answers together. One that is larger than half of it is not stored."""
    reply_keep_s: float = 3600.0
    """How long an answer is given again."""


Entry = tuple[int, int, int, int, int]
"""An id that was begun and is not finished: its owner (NOBODY while it waits for its next attempt), its attempts, how
many of them ended with a death, its expiry, when it was signed. A plain tuple: one with names takes a third of a
microsecond to make."""


class Changes(NamedTuple):
    """What a compaction has to write: rows as they are now, and the keys of those that are gone."""

    chunks: list[tuple[int, int, int, int]]
    """Key, expiry, when its last id was signed, bits."""
    lost_chunks: list[int]
    entries: list[tuple[int, Entry]]
    lost_entries: list[int]


class Ledger:
    """Belongs to one thread. Methods named after rows apply one; times are whole Unix seconds."""

    def __init__(self, limits: Limits):
        self.applied = 0
        """The last row that this state knows."""
        self.trimmed = 0
        self.compacted_at = 0
        self.pending = 0
        """Ids that rows since the last compaction told of."""
        self.forgotten = 0
        """Ids that had to be forgotten before they expired."""
        self.forgotten_until = 0
        """They were signed until then: an unknown id that was too may be one of them."""
        self.forgotten_answers = 0
        self.entries: dict[int, Entry] = {}
        self.answers = AnswerIndex(limits.max_answer_bytes, limits.reply_keep_s)
        self._max_entries = limits.max_entries
        self._chunks: dict[int, int] = {}
        self._due: dict[int, list[int]] = {}
        self._due_order: list[int] = []
        self._saved: set[int] = set()
        self._changed_chunks: set[int] = set()
        self._changed_entries: set[int] = set()
        self._compactions: deque[tuple[int, int]] = deque()

    def __repr__(self) -> str:
        return f"<Ledger applied={self.applied} entries={len(self.entries)} chunks={len(self._chunks)}>"

    @property
    def chunk_count(self) -> int:
        return len(self._chunks)

    def count_finished(self) -> int:
        """How many finished ids are remembered; takes time in proportion to the chunks."""
        return sum((value >> _IDS_AT).bit_count() for value in self._chunks.values())

    # -- asking ------------------------------------------------------------------------------------------------------

    def is_finished(self, number: int) -> bool:
        value = self._chunks.get(number >> CHUNK_BITS)
        return value is not None and value >> (_IDS_AT + (number & _BIT_MASK)) & 1 == 1

    def unknown(self, asked: Sequence[tuple[str, int, int, int, bool]]) -> list[Numbered]:
        """Number, expiry and time of signing of those that were never begun, as far as is remembered."""
        entries, chunks = self.entries, self._chunks
        return [
            (number, until, sent)
            for _, number, until, sent, _ in asked
            if number not in entries and (number >> CHUNK_BITS not in chunks or not self.is_finished(number))
        ]

    def outlives(self, number: int, expires: int, sent: int) -> bool:
        """Will what is known of this id be remembered until *expires*, without being told so?"""
        entry = self.entries.get(number)
        if entry is not None:
            return entry[3] >= expires and entry[4] >= sent
        value = self._chunks.get(number >> CHUNK_BITS, 0)
        return value & _TIME_MASK >= expires and value >> _TIME_BITS & _TIME_MASK >= sent

    # -- rows ----------------------------------------------------------------------------------------------------------

    def begin(self, owner: int, starts: Sequence[Numbered]) -> None:
        """*owner* has what nobody has begun, and what waits for its next attempt; of the rest the expiry is noted."""
        self.pending += len(starts)
        entries, note_change = self.entries, self._changed_entries.add
        for number, expires, sent in starts:
            entry = entries.get(number)
            if entry is not None:
                holder, attempts, deaths, until, since = entry
                if holder == NOBODY:
                    holder, attempts = owner, attempts + 1
                entries[number] = (holder, attempts, deaths, max(expires, until), max(sent, since))
            elif self.is_finished(number):
                self._prolong(number >> CHUNK_BITS, expires, sent)
                continue
            else:
                entries[number] = (owner, 1, 0, expires, sent)
            note_change(number)

    def take_over(self, owner: int, starts: Sequence[Estate]) -> None:
        """*owner* gets what a dead worker left behind, unless somebody else has asked before."""
        self.pending += len(starts)
        for number, dead, expires, sent in starts:
            holder, attempts, deaths, until, since = self.entries.get(number, _NOTHING)
            if holder == dead:
                self.entries[number] = (owner, attempts + 1, deaths + 1, max(expires, until), max(sent, since))
                self._changed_entries.add(number)

    def finish(self, owner: int, numbers: Sequence[int]) -> None:
        self.pending += len(numbers)
        entries, chunks, note_chunk = self.entries, self._chunks, self._changed_chunks.add
        for number in numbers:
            entry = entries.get(number)
            if entry is None or entry[0] != owner:
                continue
            self._remove(number)
            key = number >> CHUNK_BITS
            value = chunks.get(key, 0)
            if value & _TIME_MASK < entry[3] or value >> _TIME_BITS & _TIME_MASK < entry[4]:
                value = self._prolong(key, entry[3], entry[4])
            chunks[key] = value | 1 << (_IDS_AT + (number & _BIT_MASK))
            note_chunk(key)

    def release(self, owner: int, why: Release, numbers: Sequence[int]) -> None:
        self.pending += len(numbers)
        for number in numbers:
            holder, attempts, deaths, expires, sent = self.entries.get(number, _NOTHING)
            if holder != owner:
                continue
            attempts -= why is Release.NOT_RUN
            if why is Release.BURIED or not attempts:
                self._remove(number)
                # Another worker may hold a copy that is good for longer than the next one to be run.
                self._prolong(number >> CHUNK_BITS, expires, sent)
                continue
            if why is Release.REFUSED:
                self.entries[number] = (owner, attempts + REFUSED, deaths, expires, sent)
            else:
                self.entries[number] = (NOBODY, attempts, deaths, expires, sent)
            self._changed_entries.add(number)

    def compact(self, seq: int, compaction: Compaction) -> Changes:
        """Forget what the row says, and give what has to be saved so that no row before it is needed any more."""
        self._forget(compaction)
        self.forgotten_answers += compaction.forgotten_answers
        self.answers.drop_before(compaction.keep_from)
        changes = Changes(
            [(key, *self._parts(key)) for key in self._changed_chunks if key in self._chunks],
            [key for key in self._changed_chunks if key not in self._chunks],
            [(number, self.entries[number]) for number in self._changed_entries if number in self.entries],
            [number for number in self._changed_entries if number not in self.entries],
        )
        self._saved = set(self.entries)
        self._changed_chunks.clear()
        self._changed_entries.clear()
        self._compactions.append((seq, compaction.at))
        while self._compactions[0][0] <= compaction.trim_to:
            self._compactions.popleft()
        self.trimmed = compaction.trim_to
        self.compacted_at = compaction.at
        self.pending = 0
        return changes

    def plan(self, now: int) -> Compaction:
        """What a compaction at *now* should do."""
        keep_from, early = self.answers.overdue(now)
        # Not those of a moment ago; those "of the future" are from before the clock was set back.
        lingering = (seq for seq, at in reversed(self._compactions) if not 0 <= now - at < _LINGER_S)
        trim_to = next(lingering, self.trimmed)
        before = self._room_from()
        until = max(self.forgotten_until, before >> _SIGNED_AT)
        return Compaction(now, max(0, now - GRACE_S), before, until, keep_from, trim_to, early)

    # -- as saved ------------------------------------------------------------------------------------------------------

    def restore_chunk(self, key: int, expires: int, sent: int, bits: int) -> None:
        self._chunks[key] = bits << _IDS_AT | sent << _TIME_BITS | expires
        self._note_due(key, expires)

    def restore_entry(self, number: int, entry: Entry) -> None:
        self.entries[number] = entry
        self._saved.add(number)

    def restored(self, seq: int, compaction: Compaction, forgotten: int, forgotten_answers: int) -> None:
        """All that row *seq* and those before it told is here; from here on rows are applied."""
        self.forgotten, self.forgotten_answers = forgotten, forgotten_answers
        self.forgotten_until = compaction.forgotten_until
        self.applied = seq
        self.trimmed = compaction.trim_to
        self.compacted_at = compaction.at
        self._compactions.append((seq, compaction.at))

    # -- inside --------------------------------------------------------------------------------------------------------

    def _remove(self, number: int) -> None:
        del self.entries[number]
        if number in self._saved:
            self._changed_entries.add(number)
        else:
            self._changed_entries.discard(number)

    def _prolong(self, key: int, expires: int, sent: int) -> int:
        """Have the chunk remembered until *expires*, and know that one of its ids was signed at *sent*."""
        value = self._chunks.get(key)
        if value is None:
            self._note_due(key, expires)
            value = 0
        later = max(expires - (value & _TIME_MASK), 0)
        newer = max(sent - (value >> _TIME_BITS & _TIME_MASK), 0)
        value = self._chunks[key] = value + (newer << _TIME_BITS) + later
        self._changed_chunks.add(key)
        return value

    def _parts(self, key: int) -> tuple[int, int, int]:
        value = self._chunks[key]
        return value & _TIME_MASK, value >> _TIME_BITS & _TIME_MASK, value >> _IDS_AT

    def _note_due(self, key: int, expires: int) -> None:
        bucket = expires >> _BUCKET_BITS
        keys = self._due.get(bucket)
        if keys is None:
            keys = self._due[bucket] = []
            heapq.heappush(self._due_order, bucket)
        keys.append(key)

    def _forget(self, compaction: Compaction) -> None:
        expired = compaction.expired_before
        for number, entry in list(self.entries.items()):
            # What is held is run, however long that takes.
            if entry[0] == NOBODY and entry[3] < expired:
                self._remove(number)
        while self._due_order and self._due_order[0] < expired >> _BUCKET_BITS:
            self._drop(self._settle_bucket(heapq.heappop(self._due_order)))
        before, self.forgotten_until = compaction.forget_before, compaction.forgotten_until
        if before:
            early = [key for key, value in self._chunks.items() if value >> 1 & _ORDER_MASK < before]
            self.forgotten += sum((self._chunks[key] >> _IDS_AT).bit_count() for key in early)
            self._drop(early)

    def _drop(self, keys: Iterable[int]) -> None:
        for key in keys:
            del self._chunks[key]
            self._changed_chunks.add(key)

    def _settle_bucket(self, bucket: int) -> set[int]:
        """The chunks that do expire in *bucket*, which is taken away; the others have been prolonged since."""
        due = set()
        for key in self._due.pop(bucket):
            value = self._chunks.get(key)
            if value is None:
                continue  # forgotten early
            expires = value & _TIME_MASK
            if expires >> _BUCKET_BITS == bucket:
                due.add(key)
            else:
                self._note_due(key, expires)
        return due

    def _room_from(self) -> int:
        """Before which place in their order chunks have to go, so that the others are few enough; 0 if they are."""
        excess = len(self._chunks) + len(self.entries) - self._max_entries
        if excess <= 0 or not self._chunks:
            return 0
        order = sorted(value >> 1 & _ORDER_MASK for value in self._chunks.values())
        return order[min(excess + self._max_entries // _ROOM_SHARE, len(order)) - 1] + 1
