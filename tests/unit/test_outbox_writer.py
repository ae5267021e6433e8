"""OutboxWriter: what waits is done in one transaction, and what becomes of it where none succeeds."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from servicebus.client.outbox_file import OutboxFile, Stored
from servicebus.client.outbox_writer import OutboxWriter
from servicebus.errors import OutboxUnavailable

LATER_MS = 1_900_000_000_000


class Engine:
    """The thread that asks, and is called back."""

    def __init__(self, path: Path):
        self.path = path
        self.file = OutboxFile(path, 1000, 100_000_000)
        self.posted: queue.Queue[Callable[[], None]] = queue.Queue()
        self.expired: list[dict[str, int]] = []
        self.answers: list[tuple[Any, OutboxUnavailable | None]] = []
        self.is_full = False
        self.transactions = 0
        self._transaction = self.file.transaction
        self.file.transaction = self.transaction  # type: ignore[method-assign]
        self.writer = OutboxWriter(self.file, self.posted.put, self.expired.append)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self.transactions += 1
        with self._transaction():
            yield
            if self.is_full:
                raise OSError("the disk is full")

    def ask(self, do: Callable[[OutboxFile], Any], or_else: Callable[[OutboxFile], Any] | None = None) -> None:
        self.writer.ask(do, lambda *answer: self.answers.append(answer), or_else)

    def answered(self, count: int) -> list[Any]:
        while len(self.answers) < count:
            self.posted.get(timeout=30)()
        return [result for result, _ in self.answers]

    def close(self) -> None:
        closed: list[bool] = []
        self.writer.close(lambda: closed.append(True))
        while not closed:
            self.posted.get(timeout=30)()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = Engine(tmp_path / "outbox")
    yield engine
    if engine.writer._on_closed is None:
        engine.close()


def stored(number: int, body: bytes = b"<x/>", expires_ms: int = LATER_MS) -> Stored:
    return Stored("N.a.b", number, f"x-{number}", None, expires_ms, body)


def test_what_waits_for_the_disk_is_done_together_and_not_without_a_limit(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("servicebus.client.outbox_writer._MOST_AT_ONCE", 4)
    entered, go_on = threading.Event(), threading.Event()

    def wait(_file: OutboxFile) -> None:
        entered.set()
        assert go_on.wait(30)

    engine.ask(wait)
    assert entered.wait(30)
    for number in range(10):
        engine.ask(lambda _file, number=number: number)  # type: ignore[misc]
    go_on.set()
    assert engine.answered(11) == [None, *range(10)]
    assert engine.transactions == 1 + 3


def test_where_no_transaction_succeeds_the_other_way_is_taken(engine: Engine) -> None:
    engine.is_full = True
    engine.ask(lambda _file: "stored", lambda _file: "noted")
    engine.ask(lambda _file: "stored")
    assert engine.answered(2) == ["noted", None]
    (_, none), (_, error) = engine.answers
    assert none is None and error is not None and "the disk is full" in str(error)


def test_a_problem_is_told_once_a_minute_and_over_when_the_disk_takes_something(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.is_full = True
    for count in (1, 2):
        engine.ask(lambda _file: None)
        engine.answered(count)
    assert "the disk is full" in engine.writer.problem
    assert len([record for record in caplog.records if "the disk is full" in record.getMessage()]) == 1
    engine.is_full = False
    engine.ask(lambda _file: None)
    engine.answered(3)
    assert engine.writer.problem == ""


def test_the_disk_gets_its_room_back_when_all_is_gone(engine: Engine) -> None:
    engine.ask(lambda file: [file.add("N", stored(number, b"x" * 100_000), 1) for number in range(20)])
    engine.answered(1)
    engine.ask(lambda file: file.remove(range(1, 21)))
    engine.answered(2)
    engine.ask(lambda _file: None)  # after the writer has tidied up
    engine.answered(3)
    assert sum(path.stat().st_size for path in engine.path.parent.iterdir()) < 200_000


def test_what_has_expired_is_told_by_node(engine: Engine) -> None:
    engine.ask(lambda file: [file.add(node, stored(1, expires_ms=10), 1) for node in ("A", "B", "B")])
    engine.ask(lambda file: file.purge(10))
    engine.answered(2)
    assert engine.expired == [{"A": 1, "B": 2}]


def test_what_was_asked_before_the_end_is_done(engine: Engine) -> None:
    engine.ask(lambda file: file.add("N", stored(1), 1))
    engine.close()
    again = OutboxFile(engine.path, 10, 1000)
    assert again.counts() == {"N": 1}
    again.close()
