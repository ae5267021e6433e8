"""A worker killed at each point of a call's and a message's life: nothing lost, nothing twice, nothing hung.

One agent with a worker for each of two brokers lives through all of it, so that each death is also one of many.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from agents import Agent
from click.testing import CliRunner
from envelopes import signed
from kill_points import INTERRUPTING, OF_CALLS, OF_COPIES, OF_DELAYS, OF_MESSAGES, REPEATING, Point
from probe import Probe
from waiting import wait_until

from servicebus.cli.main import servicebus
from servicebus.configuration import Configuration
from servicebus.errors import CallInterrupted
from servicebus.sender import Sender
from servicebus.testing import Broker
from servicebus.testing.pool import BrokerPool
from servicebus.wire.envelope import Kind

MakeSender = Callable[[Configuration], Sender]

MESSAGES, DEAD = "NODE-01.messages", "NODE-01.dead"

WITH_ONE_HOST = [Point.RECEIVED, Point.IN_INBOX, Point.STARTED, Point.IN_SERVICE, Point.SETTLING, Point.REPLY_SENT]
WITH_TWO_COPIES = [Point.COPY_SENT, Point.COPY_CONFIRMED, Point.COPY_NOTED, Point.HELD]

_LENGTHS = (
    "[{element(4, amqqueue:get_name(Q)), proplists:get_value(messages, rabbit_amqqueue:info(Q, [messages]), 0)}"
    " || Q <- rabbit_amqqueue:list()]."
)
_LENGTH = re.compile(r'<<"([^"]*)">>,\s*(\d+)')


class Place:
    """The agent, its brokers, and what was seen of each request; a request is known by its label."""

    def __init__(self, folder: Path, brokers: list[Broker]):
        self.brokers = brokers
        self.agent = Agent(folder, brokers, mode="kill_program.py", services=[])
        self.seen: dict[str, list[str]] = {}
        self._labels = itertools.count(1)

    def request(self, point: Point, **more: Any) -> dict[str, Any]:
        """Params of a request whose worker dies at *point*. All workers are back from the death before it."""
        for broker in self.brokers if DEAD in self.lengths() else ():  # a test has failed: no harm to the next one
            Probe(broker).take_all(DEAD)
        deaths = len(list(self.agent.notes.glob("killed-*")))
        wait_until(
            lambda: len(self.agent.log_lines("consuming for node")) >= len(self.brokers) + deaths, 20, self.agent.log
        )
        return {"label": f"{next(self._labels)}-{point.label}", "die": point.label, **more}

    def lengths(self) -> dict[str, int]:
        """Of all queues with anything in them: how much waits there, or is delivered and not acknowledged."""
        lengths: dict[str, int] = {}
        for broker in self.brokers:
            for name, length in _LENGTH.findall(broker.evaluate(_LENGTHS)):
                if int(length):
                    lengths[name] = lengths.get(name, 0) + int(length)
        return lengths

    def assert_seen(self, request: dict[str, Any], notes: list[str], dead: int = 0) -> None:
        """It has killed its worker, the services have noted *notes*, and nothing is left that could go on."""
        label = request["label"]

        def said() -> str:
            return f"{self.agent.noted(label)}, in queues {self.lengths()}\n{self.agent.log()[-6000:]}"

        wait_until(lambda: (self.agent.notes / f"killed-{label}").exists(), 10, said)
        wait_until(lambda: len(self.agent.noted(label)) >= len(notes), 10, said)
        wait_until(lambda: self.lengths() == ({DEAD: dead} if dead else {}), 10, said)
        assert self.agent.noted(label) == notes
        self.seen[label] = notes

    def dead_letters(self) -> list[dict[str, Any]]:
        """What ``servicebus dead list`` says of the dead letters."""
        found: list[dict[str, Any]] = json.loads(self._dead("list", "--json"))["letters"]
        return found

    def requeue_all(self) -> None:
        self._dead("requeue", "--all")

    def _dead(self, *arguments: str) -> str:
        file = self.agent.folder / "operator.yaml"
        file.write_text(json.dumps({key: self.agent.settings[key] for key in ("hosts", "node_name", "secret_token")}))
        done = CliRunner().invoke(servicebus, ["dead", *arguments, "-c", str(file)])
        assert done.exit_code == 0, done.output
        return done.stdout


@pytest.fixture(scope="module")
def place(broker_pool: BrokerPool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    place = Place(tmp_path_factory.mktemp("agent"), broker_pool.heal(2))
    try:
        place.agent.wait_consuming()
        yield place
    finally:
        place.agent.close()


def named(point: Point) -> str:
    return point.label


# -- calls -------------------------------------------------------------------------------------------------------------


def ask(sender: Sender, service: str, request: dict[str, Any]) -> str:
    """The result, or "interrupted"."""
    try:
        return str(sender.call(f"NODE-01.life.{service}", request, timeout=20)[1])
    except CallInterrupted:
        return "interrupted"


def run_once(point: Point) -> list[str]:
    """What a call's service has noted if it is run before or after the death, but not both."""
    if point is Point.STARTED:
        return []
    return ["started"] if point is Point.IN_SERVICE else ["started", "finished"]


@pytest.mark.parametrize("point", OF_CALLS, ids=named)
def test_a_call_whose_worker_is_killed_ends_with_its_result_or_as_interrupted(
    place: Place, make_sender: MakeSender, point: Point
) -> None:
    """The Sender carries it over to the worker of the other broker."""
    request = place.request(point)
    result = ask(make_sender(place.agent.configuration()), "call", request)
    assert result == ("interrupted" if point in INTERRUPTING else request["label"])
    place.assert_seen(request, run_once(point))


@pytest.mark.parametrize("point", WITH_ONE_HOST, ids=named)
def test_a_call_ends_in_the_same_way_if_its_sender_knows_no_other_broker(
    place: Place, make_sender: MakeSender, point: Point
) -> None:
    """It finds the next worker of the same broker."""
    request = place.request(point)
    result = ask(make_sender(place.agent.configuration(hosts=place.agent.settings["hosts"][:1])), "call", request)
    assert result == ("interrupted" if point in INTERRUPTING else request["label"])
    place.assert_seen(request, run_once(point))


@pytest.mark.parametrize("point", INTERRUPTING, ids=named)
def test_a_call_to_an_idempotent_service_is_run_again_instead(
    place: Place, make_sender: MakeSender, point: Point
) -> None:
    request = place.request(point)
    assert ask(make_sender(place.agent.configuration()), "idempotent", request) == request["label"]
    place.assert_seen(request, [*run_once(point), "started", "finished"])


# -- messages ----------------------------------------------------------------------------------------------------------


def deliver(place: Place, make_sender: MakeSender, service: str, request: dict[str, Any], copies: int) -> None:
    """Send it; or have both brokers hold it, as a Sender leaves it behind that lost the first one's confirm."""
    address = f"NODE-01.life.{service}"
    if copies == 1:
        make_sender(place.agent.configuration()).send(address, request)
        return
    body = signed(address, request, kind=Kind.MESSAGE)
    for broker in place.brokers:
        Probe(broker).publish(MESSAGES, body, delivery_mode=2)


@pytest.mark.parametrize("copies", [1, 2], ids=["one-copy", "two-copies"])
@pytest.mark.parametrize("point", OF_MESSAGES, ids=named)
def test_a_message_whose_worker_is_killed_is_executed_and_a_second_start_is_a_second_attempt(
    place: Place, make_sender: MakeSender, point: Point, copies: int
) -> None:
    request = place.request(point)
    deliver(place, make_sender, "message", request, copies)
    notes = [f"{note} 1" for note in run_once(point)]
    if point in INTERRUPTING:
        notes += ["started 2", "finished 2"]
    place.assert_seen(request, notes)


@pytest.mark.parametrize(
    ("point", "copies"),
    [(point, 1) for point in (*OF_COPIES, *OF_DELAYS)] + [(point, 2) for point in WITH_TWO_COPIES],
    ids=lambda value: value.label if isinstance(value, Point) else "two-copies" if value == 2 else "one-copy",
)
def test_a_message_that_has_failed_once_is_tried_a_second_time_wherever_its_worker_is_killed(
    place: Place, make_sender: MakeSender, point: Point, copies: int
) -> None:
    request = place.request(point, failures=1)
    deliver(place, make_sender, "retried", request, copies)
    notes = ["started 1", "failed 1", "started 2", "finished 2"]
    if point is Point.IN_SERVICE_AGAIN:
        notes[3:] = ["started 3", "finished 3"]
    place.assert_seen(request, notes)


def test_a_message_on_its_way_from_one_delay_queue_to_the_next_is_executed_once(place: Place) -> None:
    """Its delay is longer than what the first queue holds; from here on it stands in both."""
    request = place.request(Point.COPY_CONFIRMED)
    body = signed("NODE-01.life.message", request, kind=Kind.MESSAGE, due_s=2)
    Probe(place.brokers[0]).publish("NODE-01.messages.delay.1", body, delivery_mode=2)
    place.assert_seen(request, ["started 1", "finished 1"])


@pytest.mark.parametrize("point", OF_COPIES, ids=named)
def test_a_message_on_its_way_to_the_dead_letters_gets_there_and_sent_back_is_executed_once(
    place: Place, make_sender: MakeSender, point: Point
) -> None:
    """Where the journal does not know of the letter yet, the message is tried, and dead-lettered, a second time: one
    more failure. But the two letters are one message still, and requeued they are one execution."""
    request = place.request(point, failures=9)
    make_sender(place.agent.configuration()).send("NODE-01.life.buried", request)
    notes = ["started 1", "failed 1"]
    attempts = [1]
    if point is Point.COPY_DUE or point in REPEATING:
        notes += ["started 2", "failed 2"]
        attempts = [1, 2] if point in REPEATING else [2]
    place.assert_seen(request, notes, dead=len(attempts))
    letters = place.dead_letters()
    assert sorted(letter["attempts"] for letter in letters) == attempts
    assert len({letter["id"] for letter in letters}) == 1
    (place.agent.notes / f"mended-{request['label']}").touch()
    place.requeue_all()
    place.assert_seen(request, [*notes, "started 1", "finished 1"])


# -- afterwards --------------------------------------------------------------------------------------------------------


def test_afterwards_the_agent_stops_as_if_nothing_had_been_and_nothing_more_was_run(place: Place) -> None:
    assert place.agent.stop() == 0
    assert place.lengths() == {}
    assert {label: place.agent.noted(label) for label in place.seen} == place.seen
    assert {path.name for path in place.agent.notes.glob("killed-*")} == {f"killed-{label}" for label in place.seen}
