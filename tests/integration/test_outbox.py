"""The outbox: what no broker takes is kept on disk, and delivered when one does. A FaultProxy plays the broker."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pytest
from agents import Agent
from waiting import Stopwatch, wait_until

from servicebus.errors import (
    NoBrokerAvailable,
    NodeUnavailable,
    OutboxFull,
    OutboxUnavailable,
    SendUnconfirmed,
)
from servicebus.sender import Sender
from servicebus.testing import Broker, FaultProxy, Mode

StartAgent = Callable[..., Agent]
RECORD = "NODE-01.audit.record"
PATH_WAIT_S = 0.3


@pytest.fixture
def proxy(brokers: list[Broker]) -> Iterator[FaultProxy]:
    with FaultProxy(brokers[0].port) as proxy:
        yield proxy


@pytest.fixture
def agent(brokers: list[Broker], start_agent: StartAgent) -> Agent:
    """With room for all: what finds an inbox full steps aside, and comes later than what was sent after it."""
    return start_agent(brokers[:1], prefetch=8000, queue_len=4000).wait_consuming()


@pytest.fixture
def make(agent: Agent, proxy: FaultProxy, tmp_path: Path) -> Iterator[Callable[..., Sender]]:
    """Senders to the agent through the proxy, with an outbox."""
    made: list[Sender] = []

    def make(outbox: str | None = "outbox", **settings: Any) -> Sender:
        config = agent.configuration(hosts=[f"127.0.0.1:{proxy.port}"], **{"path_wait": PATH_WAIT_S, **settings})
        made.append(Sender(config, outbox=None if outbox is None else tmp_path / outbox))
        return made[-1]

    yield make
    for sender in made:
        sender.close()


def recorded(agent: Agent) -> list[int]:
    return [int(line) for line in agent.noted("recorded")]


def outbox(sender: Sender) -> dict[str, Any]:
    return dict(sender.status()["outbox"])


def wait_empty(sender: Sender) -> None:
    wait_until(lambda: outbox(sender)["messages"] == 0, 20, lambda: str(sender.status()))


def test_send_says_which_broker_has_it_or_that_the_outbox_does(
    make: Callable[..., Sender], agent: Agent, proxy: FaultProxy
) -> None:
    sender = make()
    receipt = sender.send(RECORD, 1)
    assert (receipt, receipt.confirmed_by, receipt.in_outbox) == (1, f"127.0.0.1:{proxy.port}", False)
    proxy.set_mode(Mode.REFUSE)
    watch = Stopwatch()
    receipt = sender.send(RECORD, 2)
    assert (receipt, receipt.confirmed_by, receipt.in_outbox) == (2, None, True)
    assert watch.elapsed_s >= PATH_WAIT_S
    assert sender.send(RECORD, 3).in_outbox, "and those after it go behind it"
    assert recorded(agent) == [1]
    proxy.heal()
    wait_until(lambda: len(recorded(agent)) == 3, 20, lambda: str(sender.status()))
    wait_empty(sender)
    assert recorded(agent) == [1, 2, 3]
    assert sender.send(RECORD, 4).confirmed_by is not None
    assert {key: outbox(sender)[key] for key in ("stored", "delivered", "expired", "refused", "bytes")} == {
        "stored": 2, "delivered": 2, "expired": 0, "refused": 0, "bytes": 0,
    }  # fmt: skip


def test_a_thousand_messages_arrive_in_the_order_in_which_they_were_sent(
    make: Callable[..., Sender], agent: Agent, proxy: FaultProxy
) -> None:
    """Some are sent while nothing is there, some while the others are being delivered."""
    sender = make()
    proxy.set_mode(Mode.REFUSE)
    futures = [sender.send_async(RECORD, number) for number in range(700)]
    assert all(future.result(20).in_outbox for future in futures)
    proxy.heal()
    futures = [sender.send_async(RECORD, number) for number in range(700, 1000)]
    wait(futures, 20)
    wait_until(lambda: len(recorded(agent)) >= 1000, 20, lambda: str(sender.status()))
    assert recorded(agent) == list(range(1000))


def test_the_next_process_delivers_what_the_last_one_left(
    make: Callable[..., Sender], agent: Agent, proxy: FaultProxy
) -> None:
    proxy.set_mode(Mode.REFUSE)
    first = make()
    for number in range(5):
        first.send(RECORD, number)
    first.close()
    proxy.heal()
    second = make()
    assert outbox(second)["messages"] <= 5, "looking at it is enough of a use"
    wait_until(lambda: recorded(agent) == [0, 1, 2, 3, 4], 20, lambda: str(second.status()))
    wait_empty(second)


def test_close_keeps_what_no_broker_has_confirmed(make: Callable[..., Sender], agent: Agent, proxy: FaultProxy) -> None:
    sender = make(path_wait=30)
    sender.send(RECORD, 1)
    proxy.set_mode(Mode.DROP)
    futures = [sender.send_async(RECORD, number) for number in (2, 3)]
    sender.close()
    assert [future.result(5).in_outbox for future in futures] == [True, True]
    proxy.heal()
    wait_until(lambda: sender.status()["outbox"]["messages"] == 0, 20, lambda: str(sender.status()))
    wait_until(lambda: set(recorded(agent)) == {1, 2, 3}, 10)


def test_what_was_published_and_not_confirmed_in_time_is_kept_and_not_run_twice(
    make: Callable[..., Sender], agent: Agent, proxy: FaultProxy
) -> None:
    """The broker has it, the confirm is lost: it is sent once more under its id, which the node's journal knows."""
    sender = make(path_ping_after=20)
    sender.send(RECORD, 1)
    proxy.set_mode(Mode.DROP_TO_CLIENT)
    assert sender.send(RECORD, 2, timeout=0.5).in_outbox
    wait_until(lambda: recorded(agent) == [1, 2])
    proxy.cut()
    proxy.heal()
    wait_empty(sender)
    assert sender.send(RECORD, 3).confirmed_by is not None
    wait_until(lambda: 3 in recorded(agent))
    assert recorded(agent) == [1, 2, 3]


def test_a_message_on_its_way_when_the_broker_dies_waits_for_the_wait_limit_and_not_for_its_timeout(
    make: Callable[..., Sender], proxy: FaultProxy
) -> None:
    sender = make()
    sender.send(RECORD, 1)
    proxy.set_mode(Mode.DROP_TO_CLIENT)
    future = sender.send_async(RECORD, 2, timeout=100)
    wait_until(lambda: sender.status()["travelling"])
    proxy.set_mode(Mode.REFUSE)
    assert future.result(20).in_outbox


def test_what_expires_is_not_delivered_but_counted_and_logged(
    make: Callable[..., Sender], agent: Agent, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    proxy.set_mode(Mode.REFUSE)
    sender = make()
    assert sender.send(RECORD, 1, expires=0.9).in_outbox
    assert sender.send(RECORD, 2).in_outbox
    watch = Stopwatch()
    wait_until(lambda: watch.elapsed_s > 1.0)
    proxy.heal()
    wait_empty(sender)
    wait_until(lambda: recorded(agent) == [2])
    assert (outbox(sender)["expired"], outbox(sender)["delivered"]) == (1, 1)
    assert "for NODE-01, 1 message expired" in caplog.text


def test_a_full_outbox_raises_and_says_that_nothing_was_sent(make: Callable[..., Sender], proxy: FaultProxy) -> None:
    proxy.set_mode(Mode.REFUSE)
    sender = make(outbox_max_messages=2)
    assert [sender.send(RECORD, number).in_outbox for number in (1, 2)] == [True, True]
    with pytest.raises(OutboxFull, match=r"full \(2 messages, \d+ bytes\); it is not stored"):
        sender.send(RECORD, 3)
    assert outbox(sender)["refused"] == 1


def test_without_an_outbox_send_raises_and_says_what_is_known(make: Callable[..., Sender], proxy: FaultProxy) -> None:
    sender = make(outbox=None)
    with pytest.raises(NodeUnavailable, match="it is not stored"):
        sender.send("NODE-99.audit.record", 1)
    proxy.set_mode(Mode.REFUSE)
    wait_until(lambda: not sender.status()["hosts"][0]["usable"])
    with pytest.raises(NoBrokerAvailable, match="nothing was sent"):
        sender.send(RECORD, 1)
    proxy.heal()
    assert sender.send(RECORD, 2).confirmed_by
    proxy.set_mode(Mode.DROP)
    with pytest.raises(SendUnconfirmed, match="whether it is stored is unknown"):
        sender.send(RECORD, 3, timeout=0.3)


def test_a_message_for_a_node_that_was_never_there_waits_and_does_not_hinder_others(
    make: Callable[..., Sender], agent: Agent, start_agent: StartAgent, brokers: list[Broker]
) -> None:
    sender = make()
    assert sender.send("NODE-02.audit.record", 1).in_outbox
    assert sender.send(RECORD, 1).confirmed_by is not None
    other = start_agent(brokers[:1], node_name="NODE-02").wait_consuming()
    wait_until(lambda: recorded(other) == [1], 20, lambda: str(sender.status()))


def test_a_second_sender_on_the_same_file_says_so_and_takes_over_when_the_first_is_closed(
    make: Callable[..., Sender],
) -> None:
    first, second = make(), make()
    first.send(RECORD, 1)
    with pytest.raises(OutboxUnavailable, match="in use by another Sender"):
        second.send(RECORD, 2)
    assert second.call("NODE-01.math.add", [1, 2])[1] == 3, "what needs no outbox goes on"
    assert "in use by another Sender" in outbox(second)["problem"]
    first.close()
    assert second.send(RECORD, 2).confirmed_by is not None
    assert outbox(second)["messages"] == 0


KILLED = """
import json, sys
from servicebus.configuration import Configuration
from servicebus.sender import Sender
sender = Sender(Configuration(json.loads(sys.argv[1])), outbox=sys.argv[2])
for number in range(100_000):
    sender.send("NODE-01.audit.record", number)
    print(number, flush=True)
"""


@pytest.mark.parametrize("accepted", [1, 300])
def test_kill_9_loses_nothing_that_was_accepted_and_nothing_runs_twice(
    make: Callable[..., Sender], agent: Agent, proxy: FaultProxy, tmp_path: Path, accepted: int
) -> None:
    """First while it stores, then while it delivers, then again; the last one delivers the rest."""
    values = {**{key: value for key, value in agent.settings.items() if key not in ("services", "status_socket")},
              "hosts": [f"127.0.0.1:{proxy.port}"], "path_wait": 0.05}  # fmt: skip
    proxy.set_mode(Mode.REFUSE)
    program = [sys.executable, "-c", KILLED, json.dumps(values), str(tmp_path / "outbox")]
    with subprocess.Popen(program, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        for _ in range(accepted):
            last = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        said = [last, *(int(line) for line in child.stdout.read().splitlines() if line)]
    proxy.heal()
    with subprocess.Popen(program, stdout=subprocess.PIPE) as child:
        wait_until(lambda: recorded(agent), 20)
        child.send_signal(signal.SIGKILL)
        child.communicate()
    sender = make()
    wait_empty(sender)
    wait_until(lambda: set(recorded(agent)) >= set(range(max(said) + 1)), 20)
    by_first = recorded(agent)[: max(said) + 1]
    assert by_first == list(range(max(said) + 1))


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_forked_child_leaves_the_outbox_to_its_parent(make: Callable[..., Sender], proxy: FaultProxy) -> None:
    sender = make()
    proxy.set_mode(Mode.REFUSE)
    assert sender.send(RECORD, 1).in_outbox
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            sender.send(RECORD, 2)
        except OutboxUnavailable:
            os.write(write, b"refused")
        os._exit(0)
    os.close(write)
    assert os.read(read, 7) == b"refused"
    os.close(read)
    assert os.waitpid(pid, 0)[1] == 0
    assert sender.send(RECORD, 3).in_outbox
    sender.close()
    with sqlite3.connect(outbox_path := Path(outbox(sender)["path"])) as db:
        assert [row[0] for row in db.execute("SELECT event_id FROM messages ORDER BY seq")] == [1, 2], outbox_path
    db.close()
