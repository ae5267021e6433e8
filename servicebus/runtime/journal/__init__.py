"""The journal: which ids this node has started and finished, so that none is run twice."""

from servicebus.runtime.journal.interface import Journal, JournalUnavailable, Known, Release, Standing, Start
from servicebus.runtime.journal.memory import MemoryJournal

__all__ = ["Journal", "JournalUnavailable", "Known", "MemoryJournal", "Release", "Standing", "Start"]
