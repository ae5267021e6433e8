"""The contract of fixtures/journal_contract.py, for the journals that need no server."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from journal_contract import (
    JournalContract,
    OpenJournal,
    SharedJournalContract,
    Steps,
    many_examples,
    run_against_model,
)

from servicebus.runtime.journal import Journal, Limits, MemoryJournal, open_shared
from servicebus.testing.node_journal import NodeJournal


@contextlib.contextmanager
def shared_in(folder: Path) -> Iterator[OpenJournal]:
    with ExitStack() as stack:

        def open_one(**limits: Any) -> Journal:
            journal = open_shared(str(folder / "NODE-01.journal"), Limits(**limits))
            stack.callback(journal.close)
            return journal

        yield open_one


def open_memory(**limits: Any) -> Journal:
    return MemoryJournal(Limits(**limits))


class TestMemoryJournal(JournalContract):
    @pytest.fixture
    def open_journal(self) -> Iterator[OpenJournal]:
        yield open_memory

    @many_examples
    def test_no_id_is_given_out_twice_while_its_token_is_good_whatever_happens(self, steps: Steps) -> None:
        run_against_model(open_memory, steps, workers=1)


class TestNodeJournal(JournalContract):
    @pytest.fixture
    def open_journal(self) -> Iterator[OpenJournal]:
        yield lambda **limits: NodeJournal(Limits(**limits))

    @many_examples
    def test_no_id_is_given_out_twice_while_its_token_is_good_whatever_happens(self, steps: Steps) -> None:
        run_against_model(lambda **limits: NodeJournal(Limits(**limits)), steps, workers=1)


class TestSharedJournal(SharedJournalContract):
    @pytest.fixture
    def open_journal(self, tmp_path: Path) -> Iterator[OpenJournal]:
        with shared_in(tmp_path) as open_journal:
            yield open_journal

    @many_examples
    def test_no_id_is_given_out_twice_while_its_token_is_good_whatever_happens(self, steps: Steps) -> None:
        with tempfile.TemporaryDirectory() as folder, shared_in(Path(folder)) as open_journal:
            run_against_model(open_journal, steps, workers=3, knows_started=True)
