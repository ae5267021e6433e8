"""The timeline on disk: it survives a restart, and does not grow without end."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from fleet_looks import BROKERS, drawn, look
from web_clients import client_of

from servicebus.fleet.view import Change, seen
from servicebus.web.history import ConsoleHistory, history_file

LOST = look({"NODE-1": ("mq-b",)}, {"mq-a": "refused"})


def change(number: int, node: str = "N", kind: str = "deploy") -> Change:
    return Change(1000.0 + number, kind, node, "", str(number))


def test_it_is_there_again_after_a_restart(tmp_path: Path) -> None:
    view, changes = seen(drawn(look({"NODE-1": BROKERS}, versions={"NODE-1": ("1", "2")})), LOST, 2000.0)
    with closing(ConsoleHistory(tmp_path / "new" / "history")) as history:
        history.add(changes, view)
    with closing(ConsoleHistory(tmp_path / "new" / "history")) as history:
        assert [each for _, each in history.changes()] == changes[::-1]
        again = history.restored(BROKERS, 3000.0)
        assert again.nodes == view.nodes
        assert set(history.restored(["mq-b"], 3000.0).nodes["NODE-1"].paths) == {"mq-b"}
    assert (tmp_path / "new" / "history").stat().st_mode & 0o077 == 0


def test_a_node_that_went_while_the_console_was_down_is_shown_as_lost(tmp_path: Path) -> None:
    with closing(ConsoleHistory(tmp_path / "history")) as history:
        history.add([change(0)], drawn(look({"NODE-1": BROKERS})))
        view = history.restored(BROKERS, 3000.0)
    for number in range(2):
        view, changes = seen(view, look({}), 3001.0 + number)
    assert not view.nodes["NODE-1"].answers and "node lost" in {each.kind for each in changes}


def test_it_is_bounded(tmp_path: Path) -> None:
    with closing(ConsoleHistory(tmp_path / "history", most_rows=100)) as history:
        for number in range(2000):
            history.add([change(number)])
        found = history.changes(limit=5000)
        assert 100 <= len(found) <= 600 and found[0][1].text == "1999"


def test_it_is_filtered_and_paged(tmp_path: Path) -> None:
    with closing(ConsoleHistory(tmp_path / "history")) as history:
        history.add(
            [change(number, node=f"N{number % 2}", kind="user" if number > 5 else "node lost") for number in range(10)]
        )
        assert [each.text for _, each in history.changes(node="N1")] == ["9", "7", "5", "3", "1"]
        assert [each.text for _, each in history.changes(kind="node", limit=2)] == ["5", "4"]
        number = history.changes(kind="node", limit=2)[-1][0]
        assert [each.text for _, each in history.changes(kind="node", before=number, limit=2)] == ["3", "2"]


def test_a_file_of_another_format_is_refused(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "history")) as file:
        file.execute("PRAGMA user_version = 99")
    with pytest.raises(sqlite3.DatabaseError, match="format 99"):
        ConsoleHistory(tmp_path / "history")


def test_a_disk_that_fails_costs_only_what_happens_then(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with closing(ConsoleHistory(tmp_path / "history")) as history:
        history.add([change(0)])
        with closing(sqlite3.connect(tmp_path / "history")) as other:
            other.execute("DROP TABLE changes")
        history.add([change(1)])
        assert "the history is not written" in caplog.text


def test_where_it_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/a:/var/lib/b")
    assert str(history_file()) == "/var/lib/a/console.sqlite"
    monkeypatch.delenv("STATE_DIRECTORY")
    monkeypatch.setenv("XDG_STATE_HOME", "/home/x/state")
    assert str(history_file()) == "/home/x/state/servicebus/console.sqlite"


def test_the_page_shows_and_filters_it(tmp_path: Path) -> None:
    with closing(ConsoleHistory(tmp_path / "history")) as history:
        history.add([change(number, node=f"N{number % 2}") for number in range(150)])
        history.add([change(150, "<N>", "node lost")])
        with client_of(drawn(), history=history) as client:
            text = client.get("/timeline").text
            assert "&lt;N&gt;" in text and "before=52" in text and ">149<" in text
            assert ">149<" not in client.get("/timeline?before=52").text
            assert "N0" not in client.get("/timeline?node=N1").text
            assert client.get("/timeline?seen=151", headers={"HX-Request": "true"}).status_code == 204
            assert client.get("/timeline?before=x&kind=nonsense").status_code == 200


def test_what_one_look_has_found_of_many_nodes_is_one_line(tmp_path: Path) -> None:
    names = [f"N{number:03}" for number in range(200)]
    both = drawn(look(dict.fromkeys(names, BROKERS)))
    lost, changes = seen(both, look(dict.fromkeys(names, ("mq-b",)), {"mq-a": "refused"}), 2000.0)
    with closing(ConsoleHistory(tmp_path / "history")) as history, client_of(lost, history=history) as client:
        history.add([change(number) for number in range(150)])
        history.add(changes)
        text = client.get("/timeline").text
        kinds = re.findall(r"<tr><td>.*?</td><td class=\"\w*\">([a-z ]+)</td>", text)
        assert kinds == ["broker lost", "path lost", *["deploy"] * 98], "one page, the broker first"
        assert ">N000</a>" in text and ">N004</a> and 195 more" in text and "before=53" in text
        assert ">51<" not in text and ">51<" in client.get("/timeline?before=53").text
        assert ">N123</a></td>" in client.get("/timeline?node=N123").text


def test_a_page_of_the_timeline_reads_no_more_than_a_part_of_it(tmp_path: Path) -> None:
    lost = [Change(1000.0, "path lost", f"N{number}", "mq-a", "silent") for number in range(7000)]
    with closing(ConsoleHistory(tmp_path / "history")) as history, client_of(drawn(), history=history) as client:
        history.add(lost)
        text = client.get("/timeline").text
        assert "and 4995 more" in text and "before=2001" in text
        assert "and 1995 more" in client.get("/timeline?before=2001").text
