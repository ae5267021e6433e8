"""docs/failover.rst draws the tables of states; they are those of the code, to the letter."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path

import pytest

from servicebus.client import request_state
from servicebus.policy import connection

DOCS = (Path(__file__).parents[2] / "docs" / "failover.rst").read_text(encoding="utf-8")


def drawn(table: Mapping[Enum, Mapping[Enum, Enum]]) -> str:
    """One line for each state: the events that it knows, and where they lead."""
    width = max(len(state.value) for state in table) + 3
    rows = {
        state: ", ".join(f"{event.value} -> {to.value}" for event, to in row.items()) for state, row in table.items()
    }
    return "\n".join(f"   {state.value:<{width}}{row}".rstrip() for state, row in rows.items())


@pytest.mark.parametrize("table", [request_state.TRANSITIONS, connection.TRANSITIONS], ids=["request", "connection"])
def test_the_documentation_draws_the_table(table: Mapping[Enum, Mapping[Enum, Enum]]) -> None:
    assert f".. code-block:: text\n\n{drawn(table)}\n" in DOCS, f"write into docs/failover.rst:\n{drawn(table)}"
