"""What can be wrong with the params of a call."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["InvalidParam"]


class InvalidParam(NamedTuple):
    """One thing that is wrong with the params of a call. It never holds the value."""

    place: tuple[str | int, ...]
    """Names and indexes that lead to it; empty for the params themselves."""
    message: str
    kind: str
    """A word of pydantic, such as ``missing`` or ``int_parsing``."""

    def __str__(self) -> str:
        return self.of("params")

    def of(self, whole: str) -> str:
        """As text; *whole* is what it is in: the params, or the result."""
        where = ".".join(map(str, self.place)) or whole
        return f"{where}: {self.message} ({self.kind})"
