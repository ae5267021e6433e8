"""``servicebus check``: ranges, measures, and the four ends and formats of a monitoring plugin."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from servicebus.cli.main import servicebus
from servicebus.errors import ConnectFailed
from servicebus.observability.measures import AGENT_MEASURES, BROKER_MEASURES, agent_measures
from servicebus.observability.thresholds import Range, Ranges, Severity, worst
from servicebus.operations import node_queues
from servicebus.operations.node_queues import NodeQueues

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "well", "not_well"),
    [
        ("10", (0, 5, 10), (-1, 10.5)),
        ("10:", (10, 1e9), (9,)),
        ("~:10", (-99, 10), (11,)),
        (":10", (0, 10), (-1, 11)),
        ("10:20", (10, 20), (9, 21)),
        ("@10:20", (9, 21), (10, 15, 20)),
        ("0", (0,), (1, -1)),
    ],
)
def test_ranges_are_those_of_the_guidelines(text: str, well: tuple[float, ...], not_well: tuple[float, ...]) -> None:
    found = Range.parse(text)
    assert (list(map(found.holds, well)), list(map(found.holds, not_well))) == (
        [True] * len(well), [False] * len(not_well)
    )  # fmt: skip


@pytest.mark.parametrize("text", ["", ":", "@", "ten", "20:10", "nan", "1:2:3", "~"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Range.parse(text)


def test_what_is_broken_hides_behind_nothing() -> None:
    assert worst([]) == Severity.OK
    assert worst([Severity.WARNING, Severity.UNKNOWN, Severity.OK]) == Severity.UNKNOWN
    assert worst([Severity.UNKNOWN, Severity.CRITICAL, Severity.WARNING]) == Severity.CRITICAL


# -- measures --------------------------------------------------------------------------------------------------------


def worker(host: str = "mq-a:5672", **changed: Any) -> dict[str, Any]:
    return {
        "host": host, "state": "consuming", "healthy": True, "ready": True, "silent": False, "pid": 7, "restarts": 0,
        "heartbeat_age_s": 0.5, "lost_s": 1.5, "backlog": 2, "outbox_messages": 0,
        "journal": {"unfinished": 3, "forgotten_early": 0}, **changed,
    }  # fmt: skip


def document(*workers: dict[str, Any], **changed: Any) -> dict[str, Any]:
    reload = {"count": 1, "state": "done", "error": "", "failed": [], "needs_restart": []}
    return {
        "node": "NODE-01",
        "pid": 4711,
        "stopping": False,
        "workers": list(workers),
        "reload": {**reload, **changed.pop("reload", {})},
        **changed,
    }


DEFAULTS = {
    name: Ranges(
        Range.parse(measure.warn) if measure.warn else None,
        Range.parse(measure.critical) if measure.critical else None,
    )
    for name, measure in {**AGENT_MEASURES, **BROKER_MEASURES}.items()
}
DOWN: dict[str, Any] = {"state": "backoff", "healthy": False, "ready": False, "last_error": "connection refused"}


@pytest.mark.parametrize(
    ("status", "alerts", "severity"),
    [
        (document(worker(), worker("mq-b:5672")), set(), 0),
        (document(worker(), worker("mq-b:5672", **DOWN)), {"brokers_not_ready", "workers_consuming mq-b:5672"}, 1),
        (document(worker(**DOWN)), {"brokers_ready", "brokers_not_ready", "workers_consuming mq-a:5672"}, 2),
        (document(worker(), worker(**DOWN)), set(), 0),  # one worker of several is enough for a broker
        (document(worker(), worker("mq-b:5672", state="drained", ready=False)), set(), 0),
        (document(worker(heartbeat_age_s=6.0)), {"heartbeat_age"}, 1),
        (document(worker(heartbeat_age_s=16.0, silent=True)), {"heartbeat_age", "live"}, 2),
        (document(worker(), stopping=True), {"brokers_ready"}, 2),
        (document(worker(problems=["math.add: no database"])), {"problems"}, 1),
        (document(worker(journal={"unfinished": 0, "forgotten_early": 4})), {"journal_forgotten_early"}, 1),
        (document(worker(), reload={"state": "refused", "error": "agent.yaml:3: no"}), {"reload_failed"}, 1),
        (document(worker(), reload={"failed": ["worker b does not serve"]}), {"reload_failed"}, 1),
        (document(worker(), reload={"needs_restart": [{"key": "journal", "what": "changed"}]}), set(), 0),
        (document(), {"brokers_ready"}, 2),
    ],
)
def test_the_state_of_an_agent_comes_to_a_severity(status: dict[str, Any], alerts: set[str], severity: int) -> None:
    found = [(each.label, each.severity(DEFAULTS)) for each in agent_measures(status)]
    assert {label for label, each in found if each} == alerts
    assert worst(each for _, each in found) == severity


def test_every_measure_is_measured_and_no_other() -> None:
    status = document(worker(), worker("mq-b:5672", state="drained", ready=False))
    assert {each.name for each in agent_measures(status)} == set(AGENT_MEASURES)
    names = {each.name for each in node_queues.node_measures(NodeQueues(consumers={"mq-a": 1}), ())}
    assert names == set(BROKER_MEASURES)


def test_an_agent_of_an_earlier_version_can_be_asked() -> None:
    old = {"node": "N", "pid": 1, "workers": [{"host": "mq-a", "state": "consuming", "healthy": True}]}
    assert {each.name for each in agent_measures(old)} >= {"live", "brokers_ready"}


# -- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Answers with a document at a status socket, whose path it returns."""
    with ExitStack() as stack:

        def start(status: dict[str, Any]) -> str:
            path = str(tmp_path / "status")
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(path)
            listener.listen()

            def serve() -> None:
                caller, _ = listener.accept()
                with caller:
                    caller.sendall(json.dumps(status).encode())

            threading.Thread(target=serve, daemon=True).start()
            return path

        yield start


def run(*arguments: str) -> Result:
    return CliRunner().invoke(servicebus, ["check", *arguments], env={"SERVICEBUS_CONFIG": None})


def test_one_line_with_performance_data(agent: Callable[..., str]) -> None:
    result = run("--socket", agent(document(worker())))
    assert result.exit_code == 0, result.output
    text, bar, values = result.output.rstrip("\n").partition(" | ")
    assert text == "SERVICEBUS OK - NODE-01: brokers_ready 1, inbox 2"
    assert bar and "\n" not in values
    assert "'heartbeat_age'=0.5s;5;15;0" in values
    assert "'workers_consuming mq-a:5672'=1;1:;;0" in values
    form = r"'[^'=|]+'=-?[0-9.]+(s|c)?;[-@~:0-9.]*;[-@~:0-9.]*;0"
    assert re.fullmatch(rf"{form}( {form})*", values)


def test_what_is_wrong_comes_first_the_worst_before_the_rest(agent: Callable[..., str]) -> None:
    status = document(worker(heartbeat_age_s=6.0, **{**DOWN, "last_error": "a | b\nc"}))
    result = run("--socket", agent(status))
    assert result.exit_code == 2
    head = result.output.partition(" | ")[0]
    assert head.startswith("SERVICEBUS CRITICAL - NODE-01: brokers_ready is 0, wanted 1: (mq-a:5672: backoff (a / b")
    assert "heartbeat_age is 6, wanted 5" in head
    assert result.output.count("\n") == 1


def test_ranges_are_the_operators(agent: Callable[..., str]) -> None:
    assert run("--socket", agent(document(worker())), "-w", "inbox=1").exit_code == 1


def test_the_critical_one_counts(agent: Callable[..., str]) -> None:
    assert run("--socket", agent(document(worker())), "-w", "inbox=1", "--critical", "inbox=1").exit_code == 2


def test_nothing_behind_the_sign_switches_off(agent: Callable[..., str]) -> None:
    off = ("--critical", "brokers_ready=", "-w", "brokers_not_ready=", "-w", "workers_consuming=")
    assert run("--socket", agent(document(worker(**DOWN))), *off).exit_code == 0


@pytest.mark.parametrize("how", [("--format", "json"), ("--json",)])
def test_json_says_all_of_it(how: tuple[str, ...], agent: Callable[..., str]) -> None:
    result = run("--socket", agent(document(worker(**DOWN))), *how)
    found = json.loads(result.output)
    assert (found["status"], found["exit_code"], found["node"], result.exit_code) == ("CRITICAL", 2, "NODE-01", 2)
    (ready,) = [each for each in found["measures"] if each["name"] == "brokers_ready"]
    assert ready == {
        "name": "brokers_ready", "broker": None, "value": 0, "unit": "", "status": "CRITICAL", "warn": "",
        "critical": "1:", "why": "mq-a:5672: backoff (connection refused)",
    }  # fmt: skip


def test_prometheus_can_read_it(agent: Callable[..., str]) -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    result = run("--socket", agent(document(worker('mq-"a\\'), worker("mq-b"))), "--format", "prometheus")
    families = {each.name: each for each in parser.text_string_to_metric_families(result.output)}
    assert families["servicebus_check_status"].samples[0].value == 0
    consuming = families["servicebus_check_workers_consuming"].samples
    assert [each.labels["broker"] for each in consuming] == ['mq-"a\\', "mq-b"]
    assert all(each.type == "gauge" and each.documentation for each in families.values())


def test_people_read_a_line_for_each(agent: Callable[..., str]) -> None:
    lines = run("--socket", agent(document(worker(**DOWN))), "--format", "text").output.splitlines()
    assert lines[0] == "NODE-01: CRITICAL"
    assert "CRITICAL brokers_ready 0  (critical 1:)  mq-a:5672: backoff (connection refused)" in lines


def test_no_agent_is_critical(tmp_path: Path) -> None:
    result = run("--socket", str(tmp_path / "none"))
    assert result.exit_code == 2
    assert result.output.startswith("SERVICEBUS CRITICAL - no agent answers on ")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "the brokers stand in a file"),
        (["--frobnicate"], "No such option"),
        (["/no/such/file"], "cannot be read"),
        (["--socket", "x", "-w", "inbocks=3"], "the names are"),
        (["--socket", "x", "-w", "inbox=3:2"], "is no range"),
        (["--socket", "x", "--format", "xml"], "xml"),
        (["--socket", "x", "--no-agent", "--no-brokers"], "nothing to look at"),
    ],
)
def test_wrong_arguments_are_unknown_on_stdout(arguments: list[str], why: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 3
    assert result.stdout.startswith("SERVICEBUS UNKNOWN - ")
    assert why in result.stdout
    assert result.stdout.count("\n") == 1


def test_help_is_no_failure() -> None:
    assert run("--help").exit_code == 0


@pytest.mark.parametrize(
    ("found", "code", "words"),
    [
        (NodeQueues({}, {"mq-a:5672": 1, "mq-b:5672": 1}, 5, 0), 0, "consumers_of_all 2, messages 5, dead_letters 0"),
        (NodeQueues({}, {"mq-a:5672": 1, "mq-b:5672": 0}, 5, 0), 1, "consumers mq-b:5672 is 0, wanted 1:"),
        (
            NodeQueues({}, {"mq-a:5672": 1, "mq-b:5672": 1}, 1001, 3),
            1,
            "messages is 1001, wanted 1000; dead_letters is 3",
        ),
        (NodeQueues({}, {"mq-a:5672": 0, "mq-b:5672": 0}), 2, "consumers_of_all is 0, wanted 1:"),
        (
            NodeQueues({"mq-b:5672": ConnectFailed("mq-b:5672", "refused")}, {"mq-a:5672": 1}),
            1,
            "brokers_unreachable is 1, wanted 0 (mq-b:5672",
        ),
    ],
)
def test_brokers_are_looked_at(
    found: NodeQueues, code: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file := tmp_path / "agent.yaml").write_text("{hosts: [mq-a, mq-b], secret_token: of a test, node_name: NODE-01}")
    monkeypatch.setattr(node_queues, "looked_at", lambda *_: found)
    result = run(str(file))
    assert (result.exit_code, words in result.output) == (code, True), result.output


def test_the_docs_have_every_measure_with_its_ranges() -> None:
    text = (ROOT / "docs" / "check.rst").read_text()
    rows = dict(re.findall(r"   \* - ``(\w+)``\n((?:     - .*\n)+)", text))
    measures = {**AGENT_MEASURES, **BROKER_MEASURES}
    assert set(rows) == set(measures)
    for name, measure in measures.items():
        warn, critical, help_text = (line.removeprefix("     - ").strip("`") for line in rows[name].splitlines())
        assert (warn, critical, help_text) == (measure.warn or "none", measure.critical or "none", measure.help), name
