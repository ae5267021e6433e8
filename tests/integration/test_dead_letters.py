"""``servicebus dead`` with one real broker: what goes back goes back whole, and nothing is lost, whatever is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pika
import pytest
from click.testing import CliRunner, Result
from envelopes import SECRET, dead_letter_headers, signed
from waiting import wait_until

from servicebus.cli.main import servicebus
from servicebus.configuration import Configuration
from servicebus.operations import queue_scan
from servicebus.operations.dead_letters import DeadLetters
from servicebus.operations.filters import Filter
from servicebus.operations.growing_requeue import GrowingReport, GrowingRequeue
from servicebus.sender import Sender
from servicebus.testing import Broker
from servicebus.wire import headers
from servicebus.wire.envelope import Kind
from servicebus.wire.signing import Keyring
from servicebus.wire.stamps import make_requeue_ticket, read_requeue_ticket
from servicebus.wire.xmlcodec import decode_envelope

if TYPE_CHECKING:
    from agents import Agent
    from probe import Probe

pytestmark = pytest.mark.brokers(count=1)

DEAD = "NODE-01.dead"
MESSAGES = "NODE-01.messages"
ADDRESS = "NODE-01.audit.record"


class Place:
    """One broker with a queue of dead letters, and a configuration file that names it."""

    def __init__(self, broker: Broker, probe: Probe, folder: Path):
        self.broker = broker
        self.probe = probe
        self.file = folder / "ops.yaml"
        self.settings: dict[str, Any] = {
            "hosts": [f"{broker.host}:{broker.port}"],
            "secret_token": SECRET,
            "node_name": "NODE-01",
        }
        self.file.write_text(json.dumps(self.settings))
        for queue in (DEAD, MESSAGES):
            probe.declare(queue, durable=True)

    def dead_letters(self, **how: Any) -> DeadLetters:
        config = Configuration(self.settings)
        return DeadLetters(config, "NODE-01", config.hosts, **how)

    def run(self, *arguments: str, **how: Any) -> Result:
        return CliRunner().invoke(servicebus, ["dead", *arguments, "-c", str(self.file)], **how)

    def run_json(self, *arguments: str) -> Any:
        done = self.run(*arguments, "--json")
        assert done.stdout, done.output
        return json.loads(done.stdout)

    def add(self, *params: Any, age_s: float = 60, reason: str = "ValueError", **how: Any) -> None:
        """Write letters as a worker does; *how* as for envelopes.signed."""
        with self.probe.channel() as channel:
            channel.confirm_delivery()
            for each in params:
                body = signed(ADDRESS, each, **{"kind": Kind.MESSAGE, **how})
                self._put(channel, body, age_s, reason)

    def add_dead(self, body: bytes, *, age_s: float, reason: str) -> None:
        with self.probe.channel() as channel:
            channel.confirm_delivery()
            self._put(channel, body, age_s, reason)

    def add_bytes(self, body: bytes) -> None:
        with self.probe.channel() as channel:
            self._put(channel, body, 60, "malformed")

    def put_as_a_stranger(self, body: bytes, **found: Any) -> None:
        with self.probe.channel() as channel:
            properties = pika.BasicProperties(delivery_mode=2, headers=found)
            channel.basic_publish("", DEAD, body, properties, mandatory=True)

    def _put(self, channel: Any, body: bytes, age_s: float, reason: str) -> None:
        written = {**dead_letter_headers(body, reason, age_s=age_s), "tenant": "t-1"}
        properties = pika.BasicProperties(delivery_mode=2, message_id="m", headers=written)
        channel.basic_publish("", DEAD, body, properties, mandatory=True)

    @contextmanager
    def slow_queue(self, name: str) -> Iterator[None]:
        """Have a quorum queue run for 5 ms in each 100 ms."""
        code = f"""
            Queue = whereis(list_to_atom("%2F_{name}")),
            Run = fun(Again) ->
                erlang:suspend_process(Queue), timer:sleep(100), erlang:resume_process(Queue), timer:sleep(5),
                Again(Again) end,
            register(slow_queue, spawn(fun() -> Run(Run) end))."""
        self.broker.rabbitmqctl("eval", code)
        try:
            yield
        finally:
            self.broker.rabbitmqctl("eval", "exit(whereis(slow_queue), kill).")

    def holds(self, queue: str, count: int) -> bool:
        return (self.probe.depth(queue) or 0) >= count

    def params_in(self, queue: str) -> list[Any]:
        """What stands in *queue*, in its order; the queue is empty afterwards."""
        return [json.loads(decode_envelope(body, 10**6).params) for body, _ in self.probe.take_all(queue)]


@pytest.fixture
def place(brokers: list[Broker], make_probe: Callable[..., Probe], tmp_path: Path) -> Place:
    return Place(brokers[0], make_probe(brokers[0]), tmp_path)


def test_list_and_show_change_nothing_and_show_alone_tells_the_parameters(place: Place) -> None:
    place.add({"card": "4711"}, "old", age_s=7200)
    place.add("young", reason="unknown-service")
    done = place.run("list")
    assert done.exit_code == 0, done.output
    first, second, third = done.stdout.splitlines()[1:4]
    assert ("2h" in first, "ValueError" in second, "unknown-service" in third) == (True, True, True)
    assert "4711" not in done.stdout
    assert "3 dead letters, 3 of them match" in done.stdout

    (young,) = place.run_json("list", "--since", "1h")["letters"]
    assert (young["service"], young["reason"], young["attempts"]) == ("audit.record", "unknown-service", 6)
    assert place.run_json("list", "--until", "1h", "--limit", "1")["letters"][0]["reason"] == "ValueError"
    assert place.run_json("list", "--reason", "Val*", "--service", "audit.*")["brokers"][0]["matched"] == 2

    oldest = place.run_json("list")["letters"][0]["id"]
    (shown,) = place.run_json("show", oldest)["letters"]
    assert (shown["params"], shown["trace"], shown["failed_on"]) == ({"card": "4711"}, "Traceback ...", "mq")
    assert '"card": "4711"' in place.run("show", oldest).stdout
    assert place.run("show", "nobody").exit_code == 1
    assert [row["count"] for row in place.run_json("list", "--summary")["summary"]] == [2, 1]
    assert place.params_in(DEAD) == [{"card": "4711"}, "old", "young"], "in their old order"


def test_requeue_gives_back_the_very_bytes_without_our_headers(place: Place) -> None:
    place.add("a", "b", reason="ValueError")
    place.add("stays", reason="other")
    said = place.run_json("requeue", "--reason", "ValueError", "--dry-run")
    assert (said["brokers"][0]["done"], place.probe.depth(MESSAGES)) == (2, 0)
    assert place.run_json("requeue", "--reason", "ValueError", "--limit", "1")["brokers"][0]["done"] == 1
    done = place.run("requeue", "--reason", "ValueError")
    assert done.exit_code == 0, done.output
    assert "1 went back" in done.stdout
    bodies = place.probe.take_all(MESSAGES)
    assert [json.loads(decode_envelope(body, 10**6).params) for body, _ in bodies] == ["a", "b"]
    for body, found in bodies:
        ticket = found.pop(headers.REQUEUED)
        assert read_requeue_ticket(Keyring([SECRET]), body, ticket) is not None
        assert found == {"tenant": "t-1"}, "the attempts begin anew"
    assert place.params_in(DEAD) == ["stays"]


def test_what_may_not_go_back_stays_and_the_stale_go_if_the_operator_says_so(place: Place) -> None:
    place.add("stale", age_s=3 * 86400, sent_s_ago=3 * 86400)
    place.add("forged", secret="a stranger's")
    place.add("fine", sent_s_ago=2 * 86400)
    place.add_bytes(b"rubbish")
    executed = signed(ADDRESS, "executed before", kind=Kind.MESSAGE)
    place.put_as_a_stranger(executed, **{headers.REASON: "ValueError", "x-servicebus-time": int(time.time())})
    standings = [row["standing"] for row in place.run_json("list")["letters"]]
    assert standings == ["stale", "refused", "good", "refused", "unverified"]

    done = place.run("requeue", "--all")
    assert done.exit_code == 10
    assert "1 went back" in done.stdout
    assert "1 stay: stale: dead-lettered longer ago than the node remembers" in done.stdout
    assert "1 stay: refused: signature: no key" in done.stdout
    assert "1 stay: unverified: no worker has signed this letter" in done.stdout
    assert place.params_in(MESSAGES) == ["fine"]

    done = place.run("requeue", "--all", "--reseal")
    assert done.exit_code == 10, "what is refused or unverified stays"
    assert "1 went back (1 of them stale)" in done.stdout
    ((body, found),) = place.probe.take_all(MESSAGES)
    assert json.loads(decode_envelope(body, 10**6).params) == "stale"
    assert decode_envelope(body, 10**6).sent_ms / 1000 < time.time() - 2 * 86400, "the very bytes"
    assert read_requeue_ticket(Keyring([SECRET]), body, found[headers.REQUEUED]) is not None
    assert place.probe.depth(DEAD) == 3
    unverified = place.run_json("list")["letters"][-1]["id"]
    assert place.run_json("drop", "--id", unverified, "--yes")["brokers"][0]["done"] == 1
    assert place.probe.depth(DEAD) == 2


def test_drop_asks_and_then_drops_what_it_counted(place: Place) -> None:
    place.add("a", "b", reason="bad")
    place.add("c")
    assert place.run("drop", "--reason", "bad", input="n\n").exit_code == 1
    assert place.run_json("drop", "--all", "--dry-run")["brokers"][0]["done"] == 3
    assert place.probe.depth(DEAD) == 3
    done = place.run("drop", "--reason", "bad", input="y\n")
    assert done.exit_code == 0, done.output
    assert "Drop 2 dead letters of NODE-01 (2 on " in done.output
    assert place.params_in(DEAD) == ["c"]
    place.add("d", "e")
    assert place.run_json("drop", "--all", "--yes", "--limit", "1")["brokers"][0]["done"] == 1
    assert place.params_in(DEAD) == ["e"]


def test_a_queue_longer_than_many_windows_keeps_its_order(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the scan starts again in the middle, as it does before the broker's consumer_timeout."""
    monkeypatch.setattr(queue_scan, "KEPT_PER_CHANNEL", 40)
    original = queue_scan.QueueScan.__init__

    def tired_soon(self: Any, *arguments: Any, before_renewal: Callable[[], None], **how: Any) -> None:
        def renew() -> None:
            before_renewal()
            if self.renewals == 1:
                self._hold_s = float("inf")  # twice is enough: under load it would never see all that it kept

        original(self, *arguments, before_renewal=renew, **{**how, "window": 20, "hold_s": 0.3})

    monkeypatch.setattr(queue_scan.QueueScan, "__init__", tired_soon)
    with place.probe.channel() as channel:
        for number in range(300):
            body = signed(ADDRESS, number, kind=Kind.MESSAGE)
            place._put(channel, body, 60, "odd" if number % 2 else "even")
    (report,) = place.dead_letters().requeue(Filter(reasons=("odd",)), per_s=120.0)
    assert report.error is None
    assert (report.done, report.looked_at, report.total, report.left) == (150, 300, 300, 150)
    assert place.params_in(MESSAGES) == list(range(1, 300, 2))
    assert place.params_in(DEAD) == list(range(0, 300, 2))


def test_on_a_quorum_queue_all_is_the_same(place: Place) -> None:
    for queue in (DEAD, MESSAGES):
        place.probe.delete(queue)
        place.probe.declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
    place.add(*range(50), reason="a")
    place.add("b", reason="b")
    for _ in range(11):
        assert len(place.run_json("list")["letters"]) == 51
    assert place.run_json("requeue", "--reason", "b")["brokers"][0]["done"] == 1
    assert place.params_in(MESSAGES) == ["b"]
    assert sorted(place.params_in(DEAD)) == list(range(50))


def test_what_was_stored_again_does_not_come_back_as_well(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A channel sends a quorum queue 32 acks at a time, and drops the others if it is closed before they were taken."""
    monkeypatch.setattr(queue_scan, "STORE_AGAIN_AT", 1)
    place.probe.delete(DEAD)
    place.probe.declare(DEAD, durable=True, arguments={"x-queue-type": "quorum"})
    place.add(*range(80))
    assert place.run_json("list")["brokers"][0]["left"] == 80
    with place.slow_queue(DEAD):
        assert place.run_json("list")["brokers"][0]["left"] == 80
    assert sorted(place.params_in(DEAD)) == list(range(80))


@pytest.mark.parametrize("limit", ["0", "1"])
def test_looking_loses_no_dead_letter_to_the_delivery_limit_of_a_quorum_queue(place: Place, limit: str) -> None:
    """RabbitMQ 4 has a limit of 20 by default, here it is 12; each delivery counts, also of what was not looked at."""
    place.probe.delete(DEAD)
    place.broker.rabbitmqctl("set_policy", "--apply-to", "queues", "limit", f"^{DEAD}$", '{"delivery-limit": 12}')
    try:
        place.probe.declare(DEAD, durable=True, arguments={"x-queue-type": "quorum"})
        place.add(*range(6))
        ids = {letter["id"] for letter in place.run_json("list")["letters"]}
        for _ in range(18):
            found = place.run_json("list", "--limit", limit)
            letters = found["letters"]
            assert len(letters) == (int(limit) or 6)
            assert {letter["id"] for letter in letters} <= ids
            assert {letter["standing"] for letter in letters} == {"good"}
            assert found["brokers"][0]["left"] == 6
        assert sorted(place.params_in(DEAD)) == list(range(6))
    finally:
        place.broker.rabbitmqctl("clear_policy", "limit")


def test_without_the_nodes_queue_nothing_leaves_and_the_broker_is_named(place: Place) -> None:
    place.add("a", "b")
    place.probe.delete(MESSAGES)
    done = place.run("requeue", "--all")
    assert done.exit_code == 10
    assert f"{place.broker.host}:{place.broker.port}" in done.stderr
    assert f"a message for {MESSAGES} by the default exchange was not stored: 312 NO_ROUTE" in done.stderr
    assert "0 went back" in done.stdout
    assert place.params_in(DEAD) == ["a", "b"]


def test_a_broker_that_is_down_is_named_and_the_others_are_served(place: Place) -> None:
    place.add("a")
    place.settings["hosts"].insert(0, "127.0.0.1:1")
    place.file.write_text(json.dumps(place.settings))
    done = place.run("requeue", "--all")
    assert done.exit_code == 10
    assert "127.0.0.1:1: connection refused" in done.stderr
    assert place.params_in(MESSAGES) == ["a"]
    assert place.run("list", "--node", "NODE-02").exit_code == 10
    done = place.run("list", "--node", "NODE-02", "--host", f"{place.broker.host}:{place.broker.port}")
    assert done.exit_code == 0
    assert "no broker has a queue NODE-02.dead; is NODE-02 the right node?" in done.stderr


def test_a_requeue_that_is_killed_in_the_middle_loses_nothing(place: Place) -> None:
    """Every letter is in one of the two queues, or in both; the next run finishes the work."""
    count = 700
    place.add(*range(count))
    command = [sys.executable, "-c", "from servicebus.cli.main import main; main()", "dead", "requeue", "--all"]
    for killed_at in (1, 350):
        process = subprocess.Popen(
            [*command, "--rate", "1500/s", "-c", str(place.file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(partial(place.holds, MESSAGES, killed_at), 30)
        process.send_signal(signal.SIGKILL)
        assert process.wait(10) == -signal.SIGKILL
    wait_until(lambda: place.probe.consumers(DEAD) == 0)
    moved, left = place.params_in(MESSAGES), place.params_in(DEAD)
    assert left, "it was killed in the middle"
    assert set(moved) | set(left) == set(range(count))
    assert len(moved) + len(left) <= count + 2 * 100, "no more doubles than were on their way"
    assert left == sorted(left)
    place.add(*left)
    assert place.run_json("requeue", "--all")["brokers"][0]["done"] == len(left)


def test_requeued_dead_letters_are_executed_once_by_the_agent_even_if_they_were_doubled(
    place: Place, start_agent: Callable[..., Agent]
) -> None:
    agent = start_agent([place.broker]).wait_consuming()
    bodies = [signed(ADDRESS, f"n{number}", kind=Kind.MESSAGE) for number in range(20)]
    with place.probe.channel() as channel:
        for number, body in enumerate(bodies):
            place._put(channel, body, 60, "ValueError")
            if number < 5:  # as a killed requeue leaves them
                id = decode_envelope(body, 10**6).id
                ticket = make_requeue_ticket(Keyring([SECRET]), id, body, "", int(time.time() * 1000))
                channel.basic_publish("", MESSAGES, body, pika.BasicProperties(headers={headers.REQUEUED: ticket}))
    wait_until(lambda: len(agent.noted("recorded")) == 5, 20)
    assert place.run("requeue", "--all", env=dict(os.environ)).exit_code == 0
    wait_until(lambda: len(set(agent.noted("recorded"))) == 20, 20)
    place.probe.publish(MESSAGES, signed(ADDRESS, "the last", kind=Kind.MESSAGE))
    wait_until(lambda: "the last" in agent.noted("recorded"), 20)
    assert len(agent.noted("recorded")) == 21
    assert place.probe.depth(DEAD) == 0


def test_a_dead_letter_that_fails_again_is_dead_lettered_again_with_its_attempts_counted_from_1(
    place: Place, start_agent: Callable[..., Agent], make_sender: Callable[[Configuration], Sender]
) -> None:
    """The journal lets an id run again that was dead-lettered; a requeue that is under way does not see it twice."""
    agent = start_agent([place.broker], retry_schedule=[0.05]).wait_consuming()
    make_sender(agent.configuration()).send("NODE-01.audit.record", "boom")
    wait_until(lambda: place.probe.depth(DEAD) == 1, 20)
    (first,) = place.run_json("list")["letters"]
    assert (first["reason"], first["attempts"]) == ("ValueError", 2)
    assert place.run_json("requeue", "--all")["brokers"][0]["done"] == 1
    wait_until(lambda: agent.counters().get("failed") == 4 and place.probe.depth(DEAD) == 1, 20)
    (again,) = place.run_json("list")["letters"]
    assert (again["id"], again["attempts"]) == (first["id"], 2)


def test_nothing_that_a_stranger_copies_among_the_dead_letters_is_executed_again(
    place: Place, start_agent: Callable[..., Agent], make_sender: Callable[[Configuration], Sender]
) -> None:
    """A message that was executed, with made-up headers; and a letter that was requeued and executed, as it stood."""
    agent = start_agent([place.broker], retry_schedule=[]).wait_consuming()
    with place.probe.channel() as channel:
        channel.queue_declare("tap")
        channel.queue_bind("tap", "servicebus", MESSAGES)
    make_sender(agent.configuration()).send(ADDRESS, "pay 100")
    wait_until(lambda: agent.noted("recorded") == ["pay 100"], 20)
    ((executed, _),) = place.probe.take_all("tap")
    for number in range(3):
        made_up = {headers.REASON: "ConnectionError", headers.REQUEUED: f"anything{number}"}
        place.put_as_a_stranger(executed, **made_up, **{"x-servicebus-time": int(time.time())})
    genuine = signed(ADDRESS, "buried", kind=Kind.MESSAGE)
    burial = dead_letter_headers(genuine)
    for _ in range(3):
        place.put_as_a_stranger(genuine, **burial)
        place.run("requeue", "--all", "--reseal", env=dict(os.environ))
    wait_until(lambda: "buried" in agent.noted("recorded"), 20)
    place.probe.publish(MESSAGES, signed(ADDRESS, "the last", kind=Kind.MESSAGE))
    wait_until(lambda: "the last" in agent.noted("recorded"), 20)
    assert sorted(agent.noted("recorded")) == ["buried", "pay 100", "the last"]
    assert place.probe.depth(DEAD) == 3, "those of the stranger"


def test_growing_batches_stop_when_one_fails_again_and_none_is_lost_or_run_twice(
    place: Place, start_agent: Callable[..., Agent]
) -> None:
    agent = start_agent([place.broker]).wait_consuming()
    texts = [f"n{number}" for number in range(40)]
    texts[9] = "boom"
    place.add(*texts, reason="ConnectionError")
    command = "requeue", "--all", "--growing", "--json"
    stopped = place.run(*command, env=dict(os.environ))
    said = json.loads(stopped.stdout)
    assert stopped.exit_code == 10, stopped.output
    assert said["batches"] == [1, 4, 16] and "1 of the last 16 failed again (ValueError: " in said["stopped"]
    (again,) = place.run_json("list", "--reason", "ValueError")["letters"]
    assert again["id"] in said["stopped"] and said["brokers"][0]["done"] == 21
    assert place.probe.depth(DEAD) == 20
    assert sorted(agent.noted("recorded")) == sorted(texts[:9] + texts[10:21])
    assert place.run("drop", "--id", again["id"], "--yes").exit_code == 0
    done = place.run(*command, env=dict(os.environ))
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["batches"] == [1, 4, 14] and not json.loads(done.stdout)["stopped"]
    assert sorted(agent.noted("recorded")) == sorted(text for text in texts if text != "boom")
    assert place.probe.depth(DEAD) == 0


def test_what_fails_again_after_its_batch_stops_a_later_one(place: Place) -> None:
    place.add(*range(30))
    taken: list[bytes] = []

    def be_the_worker(report: GrowingReport) -> None:
        """Take each batch at once; the letter of the first one fails when the second one has gone back."""
        taken.extend(body for body, _properties in place.probe.take_all(MESSAGES))
        if len(report.batches) == 2:
            place.add_dead(taken[0], age_s=0, reason="ValueError")

    config = Configuration(place.settings)
    requeue = GrowingRequeue(place.dead_letters(), config, "NODE-01", config.hosts, on_batch=be_the_worker)
    report = requeue.run(Filter())
    assert report.batches == [1, 4] and "1 of 5 that went back failed again (ValueError: " in report.stopped
    assert decode_envelope(taken[0], 10**6).id in report.stopped
    assert place.probe.depth(DEAD) == 30 - 5 + 1


def test_growing_batches_stop_while_no_worker_takes_them(place: Place) -> None:
    place.add(*range(5))
    config = Configuration(place.settings)
    report = GrowingRequeue(place.dead_letters(), config, "NODE-01", config.hosts, wait_s=1).run(Filter())
    assert report.batches == [1] and "1 message more than before wait for a worker" in report.stopped
    assert place.probe.depth(DEAD) == 4 and place.probe.depth(MESSAGES) == 1


@pytest.mark.parametrize("command", [["requeue"], ["drop", "--yes"]])
def test_a_limit_is_one_for_all_brokers_together(place: Place, command: list[str]) -> None:
    """The second name of the broker stands for another one."""
    place.add(*range(5))
    place.settings["hosts"].append(f"localhost:{place.broker.port}")
    place.file.write_text(json.dumps(place.settings))
    assert place.run(*command, "--all", "--limit", "1").exit_code == 0
    assert place.probe.depth(DEAD) == 4
