"""The check of the limits finds what it is there for."""

from __future__ import annotations

import pytest
from limits import problems

LONG = "class A:\n    def run(self):\n" + "        self.a = 1\n" * 40
DOCUMENTED = 'def run():\n    """' + "It runs.\n" * 40 + '"""\n    return 1\n'
CIRCLE = {"servicebus.a": "from servicebus import b", "servicebus.b": "def f():\n    import servicebus.a"}
TYPES = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from servicebus.a import A\n"


@pytest.mark.parametrize(
    ("sources", "problem"),
    [
        ({"servicebus.a": LONG}, "servicebus.a.A.run: line 2: 41 lines in a function; at most 40"),
        ({"servicebus.a": "# a\n" * 351}, "servicebus.a: a file of 351 lines; at most 350"),
        (CIRCLE, "a circle of imports: servicebus.a, servicebus.b"),
        (
            {"servicebus.a": "from servicebus.b import B", "servicebus.b": TYPES},
            "a circle of imports: servicebus.a, servicebus.b",
        ),
        (
            {"logging_service": "import servicebus.a", "servicebus.a": "import logging_service"},
            "a circle of imports: logging_service, servicebus.a",
        ),
    ],
)
def test_what_breaks_a_limit_is_found(sources: dict[str, str], problem: str) -> None:
    assert problems(sources, {}) == [problem]


def test_a_docstring_does_not_count() -> None:
    assert problems({"servicebus.a": DOCUMENTED}, {}) == []


def test_an_exception_is_for_what_it_names() -> None:
    assert problems({"servicebus.a": LONG}, {"servicebus.a.A.run": "why"}) == []
    assert problems(CIRCLE, {"servicebus.b -> servicebus.a": "why"}) == []


@pytest.mark.parametrize("name", ["servicebus.a.run", "servicebus.a -> servicebus.b", "servicebus.b -> servicebus.a"])
def test_an_exception_that_nothing_needs_is_found(name: str) -> None:
    sources = {"servicebus.a": "from servicebus.b import B", "servicebus.b": ""}
    assert problems(sources, {name: "why"}) == [f"{name}: an exception that nothing needs any more"]
