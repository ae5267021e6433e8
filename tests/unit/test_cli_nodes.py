"""``servicebus nodes``, ``services`` and ``gather``: what is printed where, and the status that says how it went."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from servicebus.cli.main import servicebus
from servicebus.client.found import Discovered, Gathered, NodeInfo, ServiceInfo
from servicebus.errors import CallTimeout, NoBrokerAvailable, RemoteError

DOWN = {"mq-b": "connection refused \x1b[31m"}


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "sender.yaml"
    path.write_text("{hosts: [mq-a, mq-b], secret_token: a secret of the test, node_name: N}")
    return str(path)


def run(monkeypatch: pytest.MonkeyPatch, config: str, found: Any, *arguments: str) -> tuple[Result, list[Any]]:
    """What a command makes of what a Sender has *found*, and how that was asked."""
    asked: list[Any] = []

    def ask(_sender: Any, *what: Any, **how: Any) -> Any:
        asked.extend([*what, how])
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(f"servicebus.sender.Sender.{arguments[0]}", ask)
    return CliRunner().invoke(servicebus, [*arguments, "-c", config]), asked


NODES = [NodeInfo("NODE-01", ("mq-a", "mq-b")), NodeInfo("NODE-\u202e", ("mq-a",))]
SERVICES = [ServiceInfo("audit.note", "message", ("NODE-01",)), ServiceInfo("math.add", "call", ("NODE-01", "NODE-02"))]


def test_nodes_are_lines(monkeypatch: pytest.MonkeyPatch, config: str) -> None:
    done, asked = run(monkeypatch, config, Discovered(NODES, {}), "nodes")
    assert done.exit_code == 0 and done.stderr == ""
    assert done.stdout == "NODE-01  mq-a, mq-b\nNODE-\\u202e  mq-a\n"
    assert asked == ["*", 2.0, {"quiet": 0.25}]


def test_services_are_lines(monkeypatch: pytest.MonkeyPatch, config: str) -> None:
    arguments = "services", "NODE-*", "--timeout", "5", "--quiet", "1"
    done, asked = run(monkeypatch, config, Discovered(SERVICES, {}), *arguments)
    assert done.stdout == "audit.note (message)  1 node: NODE-01\nmath.add  2 nodes: NODE-01, NODE-02\n"
    assert asked == ["NODE-*", 5.0, {"quiet": 1.0}]


@pytest.mark.parametrize(
    ("command", "found", "document"),
    [
        ("nodes", NODES[:1], {"nodes": [{"name": "NODE-01", "brokers": ["mq-a", "mq-b"]}]}),
        ("services", SERVICES[:1], {"services": [{"name": "audit.note", "kind": "message", "nodes": ["NODE-01"]}]}),
    ],
)
def test_what_is_found_is_one_document(
    monkeypatch: pytest.MonkeyPatch, config: str, command: str, found: Any, document: Any
) -> None:
    done, _ = run(monkeypatch, config, Discovered(found, DOWN), command, "--json")
    assert json.loads(done.stdout) == {**document, "unreachable": DOWN} and done.stderr == ""
    assert done.exit_code == 10


@pytest.mark.parametrize("command", ["nodes", "services"])
def test_a_broker_that_was_not_asked_is_a_warning_and_a_status(
    monkeypatch: pytest.MonkeyPatch, config: str, command: str
) -> None:
    found = NODES if command == "nodes" else SERVICES
    done, _ = run(monkeypatch, config, Discovered(found, DOWN), command)
    assert done.exit_code == 10
    assert done.stderr == "servicebus: warning: nodes behind mq-b may be missing: connection refused \\x1b[31m\n"
    nothing, _ = run(monkeypatch, config, Discovered([], {}), command)
    assert nothing.exit_code == 4 and nothing.stdout == "" and "no node has answered" in nothing.stderr
    error = NoBrokerAvailable("*", [("mq-a", "refused")])
    assert run(monkeypatch, config, error, command)[0].exit_code == 4


def gathered(**how: Any) -> Gathered:
    return Gathered(**{"results": {}, "errors": {}, "unanswered": {}, "lacking": (), "unreachable": {}, **how})


ERROR = RemoteError("N-2.a.b", "ValueError", "no\ngood")
SILENCE = CallTimeout("N-3.a.b", 5.0)


@pytest.mark.parametrize(
    ("found", "status", "stdout", "stderr"),
    [
        (gathered(results={"N-2": [1], "N-1": "ü"}), 0, 'N-1  "ü"\nN-2  [1]\n', ""),
        (gathered(results={"N-1": 1}, lacking=("N-4",)), 0, "N-1  1\n", ""),
        (gathered(results={"N-1": 1}, errors={"N-2": ERROR}), 10, "N-1  1\n", "N-2: RemoteError: N-2.a.b: Value"),
        (gathered(unanswered={"N-3": SILENCE}), 10, "", "N-3: CallTimeout"),
        (gathered(results={"N-1": 1}, unreachable=DOWN), 10, "N-1  1\n", "nodes behind mq-b"),
        (gathered(errors={"N-2": ERROR}, unreachable=DOWN), 10, "", "nodes behind mq-b"),
        (gathered(lacking=("N-4",)), 8, "", "1 node answered, and none has that service"),
        (gathered(), 4, "", "no node has answered"),
        (gathered(unreachable=DOWN), 4, "", "nodes behind mq-b"),
    ],
)  # fmt: skip
def test_what_is_gathered(
    monkeypatch: pytest.MonkeyPatch, config: str, found: Gathered, status: int, stdout: str, stderr: str
) -> None:
    done, asked = run(monkeypatch, config, found, "gather", "N-*.a.b", "[1]", "--timeout", "5")
    assert asked == ["N-*.a.b", [1], 5.0, {"quiet": 0.05}]
    assert done.exit_code == status and done.stdout == stdout
    assert stderr in done.stderr and bool(done.stderr) == bool(stderr)
    as_json, _ = run(monkeypatch, config, found, "gather", "N-*.a.b", "--json")
    document = json.loads(as_json.stdout)
    assert as_json.exit_code == status and as_json.stderr == ""
    assert document["results"] == found.results and document["lacking"] == list(found.lacking)
    assert {node: each["error"] for node, each in {**document["errors"], **document["unanswered"]}.items()} == {
        node: type(each).__name__ for node, each in {**found.errors, **found.unanswered}.items()
    }


@pytest.mark.parametrize(
    "arguments",
    [
        ("nodes", "a.b"), ("services", ""), ("gather", "*.a"), ("nodes", "--quiet", "0"), ("gather", "*.a.b", "{"),
        ("gather",),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_wrong_usage(config: str, arguments: tuple[str, ...]) -> None:
    assert CliRunner().invoke(servicebus, [*arguments, "-c", config]).exit_code == 2
