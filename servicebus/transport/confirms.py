"""Unconfirmed: what was published in confirm mode, until the broker has said what became of it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Unconfirmed(Generic[Item]):
    """Items by their publish sequence number, in the order of publishing. One thread."""

    def __init__(self) -> None:
        self._items: dict[int, Item] = {}

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items.values())

    def add(self, number: int, item: Item) -> None:
        self._items[number] = item

    def settled(self, number: int, multiple: bool) -> list[Item]:
        """Take out what one confirm covers: *number*, or (*multiple*) everything up to and including it."""
        if not multiple:
            return [self._items.pop(number)] if number in self._items else []
        # In order, so the first that is too high ends it: a confirm of two must not look at ten thousand.
        numbers = list(takewhile(number.__ge__, self._items))
        return [self._items.pop(each) for each in numbers]

    def clear(self) -> list[Item]:
        """Take out everything: the broker will say nothing more."""
        items = list(self._items.values())
        self._items.clear()
        return items
