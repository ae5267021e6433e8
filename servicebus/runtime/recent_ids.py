"""RecentIds: the ids that came last, so many of them."""

from __future__ import annotations

__all__ = ["RecentIds"]


class RecentIds(dict[str, None]):
    """Belongs to one thread. Of more than *limit* the oldest are forgotten. A dict: every request is looked up here."""

    def __init__(self, limit: int = 10_000):
        super().__init__()
        self._limit = limit

    def __repr__(self) -> str:
        return f"<RecentIds {len(self)} of {self._limit}>"

    def add(self, id: str) -> None:
        self[id] = None
        if len(self) > self._limit:
            del self[next(iter(self))]

    def discard(self, id: str) -> None:
        self.pop(id, None)
