"""The journal: which ids this node has started and finished, so that none is run twice."""

from servicebus.runtime.journal.interface import Journal, JournalUnavailable, Known, Release, Standing, Start
from servicebus.runtime.journal.ledger import Limits
from servicebus.runtime.journal.memory import MemoryJournal
from servicebus.runtime.journal.opening import open_shared
from servicebus.runtime.journal.shared import SharedJournal

__all__ = [
    "Journal",
    "JournalUnavailable",
    "Known",
    "Limits",
    "MemoryJournal",
    "Release",
    "SharedJournal",
    "Standing",
    "Start",
    "open_shared",
]
