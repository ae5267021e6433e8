"""`servicebus status` against real unix sockets that speak as an agent's does."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from servicebus.cli.main import servicebus

StartAgent = Callable[[Any], str]


def worker(**facts: Any) -> dict[str, Any]:
    return {"host": "[::1]:5672", "pid": 12, "state": "consuming", "heartbeat_age_s": 0.4, "restarts": 0, **facts}


class Agent:
    """A socket that answers each caller with *answer* in small pieces; None: takes the caller and says nothing."""

    def __init__(self, path: Path, answer: bytes | None) -> None:
        self._answer = answer
        self._held: list[socket.socket] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(path))
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            caller, _ = self._socket.accept()
            self._held.append(caller)
            if self._answer == b"stop":
                return
            if self._answer is not None:
                for start in range(0, len(self._answer), 7):
                    caller.sendall(self._answer[start : start + 7])
                caller.close()

    def close(self) -> None:
        self._answer = b"stop"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as last:
            last.connect(self._socket.getsockname())
            self._thread.join()
        for each in (self._socket, *self._held):
            each.close()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[StartAgent]:
    started: list[Agent] = []

    def start(answer: dict[str, Any] | bytes | None) -> str:
        path = tmp_path / "s"
        started.append(Agent(path, json.dumps(answer).encode() if isinstance(answer, dict) else answer))
        return str(path)

    yield start
    for each in started:
        each.close()


def status(*arguments: str) -> Result:
    return CliRunner().invoke(servicebus, ["status", *arguments], env={"SERVICEBUS_CONFIG": "", "COLUMNS": "120"})


def test_the_workers_are_a_table(agent: StartAgent) -> None:
    path = agent({"node": "N", "pid": 11, "workers": [worker(counters={"calls": 3})]})
    result = status("--socket", path)
    assert result.exit_code == 0, result.output
    for text in ("N (pid 11)", "[::1]:5672", "consuming", "0.4 s ago", "calls 3"):
        assert text in result.stdout


def test_the_file_names_the_socket_and_machines_get_what_it_says(agent: StartAgent, tmp_path: Path) -> None:
    document = {"node": "N", "pid": 11, "workers": [worker()]}
    agent(document)
    (tmp_path / "bus.yaml").write_text("hosts: [a]\nsecret_token: s\nstatus_socket: s\n")
    result = status(str(tmp_path / "bus.yaml"), "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, document)


@pytest.mark.parametrize(
    "workers",
    [
        [],
        [worker(), worker(state="backoff", last_error="mq-b:5672: refused")],
        [worker(heartbeat_age_s=60)],
        [{"host": "a:1", "state": "dead", "pid": None, "heartbeat_age_s": None}],
    ],
)
def test_anything_but_all_workers_consuming_is_1(agent: StartAgent, workers: list[dict[str, Any]]) -> None:
    """Also a worker that froze while it was consuming: its last word is green, its beat is old."""
    result = status("--socket", agent({"node": "N", "pid": 11, "workers": workers}))
    assert result.exit_code == 1
    for each in workers:
        assert each.get("last_error", "") in result.stdout


@pytest.mark.parametrize("answer", [b"", b"no JSON", b"[1]", b"{}", b'{"workers": 3}', b'{"workers": [3]}', b"\xff"])
def test_an_answer_that_no_agent_gives_is_4(agent: StartAgent, answer: bytes) -> None:
    result = status("--socket", agent(answer))
    assert (result.exit_code, result.stdout) == (4, "")
    assert "the answer is none of an agent" in result.stderr


def test_an_agent_that_takes_the_call_and_says_nothing_is_4(agent: StartAgent) -> None:
    path = agent(None)
    result = status("--socket", path, "--timeout", "0.05")
    assert (result.exit_code, result.stderr) == (
        4,
        f"servicebus: no agent answers on {path}: no answer within 0.05 s\n",
    )


def test_no_agent_is_4_and_said_in_one_line(tmp_path: Path) -> None:
    result = status("--socket", str(tmp_path / "none"), "--json")
    assert (result.exit_code, result.stdout) == (4, "")
    assert json.loads(result.stderr)["error"] == "AgentUnavailable"


def test_a_file_without_a_status_socket_says_so(tmp_path: Path) -> None:
    (tmp_path / "bus.yaml").write_text("hosts: [a]\nsecret_token: s\nnode_name: N\n")
    result = status(str(tmp_path / "bus.yaml"))
    assert result.exit_code == 3
    assert "status_socket is not set, so the agent cannot be asked" in result.stderr


def test_a_worker_that_consumes_and_is_not_healthy_fails(agent: StartAgent) -> None:
    path = agent({"node": "NODE-01", "pid": 11, "workers": [worker(healthy=False, last_error="its disk is full")]})
    found = CliRunner().invoke(servicebus, ["status", "--socket", path])
    assert found.exit_code == 1
    assert "its disk is full" in found.stdout
