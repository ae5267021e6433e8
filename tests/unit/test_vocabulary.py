"""The check of the vocabulary finds what it is there for."""

from __future__ import annotations

from pathlib import Path

import pytest
from vocabulary import FOLDERS, left_word, names_in, names_under, problems

ROOT = Path(__file__).resolve().parents[2]


def reported(source: str, path: str = "servicebus/somewhere.py") -> list[str]:
    return problems(list(names_in(source, path)))


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("class OldKeeper: pass", "keeper"),
        ("def bury_it(): pass", "bury"),
        ("class A:\n    def __init__(self):\n        self._turn = 1", "turn"),
        ("class A:\n    lane: int = 0", "lane"),
        ("FAST_LANE_S = 1.0", "fast lane"),
        ("ROUNDS, PATIENCE_S = 1, 2.0", "patience"),
        ("async def letterIsRead(): pass", "letter"),
    ],
)
def test_a_left_word_is_found_wherever_a_name_is_introduced(source: str, word: str) -> None:
    (problem,) = reported(source)
    assert repr(word) in problem and problem.startswith("servicebus/somewhere.py:")


def test_a_module_is_a_name_too() -> None:
    assert "module walk" in reported("", "servicebus/operations/walk.py")[0]


@pytest.mark.parametrize(
    "name", ["DeadLetter", "dead_letters", "returned", "carrying", "sealed_with", "__slots__", "header", "lifecycle"]
)
def test_words_that_are_at_home_or_merely_alike_are_none(name: str) -> None:
    assert left_word(name) is None


def test_strings_comments_and_local_variables_are_no_names() -> None:
    assert reported("def read():\n    lane = 'the letter'  # bury it\n    return lane") == []


def test_a_class_name_that_stands_twice_is_found() -> None:
    names = [*names_in("class Plan: pass", "servicebus/a.py"), *names_in("class Plan: pass", "logging_service/b.py")]
    assert problems(names) == ["logging_service/b.py:1: class Plan exists already: servicebus/a.py:1"]


def test_words_are_looked_for_in_tests_too_and_their_class_names_may_stand_twice() -> None:
    names = [*names_in("class Bury: pass", "tests/a.py"), *names_in("class Bury: pass", "benchmarks/b.py")]
    assert [line.split(":")[0] for line in problems(names)] == ["benchmarks/b.py", "tests/a.py"]


def test_every_folder_with_code_is_looked_at() -> None:
    assert {Path(name.path).parts[0] for name in names_under(ROOT)} == set(FOLDERS)
