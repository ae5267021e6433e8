"""SharedJournal: one journal for all workers of a node on one machine, which outlives each of them.

Workers append what they begin and finish to one log, which gives it one order. Each adds the log up to the same state
(the ledger) in its own memory, so a question is a look into a dictionary, and a batch is one row. An id belongs to the
worker whose row comes first. A worker reads the rows of others when its own row turns out not to be the next one, when
it is asked about an id that is not new, and once a second. Every few thousand ids one worker *compacts*: it appends a
row that says what may be forgotten.

A worker may have begun an id and not started it: it waits in an inbox. That is noted in the worker's in-flight file,
not in the log. The worker that finds it dead releases in its name what only waited; if two do, the first row counts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from typing import Any

from servicebus.runtime.byte_locks import LockFiles
from servicebus.runtime.journal import records
from servicebus.runtime.journal.inflight import InFlightFiles
from servicebus.runtime.journal.interface import (
    NEVER,
    Damaged,
    IdRecord,
    IdState,
    IdStatus,
    Journal,
    Lookup,
    Release,
    Start,
    record_of,
    seconds,
)
from servicebus.runtime.journal.ledger import COMPACT_IDS, MARGIN_S
from servicebus.runtime.journal.log import OwnRow, Replica, own_row
from servicebus.runtime.journal.records import Numbered, RowKind, numbered, pack_begin, pack_finish
from servicebus.runtime.journal.state import UNOWNED, Entry
from servicebus.transport.loop import nothing

__all__ = ["SharedJournal"]

_CHECKPOINT_EVERY_S = 5
_ROUNDS = 4
"""Each round but the first needs another worker that did something in the very same moment."""

End = tuple[str, bytes | None]

Asked = tuple[str, Numbered, bool]
"""Id, number, expiry, time of signing, may be run again."""


class SharedJournal(Journal):
    """A Journal on a Log. Takes replica and lock file over, and closes them.

    Args:
        lock: has the byte *number*, this worker's. The kernel drops it with the process: a worker whose byte is free is
            dead. Process ids are reused, these numbers are not.

    Raises:
        JournalUnavailable: the in-flight file of an older worker with that number is in the way.
    """

    def __init__(self, replica: Replica, lock: LockFiles, number: int, files: InFlightFiles):
        self._replica = replica
        self._lock = lock
        self._me = number
        self._mine: dict[str, int] = {}
        """What was given out as NEW and has not come back; the log may say that we have begun more than that."""
        self._given: list[str] = []
        """Of these, what was given out in this update."""
        self._files = files
        self._in_flight = files.open(self._me)
        self._unopened: set[int] = set()
        """Workers that were found dead, and whose in-flight files have not been read yet."""
        self._dead: set[int] = set()
        """Other dead workers. All that they ever wrote is known, and what they never started is released."""
        self._has_failed = False
        self._checkpoint_at = 0
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<SharedJournal {self._replica.log!r} owner={self._me} begun={len(self._mine)}>"

    def begin_many(self, starts: Sequence[Start], now: float) -> list[Lookup]:
        return self.update((), starts, now)

    def finish_many(self, ends: Sequence[End], now: float) -> None:
        self.update(ends, (), now)

    def update(self, ends: Sequence[End], starts: Sequence[Start], now: float) -> list[Lookup]:
        self._now = now
        if self._replica.is_stale:
            self._replica.refresh()
        self._given.clear()
        asked = [(id, numbered(id, until + 1, sent), rerun) for id, until, rerun, sent in starts] if starts else []
        try:
            self._tell(ends, asked)
            found = self._hear(asked) if asked else []
        except BaseException:
            # The caller does not hear of those that were given out already.
            for id in self._given:
                del self._mine[id]
            self._has_failed = True
            raise
        finally:
            if len(self._in_flight.entries) > len(self._mine):
                self._in_flight.clear_all_but(self._mine.values())
        if self._replica.ledger.pending >= COMPACT_IDS:
            self._replica.compact(now)
        return found

    def release_many(self, ids: Sequence[str], why: Release) -> None:
        self._replica.refresh()
        numbers = [self._mine[id] for id in ids if id in self._mine]
        if numbers:
            self._replica.write(own_row(RowKind.RELEASE, self._me, why, numbers))
            if why is not Release.REFUSED:
                for id in ids:
                    self._mine.pop(id, None)
                self._in_flight.clear(numbers)

    def finished(self, ids: Sequence[str]) -> list[str]:
        self._replica.refresh()
        is_finished = self._replica.ledger.is_finished
        return [id for id in ids if is_finished(records.number_of(id))]

    def look_up(self, ids: Sequence[str]) -> list[IdRecord | None]:
        self._replica.refresh()
        self._replica.catch_up()
        waiting: dict[int, Collection[int]] = {}
        return [self._record(records.number_of(id), waiting) for id in ids]

    def starter(self, id: str) -> Callable[[], None]:
        number = self._mine.get(id)
        return nothing if number is None else self._in_flight.starter(number)

    def tick(self, now: float) -> None:
        self._now = now
        self._look_at_files()
        self._replica.refresh()
        self._replica.catch_up()
        if self._has_failed:
            self._release_unclaimed()
        if self._replica.ledger.is_compaction_due(now):
            self._release_overdue(now)
            self._replica.compact(now)
        is_time = abs(now - self._checkpoint_at) >= _CHECKPOINT_EVERY_S
        if is_time or self._replica.log.checkpointer.wants_state:
            ledger = self._replica.ledger
            self._replica.log.checkpoint(ledger.applied, ledger.state.copy, ledger.answers.first_place)
        if is_time:
            self._checkpoint_at = int(now)
            self._look_for_the_dead()
        self._replica.report(now)

    def snapshot(self) -> dict[str, Any]:
        return self._replica.ledger.sizes()

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._in_flight.close()
            self._replica.log.close()
            self._lock.close()

    # -- asking ------------------------------------------------------------------------------------------------------

    def _tell(self, ends: Sequence[End], asked: Sequence[Asked]) -> None:
        """Write what was run, and which ids we want: a row each, both at once if nothing is in the way."""
        ending = self._ended(ends) if ends else None
        wanted = self._replica.ledger.unknown(asked) if asked else ()
        if wanted and len(wanted) == len(asked):
            asked, begun = (), self._begun(wanted)
            if ending is None:
                self._replica.write(begun)
            else:
                self._replica.write(ending, begun)
        elif ending is not None:
            self._replica.write(ending)
        if ends:
            mine, over = self._mine, []
            for id, _ in ends:
                if id in mine:
                    over.append(mine.pop(id))
            self._in_flight.clear(over)
        if asked:
            self._begin_wanted(asked)

    def _hear(self, asked: Sequence[Asked]) -> list[Lookup]:
        """What is known of each; asked for again where that is not clear yet."""
        found = self._known(asked)
        for _ in range(_ROUNDS):
            if None not in found:
                return found  # type: ignore[return-value]  # mypy does not see that they are all Lookups
            unclear = [one for one, known in zip(asked, found, strict=True) if known is None]
            self._begin_wanted(unclear)
            again = iter(self._known(unclear))
            found = [known or next(again) for known in found]
        # Still None: it changes hands faster than we can look. The next to ask learns more.
        return [known or Lookup(IdStatus.RUNNING) for known in found]

    def _begin_wanted(self, asked: Sequence[Asked]) -> None:
        """Want what is known already: others may have finished, released or taken it since we looked."""
        self._catch_up_with_the_dead()
        wanted = [one[1] for one in asked if self._is_wanted(one)]
        self._take_over([start for _, start, rerun in asked if rerun])
        if wanted:
            self._replica.write(self._begun(wanted))

    def _begun(self, wanted: list[Numbered]) -> OwnRow:
        # Before the row: what is in the log and not in the in-flight file counts as started.
        self._in_flight.note(wanted)
        return RowKind.BEGIN, pack_begin(self._me, wanted), b"", (self._me, wanted)

    def _ended(self, ends: Sequence[End]) -> OwnRow | None:
        mine, me, now = self._mine, self._me, int(self._now) if 0 <= self._now <= NEVER else seconds(self._now)
        ours = [(mine[id], answer) for id, answer in ends if id in mine]
        kind, until, ours, sizes = self._replica.ledger.ending(ours)
        return (kind, *pack_finish(me, now, until, ours), (me, now, until, sizes)) if ours else None

    def _is_wanted(self, one: Asked) -> bool:
        """Can it be had, or must it be remembered for longer than before?"""
        _, (number, expires, sent), rerun = one
        entry = self._replica.ledger.entries.get(number)
        if entry is None and not self._replica.ledger.is_finished(number):
            return True
        if entry is not None and entry[0] == UNOWNED and (rerun or not entry[2]):
            return True
        return not self._replica.ledger.outlives(number, expires, sent)

    def _take_over(self, asked: Iterable[Numbered]) -> None:
        entries = self._replica.ledger.entries
        orphaned = [
            (number, entries[number][0], until, sent)
            for number, until, sent in asked
            if number in entries and entries[number][0] in self._dead
        ]
        if orphaned:
            self._in_flight.note([(number, until, sent) for number, _, until, sent in orphaned])
            self._replica.write(own_row(RowKind.TAKE_OVER, self._me, orphaned))

    def _known(self, asked: Sequence[Asked]) -> list[Lookup | None]:
        """What is known of each now; None if it has to be claimed (again) first."""
        ledger, mine, me = self._replica.ledger, self._mine, self._me
        found: list[Lookup | None] = []
        for id, (number, _, sent), rerun in asked:
            entry = ledger.entries.get(number)
            if entry is None:
                is_finished = ledger.is_finished(number)
                found.append(Lookup(IdStatus.FINISHED, self._answer(number)) if is_finished else None)
            elif entry[0] == me and id not in mine:
                mine[id] = number
                self._given.append(id)
                found.append(ledger.granted(entry, sent))
            else:
                found.append(self._known_of_another(entry, rerun))
        return found

    def _known_of_another(self, entry: Entry, rerun: bool) -> Lookup | None:
        """Of an id that is begun and not ours to give: another worker's, nobody's, or given out already."""
        owner, attempts, deaths, _, _ = entry
        if owner == UNOWNED or owner in self._dead:
            is_free = rerun or (owner == UNOWNED and not deaths)
            return None if is_free else Lookup(IdStatus.INTERRUPTED, None, attempts, deaths + (owner != UNOWNED))
        if owner not in self._unopened and self._is_alive(owner):
            return Lookup(IdStatus.RUNNING, None, attempts, deaths)
        # It cannot write any more; but what it wrote last may not have been read yet: look again.
        self._unopened.add(owner)
        return None

    def _look_at_files(self) -> None:
        """Believe the journal no more if it was removed or replaced, with its folder perhaps.

        Until we have ended, the next worker must not begin a new one: what we have begun would be new to it.
        """
        with suppress(OSError):  # the folder cannot be made: nor can a journal
            self._lock.hold_again(self._me)
        head = self._lock.files[-1]
        if head.is_gone():
            text = f"{head.path.name} was removed or replaced while it is in use; stop the agent to remove a journal"
            self._replica.give_up(Damaged(str(head.path).removesuffix(".head"), text))

    # -- dead workers ------------------------------------------------------------------------------------------------

    def _is_alive(self, owner: int) -> bool:
        return owner == self._me or self._lock.is_locked(owner)

    def _look_for_the_dead(self) -> None:
        """Also for those whose ids are not asked for: their in-flight files are to be removed."""
        for owner in self._files.numbers():
            if not self._is_alive(owner):
                self._unopened.add(owner)
        if self._unopened:
            self._catch_up_with_the_dead()

    def _catch_up_with_the_dead(self) -> None:
        """Read on; and release, in the name of those found dead meanwhile, what they never started."""
        # In this order: a worker that finds no file any more reads the row of the one that removed it.
        waiting = {owner: self._files.waiting(owner) for owner in self._unopened}
        self._replica.catch_up()
        for owner, numbers in waiting.items():
            self._release(owner, numbers)
            self._files.remove(owner)
            self._unopened.discard(owner)
            self._dead.add(owner)

    def _release_overdue(self, now: float) -> None:
        """Let go of what dead workers held and no token is good for. What living ones hold is not forgotten."""
        over = seconds(now) - MARGIN_S
        held: dict[int, list[int]] = {}
        for number, entry in self._replica.ledger.entries.items():
            if entry[3] < over and entry[0] not in (UNOWNED, self._me):
                held.setdefault(entry[0], []).append(number)
        for owner, numbers in held.items():
            if not self._is_alive(owner):
                self._replica.write(own_row(RowKind.RELEASE, owner, Release.DEAD_LETTERED, numbers))

    def _release_unclaimed(self) -> None:
        """What the log says is ours, because our row was written, and was not given out, because more went wrong."""
        claimed = set(self._mine.values())
        self._release(self._me, [number for number in self._replica.ledger.entries if number not in claimed])
        self._has_failed = False

    def _release(self, owner: int, numbers: Iterable[int]) -> None:
        """As not run, those that *owner* has."""
        entries = self._replica.ledger.entries
        held = [number for number in numbers if number in entries and entries[number][0] == owner]
        if held:
            self._replica.write(own_row(RowKind.RELEASE, owner, Release.NOT_RUN, held))

    def _record(self, number: int, waiting: dict[int, Collection[int]]) -> IdRecord | None:
        """Args: waiting: what each worker has begun and not started, as far as it was looked at."""
        entry = self._replica.ledger.entries.get(number)
        if entry is None:
            is_finished = self._replica.ledger.is_finished(number)
            return IdRecord(IdState.FINISHED, answer=self._answer(number)) if is_finished else None
        owner, attempts, deaths, _, _ = entry
        if owner not in waiting:
            waiting[owner] = self._files.waiting(owner)
        has_started = number not in waiting[owner]
        return record_of(owner, attempts, deaths, is_alive=self._is_alive(owner), has_started=has_started)

    def _answer(self, number: int) -> bytes | None:
        place = self._replica.ledger.answers.place_of(number)
        data = None if place is None else self._replica.log.answer_row(place)
        return None if data is None else records.answer_in(data, number)
