"""RecentIds: the ids that came last, so many of them."""

from __future__ import annotations

__all__ = ["RecentIds"]


class RecentIds:
    """Belongs to one thread. Of more than *limit* the oldest are forgotten."""

    def __init__(self, limit: int = 10_000):
        self._limit = limit
        self._ids: dict[str, None] = {}

    def __repr__(self) -> str:
        return f"<RecentIds {len(self._ids)} of {self._limit}>"

    def __contains__(self, id: str) -> bool:
        return id in self._ids

    def add(self, id: str) -> None:
        self._ids[id] = None
        if len(self._ids) > self._limit:
            del self._ids[next(iter(self._ids))]

    def discard(self, id: str) -> None:
        self._ids.pop(id, None)
