"""``servicebus status --fleet`` and ``top``: what they print of a fleet, and the status that says how it is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fleet_looks import BROKERS, drawn, look

from servicebus.cli import top
from servicebus.cli.main import servicebus
from servicebus.errors import ConnectFailed, NoBrokerAvailable
from servicebus.fleet.columns import SERVICE_COLUMNS, node_columns, sorted_by
from servicebus.fleet.load import ServiceLoad, WorkerLoad
from servicebus.fleet.texts import headline, matches, problem_lines, uncounted_line
from servicebus.fleet.view import FleetView, Look, WorkerView
from servicebus.fleet.watch import FleetWatch
from servicebus.operations import dead_counts

LOAD = WorkerLoad(
    ("mq-a", "mq-b"),
    (
        ServiceLoad("call", "math.add", 2, 50, 120, 3, 12.5, 0.5, (8, 2), (10,)),
        ServiceLoad("message", "log.note", 0, 50),
    ),
    outbox=4,
)
DOWN = {"mq-b": "connection refused \x1b[31m"}


def worker(pid: int, broker: str, load: WorkerLoad | None = LOAD) -> WorkerView:
    return WorkerView("m-1", pid, 900.0, {"executed.call": 7}, {"executed.call": 12.5}, broker, load)


def heard(
    nodes: Mapping[str, tuple[str, ...]], unreachable: Mapping[str, str] | None = None, load: WorkerLoad | None = LOAD
) -> Look:
    workers = {name: tuple(worker(n, each, load) for n, each in enumerate(brokers)) for name, brokers in nodes.items()}
    return look(nodes, unreachable, dict.fromkeys(nodes, ("3.0",)))._replace(workers=workers)


WELL = heard({"NODE-1": BROKERS, "NODE-\u202e": BROKERS})


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "sender.yaml"
    path.write_text("{hosts: [{name: mq-a, host: mq-a}, {name: mq-b, host: mq-b}], secret_token: a secret of the test}")
    return str(path)


class Fleet:
    """In the place of all looks of a FleetWatch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.looks: Sequence[Look | NoBrokerAvailable] = [WELL]
        self.asked: list[tuple[str, bool]] = []
        self.dead: dict[str, dict[str, int]] = {}
        monkeypatch.setattr(FleetWatch, "look", lambda watch: self.look(watch))
        monkeypatch.setattr(dead_counts, "count_dead_letters", lambda *_what: (self.dead, {}))
        monkeypatch.setattr("time.sleep", lambda _seconds: None)

    def look(self, watch: FleetWatch) -> None:
        self.asked.append((watch._pattern, bool(watch._load_every_s)))
        found = self.looks[min(len(self.asked), len(self.looks)) - 1]
        if isinstance(found, NoBrokerAvailable):
            watch.failure = found
            return
        watch.view = drawn(*[found] * len(self.asked))


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> Fleet:
    return Fleet(monkeypatch)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(servicebus, arguments)


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


# -- status ------------------------------------------------------------------------------------------------------------


def test_the_fleet_is_a_table_of_nodes_and_brokers(fleet: Fleet, config: str) -> None:
    fleet.dead = {"NODE-1": {"mq-a": 3, "mq-b": 1}}
    done = run("status", "--fleet", "-c", config)
    assert done.exit_code == 0 and done.stderr == ""
    assert [
        "node",
        "mq-a",
        "mq-b",
        "workers",
        "version",
        "calls/s",
        "messages/s",
        "in",
        "flight",
        "outbox",
        "dead",
        "letters",
    ] in rows(done.stdout)
    assert ["NODE-1", "answers", "answers", "2", "3.0", "25.0", "0.0", "4", "8", "4"] in rows(done.stdout)
    assert [r"NODE-\u202e", r"answers", r"answers", r"2", r"3.0", r"25.0", r"0.0", r"4", r"8", r"0"] in rows(
        done.stdout
    )
    assert "2 of 2 brokers reachable, 2 of 2 nodes answer over all their brokers" in done.stdout
    assert fleet.asked == [("*", False)] * 2, "twice, or there were no rates; with the load"


def test_a_senders_file_means_the_fleet_and_an_agents_its_agent(fleet: Fleet, config: str, tmp_path: Path) -> None:
    assert "brokers reachable" in run("status", config).stdout
    agents = tmp_path / "agent.yaml"
    agents.write_text(
        f"{{hosts: [mq-a], secret_token: a secret of the test, node_name: N, status_socket: {tmp_path}/s}}"
    )
    assert run("status", str(agents)).exit_code == 4 and "no agent answers on" in run("status", str(agents)).stderr
    assert "brokers reachable" in run("status", "--fleet", str(agents)).stdout


def test_a_pattern_means_the_fleet(fleet: Fleet, config: str) -> None:
    assert run("status", "--nodes", "NODE-*", "-c", config).exit_code == 0
    assert fleet.asked[0][0] == "NODE-*"


def test_the_fleet_needs_a_file(fleet: Fleet) -> None:
    for arguments in (["--fleet"], ["--fleet", "--socket", "/nowhere"]):
        done = run("status", *arguments)
        assert done.exit_code == 2 and "over the brokers of a file" in done.stderr


@pytest.mark.parametrize(
    ("found", "status", "text"),
    [
        (heard({"NODE-1": BROKERS}), 0, "1 of 1 node"),
        (heard({"NODE-1": ("mq-a",)}, DOWN), 10, r"mq-b: connection refused \x1b[31m"),
        (heard({"NODE-1": ("mq-a",)}), 1, "NODE-1: no worker answers over mq-b"),
        (heard({"NODE-1": BROKERS}, load=LOAD._replace(problems=("\x1bfull",))), 1, r"NODE-1: mq-a: \x1bfull"),
        (heard({"NODE-1": ("mq-a",)}, load=None), 0, "1 of 1 node"),
        (heard({}), 4, "no node"),
    ],
)
def test_the_status_says_how_the_fleet_is(fleet: Fleet, config: str, found: Look, status: int, text: str) -> None:
    fleet.looks = [found]
    for command in (["status", "--fleet"], ["top", "--once"]):
        done = run(*command, "-c", config)
        assert done.exit_code == status and text in done.stdout, done.output
        assert ("no node has answered" in done.stderr) == (status == 4)


@pytest.mark.parametrize(("kind", "status"), [("unreachable", 4), ("credentials", 6)])
def test_without_any_broker_the_status_says_why(fleet: Fleet, config: str, kind: str, status: int) -> None:
    error = NoBrokerAvailable("*", [("mq-a", "down")], "no node was found")
    error.__cause__ = ConnectFailed("mq-a", "down", kind=kind)
    fleet.looks = [error]
    for command in (["status", "--fleet"], ["top", "--once"]):
        done = run(*command, "-c", config)
        assert done.exit_code == status and "mq-a" in done.stderr


def test_the_fleet_is_one_document(fleet: Fleet, config: str) -> None:
    fleet.dead = {"NODE-1": {"mq-a": 3}}
    document = json.loads(run("status", "--fleet", "--json", "-c", config).stdout)
    assert document["brokers"] == [{"name": "mq-a", "reachable": True}, {"name": "mq-b", "reachable": True}]
    node = document["nodes"][0]
    assert (node["name"], node["healthy"], node["dead_letters"]) == ("NODE-1", True, {"mq-a": 3})
    assert node["paths"] == {"mq-a": "answers", "mq-b": "answers"}
    assert node["workers"][0]["per_s"] == {"executed.call": 12.5} and node["workers"][0]["outbox"] == 4
    note, add = node["services"]
    assert (add["name"], add["per_s"], add["failed_per_s"], add["in_flight"]) == ("math.add", 25.0, 1.0, 4)
    assert add["run_ms"]["p50"] == 0.312 and add["run_ms"]["p99"] == 0.975 and add["wait_ms"]["p50"] == 0.25
    assert note["per_s"] is None and note["run_ms"] == {"p50": None, "p99": None}


# -- top ---------------------------------------------------------------------------------------------------------------


def test_once_there_are_nodes_and_services(fleet: Fleet, config: str) -> None:
    done = run("top", "NODE-*", "--once", "-c", config)
    assert done.exit_code == 0
    found = rows(done.stdout)
    assert ["math.add", "call", "2", "50.0", "2.0", "0.3", "1.0", "0.5", "8", "200"] in found
    assert ["log.note", "message", "2", "-", "-", "-", "-", "-", "0", "200"] in found
    assert fleet.asked[0] == ("NODE-*", False)


def test_into_a_pipe_goes_a_line_for_each_interval(fleet: Fleet, config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.looks = [WELL, WELL, heard({"NODE-1": ("mq-a",)}, DOWN)]

    def pause(_seconds: float) -> None:
        if len(fleet.asked) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", pause)
    done = run("top", "--json", "-c", config)
    assert done.exit_code == 130
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["nodes"][0]["paths"]["mq-b"] for line in lines] == ["answers", "broker lost"]
    fleet.asked.clear()
    assert run("top", "-c", config).stdout.count("brokers reachable") == 2


def test_a_terminal_without_the_extra_is_drawn_in_place(
    fleet: Fleet, config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []

    class Terminal:
        def __init__(self, first: Any, **_how: Any):
            self.update(first)

        def update(self, drawn: Any, **_how: Any) -> None:
            shown.append(top_text(drawn))

        def __enter__(self) -> Terminal:
            return self

        def __exit__(self, *_error: object) -> None: ...

    def top_text(group: Any) -> str:
        from rich.console import Console

        console = Console(width=200)
        with console.capture() as capture:
            console.print(group)
        return capture.get()

    def pause(_seconds: float) -> None:
        if len(fleet.asked) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", pause)
    monkeypatch.setattr("rich.live.Live", Terminal)
    monkeypatch.setattr(top, "_is_terminal", lambda: True)
    assert run("top", "--plain", "-c", config).exit_code == 130
    assert "no node" in shown[0] and "math.add" in shown[-1]


def test_a_pattern_that_no_name_can_fit_is_refused(fleet: Fleet, config: str) -> None:
    for command in (["top", "a.b", "--once"], ["status", "--nodes", "a.b"]):
        assert run(*command, "-c", config).exit_code == 2
    assert not fleet.asked


# -- columns -----------------------------------------------------------------------------------------------------------


def test_rows_are_sorted_and_what_is_unknown_comes_last() -> None:
    by_title = {column.title: column for column in SERVICE_COLUMNS}
    sums = drawn(WELL).sums()
    assert [each.load.name for each in sorted_by(by_title["per s"], sums)] == ["math.add", "log.note"]
    assert [each.load.name for each in sorted_by(by_title["per s"], sums, is_reversed=True)] == ["math.add", "log.note"]
    assert [each.load.name for each in sorted_by(by_title["service"], sums)] == ["log.note", "math.add"]
    assert [each.load.name for each in sorted_by(by_title["service"], sums, is_reversed=True)] == [
        "math.add",
        "log.note",
    ]
    assert [each.load.name for each in sorted_by(by_title["in flight"], sums)] == ["math.add", "log.note"]


def test_a_node_that_was_never_heard_over_a_broker_has_no_state_there() -> None:
    view = drawn(heard({"NODE-1": ("mq-a",)}, load=None))
    cells = {column.title: column.text(view.nodes["NODE-1"]) for column in node_columns(view)}
    assert (cells["mq-a"], cells["mq-b"], cells["in flight"], cells["outbox"]) == ("answers", "-", "-", "-")
    styles = {column.title: column.style(view.nodes["NODE-1"]) for column in node_columns(view)}
    assert (styles["mq-a"], styles["mq-b"], styles["workers"]) == ("green", "", "")
    lost = drawn(heard({"NODE-1": ("mq-a",)}, DOWN))
    assert {column.title: column.style(lost.nodes["NODE-1"]) for column in node_columns(lost)}["mq-b"] == "bold red"


def test_a_fleet_in_words() -> None:
    assert headline(FleetView(())) == "0 of 0 brokers reachable, no node" and problem_lines(FleetView(())) == []
    assert matches("add", "math.Add") and matches("m*d", "math.add") and not matches("sub", "math.add")


def test_who_counts_nothing_by_service_is_named_with_what_to_do(fleet: Fleet, config: str) -> None:
    assert uncounted_line(drawn(WELL)) == ""
    silent = LOAD._replace(services=LOAD.services[1:])
    fleet.looks = [heard({"NODE-\u202e": BROKERS}, load=silent)]
    done = run("top", "--once", "-c", config)
    assert r"no rates by service of NODE-\u202e: 'metrics: {}' in the file of an agent" in done.stdout
    many = drawn(heard({f"N-{number}": BROKERS for number in range(7)}, load=silent))
    assert "N-0, N-1, N-2, N-3, N-4 and 2 more:" in uncounted_line(many)
