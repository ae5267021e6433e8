"""Subscriptions on real brokers: removed by the command, moved to another type, requeued from the dead letters."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agents import Agent
from broker_versions import quorum_arguments
from click.testing import CliRunner, Result
from envelopes import SECRET
from probe import Probe
from waiting import wait_until

from servicebus.cli.main import servicebus
from servicebus.configuration import Configuration
from servicebus.runtime.known_subscriptions import known_subscriptions, note_subscriptions
from servicebus.sender import Sender
from servicebus.testing import Broker
from servicebus.wire.xmlcodec import decode_envelope

StartAgent = Callable[..., Agent]
MakeSender = Callable[[Configuration], Sender]

EVENTS, QUEUE, DEAD = "servicebus.events", "NODE-01.events.billing.invoice", "NODE-01.dead"
TYPES: dict[str, dict[str, Any]] = {"classic": {}, "quorum": {"x-queue-type": "quorum"}}
GROUP = """
import os, pathlib
from servicebus import Services
from servicebus.services import current_request

billing = Services("billing")

@billing.event({patterns})
def invoice(**params) -> None:
    found = dict(current_request().context)
    folder = pathlib.Path(os.environ["NOTES"])
    with open(folder / "invoiced", "a") as file:
        file.write(f"{{params['id']}} {{found.get('tenant')}} {{current_request().attempts}}\\n")
    if not (folder / "paper").exists():
        raise ValueError("no paper")
"""


class Place:
    """Brokers, and the configuration of an operator who stands at the machine of the agent."""

    def __init__(self, folder: Path, brokers: list[Broker]):
        self.folder = folder
        self.brokers = brokers
        self.probes = [Probe(broker) for broker in brokers]
        self.settings: dict[str, Any] = {
            "hosts": [f"{broker.host}:{broker.port}" for broker in brokers],
            "node_name": "NODE-01",
            "secret_token": SECRET,
            "journal": str(folder / "journal"),
        }

    @property
    def configuration(self) -> Configuration:
        return Configuration(self.settings)

    def run(self, *arguments: str, **changed: Any) -> Result:
        path = self.folder / "ops.yaml"
        path.write_text(json.dumps({**self.settings, **changed}))
        return CliRunner().invoke(servicebus, [*arguments, "-c", str(path)])

    def subscribe(self, *patterns: str, queue: str = QUEUE, arguments: dict[str, Any] | None = None) -> None:
        """As a worker does."""
        note_subscriptions(self.configuration, {queue.removeprefix("NODE-01.events."): patterns})
        for probe in self.probes:
            with probe.channel() as channel:
                channel.exchange_declare(EVENTS, "topic", durable=True)
                channel.queue_declare(queue, durable=True, arguments=arguments)
                for pattern in patterns:
                    channel.queue_bind(queue, EVENTS, pattern)

    def publish(self, event: str, index: int = 0) -> None:
        with self.probes[index].channel() as channel:
            channel.basic_publish(EVENTS, event, b"an event")

    def gets(self, event: str, index: int = 0) -> bool:
        """Whether the queue gets *event*, which has to be empty."""
        self.publish(event, index)
        return bool(self.probes[index].take_all(QUEUE))


@pytest.fixture
def place(tmp_path: Path, brokers: list[Broker]) -> Place:
    return Place(tmp_path, brokers)


class TestDrop:
    pytestmark = pytest.mark.brokers(count=2)

    @pytest.mark.parametrize("queue_type", ["classic", "quorum"])
    def test_an_empty_queue_goes_from_each_broker_and_is_not_spoken_of_again(
        self, place: Place, queue_type: str
    ) -> None:
        place.subscribe("orders.*", arguments=TYPES[queue_type])
        done = place.run("events", "drop", "billing.invoice")
        assert done.exit_code == 0, done.output
        assert done.stdout.count(f"{QUEUE} is gone, with 0 events") == 2
        assert [probe.depth(QUEUE) for probe in place.probes] == [None, None]
        assert known_subscriptions(place.configuration) == {}
        assert "no subscription of this node is known" in place.run("events", "list").stdout
        assert place.run("events", "drop", "billing.invoice").exit_code == 0, "again is no error"

    @pytest.mark.parametrize("queue_type", ["classic", "quorum"])
    def test_events_that_wait_keep_it_unless_they_may_go(self, place: Place, queue_type: str) -> None:
        place.subscribe("orders.*", arguments=TYPES[queue_type])
        place.publish("orders.created")
        wait_until(lambda: place.probes[0].depth(QUEUE) == 1)
        assert "1 event waits, 0 workers take them" in place.run("events", "list").stdout
        refused = place.run("events", "drop", "billing.invoice")
        assert refused.exit_code != 0
        assert f"queue {QUEUE} stays: 1 event waits in it, 0 workers take from it; --force" in refused.output
        assert place.settings["hosts"][0] in refused.output
        assert place.probes[0].depth(QUEUE) == 1 and "billing.invoice" in known_subscriptions(place.configuration)
        done = json.loads(place.run("events", "drop", "billing.invoice", "--force", "--json").stdout)
        assert list(done["dropped"].values()) == [1, 0] and done["queue"] == QUEUE
        assert [probe.depth(QUEUE) for probe in place.probes] == [None, None]

    def test_a_worker_that_takes_from_it_keeps_it(self, place: Place) -> None:
        place.subscribe("orders.*")
        with place.probes[0].channel() as channel:
            channel.basic_consume(QUEUE, lambda *_: None)
            refused = place.run("events", "drop", "billing.invoice")
            assert "0 events wait in it, 1 worker takes from it" in refused.output

    def test_a_broker_that_is_down_is_named_and_the_subscription_stays_known(self, place: Place) -> None:
        place.subscribe("orders.*")
        refused = place.run("events", "drop", "billing.invoice", hosts=[*place.settings["hosts"], "127.0.0.1:1"])
        assert refused.exit_code != 0 and "127.0.0.1:1" in refused.output
        assert "billing.invoice" in known_subscriptions(place.configuration)


class BillingAgent(Agent):
    """Serves the group that was written last."""

    group = ""

    def write_configuration(self, **changed: Any) -> None:
        (self.folder / "billing_of_tests.py").write_text(self.group)
        super().write_configuration(**changed)


def start(start_agent: StartAgent, place: Place, *patterns: str) -> Agent:
    made = type("BillingAgent", (BillingAgent,), {"group": GROUP.format(patterns=", ".join(map(repr, patterns)))})
    services = [{"group": "billing_of_tests:billing"}]
    return start_agent(place.brokers, make=made, services=services, journal=place.settings["journal"])


@pytest.mark.brokers(count=1)
def test_a_dead_event_goes_back_to_its_subscription_with_its_context(
    place: Place, start_agent: StartAgent, make_sender: MakeSender
) -> None:
    agent = start(start_agent, place, "orders.*").wait_consuming()
    sender, (probe,) = make_sender(agent.configuration()), place.probes
    sender.publish("orders.created", {"id": 7}, context={"tenant": "t-1"})
    wait_until(lambda: probe.depth(DEAD) == 1, 20)
    (listed,) = json.loads(place.run("dead", "list", "--json").stdout)["letters"]
    assert (listed["service"], listed["standing"]) == ("billing.invoice", "good")
    assert listed["reason"] == "ValueError"

    (agent.notes / "paper").touch()
    done = place.run("dead", "requeue", "--service", "billing.*")
    assert done.exit_code == 0 and "1 went back" in done.stdout, done.output
    wait_until(lambda: len(agent.noted("invoiced")) == 2, 20)
    assert agent.noted("invoiced") == ["7 t-1 1", "7 t-1 1"], "the same context, attempts from 1"
    assert [probe.depth(queue) for queue in (DEAD, QUEUE, "NODE-01.messages")] == [0, 0, 0]


@pytest.mark.brokers(count=1)
def test_a_requeued_event_that_is_not_taken_yet_stands_in_the_queue_of_its_subscription(
    place: Place, start_agent: StartAgent, make_sender: MakeSender
) -> None:
    agent = start(start_agent, place, "orders.*").wait_consuming()
    sender, (probe,) = make_sender(agent.configuration()), place.probes
    sender.publish("orders.created", {"id": 7}, context={"tenant": "t-1"})
    wait_until(lambda: probe.depth(DEAD) == 1, 20)
    agent.stop()
    assert place.run("dead", "requeue", "--all").exit_code == 0
    ((body, _),) = probe.take_all(QUEUE)
    envelope = decode_envelope(body, 10**6)
    assert envelope.service == "orders.created" and '"tenant"' in envelope.context and not probe.take_all(DEAD)


@pytest.mark.brokers(count=2)
def test_what_a_service_does_not_name_any_more_is_unbound_also_where_the_broker_was_down(
    place: Place, start_agent: StartAgent
) -> None:
    agent = start(start_agent, place, "orders.*", "users.created").wait_consuming()
    agent.stop()
    assert all(place.gets(event, index) for event in ("orders.created", "users.created") for index in (0, 1))
    place.brokers[1].stop()
    agent = start(start_agent, place, "orders.*").wait_consuming([0])
    assert "billing.invoice subscribes no more to users.created" in agent.log()
    place.brokers[1].start()
    agent.wait_consuming()
    agent.stop()
    assert all(place.gets("orders.created", index) for index in (0, 1))
    assert not any(place.gets("users.created", index) for index in (0, 1))


@pytest.mark.brokers(count=1)
class TestMigration:
    def move(self, place: Place, *more: str, queue_type: str = "quorum") -> Result:
        return place.run("migrate-queue", place.settings["hosts"][0], "--json", *more, queue_type=queue_type)

    def states(self, done: Result) -> dict[str, Any]:
        assert done.stdout, done.output
        return {each["queue"]: each for each in json.loads(done.stdout)["queues"]}

    @pytest.mark.parametrize("queue_type", ["quorum"])
    def test_a_queue_of_events_is_moved_with_its_events_and_bindings_and_back(
        self, place: Place, queue_type: str
    ) -> None:
        place.subscribe("orders.*", "users.#")
        (probe,) = place.probes
        for _ in range(120):
            place.publish("orders.created")
        wait_until(lambda: probe.depth(QUEUE) == 120)
        assert self.states(self.move(place, "--dry-run"))[QUEUE]["state"] == "other"
        done = self.move(place)
        assert done.exit_code == 0, done.output
        assert self.states(done)[QUEUE]["state"] == "fine"
        probe.declare(QUEUE, durable=True, arguments=quorum_arguments(place.brokers[0]))
        assert len(probe.take_all(QUEUE)) == 120 and probe.depth(f"{QUEUE}.moving") is None
        assert place.gets("orders.created") and place.gets("users.a.b") and not place.gets("sales")
        assert self.states(self.move(place, queue_type="classic"))[QUEUE]["state"] == "fine"
        assert place.gets("users.a.b")

    def test_what_is_published_meanwhile_is_in_the_queue_afterwards(self, place: Place) -> None:
        from servicebus.operations.migrate import Migration
        from servicebus.operations.session import open_session

        place.subscribe("orders.*")
        configuration = Configuration({**place.settings, "queue_type": "quorum"})
        (host,), published = configuration.hosts, 0

        class Watched(Migration):
            """Something is published before and after each step at the broker."""

            def _do(self, step: Any, what: str) -> Any:
                nonlocal published
                place.publish("orders.created")
                done = super()._do(step, what)
                place.publish("orders.created")
                published += 2
                return done

        with open_session(host, configuration, purpose="migrate-queue") as session:
            Watched(session, configuration, QUEUE, patterns=["orders.*"]).run()
        assert published > 10 and len(place.probes[0].take_all(QUEUE)) >= published, "doubles have one id"

    def test_without_the_patterns_it_is_not_touched(self, place: Place) -> None:
        other = "NODE-01.events.mail.send"
        place.subscribe("orders.*", queue=other)
        (place.folder / "journal.subscriptions").unlink()
        assert other not in self.states(self.move(place))
        blocked = self.move(place, "--queue", other)
        assert blocked.exit_code != 0 and "say each by --pattern" in " ".join(blocked.output.split())
        done = self.move(place, "--queue", other, "--pattern", "orders.*")
        assert self.states(done)[other]["state"] == "fine"

    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            (["--pattern", "a"], "they belong to one --queue"),
            (["--queue", "NODE-01.messages", "--pattern", "a"], "they belong to one --queue"),
            (["--queue", QUEUE, "--pattern", "a..b"], "pattern of events"),
            (["--queue", "NODE-02.events.a.b"], "is none of"),
            (["--queue", "NODE-01.events.a"], "is none of"),
        ],
    )
    def test_what_cannot_be_meant_is_said(self, place: Place, arguments: list[str], complaint: str) -> None:
        done = self.move(place, *arguments)
        assert done.exit_code == 2 and complaint in " ".join(done.output.split())
