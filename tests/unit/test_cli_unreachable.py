"""Commands that go over several brokers: one that is down is named, and the others are gone to all the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from servicebus.cli.main import servicebus
from servicebus.configuration import BrokerHost, Configuration
from servicebus.errors import CallRefused, ConnectFailed
from servicebus.operations import session as sessions
from servicebus.transport.memory import MemoryBroker

DOWN = "mq-b:5672"
COMMANDS: dict[str, list[str]] = {
    "events list": ["events", "list", "billing.invoice"],
    "events drop": ["events", "drop", "billing.invoice"],
    "events drop --force": ["events", "drop", "billing.invoice", "--force"],
    "dead list": ["dead", "list"],
    "dead show": ["dead", "show", "x-1"],
    "dead requeue": ["dead", "requeue", "--all"],
    "dead drop": ["dead", "drop", "--all", "--yes"],
}

Run = Callable[..., Result]


@pytest.fixture
def reached() -> list[str]:
    return []


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reached: list[str]) -> Run:
    """Run a command on three brokers in memory, of which those that are named are down."""
    path = tmp_path / "agent.yaml"
    settings = {"hosts": ["mq-a", "mq-b", "mq-c"], "secret_token": "a secret of the test", "node_name": "N"}
    path.write_text(json.dumps({**settings, "journal": str(tmp_path / "journal")}))
    brokers = {f"mq-{name}:5672": MemoryBroker() for name in "abc"}
    open_session = sessions.open_session
    down: list[str] = []

    def opened(host: BrokerHost, config: Configuration, **how: Any) -> Any:
        if host.name in down:
            raise ConnectFailed(host.name, "connection refused", kind="refused")
        reached.append(host.name)
        return open_session(host, config, **{**how, "connect": brokers[host.name].connect})

    monkeypatch.setattr(sessions, "open_session", opened)

    def run(*arguments: str, without: list[str]) -> Result:
        down[:] = without
        return CliRunner().invoke(servicebus, [*arguments, "-c", str(path)])

    return run


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
def test_the_others_are_gone_to(run: Run, reached: list[str], arguments: list[str]) -> None:
    done = run(*arguments, without=[DOWN])
    shows_nothing = arguments[:2] == ["dead", "show"]  # there is no such letter where it has looked
    assert done.exit_code == 10, done.output
    assert f"servicebus: warning: {DOWN}: connection refused" in done.stderr
    assert set(reached) == {"mq-a:5672", "mq-c:5672"}
    assert shows_nothing or done.stdout


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
def test_if_none_is_there_that_is_the_error(run: Run, reached: list[str], arguments: list[str]) -> None:
    done = run(*arguments, without=["mq-a:5672", DOWN, "mq-c:5672"])
    assert done.exit_code == 4 and not reached
    assert "mq-a:5672 connection refused, mq-b:5672 connection refused" in done.stderr


def test_the_document_names_it(run: Run) -> None:
    done = run("events", "list", "billing.invoice", "--json", without=[DOWN])
    told = json.loads(done.stdout)
    assert told["unreachable"] == {DOWN: f"{DOWN}: connection refused"} and done.stderr == ""
    assert [each["host"] for each in told["subscriptions"]] == ["mq-a:5672", "mq-c:5672"]


def test_a_ping_over_all_names_where_it_was_not_answered(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = CallRefused("N.servicebus.ping", "signature", "another secret")
    found: dict[str, Any] = {"mq-a:5672": None, "mq-b:5672": TimeoutError(), "mq-c:5672": refused}
    monkeypatch.setattr("servicebus.sender.Sender._ping_each", lambda *_: found)
    done = run("ping", "N", "--all", "--timeout", "2", without=[])
    assert done.exit_code == 4 and done.stdout.startswith("N answered over 1 of 3 brokers")
    assert "over mq-b:5672: no answer within 2 s" in done.stderr and "over mq-c:5672: N." in done.stderr
    told = json.loads(run("ping", "N", "--all", "--json", without=[]).stdout)
    assert set(told["unanswered"]) == {"mq-b:5672", "mq-c:5672"}
    found["mq-a:5672"] = refused
    assert run("ping", "N", "--all", without=[]).exit_code == 6
    found.update(dict.fromkeys(found))
    assert run("ping", "N", "--all", without=[]).exit_code == 0
