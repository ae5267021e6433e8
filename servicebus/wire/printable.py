"""printable(): text of strangers, brokers and services as it may be shown on a terminal or written to a log."""

from __future__ import annotations

__all__ = ["Unshown", "counted", "describe", "printable", "unshown"]


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


def counted(count: int, noun: str, verb: str = "") -> str:
    """``1 message``, ``2 messages``; with the *verb* ``wait``, ``1 message waits``, ``2 messages wait``."""
    words = f"{count} {noun}" if count == 1 else f"{count} {noun}s"
    return words if not verb else f"{words} {verb}s" if count == 1 else f"{words} {verb}"


def describe(error: BaseException) -> str:
    """The class and the text of *error*, printable. Never raises, whatever the class makes of being asked."""
    try:
        text = str(error)
    except BaseException as broken:
        text = f"(its text could not be made: {_name(broken)})"
    return f"{_name(error)}: {printable(text)}" if text else _name(error)


class Unshown(Exception):
    """Stands for an error whose text may show a value of the params: its class, and where it was raised, remain."""


def unshown(error: BaseException) -> Unshown:
    """*error* without its text, with its traceback, for logs."""
    return Unshown(f"{_name(error)} (its text may show a value)").with_traceback(error.__traceback__)


def _name(error: BaseException) -> str:
    return str(type.__dict__["__name__"].__get__(type(error)))  # a metaclass may have another, which raises
