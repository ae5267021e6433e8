"""What a reload makes of a configuration, and the master's decisions while its workers are replaced by it."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from servicebus.configuration import Configuration
from servicebus.configuration.keys import ALL_KEYS
from servicebus.configuration.reloading import APPLIED, NEEDS_RESTART, changes, reloaded
from servicebus.errors import ConfigurationError
from servicebus.runtime.child import Child
from servicebus.runtime.master import Master

ROOT = Path(__file__).parents[2]
SECRET = "of a unit test only, and long enough"


def config(*hosts: Any, **values: Any) -> Configuration:
    given = {"hosts": list(hosts) or ["mq-a"], "secret_token": SECRET, "node_name": "N", **values}
    return Configuration(given)


# -- the table -------------------------------------------------------------------------------------------------------


def test_each_setting_is_applied_or_needs_a_restart() -> None:
    assert sorted([*APPLIED, *NEEDS_RESTART]) == sorted(ALL_KEYS)


def test_the_docs_have_the_same_table() -> None:
    text = (ROOT / "docs" / "reload.rst").read_text()
    at_reload, _, restart = text.partition("Needs a restart\n")
    cells = re.findall(r"^     - (.*)", at_reload.partition("Applied\n")[2], re.MULTILINE)
    assert {name for cell in cells for name in re.findall(r"``(\w+)``", cell)} == set(APPLIED)
    rows = restart.partition("The Sender\n")[0]
    assert set(re.findall(r"^   \* - ``(\w+)``", rows, re.MULTILINE)) == set(NEEDS_RESTART)


def test_what_needs_a_restart_keeps_its_former_value() -> None:
    running = config(status_socket="/run/a", journal="/a", prefetch=10)
    given = config(status_socket="/run/b", journal="/b", prefetch=20, node_name="M")
    found = reloaded(running, given)
    assert [change.key for change in found.changed] == ["prefetch"]
    assert {change.key for change in found.needs_restart} == {"status_socket", "journal", "node_name"}
    kept = found.configuration
    assert (kept.status_socket, kept.journal, kept.node_name) == ("/run/a", running.journal, "N")
    assert kept.prefetch == 20
    again = reloaded(kept, given)
    assert not again.changed
    assert again.needs_restart == found.needs_restart, "it is said until it is done"


ADD = {"kind": "rpc", "category": "math", "name": "add", "target": "shop:Add"}
NOTE = {"kind": "message", "category": "audit", "name": "note", "target": "shop:Note", "threads": 2}


@pytest.mark.parametrize(
    ("services", "is_applied"),
    [
        ([{**ADD, "threads": 4}, NOTE], True),
        ([ADD, {**NOTE, "retry": [1, 2], "priority": 3, "threads": None}], True),
        ([NOTE, ADD], False),
        ([ADD], False),
        ([ADD, {**NOTE, "lock": "account"}], False),
        ([{**ADD, "target": "shop:Other"}, NOTE], False),
        ([ADD, NOTE, {"group": "shop:group"}], False),
    ],
)
def test_some_options_of_services_are_applied(services: list[dict[str, Any]], is_applied: bool) -> None:
    running, given = config(services=[ADD, NOTE]), config(services=services)
    found = reloaded(running, given)
    assert ([each.key for each in found.changed], [each.key for each in found.needs_restart]) == (
        (["services"], []) if is_applied else ([], ["services"])
    )
    assert found.configuration.services == (given if is_applied else running).services


@pytest.mark.parametrize(
    ("before", "after", "key", "what"),
    [
        ({}, {"prefetch": 100}, "prefetch", "100, was 512"),
        ({}, {"queue_type": "quorum"}, "queue_type", '"quorum", was "classic"'),
        ({"queue_len": 5}, {}, "queue_len", "none, was 5"),
        ({"retry_schedule": [1]}, {"retry_schedule": [2, 3]}, "retry_schedule", "[2.0, 3.0], was [1.0]"),
        ({}, {"secret_token": ["of another unit test", SECRET]}, "secret_token", "changed"),
        ({"password": "one"}, {"password": "other"}, "password", "changed"),
        ({"hosts": ["a", "b"]}, {"hosts": ["b", "c"]}, "hosts", "c:5672 added, a:5672 removed"),
        ({"hosts": ["a", "b"]}, {"hosts": ["b", "a"]}, "hosts", "in another order"),
        ({"password": "one"}, {"password": "other"}, "hosts", "mq-a:5672 changed"),
        ({}, {"metrics": {}}, "metrics", "added"),
        ({"metrics": {}}, {}, "metrics", "removed"),
        ({"metrics": {}}, {"metrics": {"port": 1}}, "metrics", "port: 1, was 9464"),
        ({}, {"callers": {"shop": {"key": "key of a shop"}}}, "callers", "shop added"),
        ({}, {"encryption": {"keys": "key of nothing else"}}, "encryption", "added"),
        (
            {"logging": {"level": "INFO"}},
            {"logging": {"level": "DEBUG", "secret": "of logs"}},
            "logging",
            'level: "DEBUG", was "INFO", secrets: changed',
        ),
    ],
)
def test_what_has_changed_is_said_without_a_secret(
    before: dict[str, Any], after: dict[str, Any], key: str, what: str
) -> None:
    found = changes(config(**before), config(**after))
    assert (key, what) in [tuple(change) for change in found]
    assert "one" not in [word for change in found for word in re.findall(r"\w+", change.what)]


# -- the master ------------------------------------------------------------------------------------------------------


class Rig:
    """A master whose workers are pipes; the test says what becomes of them."""

    def __init__(self, *hosts: Any) -> None:
        self.given: Configuration | BaseException = config(*hosts)
        self.taken: list[Configuration] = []
        self.told: list[str] = []
        how: dict[str, Any] = {"read_again": self._read, "take": self.taken.append}
        self.master = Master(config(*hosts), self._not_run, lambda: None, **how)
        self._next_pid = 1000
        self._started: list[Child] = []
        for each in self.master._children:
            self.start(each)

    def _read(self) -> Configuration:
        if isinstance(self.given, BaseException):
            raise self.given
        return self.given

    @staticmethod
    def _not_run(*_: Any) -> int:
        raise AssertionError("no worker is forked here")

    def child(self, name: str) -> Child:
        return next(each for each in self.master._children if each.host.host == name)

    def start(self, child: Child | str, **state: Any) -> None:
        child = self.child(child) if isinstance(child, str) else child
        heartbeat_read, heartbeat_write = os.pipe()
        parent_death_read, parent_death_write = os.pipe()
        os.close(heartbeat_write)
        os.close(parent_death_read)
        self._next_pid += 1
        child.started(self._next_pid, heartbeat_read, parent_death_write, time.monotonic())
        child.state = state or {"state": "consuming", "healthy": True}
        self._started.append(child)

    def hup(self, given: Configuration | BaseException | None = None) -> None:
        self.given = given or self.given
        self.master._handle(signal.SIGHUP)

    def end(self, child: Child, code: int = 0) -> None:
        self.master._ended(child, code)

    def roll(self) -> list[str]:
        """The hosts whose workers were told to stop."""
        told: list[str] = []
        self.told = told
        self.master._roll()
        return told

    @property
    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = self.master.snapshot()["reload"]
        return found

    def close(self) -> None:
        for child in self._started:
            child.close_fds()


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Rig]]:
    rigs: list[Rig] = []
    monkeypatch.setattr(Child, "kill", lambda child, _signum: rigs[-1].told.append(child.host.host))

    def made(*hosts: Any) -> Rig:
        rigs.append(rig := Rig(*hosts))
        return rig

    yield made
    for rig in rigs:
        rig.close()


def test_before_the_first_reload_there_is_nothing_to_say(make: Callable[..., Rig]) -> None:
    report = make("a").report
    assert (report["count"], report["state"], report["running"]) == (0, "none", False)
    json.dumps(report)


def test_new_brokers_come_first_and_those_that_are_gone_leave_last(make: Callable[..., Rig]) -> None:
    rig = make("a", "b")
    rig.hup(config("b", "c"))
    assert rig.roll() == [], "the new one is waited for"
    rig.start("c")
    assert rig.roll() == ["b"]
    rig.end(rig.child("b"))
    assert rig.roll() == []
    rig.start("b")
    assert rig.roll() == ["a"]
    report = rig.report
    assert (report["state"], report["running"], report["failed"]) == ("done", False, [])
    assert report["changed"] == [{"key": "hosts", "what": "c:5672 added, a:5672 removed"}]
    assert rig.master._config is rig.taken[-1]


def test_what_refuses_a_configuration_leaves_all_as_it_was(make: Callable[..., Rig]) -> None:
    rig = make("a")
    running = rig.master._config
    rig.hup(ConfigurationError("no such key", path="agent.yaml", line=3))
    report = rig.report
    assert (report["state"], report["error"], report["running"]) == ("refused", "agent.yaml:3: no such key", False)
    assert (rig.master._config, rig.taken, rig.roll()) == (running, [], [])


def test_one_that_is_refused_while_another_is_carried_out_does_not_disturb_that(make: Callable[..., Rig]) -> None:
    rig = make("a")
    second = config("a", prefetch=7)
    rig.hup(second)
    assert rig.roll() == ["a"]
    rig.hup(ConfigurationError("no such key"))
    assert (rig.report["state"], rig.report["running"]) == ("refused", True)
    rig.end(rig.child("a"))
    rig.start("a")
    rig.roll()
    assert (rig.report["state"], rig.report["running"]) == ("refused", False)
    assert rig.master._proven is rig.master._config
    assert rig.master._proven.prefetch == 7


def test_a_worker_that_cannot_start_with_the_new_configuration_takes_it_back(make: Callable[..., Rig]) -> None:
    rig = make("a", "b")
    running = rig.master._config
    rig.hup(config("a", "b", prefetch=7))
    assert rig.roll() == ["a"]
    rig.end(rig.child("a"))
    rig.start("a", state="starting")
    a = rig.child("a")
    rig.end(a, 3)
    a.is_retired = True
    assert rig.roll() == [], "b was not touched"
    report = rig.report
    assert (report["state"], rig.master._config) == ("taken-back", running)
    assert "worker a:5672#1 does not serve with the new one: it could not start" in report["error"]
    assert rig.taken[-1] is running
    assert not a.is_retired


def _wait_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("servicebus.runtime.reloading._ROLL_WAIT_S", -1.0)


def test_a_broker_that_refuses_the_new_password_has_the_former_taken_back(
    make: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    _wait_for_nothing(monkeypatch)
    rig = make("a", "b")
    rig.hup(config("a", "b", password="wrong"))
    assert rig.roll() == ["a"]
    rig.end(rig.child("a"))
    rig.start("a", state="backoff", last_error="ACCESS_REFUSED")
    assert rig.roll() == ["a"], "the one that has the wrong one"
    assert rig.report["state"] == "taken-back"
    assert "ACCESS_REFUSED" in rig.report["error"]
    rig.end(rig.child("a"))
    rig.start("a")
    assert rig.roll() == []
    assert not rig.report["running"]


def test_a_broker_that_is_lost_meanwhile_is_no_reason_to_take_anything_back(
    make: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    _wait_for_nothing(monkeypatch)
    rig = make("a", "b")
    rig.hup(config("a", "b", prefetch=7))
    assert rig.roll() == ["a"]
    rig.end(rig.child("a"))
    rig.start("a", state="backoff", last_error="connection refused")
    assert rig.roll() == ["b"]
    rig.end(rig.child("b"))
    rig.start("b")
    rig.roll()
    assert rig.report["state"] == "done"
    assert rig.report["failed"] == ["worker a:5672#1 does not serve: backoff (connection refused)"]


def test_the_last_worker_that_consumes_does_not_leave(
    make: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    _wait_for_nothing(monkeypatch)
    rig = make("a")
    a = rig.child("a")
    rig.hup(config("b"))
    assert rig.roll() == []
    rig.start("b", state="backoff", last_error="connection refused")
    assert rig.roll() == []
    assert rig.report["state"] == "taken-back"
    assert rig.roll() == ["b"]
    assert rig.master._children == [a]


def test_a_worker_that_dies_again_and_again_takes_it_back(make: Callable[..., Rig]) -> None:
    rig = make("a")
    rig.hup(config("a", prefetch=7))
    assert rig.roll() == ["a"]
    for _ in range(4):
        assert rig.report["state"] == "running"
        rig.end(rig.child("a"), 1)
        rig.roll()
        if rig.report["state"] == "running":
            rig.start("a", state="starting")
    assert rig.report["state"] == "taken-back"
    assert "again and again" in rig.report["error"]


def test_a_host_that_comes_back_before_its_worker_was_told_keeps_it(make: Callable[..., Rig]) -> None:
    rig = make("a", "b")
    a = rig.child("a")
    rig.hup(config("b"))
    assert rig.roll() == ["b"]
    rig.hup(config("a", "b"))
    assert rig.child("a") is a
    assert rig.master._leaving == []
