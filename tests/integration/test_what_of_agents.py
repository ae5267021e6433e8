"""``servicebus what`` on real brokers: what it says of an id is what became of it; who could not be asked is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result
from waiting import wait_until

from servicebus.cli.main import servicebus
from servicebus.configuration import Configuration
from servicebus.errors import RemoteError
from servicebus.sender import Sender
from servicebus.testing import Broker

if TYPE_CHECKING:
    from agents import Agent

StartAgent = Callable[..., "Agent"]
MakeSender = Callable[[Configuration], Sender]

NOBODYS = "0123456789abcdef-17"
SLOW = "--timeout", "20", "--quiet", "1"


class World:
    """An agent on all brokers, and a Sender whose ids are asked for."""

    def __init__(self, agent: Agent, sender: Sender):
        self.agent = agent
        self.sender = sender

    def id_of(self, event_id: int) -> str:
        return f"{self.sender.status()['sender']}-{int(event_id)}"

    def run(self, *arguments: str) -> Result:
        file = str(self.agent.folder / "agent.yaml")
        return CliRunner().invoke(servicebus, ["what", *SLOW, *arguments, "-c", file])

    def what(self, *ids: str) -> Any:
        found = json.loads(self.run(*ids, "--json").stdout)
        return {each["id"]: each for each in found["ids"]}


@pytest.fixture
def world(brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender) -> World:
    agent = start_agent(brokers).wait_consuming(timeout_s=60)
    return World(agent, make_sender(agent.configuration()))


def test_each_id_is_told_by_what_became_of_it(world: World) -> None:
    sender = world.sender
    good = world.id_of(sender.call("NODE-01.math.add", [1, 2])[0])
    with pytest.raises(RemoteError):
        sender.call("NODE-01.test.raises", "of the test")
    bad = world.id_of(2)
    recorded = world.id_of(sender.send("NODE-01.audit.record", 1))
    wait_until(lambda: world.agent.noted("recorded"))
    running = sender.call_async("NODE-01.test.gated", 5)
    wait_until(lambda: world.what(world.id_of(4))[world.id_of(4)]["state"] == "running")
    found = world.what(good, bad, recorded, world.id_of(4), NOBODYS)
    assert [each["state"] for each in found.values()] == ["finished", "finished", "finished", "running", "unknown"]
    assert [run["answer"] for each in (good, bad, recorded) for run in found[each]["runs"]] == ["ok", "ValueError", ""]
    assert [run["node"] for run in found[good]["runs"]] == ["NODE-01"], "once, though two workers have answered"
    done = world.run(good, bad)
    assert done.exit_code == 0, done.output
    assert f"{good}  finished\n  NODE-01: ran it, and answered with a result\n" in done.stdout
    assert "NODE-01: ran it, and answered with the error ValueError\n" in done.stdout
    world.agent.open_gate()
    assert running.result(20)[1] == 5


def test_an_id_that_nobody_has_is_told_with_what_to_do(world: World) -> None:
    done = world.run(NOBODYS)
    assert done.exit_code == 1
    assert f"{NOBODYS}  unknown\n" in done.stdout and "the journals of 1 node: NODE-01" in done.stdout
    assert "--outbox FILE" in done.stdout and done.stderr == ""


def test_a_message_that_failed_is_found_among_the_dead_letters_which_stay(world: World) -> None:
    failed = world.id_of(world.sender.send("NODE-01.audit.record", "boom"))
    refused = world.id_of(world.sender.send("NODE-01.audit.unknown", 1))

    def both_are_dead() -> Any:
        found = world.what(failed, refused)
        return found if all(each["state"] == "dead-lettered" for each in found.values()) else None

    wait_until(both_are_dead, 30, lambda: str(world.what(failed, refused)))
    found = both_are_dead()
    assert found, "they are still there"
    assert [found[id]["dead_letters"][0]["reason"] for id in (failed, refused)] == ["ValueError", "unknown-service"]
    text = world.run(failed).stdout
    assert f"servicebus dead show {failed} --node NODE-01" in text and "a dead letter, ValueError: boom it was" in text
    # Sent back it is another run, which fails again: the id is still the same for whoever asks.
    back = CliRunner().invoke(
        servicebus, ["dead", "requeue", "--id", failed, "-c", str(world.agent.folder / "agent.yaml")]
    )
    assert back.exit_code == 0, back.output
    assert wait_until(lambda: world.what(failed)[failed]["dead_letters"], 30)


def test_a_broker_or_node_that_does_not_answer_is_named(world: World, brokers: list[Broker]) -> None:
    id = world.id_of(world.sender.call("NODE-01.math.add", [1, 2])[0])
    brokers[1].kill()
    done = world.run(id, "--node", "NODE-01", "--node", "NODE-77", "--timeout", "3")
    assert done.exit_code == 10
    assert f"{id}  finished" in done.stdout
    host = f"{brokers[1].host}:{brokers[1].port}"
    assert f"servicebus: warning: not asked: {host}: " in done.stderr
    assert "servicebus: warning: not asked: NODE-77: no answer within 3 s" in done.stderr
    brokers[0].kill()
    assert world.run(id).exit_code == 4


def test_the_outbox_and_the_log_are_looked_at_where_they_are_named(world: World, tmp_path: Path) -> None:
    outbox, log = tmp_path / "outbox", tmp_path / "program.log"
    with Sender(world.agent.configuration(hosts=["127.0.0.1:1"], path_wait=0.1), outbox=outbox) as sender:
        kept = f"{sender.status()['sender']}-{int(sender.send('NODE-01.audit.record', 1))}"
        log.write_text(f"sent {kept}\nanother line\n")
        during = world.run(kept, "--outbox", str(outbox), "--log", str(log))
    after = world.run(kept, "--outbox", str(outbox))
    for done in (during, after):
        assert done.exit_code == 0, done.output
        assert f"{kept}  in-outbox\n" in done.stdout
        assert f"{outbox}: the message to NODE-01.audit.record waits for a broker\n" in done.stdout
    assert f"{log}: sent {kept}\n" in during.stdout and "another line" not in during.stdout
    missing = world.run(kept, "--outbox", str(tmp_path / "none"), "--log", str(tmp_path / "none"))
    assert missing.exit_code == 10 and missing.stderr.count("not asked: ") == 2
