"""RecentIds: the last so many."""

from __future__ import annotations

from servicebus.runtime.recent_ids import RecentIds


def test_the_oldest_are_forgotten_first() -> None:
    ids = RecentIds(3)
    for id in ("a", "b", "c", "d"):
        ids.add(id)
    assert [id for id in ("a", "b", "c", "d") if id in ids] == ["b", "c", "d"]


def test_one_that_is_discarded_makes_room() -> None:
    ids = RecentIds(2)
    ids.add("a")
    ids.add("b")
    ids.discard("a")
    ids.discard("never there")
    ids.add("c")
    assert [id for id in ("a", "b", "c") if id in ids] == ["b", "c"]
