"""What is asked of every request is not looked up in an Enum: that takes four times as long before Python 3.12."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import servicebus
from servicebus.wire.envelope import CALL, CONTROL, EVENT, MESSAGE, Kind

ROOT = Path(servicebus.__file__).parent
ON_THE_WAY = [
    "sender.py",
    *(f"client/{name}.py" for name in ("answers", "scheduler", "link", "pending", "hosts")),
    *(f"runtime/{name}.py" for name in ("copy_store", "dispatcher", "execution", "job", "pipeline", "validator")),
    "runtime/journal_outage.py",
    "protocol/v2.py",
    "wire/signing.py",
]


def looked_up(source: str) -> Iterator[int]:
    """The lines of functions in which a Kind is looked up."""
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, (ast.FunctionDef, ast.Lambda)):
            for node in ast.walk(function):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Kind":
                    yield node.lineno


def test_each_kind_has_a_name_of_its_own() -> None:
    assert list(Kind) == [CALL, MESSAGE, CONTROL, EVENT]
    assert list(looked_up("def look(it): return it.kind is Kind.CALL")) == [1]


@pytest.mark.parametrize("module", ON_THE_WAY)
def test_no_kind_is_looked_up_on_the_way_of_a_request(module: str) -> None:
    assert not list(looked_up((ROOT / module).read_text()))
