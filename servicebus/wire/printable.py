"""printable(): text of strangers, brokers and services as it may be shown on a terminal or written to a log."""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: str, *, keep_newlines: bool = False) -> str:
    """*text* with every character escaped that could move a cursor, hide text or reorder it.

    Escaped, as ``\\x1b`` or ``\\u202e``, is what ``str.isprintable`` refuses: control characters (C0, DEL, C1), format
    characters (bidi, zero width), surrogates, line and paragraph separators, private and unassigned characters, and
    every white space but the plain space.

    Args:
        keep_newlines: leave line feeds as they are; for text that is shown as several lines.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or (keep_newlines and char == "\n") else char.encode("unicode_escape").decode()
        for char in text
    )
