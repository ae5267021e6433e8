"""SharedJournal: one journal for all workers of a node on one machine, which outlives each of them.

Theory of operation. What workers begin and finish they append to one log, which gives all of it one order; each worker
adds the log up to the same state (the ledger) in its own memory, so asking is a look into a dictionary, and telling is
one row per batch. An id belongs to whoever's row comes first. A worker reads what others have appended when its own row
turns out not to be the next one, when it is asked about an id that is not new, and once a second.

Every few thousand ids somebody *compacts*: appends a row that says what may be forgotten. When the rows have grown by
half of what the state takes, somebody writes it down as a whole, the *snapshot*, and rows that are in it go. So a
worker that starts, or was frozen for long, reads the snapshot and the rows since.

What a worker has begun it may not have started: it waits in an inbox. That is noted in the worker's black box, and not
in the log. Whoever finds the worker dead releases in its name what only waited; if two do, the first row counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from servicebus.runtime.journal import records
from servicebus.runtime.journal.blackbox import BlackBoxes
from servicebus.runtime.journal.interface import Known, OneByOne, Release, Standing, Start, seconds
from servicebus.runtime.journal.ledger import COMPACT_IDS, GRACE_S, NOBODY, Limits
from servicebus.runtime.journal.owners import OwnerLock
from servicebus.runtime.journal.records import Numbered, number_of
from servicebus.runtime.journal.replica import OwnRow, Replica, begun, ended, released, taken_over
from servicebus.transport.loop import nothing

__all__ = ["SharedJournal"]

_KEEP_EVERY_S = 5
_ROUNDS = 4
"""Each round but the first needs another worker that did something in the very same moment."""

_FIRST = Known(Standing.NEW, None, 1)
_FORGOTTEN = Known(Standing.FORGOTTEN, None, 1)

End = tuple[str, bytes | None]

Asked = tuple[str, int, int, int, bool]
"""Id, number, expiry, time of signing, may be run again."""


class SharedJournal(OneByOne):
    """A Journal on a Log. Takes replica and lock over, and closes them.

    Args:
        owners: holds a number already.

    Raises:
        JournalUnavailable: the black box of an older worker with that number is in the way.
    """

    def __init__(self, replica: Replica, owners: OwnerLock, boxes: BlackBoxes, limits: Limits):
        self._replica = replica
        self._owners = owners
        self._me = owners.number
        self._limits = limits
        self._mine: dict[str, int] = {}
        """What was given out as NEW and has not come back; the log may say that we have begun more than that."""
        self._given: list[str] = []
        """Of these, what was given out in this turn."""
        self._boxes = boxes
        self._box = boxes.open(self._me)
        self._unopened: set[int] = set()
        """Workers that were found dead, and whose black boxes have not been looked into yet."""
        self._dead: set[int] = set()
        """The others that are. All that they ever wrote is known, and what they never started is released."""
        self._has_failed = False
        self._large_answers = 0
        self._kept_at = 0
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<SharedJournal {self._replica.log!r} owner={self._me} begun={len(self._mine)}>"

    def begin_many(self, starts: Sequence[Start], now: float) -> list[Known]:
        return self.turn((), starts, now)

    def finish_many(self, ends: Sequence[End], now: float) -> None:
        self.turn(ends, (), now)

    def turn(self, ends: Sequence[End], starts: Sequence[Start], now: float) -> list[Known]:
        self._now = now
        self._replica.refresh()
        self._given.clear()
        asked = (
            [(id, number_of(id), seconds(until + 1), seconds(sent), rerun) for id, until, rerun, sent in starts]
            if starts
            else []
        )
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
            if len(self._box.slots) > len(self._mine):
                self._box.clear_all_but(self._mine.values())
        if self._replica.ledger.pending >= COMPACT_IDS:
            self._replica.compact(now)
        return found

    def release_many(self, ids: Sequence[str], why: Release) -> None:
        self._replica.refresh()
        numbers = [self._mine[id] for id in ids if id in self._mine]
        if numbers:
            self._replica.write(released(self._me, why, numbers))
            if why is not Release.REFUSED:
                self._let_go(ids)

    def starter(self, id: str) -> Callable[[], None]:
        number = self._mine.get(id)
        return nothing if number is None else self._box.starter(number)

    def tick(self, now: float) -> None:
        self._now = now
        self._replica.refresh()
        self._replica.catch_up()
        if self._has_failed:
            self._release_unclaimed()
        if self._replica.ledger.is_compaction_due(now):
            self._clear_estates(now)
            self._replica.compact(now)
        is_time = abs(now - self._kept_at) >= _KEEP_EVERY_S
        if is_time or self._replica.log.keeper.wants_state:
            ledger = self._replica.ledger
            self._replica.log.keep(ledger.applied, ledger.state, ledger.answers.first_place)
        if is_time:
            self._kept_at = int(now)
            self._look_for_the_dead()
        self._replica.report(now)

    def snapshot(self) -> dict[str, Any]:
        return self._replica.ledger.sizes(self._large_answers)

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._box.close()
            self._replica.log.close()
            self._owners.close()

    # -- asking ------------------------------------------------------------------------------------------------------

    def _tell(self, ends: Sequence[End], asked: Sequence[Asked]) -> None:
        """Write what was run, and that we want what can be had: a row each, both at once if nothing is in the way."""
        ending = self._ended(ends) if ends else None
        wanted = self._replica.ledger.unknown(asked) if asked else []
        if ending is not None:
            if wanted and len(wanted) == len(asked):
                self._replica.write_both(ending, self._begun(wanted))
                self._let_go(dict(ends))
                return
            self._replica.write(ending)
            self._let_go(dict(ends))
        if len(wanted) < len(asked):
            self._claim(asked)
        elif wanted:
            self._replica.write(self._begun(wanted))

    def _hear(self, asked: Sequence[Asked]) -> list[Known]:
        """What is known of each; claimed again where that is not clear yet."""
        found = [self._known(one) for one in asked]
        if None not in found:
            return found  # type: ignore[return-value]  # mypy does not see that they are all Known
        for _ in range(_ROUNDS):
            if None not in found:
                break
            self._claim([one for one, known in zip(asked, found, strict=True) if known is None])
            found = [known or self._known(one) for one, known in zip(asked, found, strict=True)]
        # Still none: it changes hands faster than we can look. Whoever asks again is told more.
        return [known or Known(Standing.RUNNING) for known in found]

    def _claim(self, asked: Sequence[Asked]) -> None:
        """Want what is known already: others may have finished, released or taken it since we looked."""
        self._catch_up_with_the_dead()
        wanted = [(one[1], one[2], one[3]) for one in asked if self._is_wanted(one)]
        self._take_over([(number, until, sent) for _, number, until, sent, rerun in asked if rerun])
        if wanted:
            self._replica.write(self._begun(wanted))

    def _begun(self, wanted: list[Numbered]) -> OwnRow:
        # Before the row: what is in the log and not in the box counts as started.
        self._box.note(wanted)
        return begun(self._me, wanted)

    def _ended(self, ends: Sequence[End]) -> OwnRow | None:
        mine, entries, largest = self._mine, self._replica.ledger.entries, self._limits.max_answer_bytes // 2
        ours: list[tuple[int, bytes | None]] = []
        until = 0
        for id, answer in ends:
            number = mine.get(id)
            if number is None:
                continue
            if answer is not None and len(answer) > largest:
                self._large_answers += 1
                answer = None
            ours.append((number, answer))
            entry = entries.get(number)
            if entry is not None and entry[3] > until:
                until = entry[3]
        return ended(self._me, seconds(self._now), until, ours) if ours else None

    def _let_go(self, ids: Iterable[str]) -> None:
        numbers = [self._mine.pop(id) for id in ids if id in self._mine]
        self._box.clear(numbers)

    def _is_wanted(self, one: Asked) -> bool:
        """Can it be had, or must it be remembered for longer than before?"""
        _, number, expires, sent, rerun = one
        entry = self._replica.ledger.entries.get(number)
        if entry is None and not self._replica.ledger.is_finished(number):
            return True
        if entry is not None and entry[0] == NOBODY and (rerun or not entry[2]):
            return True
        return not self._replica.ledger.outlives(number, expires, sent)

    def _take_over(self, asked: Iterable[Numbered]) -> None:
        entries = self._replica.ledger.entries
        estates = [
            (number, entries[number][0], until, sent)
            for number, until, sent in asked
            if number in entries and entries[number][0] in self._dead
        ]
        if estates:
            self._box.note([(number, until, sent) for number, _, until, sent in estates])
            self._replica.write(taken_over(self._me, estates))

    def _known(self, one: Asked) -> Known | None:
        """What is known now; None if it has to be claimed (again) first."""
        id, number, _, sent, rerun = one
        entry = self._replica.ledger.entries.get(number)
        if entry is None:
            return Known(Standing.FINISHED, self._answer(number)) if self._replica.ledger.is_finished(number) else None
        owner, attempts, deaths, _, _ = entry
        if owner == self._me and id not in self._mine:
            self._mine[id] = number
            self._given.append(id)
            if attempts > 1:
                return Known(Standing.NEW, None, attempts, deaths)
            return _FORGOTTEN if 0 < sent <= self._replica.ledger.forgotten_until else _FIRST
        if owner == NOBODY or owner in self._dead:
            is_free = rerun or (owner == NOBODY and not deaths)
            return None if is_free else Known(Standing.INTERRUPTED, None, attempts, deaths + (owner != NOBODY))
        if owner not in self._unopened and self._owners.is_alive(owner):
            return Known(Standing.RUNNING, None, attempts, deaths)
        # It cannot write any more; but what it wrote last may not have been read yet: look again.
        self._unopened.add(owner)
        return None

    # -- the dead ----------------------------------------------------------------------------------------------------

    def _look_for_the_dead(self) -> None:
        """Also for those whose ids nobody asks for: their boxes are to be cleared away."""
        for owner in self._boxes.numbers():
            if not self._owners.is_alive(owner):
                self._unopened.add(owner)
        if self._unopened:
            self._catch_up_with_the_dead()

    def _catch_up_with_the_dead(self) -> None:
        """Read on; and release, in the name of those found dead meanwhile, what they never started."""
        # In this order: who finds no box any more reads the row of the one who took it away.
        waiting = {owner: self._boxes.waiting(owner) for owner in self._unopened}
        self._replica.catch_up()
        for owner, numbers in waiting.items():
            self._release(owner, numbers)
            self._boxes.remove(owner)
            self._unopened.discard(owner)
            self._dead.add(owner)

    def _clear_estates(self, now: float) -> None:
        """Let go of what dead workers held and no token is good for. What living ones hold is not forgotten."""
        over = seconds(now) - GRACE_S
        held: dict[int, list[int]] = {}
        for number, entry in self._replica.ledger.entries.items():
            if entry[3] < over and entry[0] not in (NOBODY, self._me):
                held.setdefault(entry[0], []).append(number)
        for owner, numbers in held.items():
            if not self._owners.is_alive(owner):
                self._replica.write(released(owner, Release.BURIED, numbers))

    def _release_unclaimed(self) -> None:
        """What the log says is ours, since our row was written, and what nobody was told of, since more went wrong."""
        claimed = set(self._mine.values())
        self._release(self._me, [number for number in self._replica.ledger.entries if number not in claimed])
        self._has_failed = False

    def _release(self, owner: int, numbers: Iterable[int]) -> None:
        """As not run, those that *owner* has."""
        entries = self._replica.ledger.entries
        held = [number for number in numbers if number in entries and entries[number][0] == owner]
        if held:
            self._replica.write(released(owner, Release.NOT_RUN, held))

    # -- answers -----------------------------------------------------------------------------------------------------

    def _answer(self, number: int) -> bytes | None:
        place = self._replica.ledger.answers.place_of(number)
        data = None if place is None else self._replica.log.answer_row(place)
        return None if data is None else records.answer_in(data, number)
