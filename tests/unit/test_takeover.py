"""What stands in the way of taking programs, configurations and nodes of py-servicebus 2.x over."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from servicebus.cli import compat
from servicebus.cli.main import servicebus
from servicebus.configuration import Configuration
from servicebus.operations.session_channel import QueueFacts
from servicebus.operations.takeover import NodeSight, next_step, obstacles_of
from servicebus.operations.takeover_file import in_program

OLD_PROGRAM = Path(__file__).parents[1] / "fixtures" / "programs" / "old_program.py"
FINE = {"hosts": ["127.0.0.1"], "node_name": "NODE-01", "secret_token": "a secret of over sixteen bytes"}


def checked(target: Path | str, *options: str) -> tuple[Result, dict[str, Any]]:
    found = CliRunner().invoke(servicebus, ["--json", "compat", "check", str(target), *options])
    return found, json.loads(found.stdout)


def codes(document: dict[str, Any]) -> list[str]:
    return [each["code"] for each in document["obstacles"]]


PAGE = OLD_PROGRAM.parents[3] / "docs" / "coming-from" / "py-servicebus.rst"
SOURCES = [*(OLD_PROGRAM.parents[3] / "servicebus").glob("operations/takeover*.py"), Path(compat.__file__)]


def test_the_page_lists_every_code() -> None:
    written = {
        code for source in SOURCES for code in re.findall(r'TakeoverObstacle\(\s*"([a-z0-9-]+)"', source.read_text())
    }
    cells = re.findall(r"^   \* - (``[a-z0-9-]+``(?:, ``[a-z0-9-]+``)*)$", PAGE.read_text(), re.MULTILINE)
    assert written == set(re.findall(r"``([a-z0-9-]+)``", " ".join(cells))) and len(written) > 12


# -- a program ---------------------------------------------------------------------------------------------------------


def test_a_program_that_runs_unchanged_lacks_but_the_key_that_it_needs_beside_old_processes() -> None:
    found, document = checked(OLD_PROGRAM)
    assert {each["code"] for each in document["obstacles"] if each["blocking"]} == {"no-compat"}
    assert found.exit_code == 1 and document["next"] == "change what is named above, and check again"


@pytest.mark.parametrize(
    ("line", "code", "todo"),
    [
        ("from servicebus.command import cmd", "gone", "subprocess"),
        ("from servicebus import command", "gone", "subprocess"),
        ("import servicebus.pika", "gone", "package pika"),
        ("import servicebus.pika.adapters", "gone", "package pika"),
        ("config.create_receiver('mq-a')", "gone", "ServiceBus"),
        ("config.create_senders()", "gone", "Sender"),
        ("if ret[1] == 'Token not valid!': pass", "error-text", "CallRefused"),
        ("if str(error) == 'Timeout': pass", "error-text", "CallTimeout"),
        ("ret = sender.call('NODE-01.math.add', [1, 2])", "values", "str()"),
        ("print 'a'", "no-python-3", "2to3"),
    ],
)
def test_what_is_different_for_a_program_is_named(line: str, code: str, todo: str) -> None:
    (obstacle,), _ = in_program(f"\n{line}\n", "a.py")
    assert obstacle.code == code and obstacle.where == "a.py:2" and todo in obstacle.todo


def test_what_is_the_same_is_not_named() -> None:
    text = """
from servicebus import sender, service
from servicebus.configuration import Configuration
from servicebus.logging_service import LoggingService
import pika, command
config = Configuration(read())
"""
    assert in_program(text, "a.py") == ([], None)


def test_all_calls_are_one_line(tmp_path: Path) -> None:
    (obstacle,), _ = in_program("a.call(1)\nb.call(2)\nc.call(3)\n", "a.py")
    assert obstacle.where == "a.py:1" and "in lines 2, 3" in obstacle.what


def test_the_dict_of_a_program_is_looked_at(tmp_path: Path) -> None:
    program = tmp_path / "agent.py"
    program.write_text(f"config = Configuration({ {**FINE, 'pasword': 1, 'exchange_name': 'my'} })\n")
    _, document = checked(program)
    assert codes(document) == ["unknown-key", "no-compat", "exchange-name"]


# -- a configuration ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"compat": None}, "no-compat"),
        ({"compat": False}, "no-compat"),
        ({"compat": None, "exchange_name": "mine"}, "exchange-name"),
        ({"heartbeat": 5}, "unknown-key"),
        ({"node_name": "web.example.org"}, "node-name"),
        ({"node_name": None}, "node-name"),
        ({"use_ssl": True}, "tls"),
        ({"secret_token": "secret token"}, "weak-secret"),
        ({"hosts": ["mq-a"]}, "guest"),
        ({"prefetch": 0}, "unreadable"),
    ],
)
def test_what_is_different_in_a_configuration_is_named(settings: dict[str, Any], code: str, tmp_path: Path) -> None:
    file = tmp_path / "old.yaml"
    given = {"compat": True, **FINE, **settings}
    file.write_text(json.dumps({key: value for key, value in given.items() if value is not None}, indent=1))
    found, document = checked(file)
    assert code in codes(document)
    assert found.exit_code == any(each["blocking"] for each in document["obstacles"])


def test_nothing_stands_in_the_way_of_a_file_that_is_ready(tmp_path: Path) -> None:
    file = tmp_path / "agent.yaml"
    (tmp_path / "secret").write_text("a secret of over sixteen bytes")
    file.write_text("hosts: [127.0.0.1]\nnode_name: NODE-01\nsecret_token: !file secret\ncompat: true\n")
    found, document = checked(file)
    assert (found.exit_code, codes(document)) == (0, [])
    assert "servicebus doctor" in document["next"]
    assert "nothing stands in the way" in CliRunner().invoke(servicebus, ["compat", "check", str(file)]).stdout


@pytest.mark.parametrize("text", ["[1, 2]", "a: b: c", "just a text"])
def test_what_is_no_configuration_is_said(text: str, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(text)
    found = CliRunner().invoke(servicebus, ["compat", "check", str(file)])
    assert found.exit_code == 3 and found.stderr.startswith(f"servicebus: {file}: ")


def test_no_secret_is_shown(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(
        "hosts: [mq-a]\nsecret_token: hunter2\npassword: hunter3\nuse_ssl: true\nnode_name: a.b\nx: hunter4\n"
    )
    found = CliRunner().invoke(servicebus, ["compat", "check", str(file)])
    assert "hunter" not in found.output and "weak-secret" in found.output


# -- a node ------------------------------------------------------------------------------------------------------------


def queue(consumers: int, ready: int = 0) -> QueueFacts:
    return QueueFacts("a queue", ready, consumers)


@pytest.mark.parametrize(
    ("old", "calls", "state", "then"),
    [
        (None, None, "none", "is the name right"),
        (queue(0), None, "none", "is the name right"),
        (queue(1), None, "old", "start a new agent"),
        (queue(2), queue(1), "both", "stop the old one"),
        (queue(1), queue(1), "new-compat", "take over the callers"),
        (queue(0), queue(1), "new-beside-queue", "delete queue NODE-01"),
        (None, queue(1), "new", "is taken over"),
    ],
)
def test_each_state_has_a_next_step(old: QueueFacts | None, calls: QueueFacts | None, state: str, then: str) -> None:
    sight = NodeSight("mq-a", old_queue=old, calls=calls)
    assert sight.state == state and sight.to_json()["state"] == state
    assert then in next_step({state}, "NODE-01")


@pytest.mark.parametrize(
    ("states", "then"),
    [
        ({"old", "new-compat"}, "old on some brokers"),
        ({"old", "new"}, "old on some brokers"),
        ({"old", "none"}, "start a new agent"),
        ({"both", "old"}, "stop the old one"),
        ({"new", "new-compat"}, "take over the callers"),
        ({"new", "none"}, "is taken over"),
    ],
)
def test_what_differs_between_brokers_is_finished_first(states: set[str], then: str) -> None:
    assert then in next_step(states, "NODE-01")


@pytest.mark.parametrize(
    ("sight", "code"),
    [
        (NodeSight("mq-a", failure="connection refused"), "unreachable"),
        (NodeSight("mq-a", exchange="otherwise"), "exchange-otherwise"),
        (NodeSight("mq-a", answers_1=True, old_queue=queue(1), queue_is_otherwise=True), "queue-otherwise"),
        (NodeSight("mq-a", old_queue=queue(0, ready=3)), "waiting"),
        (NodeSight("mq-a", old_queue=queue(1)), "silent"),
    ],
)
def test_what_stands_in_the_way_on_a_broker_is_named(sight: NodeSight, code: str) -> None:
    (obstacle,) = obstacles_of(sight, "NODE-01", Configuration(FINE))
    assert obstacle.code == code and obstacle.where == "mq-a" and obstacle.todo


def test_a_broker_that_is_unreachable_is_no_usage_error(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(json.dumps({**FINE, "hosts": ["127.0.0.1:1"]}))
    found, document = checked("NODE-01", "-c", str(file))
    assert (found.exit_code, codes(document)) == (4, ["unreachable"])


def test_a_node_needs_a_configuration() -> None:
    found = CliRunner().invoke(servicebus, ["compat", "check", "NODE-01"])
    assert found.exit_code == 2 and "-c FILE" in found.stderr
