"""``servicebus drill`` and ``servicebus bench``: what they refuse, ask and print; with a broker in memory."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from drilled import CONFIG, MARK, AnsweredSender, ObedientNode, sessions_with

from servicebus._discovering import Survey
from servicebus.cli.main import servicebus
from servicebus.client.found import Discovered, NodeInfo, ServiceInfo
from servicebus.transport.memory import MemoryBroker

HOSTS = tuple(host.name for host in CONFIG.hosts)
QUICK = ["--for", "0.3", "--around", "0.05", "--rate", "200"]
Run = Callable[..., Result]


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broker: MemoryBroker) -> Iterator[Run]:
    path = tmp_path / "ops.yaml"
    path.write_text(json.dumps({"hosts": ["mq-a", "mq-b"], "secret_token": "a secret of the test", "node_name": "N"}))
    monkeypatch.setattr("servicebus.sender.Sender", AnsweredSender)

    def run(*arguments: str, over: tuple[str, ...] = HOSTS, unreachable: Any = None, **how: Any) -> Result:
        nodes = Discovered([NodeInfo("N", over)], unreachable or {})
        found = Survey(nodes, Discovered([ServiceInfo("math.add", "call", ("N",))], {}), [], 0.0)
        monkeypatch.setattr("servicebus._discovering.survey", lambda *_: found)
        return CliRunner().invoke(servicebus, [*arguments, "-c", str(path)], **how)

    with sessions_with(broker) as opened:
        node = ObedientNode(broker, opened)
        yield run
        node.close()


def test_a_drill_is_told_in_lines(run: Run, broker: MemoryBroker) -> None:
    done = run("drill", "mq-a", *QUICK, unreachable={"mq-c": "refused \x1b[31m"})
    assert done.exit_code == 0, done.output
    first, heads, *rows = done.stdout.splitlines()
    assert first.startswith("mq-a:5672 was out of service for 0 s: 0 of ") and "all workers are back" in first
    assert heads.split("  ")[-1].strip() == "after p99 ms" and heads.count("failed") == 3
    assert rows[0].startswith("N ") and rows[1].startswith("N: 1 worker, left after ")
    assert "mq-a:5672 is taken out for 0.3 s" in done.stderr and r"mq-c could not be asked: refused \x1b" in done.stderr
    assert MARK not in broker.queues


def test_a_drill_calls_what_is_named(run: Run) -> None:
    done = run("drill", "mq-a", *QUICK, "--address", "N.math.add", "--address", "N.math.sub", "--json")
    report = json.loads(done.stdout)
    assert done.exit_code == 0 and report["phases"]["during"].keys() == {"N.math.add", "N.math.sub"}
    text = run("drill", "mq-a", *QUICK, "--address", "N.math.add", "--address", "N.math.sub").stdout
    assert "\nall " in text


def test_what_would_be_lost_keeps_it_from_beginning(run: Run, broker: MemoryBroker) -> None:
    planned = run("drill", "mq-a", "--dry-run", over=HOSTS[:1])
    assert planned.exit_code == 1 and "N answers over mq-a:5672 alone" in planned.stdout
    refused = run("drill", "mq-a", *QUICK, "--json", over=HOSTS[:1])
    told = json.loads(refused.stderr)
    assert (
        refused.exit_code == 1 and told["error"] == "WouldBeLost" and "no node would have math.add" in told["message"]
    )
    assert broker.connects == 1, "only the node's"
    assert run("drill", "mq-a", *QUICK, "--force", over=HOSTS[:1]).exit_code == 0


def test_a_plan_changes_nothing(run: Run, broker: MemoryBroker) -> None:
    done = run("drill", "mq-a", "--dry-run", "--json")
    assert done.exit_code == 0 and broker.connects == 1
    assert json.loads(done.stdout) == {
        "broker": "mq-a:5672", "for_s": 60.0, "nodes": ["N"], "targets": ["N"], "risks": [], "dry_run": True
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["drill", "mq-z"], "is no broker of the file"),
        (["drill", "mq-a", "--address", "N"], "N"),
        (["drill", "mq-a", "--for", "nan"], "not a number of seconds"),
        (["drill", "mq-a", "--rate", "0"], "0"),
        (["bench", "N", "--size", "10"], "for calls of a service"),
        (["bench", "N.math.add", "[1]", "--size", "10"], "in place of JSON"),
        (["bench", "N.math.add", "--host", "mq-z"], "is no broker of the file"),
        (["bench", "N", "--json"], "add --yes"),
        (["bench", "N.math", "--yes"], "N.math"),
    ],
)
def test_what_cannot_be_meant_is_refused(run: Run, broker: MemoryBroker, arguments: list[str], complaint: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2, done.output
    assert complaint in " ".join(done.stderr.split()) and broker.connects == 1


def test_a_bench_asks_and_tells_what_it_is_about_to_do(run: Run) -> None:
    said = "calls N.math.add, 8 at a time, for 0.4 s over each of mq-a:5672, mq-b:5672"
    how = ["--for", "0.3", "--warm-up", "0.1"]
    declined = run("bench", "N.math.add", *how, input="n\n")
    assert declined.exit_code == 1 and f"This {said}. Go on?" in declined.stderr and declined.stdout == ""
    assert run("bench", "N.math.add", *how, input="").exit_code == 1, "nobody is there to be asked"
    planned = run("bench", "N.math.add", *how, "--dry-run")
    assert (planned.exit_code, planned.stdout) == (0, f"it {said}\n")
    assert "pings N, 5 a second" in run("bench", "N", "--rate", "5", "--dry-run").stdout


def test_a_bench_is_told_in_a_table(run: Run) -> None:
    done = run("bench", "N.math.add", "--for", "0.3", "--warm-up", "0.1", "--rate", "100", "--size", "10", "--yes")
    assert done.exit_code == 0, done.output
    heads, *rows = done.stdout.splitlines()
    assert heads.split()[:3] == ["calls/s", "p50", "ms"] and [row.split()[0] for row in rows] == [*HOSTS]
    assert "100%" in done.stdout and "round 3 of 3: mq-b:5672" in done.stderr


def test_brokers_without_the_node_are_left_out(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    how = ["--for", "0.2", "--warm-up", "0.05", "--yes"]
    monkeypatch.setattr(AnsweredSender, "silent", frozenset(HOSTS[:1]))
    done = run("bench", "N", *how, "--json")
    assert done.exit_code == 10
    report = json.loads(done.stdout)
    assert report["unreachable"] == {"mq-a:5672": "nothing from mq-a:5672"} and len(report["brokers"]) == 1
    monkeypatch.setattr(AnsweredSender, "silent", frozenset(HOSTS))
    none = run("bench", "N", *how)
    assert none.exit_code == 4 and none.stdout == "" and "mq-b:5672 is not measured" in none.stderr


def test_term_ends_a_drill_as_ctrl_c_does(run: Run, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(line: str) -> None:
        if "is taken out" in line:
            signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("servicebus.cli.drill.note", step)
    done = run("drill", "mq-a", "--for", "600", "--around", "0.05", "--json")
    assert (done.exit_code, json.loads(done.stdout)["stopped"]) == (130, True), done.output
    assert MARK not in broker.queues and signal.getsignal(signal.SIGTERM) == before
