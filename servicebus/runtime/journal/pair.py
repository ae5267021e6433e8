"""JournalPair: two journals behind one face, each for ids of its own, so that neither has the other forget anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from servicebus.runtime.journal.interface import IdRecord, Journal, Lookup, Release, Start

__all__ = ["JournalPair"]


class JournalPair(Journal):
    """As a Journal. The second one is asked first: what a caller is told follows from both or, if one raises, neither.

    Args:
        is_second: whether an id is the second journal's.
    """

    def __init__(self, first: Journal, second: Journal, is_second: Callable[[str], bool]):
        self._first, self._second = first, second
        self._is_second = is_second

    def __repr__(self) -> str:
        return f"<JournalPair {self._first!r} {self._second!r}>"

    def begin_many(self, starts: Sequence[Start], now: float) -> list[Lookup]:
        return self.update((), starts, now)

    def finish_many(self, ends: Sequence[tuple[str, bytes | None]], now: float) -> None:
        self.update(ends, (), now)

    def update(self, ends: Sequence[tuple[str, bytes | None]], starts: Sequence[Start], now: float) -> list[Lookup]:
        is_second = self._is_second
        second_ends = [each for each in ends if is_second(each[0])]
        second_starts = [each for each in starts if is_second(each.id)]
        if not (second_ends or second_starts):
            return self._first.update(ends, starts, now)
        found = self._second.update(second_ends, second_starts, now)
        first_ends = [each for each in ends if not is_second(each[0])]
        first_starts = [each for each in starts if not is_second(each.id)]
        if not (first_ends or first_starts):
            return found
        try:
            of_first, of_second = iter(self._first.update(first_ends, first_starts, now)), iter(found)
        except BaseException:
            # The caller begins them again: begun twice by one owner, they would count as running.
            self._second.release_many([each.id for each in second_starts], Release.NOT_RUN)
            raise
        return [next(of_second if is_second(each.id) else of_first) for each in starts]

    def release_many(self, ids: Sequence[str], why: Release) -> None:
        for journal, is_mine in ((self._second, True), (self._first, False)):
            mine = [id for id in ids if self._is_second(id) is is_mine]
            if mine:
                journal.release_many(mine, why)

    def finished(self, ids: Sequence[str]) -> list[str]:
        found = []
        for journal, is_mine in ((self._second, True), (self._first, False)):
            mine = [id for id in ids if self._is_second(id) is is_mine]
            found += journal.finished(mine) if mine else []
        return found

    def look_up(self, ids: Sequence[str]) -> list[IdRecord | None]:
        found: dict[str, IdRecord | None] = {}
        for journal, is_mine in ((self._second, True), (self._first, False)):
            mine = [id for id in ids if self._is_second(id) is is_mine]
            found.update(zip(mine, journal.look_up(mine) if mine else (), strict=True))
        return [found[id] for id in ids]

    def starter(self, id: str) -> Callable[[], None]:
        return (self._second if self._is_second(id) else self._first).starter(id)

    def tick(self, now: float) -> None:
        self._second.tick(now)
        self._first.tick(now)

    def snapshot(self) -> dict[str, Any]:
        return {**self._first.snapshot(), "plain": self._second.snapshot()}

    def close(self) -> None:
        self._second.close()
        self._first.close()
