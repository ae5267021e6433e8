"""An agent whose files are on a file system that is full, or read-only."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from agents import Agent
from small_disk import SmallDisk, small_disk
from waiting import wait_until

from servicebus.configuration import Configuration
from servicebus.errors import CallInterrupted, ServiceBusy
from servicebus.runtime.journal import IdStatus, SharedJournal, Start, checkpointer, files, ledger, open_shared, shared
from servicebus.runtime.journal.interface import JournalUnavailable
from servicebus.sender import Sender
from servicebus.testing import Broker, FaultProxy, Mode

StartAgent = Callable[..., Agent]
MakeSender = Callable[[Configuration], Sender]

NOW = 1e9
ANSWER = b"a" * 500


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", "4m") as disk:
        yield disk


class Asked:
    """What a journal was asked and told, and took."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.finished: set[str] = set()
        self.refusals: list[str] = []

    def use(self, journal: SharedJournal, rounds: int) -> None:
        """Begin ten ids each round, and finish seven of those before."""
        for number in range(rounds):
            starts = [start(10 * number + each) for each in range(1, 11)]
            ends = [id for id in self.begun if id not in self.finished][:7]
            try:
                known = journal.update([(id, ANSWER) for id in ends], starts, NOW + number)
                assert {each.status for each in known} == {IdStatus.NEW}
                self.finished.update(ends)
                self.begun += [one.id for one in starts]
                journal.tick(NOW + number)
            except JournalUnavailable as error:
                self.refusals.append(str(error))

    def check(self, journal: SharedJournal) -> None:
        """It knows all that it took."""
        for id in self.begun:
            known = journal.begin_many([start(id)], NOW + 100)[0]
            is_finished = id in self.finished
            expected = (IdStatus.FINISHED, ANSWER) if is_finished else (IdStatus.RUNNING, None)
            assert (known.status, known.answer) == expected


def start(count: int | str) -> Start:
    id = count if isinstance(count, str) else f"00000000000000ab-{count}"
    return Start(id, NOW + 30_000, False, NOW)


def test_wherever_the_room_ends_the_journal_says_so_and_knows_what_it_took(
    disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "COMPACT_IDS", 40)
    monkeypatch.setattr(ledger, "COMPACT_IDS", 40)
    monkeypatch.setattr(files, "_ROWS_BYTES", 8192)
    monkeypatch.setattr(files, "_ANSWERS_BYTES", 8192)
    monkeypatch.setattr(checkpointer, "_LEAST_BYTES", 8192)
    monkeypatch.setattr(checkpointer, "_LINGER_S", 0.0)
    outcomes = set()
    for free in range(0, 140, 7):
        outcomes.add(_use_with_room_for(free, disk))
    assert outcomes == {"not opened", "full in use", "room enough"}


def _use_with_room_for(free: int, disk: SmallDisk) -> str:
    folder = disk.folder / "journal"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    disk.fill(free)
    asked, journal = Asked(), None
    try:
        journal = open_shared(str(folder / "n"))
        asked.use(journal, 30)
    except JournalUnavailable as error:
        asked.refusals.append(str(error))
    assert all(str(folder / "n") in text and "full: make room there" in text for text in asked.refusals)
    disk.make_room()
    is_opened = journal is not None
    journal = journal or open_shared(str(folder / "n"))
    try:
        journal.tick(NOW + 50)
        asked.check(journal)
        assert journal.begin_many([start(99_999)], NOW + 100)[0].status is IdStatus.NEW
        other = open_shared(str(folder / "n"))
        asked.check(other)
        other.close()
    finally:
        journal.close()
    assert not list(folder.glob("*broken*"))
    return "not opened" if not is_opened else "full in use" if asked.refusals else "room enough"


@pytest.mark.brokers(count=1)
def test_a_full_disk_holds_messages_and_tells_callers_until_there_is_room(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender, disk: SmallDisk
) -> None:
    agent = start_agent(brokers, journal=str(disk.folder / "n.journal")).wait_consuming()
    sender = make_sender(agent.configuration())
    before = agent.worker_pids()
    disk.fill()
    # The first file of answers cannot be made: this was run, and cannot be noted. Its caller gets its answer.
    assert sender.call("NODE-01.test.echo", "first answer", timeout=30)[1] == "first answer"
    wait_until(lambda: agent.worker()["last_error"], 20, agent.log)
    with pytest.raises(ServiceBusy, match=r"n\.journal: .*is full: make room there"):
        sender.call("NODE-01.test.echo", "second", timeout=5)
    sender.send("NODE-01.audit.record", "kept")
    wait_until(lambda: "make room there" in agent.worker()["last_error"], 20, agent.log)
    assert not agent.worker()["healthy"]
    assert agent.noted("recorded") == []
    disk.make_room()
    wait_until(lambda: len(agent.noted("recorded")) == 1, 20, agent.log)
    assert sender.call("NODE-01.math.add", [20, 22])[1] == 42
    wait_until(lambda: agent.worker()["healthy"], 20, agent.log)
    assert agent.worker_pids() == before
    assert agent.stop() == 0


@pytest.mark.brokers(count=1)
@pytest.mark.parametrize("is_killed", [False, True])
def test_a_call_whose_end_cannot_be_noted_is_answered_again_and_never_run_again(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender, disk: SmallDisk, is_killed: bool
) -> None:
    """Its answer is lost on the way, so its Sender sends it again; meanwhile its worker lives, or was killed."""
    agent = start_agent(brokers, journal=str(disk.folder / "n.journal")).wait_consuming()
    with FaultProxy(brokers[0].port) as proxy:
        sender = make_sender(agent.configuration(hosts=[f"127.0.0.1:{proxy.port}"], path_ping_after=60))
        assert sender.ping("NODE-01"), "connected; and no file of answers is made yet"
        disk.fill()
        proxy.set_mode(Mode.DROP_TO_CLIENT)
        call = sender.call_async("NODE-01.test.sleep", [0, "it"], timeout=100)
        wait_until(lambda: agent.noted("finished") and not agent.worker()["healthy"], 30, agent.log)
        if is_killed:
            os.kill(agent.worker_pids()[0], signal.SIGKILL)
            disk.make_room()
            agent.wait_log("was killed by signal 9", timeout_s=30)
            agent.wait_consuming()
        proxy.cut()
        proxy.heal()
        if is_killed:
            with pytest.raises(CallInterrupted, match="its worker died while it ran"):
                call.result(60)
        else:
            assert call.result(60)[1] == "it"
    assert agent.noted("started") == ["it"]
    disk.make_room()
    assert make_sender(agent.configuration()).call("NODE-01.math.add", [1, 2], timeout=60)[1] == 3
    assert agent.noted("started") == ["it"]
    assert agent.stop() == 0


@pytest.mark.brokers(count=1)
@pytest.mark.parametrize("spoiled", ["full", "read-only"])
def test_an_agent_that_starts_where_nothing_can_be_written_says_so_and_serves_when_it_can(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender, disk: SmallDisk, spoiled: str
) -> None:
    disk.fill() if spoiled == "full" else disk.make_read_only()
    agent = start_agent(brokers, journal=str(disk.folder / "n.journal"))
    wait_until(lambda: agent.log_lines("not served", "n.journal", f"is {spoiled}: "), 20, agent.log)
    assert "Traceback" not in agent.log()
    disk.make_room() if spoiled == "full" else disk.make_writable()
    agent.wait_consuming()
    assert make_sender(agent.configuration()).call("NODE-01.math.add", [1, 2], timeout=20)[1] == 3
    assert agent.stop() == 0
