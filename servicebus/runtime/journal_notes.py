"""JournalNotes: what the journal has to be told of ids that are not answered, and has not been told yet."""

from __future__ import annotations

import time

from servicebus.errors import JournalUnavailable
from servicebus.runtime.journal import Journal, Release

__all__ = ["JournalNotes"]


class JournalNotes:
    """Belongs to the thread that turns the loop."""

    def __init__(self, journal: Journal):
        self._journal = journal
        self._untold: list[tuple[str, Release | None]] = []

    def __repr__(self) -> str:
        return f"<JournalNotes {len(self._untold)} untold>"

    def __bool__(self) -> bool:
        """Something is untold."""
        return bool(self._untold)

    def add(self, id: str, why: Release | None) -> None:
        """*id* may come again, for that reason; or, with None, it is done with, without an answer."""
        self._untold.append((id, why))

    def tell(self) -> None:
        """Tell the journal, if it can be told now. As long as it cannot, copies of these ids are held."""
        for why in (None, *Release) if self._untold else ():
            ids = [id for id, reason in self._untold if reason is why]
            if not ids:
                continue
            try:
                if why is None:
                    self._journal.finish_many([(id, None) for id in ids], time.time())
                else:
                    self._journal.release_many(ids, why)
            except JournalUnavailable:
                return
            self._untold = [entry for entry in self._untold if entry[1] is not why]
