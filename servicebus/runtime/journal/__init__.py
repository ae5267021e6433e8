"""The journal: which ids this node has started and finished, so that none is run twice."""

from servicebus.runtime.journal.interface import (
    Damaged,
    IdRecord,
    IdState,
    IdStatus,
    Journal,
    JournalUnavailable,
    Limits,
    Lookup,
    Release,
    Start,
)
from servicebus.runtime.journal.memory import MemoryJournal
from servicebus.runtime.journal.opening import (
    MEMORY,
    check_journal,
    journal_of,
    open_journal,
    open_shared,
    shown_journal,
)
from servicebus.runtime.journal.shared import SharedJournal

__all__ = [
    "MEMORY",
    "Damaged",
    "IdRecord",
    "IdState",
    "IdStatus",
    "Journal",
    "JournalUnavailable",
    "Limits",
    "Lookup",
    "MemoryJournal",
    "Release",
    "SharedJournal",
    "Start",
    "check_journal",
    "journal_of",
    "open_journal",
    "open_shared",
    "shown_journal",
]
