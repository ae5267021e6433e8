"""An outbox whose file system is full: what was delivered leaves it all the same, and what is new is refused."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from agents import Agent
from small_disk import SmallDisk, small_disk
from waiting import wait_until

from servicebus.client.outbox_file import OutboxFile, Stored
from servicebus.errors import OutboxUnavailable
from servicebus.sender import Sender
from servicebus.testing import Broker, FaultProxy, Mode

StartAgent = Callable[..., Agent]
RECORD = "NODE-01.audit.record"
IS_FULL = "file system is full: make room there, or give the Sender another outbox"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", "16m") as disk:
        yield disk


def opened(disk: SmallDisk, max_messages: int = 100_000) -> OutboxFile:
    return OutboxFile(disk.folder / "outbox", max_messages, 1 << 28)


def stored(number: int, body: bytes = b"<event/>") -> Stored:
    return Stored("N.a.b", number, f"id-{number}", None, int(time.time() * 1000) + 600_000, body)


def accept(file: OutboxFile, count: int, first: int = 0) -> None:
    with file.transaction():
        for number in range(first, first + count):
            file.add("N", stored(number), 0)


def test_each_message_that_was_accepted_can_be_ended_on_a_full_disk(disk: SmallDisk) -> None:
    file = opened(disk)
    count = 0
    disk.fill(free=350)
    with pytest.raises(OutboxUnavailable, match=IS_FULL):
        while True:
            accept(file, 50, count)
            count += 50
    disk.fill()
    assert count > 1000
    ended = [each.seq for each in file.oldest("N", count - 10)]
    with pytest.raises(OutboxUnavailable, match=IS_FULL), file.transaction():
        file.remove(ended)
    assert [file.note_ended(ended), file.note_ended(ended)] == [count - 10, 0]
    assert [each.event_id for each in file.oldest("N", 100)] == list(range(count - 10, count))
    assert (file.count, file.bytes, file.counts()) == (10, 80, {"N": 10})
    file.close()
    disk.make_room()
    for _ in range(2):  # noted, and deleted
        file = opened(disk)
        assert (file.count, file.bytes, file.counts()) == (10, 80, {"N": 10})
        assert [each.event_id for each in file.oldest("N", 100)] == list(range(count - 10, count))
        with file.transaction():
            pass
        assert file._db.execute("SELECT count(*) FROM messages").fetchone() == (10,)
        file.close()


def test_no_message_is_accepted_whose_end_would_have_no_room(disk: SmallDisk) -> None:
    """A stranger to the file fills the disk; there are pages free inside the file of SQLite."""
    file = opened(disk)
    accept(file, 4094)
    disk.fill(free=10)
    with pytest.raises(OutboxUnavailable, match=IS_FULL):
        accept(file, 4)
    file.close()


def test_an_outbox_that_cannot_be_opened_on_a_full_disk_says_so_and_not_that_it_is_damaged(disk: SmallDisk) -> None:
    file = opened(disk)
    accept(file, 3)
    file.close()
    disk.fill()
    with pytest.raises(OutboxUnavailable, match=f"cannot be opened: .*{IS_FULL}"):
        opened(disk)
    disk.make_room()
    file = opened(disk)
    assert file.count == 3
    file.close()


@pytest.fixture
def proxy(brokers: list[Broker]) -> Iterator[FaultProxy]:
    with FaultProxy(brokers[0].port) as proxy:
        yield proxy


@pytest.fixture
def agent(brokers: list[Broker], start_agent: StartAgent) -> Agent:
    return start_agent(brokers, prefetch=8000, queue_len=4000).wait_consuming()


@pytest.fixture
def settings(agent: Agent, proxy: FaultProxy) -> dict[str, Any]:
    return {"hosts": [f"127.0.0.1:{proxy.port}"], "path_wait": 0.1}


@pytest.mark.brokers(count=1)
def test_a_full_disk_refuses_what_is_new_and_delivers_what_it_has_once(
    agent: Agent, proxy: FaultProxy, settings: dict[str, Any], disk: SmallDisk, caplog: pytest.LogCaptureFixture
) -> None:
    path = disk.folder / "outbox"
    with Sender(agent.configuration(**settings), outbox=path) as sender:
        proxy.set_mode(Mode.REFUSE)
        for number in range(20):
            assert sender.send_async(RECORD, number).result(20).in_outbox
        disk.fill()
        whole = rf"outbox {path} cannot be written: .*{IS_FULL}; the message is not stored"
        for size in (20_000, 2_000, 1):  # its log has room that it has used before
            with pytest.raises(OutboxUnavailable, match=whole):
                for _ in range(1000):
                    sender.send(RECORD, "x" * size)
        assert IS_FULL in sender.status()["outbox"]["problem"]
        kept = sender.status()["outbox"]["stored"]
        proxy.heal()
        wait_until(lambda: sender.status()["outbox"]["messages"] == 0, 30, lambda: str(sender.status()))
        assert sender.send(RECORD, 2000).confirmed_by, "nobody stands in line any more"
        wait_until(lambda: "2000" in agent.noted("recorded"), 20)
        assert len(agent.noted("recorded")) == kept + 1
        assert len([line for line in caplog.messages if IS_FULL in line]) == 1
        disk.make_room()
        wait_until(lambda: "problem" not in sender.status()["outbox"], 30, lambda: str(sender.status()))
    file = opened(disk)
    assert file._db.execute("SELECT count(*) FROM messages").fetchone() == (0,)
    file.close()
