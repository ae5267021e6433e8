"""nearest(): what was meant by a word that is misspelt."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["nearest"]


def nearest(word: str, words: Sequence[str], *, likeness: float = 0.6) -> str | None:
    """The one of *words* that is most like *word*, from *likeness* on (0 to 1)."""
    import difflib  # late: a third of a megabyte for what hardly any process needs

    found = difflib.get_close_matches(word, words, n=1, cutoff=likeness)
    return found[0] if found else None
