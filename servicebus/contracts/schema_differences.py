"""Differences of two schemas, and whether each breaks the callers that were built against the older one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from servicebus.contracts.compatibility import obstacles
from servicebus.contracts.difference_words import sentence
from servicebus.contracts.shapes import Schema

__all__ = ["Difference", "Effect", "compare_schemas"]

Effect = Literal["breaking", "unknown", "compatible"]


@dataclass(frozen=True)
class Difference:
    """One difference of a service, in one place."""

    service: str
    """``category.name``; of an event that the node publishes ``event NAME``."""
    direction: str
    """``params``, ``result``, ``error NAME``, ``payload`` of an event, or "" for what concerns the whole service."""
    path: str
    """Within the direction, as ``order.items[].price``; "" for all of it."""
    keyword: str
    """Of JSON Schema, or ``presence``, ``kind``, ``version`` and the like."""
    old: Any
    new: Any
    """Plain JSON values: numbers for bounds, words for types."""
    effect: Effect
    """``unknown``: it cannot be decided, and counts as breaking."""
    text: str
    """In words, without the place."""

    @property
    def breaks(self) -> bool:
        """Whether callers have to care, as far as one can know."""
        return self.effect != "compatible"

    @property
    def place(self) -> str:
        """Direction and path, as ``params order.items[].price``."""
        return " ".join(filter(None, (self.direction, self.path)))

    def __str__(self) -> str:
        return f"{self.place}: {self.text}" if self.place else self.text

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dict(vars(self))


def compare_schemas(service: str, direction: str, old: Schema, new: Schema) -> list[Difference]:
    """Of the schemas of *direction*: of ``params`` callers are the writers, of all else the node is."""
    is_params = direction == "params"
    forth, back = (
        (obstacles(old, new), obstacles(new, old)) if is_params else (obstacles(new, old), obstacles(old, new))
    )
    found: dict[tuple[str, str], Difference] = {}
    for each, is_forth in ((each, is_forth) for found_, is_forth in ((forth, True), (back, False)) for each in found_):
        effect: Effect = "compatible"
        if is_forth and each.certainty != "note":
            effect = "breaking" if each.certainty == "certain" else "unknown"
        is_writer_old = is_params == is_forth
        before, after = (each.writer, each.reader) if is_writer_old else (each.reader, each.writer)
        text = sentence(each.keyword, before, after, is_params=is_params, why=each.why if effect == "unknown" else "")
        difference = Difference(service, direction, each.path, each.keyword, before, after, effect, text)
        found.setdefault((each.path, each.keyword), difference)
    return list(found.values())
