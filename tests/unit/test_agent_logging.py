"""AgentLogging looks after the log server of an agent, but not while the agent stops."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from virtual_time import VirtualTime, virtual_time

from servicebus import _agent_logging
from servicebus._agent_logging import AgentLogging

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
