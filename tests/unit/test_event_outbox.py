"""The outbox of a worker: its file, and what ended workers have left in theirs."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from servicebus._nested_sender import outbox_beside_journal
from servicebus.client.event_outbox import has_left, open_event_outbox
from servicebus.client.outbox_file import OutboxFile, Stored
from servicebus.configuration import Configuration
from servicebus.wire.events import EVENTS, published_id

ID = "0123456789abcdef-7"


@pytest.fixture
def base(tmp_path: Path) -> str:
    return str(tmp_path / "node.journal.events")


def opened(base: str, most: int = 1000) -> OutboxFile:
    return open_event_outbox(base, most, 1 << 20)


def store(file: OutboxFile, *names: str) -> None:
    with file.transaction():
        for name in names:
            expires_ms = int(time.time() * 1000) + 60_000
            assert file.add(EVENTS, Stored(name, 1, f"0123456789abcdef-{len(name)}", None, expires_ms, b"x"), 1)


def names(file: OutboxFile) -> list[str]:
    return [each.target for each in file.oldest(EVENTS, 1000)]


def test_each_worker_has_a_file_of_its_own(base: str) -> None:
    assert not has_left(base)
    files = [opened(base) for _ in range(3)]
    assert [file.path.name for file in files] == [f"node.journal.events-{number}" for number in range(3)]
    for file in files:
        file.close()
    assert has_left(base)


def test_what_ended_workers_have_left_is_taken_over_in_its_order(base: str) -> None:
    first, second, third = (opened(base) for _ in range(3))
    store(first, "a")
    store(second, "b", "bb")
    store(third, "c")
    second.close()
    first.close()
    own = opened(base)
    assert names(own) == ["a", "b", "bb"] and names(third) == ["c"]
    own.close()
    third.close()
    last = opened(base)
    assert names(last) == ["a", "b", "bb", "c"]
    last.close()


def test_what_does_not_fit_is_left_for_the_next_one(base: str) -> None:
    first, second = opened(base), opened(base)
    store(second, "a", "b", "c")
    second.close()
    first.close()
    own = opened(base, 2)
    assert names(own) == ["a", "b"]
    own.close()
    other = OutboxFile(f"{base}-1", 1000, 1 << 20)
    assert "c" in names(other)
    other.close()


@pytest.mark.parametrize(("journal", "wanted"), [("/x/node", "/x/node.events"), ("memory", None)])
def test_it_is_beside_the_journal(journal: str, wanted: str | None) -> None:
    config = Configuration({"hosts": ["mq"], "secret_token": "a secret of the test", "journal": journal})
    assert outbox_beside_journal(config) == wanted


@pytest.mark.parametrize("journal", [None, "redis://127.0.0.1:1/0"])
def test_it_is_in_the_state_folder_where_the_journal_is_no_file(
    journal: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    given = {} if journal is None else {"journal": journal}
    config = Configuration({"hosts": ["mq"], "secret_token": "a secret of the test", "node_name": "N", **given})
    assert outbox_beside_journal(config) == str(tmp_path / "N.journal.events")


def test_a_request_that_runs_again_publishes_under_the_same_ids() -> None:
    assert published_id(ID, 1) == published_id(ID, 1)
    assert len({published_id(ID, 1), published_id(ID, 2), published_id("0123456789abcdef-8", 1)}) == 3
