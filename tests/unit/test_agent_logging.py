"""AgentLogging looks after the log server of an agent, but not while the agent stops."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from virtual_time import VirtualTime, virtual_time

from servicebus import _agent_logging
from servicebus._agent_logging import AgentLogging
from servicebus.configuration import Configuration, LoggingSettings
from servicebus.errors import ConfigurationError

SETTINGS: Any = None


class Server:
    """Of no process."""

    pid, exitcode = 4711, -15

    def __init__(self) -> None:
        self.lives = True

    def is_alive(self) -> bool:
        return self.lives


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualTime]:
    with virtual_time(monkeypatch) as time:
        yield time


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Server]:
    servers: list[Server] = []

    def start(_settings: Any) -> Server:
        servers.append(Server())
        return servers[-1]

    monkeypatch.setattr(_agent_logging, "start_server", start)
    return servers


def make() -> tuple[AgentLogging, Server]:
    agent = AgentLogging(SETTINGS)
    agent._server = Server()
    return agent, agent._server


def test_a_server_that_died_is_started_again(time: VirtualTime, started: list[Server]) -> None:
    agent, server = make()
    agent.tick()
    server.lives = False
    for _ in range(3):
        agent.tick()
        time.advance(1.0)
    assert len(started) == 1


def test_a_stopping_agent_starts_none(
    time: VirtualTime, started: list[Server], caplog: pytest.LogCaptureFixture
) -> None:
    """A signal to the whole process group ends the server before the workers, and perhaps before the master knows."""
    agent, server = make()
    server.lives = False
    with caplog.at_level(logging.DEBUG):
        agent.tick()
        time.advance(0.05)
        for _ in range(10):
            agent.tick(may_restart=False)
            time.advance(1.0)
    assert (started, caplog.messages) == ([], [])


# -- reload ----------------------------------------------------------------------------------------------------------


class LoggingRig:
    """An agent with a log server; what is started, connected and ended is noted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.noted: list[str] = []
        self.refused = ""
        """The file with which no server starts."""
        monkeypatch.setattr(_agent_logging, "start_server", self._start)
        monkeypatch.setattr(
            _agent_logging, "connect_root_logger", lambda settings, **_: self._note("connect", settings)
        )
        monkeypatch.setattr(_agent_logging, "disconnect_root_logger", lambda settings: self._note("end", settings))
        self.agent = AgentLogging(self.settings())
        self.agent.start()
        self.noted.clear()

    @staticmethod
    def settings(**changed: Any) -> LoggingSettings:
        logging = {"server": True, "file": "/one", "port": 5500, "level": "INFO", **changed}
        return Configuration({"hosts": ["mq-a"], "secret_token": "of a unit test", "logging": logging}).logging

    def _note(self, what: str, settings: LoggingSettings) -> None:
        self.noted.append(f"{what} {settings.port}")

    def _start(self, settings: LoggingSettings) -> Any:
        if settings.file == self.refused:
            raise ConfigurationError("no such folder", key="logging.file")
        self.noted.append(f"start {settings.file}")
        server = Server()
        server.terminate = lambda: self.noted.append(f"stop {settings.file}")  # type: ignore[attr-defined]
        server.join = lambda _timeout: None  # type: ignore[attr-defined]
        return server


@pytest.fixture
def reloaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoggingRig]:
    level = logging.getLogger().level
    yield LoggingRig(monkeypatch)
    logging.getLogger().setLevel(level)


def test_a_level_needs_no_other_server(reloaded: LoggingRig) -> None:
    reloaded.agent.reload(reloaded.settings(level="ERROR"))
    assert reloaded.noted == ["connect 5500"]
    assert logging.getLogger().level == logging.ERROR


def test_nothing_is_done_where_nothing_has_changed(reloaded: LoggingRig) -> None:
    reloaded.agent.reload(reloaded.settings())
    assert reloaded.noted == []


def test_another_file_needs_another_server_and_no_other_connection(reloaded: LoggingRig) -> None:
    reloaded.agent.reload(reloaded.settings(file="/two"))
    assert reloaded.noted == ["stop /one", "start /two", "connect 5500"]


def test_another_key_needs_both(reloaded: LoggingRig) -> None:
    reloaded.agent.reload(reloaded.settings(secret="another one"))
    assert reloaded.noted == ["end 5500", "stop /one", "start /one", "connect 5500"]


def test_a_server_of_others_takes_the_place_of_ours(reloaded: LoggingRig) -> None:
    reloaded.agent.reload(reloaded.settings(server=False, port=5600))
    assert reloaded.noted == ["end 5500", "stop /one", "connect 5600"]
    reloaded.agent.reload(reloaded.settings())
    assert reloaded.noted[3:] == ["end 5600", "start /one", "connect 5500"]


def test_a_server_that_cannot_start_leaves_the_former_one(reloaded: LoggingRig) -> None:
    reloaded.refused = "/two"
    with pytest.raises(ConfigurationError, match="no such folder"):
        reloaded.agent.reload(reloaded.settings(file="/two", level="ERROR"))
    assert reloaded.noted == ["stop /one", "start /one", "connect 5500"]
    assert logging.getLogger().level != logging.ERROR
    reloaded.agent.reload(reloaded.settings(level="DEBUG"))
    assert reloaded.noted[3:] == ["connect 5500"]
