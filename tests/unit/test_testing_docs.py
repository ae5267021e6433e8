"""The examples of docs/testing.rst about the bus in memory run, and measure up to what the page says of them."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from servicebus.testing import FaultyBroker, HistoryEntry, MemoryBus, MemoryNode

PAGE = (Path(__file__).parents[2] / "docs" / "testing.rst").read_text()
CHAPTER = PAGE[PAGE.index("The bus in memory") : PAGE.index("Private brokers\n")]
CODE = "\n".join(
    textwrap.dedent(block) for block in re.findall(r"^\.\. code-block:: python\n\n((?: {4}.*\n|\n)+)", CHAPTER, re.M)
)
NAMES = re.findall(r"^def (test_\w+)", CODE, re.M)


def test_the_chapter_has_examples() -> None:
    assert len(NAMES) >= 6


@pytest.mark.parametrize("name", NAMES)
def test_an_example_runs(name: str, memory_bus: Callable[..., MemoryBus]) -> None:
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(CODE, "docs/testing.rst", "exec"), names)  # noqa: S102 - it is ours
    test = names[name]
    test(**({"memory_bus": memory_bus} if "memory_bus" in inspect.signature(test).parameters else {}))


@pytest.mark.parametrize("kind", [MemoryBus, MemoryNode, FaultyBroker])
def test_what_a_test_may_use_is_on_the_page(kind: type) -> None:
    private = {"close", "record", "is_serving", "has_unfinished", "wake", "watch", "name"}
    for name in vars(kind):
        if not name.startswith("_") and name not in private:
            assert re.search(rf"``{name}\b", CHAPTER), f"{kind.__name__}.{name} is not on the page"


def test_each_field_of_an_entry_is_on_the_page_or_says_more_than_the_page() -> None:
    assert {"at", "what", "id", "target", "broker", "attempt", "detail", "context"} == {
        *vars(HistoryEntry)["__match_args__"]
    } - {"event_id"}
