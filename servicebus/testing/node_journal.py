"""NodeJournal: what a node in memory remembers after its workers have ended, as the journal's file does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from servicebus.runtime.journal import IdStatus, Limits, Lookup, MemoryJournal, Release, Start
from servicebus.runtime.journal.memory import ME
from servicebus.runtime.journal.records import number_of
from servicebus.runtime.journal.state import UNOWNED

__all__ = ["NodeJournal"]

_DEAD = ME + 1


class NodeJournal(MemoryJournal):
    """One for all workers of the node, which end together."""

    def __init__(self, limits: Limits | None = None) -> None:
        super().__init__(limits)
        self._started: set[str] = set()

    def starter(self, id: str) -> Callable[[], None]:
        return partial(self._started.add, id)

    def finish_many(self, ends: Sequence[tuple[str, bytes | None]], now: float) -> None:
        super().finish_many(ends, now)
        self._started.difference_update(id for id, _ in ends)

    def release_many(self, ids: Sequence[str], why: Release) -> None:
        super().release_many(ids, why)
        self._started.difference_update(ids)

    def begin_many(self, starts: Sequence[Start], now: float) -> list[Lookup]:
        entries, interrupted = self._ledger.entries, {}
        for at, start in enumerate(starts):
            number = number_of(start.id)
            owner, attempts, deaths, *rest = entries.get(number, (UNOWNED, 0, 0, 0, 0))
            if owner == _DEAD and start.rerun:
                entries[number] = (UNOWNED, attempts, deaths + 1, rest[0], rest[1])
            elif owner == _DEAD:
                interrupted[at] = Lookup(IdStatus.INTERRUPTED, None, attempts, deaths + 1)
        found = super().begin_many(starts, now)
        return [interrupted.get(at, lookup) for at, lookup in enumerate(found)]

    def end_workers(self) -> None:
        """What the workers have begun and not started may be run by the next ones; of the rest nobody knows."""
        entries, started = self._ledger.entries, {number_of(id) for id in self._started}
        begun = [number for number, entry in entries.items() if entry[0] == ME]
        self._ledger.release(ME, Release.NOT_RUN, [number for number in begun if number not in started])
        for number in started.intersection(begun):
            entries[number] = (_DEAD, *entries[number][1:])
        self._started.clear()
