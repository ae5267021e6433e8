"""What the charts of the console show: rates of the last hour and failovers of the last day, bounded."""

from __future__ import annotations

import html
import json
import re
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from fleet_looks import drawn, look
from web_clients import client_of

from servicebus.fleet.load import ServiceLoad, WorkerLoad
from servicebus.fleet.view import Change, WorkerView
from servicebus.web.charts import NodeRates
from servicebus.web.history import ConsoleHistory
from servicebus.web.series import Chart, Line, RateSeries, TimeMark, as_json

NOW = 1_700_000_000.0


@pytest.fixture
def history(tmp_path: Path) -> Iterator[ConsoleHistory]:
    with closing(ConsoleHistory(tmp_path / "history")) as found:
        yield found


def shown(text: str) -> Any:
    """What the chart of a page is drawn from."""
    found = re.search(r'data-series="([^"]*)"', text)
    assert found is not None, text
    return json.loads(html.unescape(found[1]))


def test_values_are_means_of_ten_seconds_over_the_last_hour() -> None:
    series = RateSeries(["calls", "messages"])
    series.add("N", {"calls": 2.0}, NOW - 15)
    series.add("N", {"calls": 1.0, "messages": 5.0}, NOW)
    series.add("N", {"calls": 4.0}, NOW + 1)
    times, values = series.of("N", NOW + 1)
    assert len(times) == 360 and times[-1] == NOW and times[0] == NOW - 3590
    assert values["calls"][-4:] == [None, 2.0, None, 2.5] and values["messages"][-2:] == [None, 5.0]
    assert all(each is None for each in values["calls"][:-4])


def test_an_hour_later_nothing_of_it_is_left() -> None:
    series = RateSeries(["calls"])
    series.add("N", {"calls": 2.0}, NOW)
    series.add("N", {"calls": 3.0}, NOW + 3600)
    assert [each for each in series.of("N", NOW + 3600)[1]["calls"] if each is not None] == [3.0]
    assert all(each is None for each in series.of("N", NOW + 9000)[1]["calls"])
    assert all(each is None for each in series.of("other", NOW)[1]["calls"])


def test_the_nodes_that_were_silent_for_longest_are_forgotten() -> None:
    series = RateSeries(["calls"])
    for number in range(1001):
        series.add(f"N-{number}", {"calls": 1.0}, NOW)
        series.add("N-0", {"calls": 1.0}, NOW)
    has = [any(series.of(f"N-{number}", NOW)[1]["calls"]) for number in (0, 1, 2, 1000)]
    assert has == [True, False, True, True]


def test_rates_and_times_are_those_of_all_workers_together() -> None:
    def calls(runs: tuple[int, ...], kind: str = "call") -> WorkerLoad:
        return WorkerLoad(services=(ServiceLoad(kind, "a.b", runs=runs),))

    per_s = {"executed.call": 2.0, "executed.event": 1.0, "executed.message": 0.5}
    some, slow = (0, 99), (0,) * 10 + (99,)
    workers = (
        WorkerView("m", 1, 1.0, {}, per_s, load=calls(some)),
        WorkerView("m", 2, 1.0, {}, per_s, load=calls(slow)),
        WorkerView("m", 3, 1.0, {}, {}, load=calls((0,) * 12 + (9999,), "message")),
        WorkerView("m", 4, 1.0, {"executed.call": 9}, {}),
    )
    rates = NodeRates()
    view = drawn(look({"N": ("mq-a",), "M": ("mq-a",)})._replace(workers={"N": workers, "M": workers[3:]}))
    rates.saw(view, NOW)
    last = {name: values[-1] for name, values in rates.series.of("N", NOW)[1].items()}
    assert (last["calls/s"], last["messages/s"]) == (4.0, 3.0)
    expected = [ServiceLoad("call", "a.b", runs=slow).run_ms(share) for share in (0.5, 0.99)]
    assert last["99 of 100"] is not None and last["median"] is not None
    assert last["median"] < last["99 of 100"] and last["99 of 100"] >= (expected[0] or 0)
    assert set(rates.series.of("M", NOW)[1]["calls/s"]) == {None}, "of which nothing is known"


def test_what_the_script_reads() -> None:
    text = as_json([NOW], [Chart("Calls", [Line("</script>", [1 / 3])])], [TimeMark(NOW + 0.123, "path lost", True)])
    assert json.loads(text) == {
        "times": [NOW],
        "charts": [{"title": "Calls", "stepped": False, "lines": [["</script>", [0.3333]]]}],
        "marks": [[NOW + 0.1, "path lost", True]],
    }


def test_a_node_shows_its_rates_and_what_has_changed(history: ConsoleHistory) -> None:
    now, rates = time.time(), NodeRates()
    rates.series.add("NODE-1", {"calls/s": 12.5, "median": 3.25}, now)
    old, lost = Change(now - 7200, "path lost", "NODE-1", "mq-a", "old"), Change(now, "path lost", "NODE-1", "<b>", "x")
    history.add([old, lost, Change(now, "node lost", "NODE-2", "", "of another")])
    with client_of(drawn(look({"NODE-1": ("mq-a",)})), rates=rates, history=history) as client:
        text = client.get("/node/NODE-1/rates", headers={"HX-Request": "true"}).text
        assert ">12.5</td>" in text and ">median ms</th>" in text and "&lt;b&gt;" in text
        assert "old" not in text and "<html" not in text
        found = shown(text)
        assert [mark[1:] for mark in found["marks"]] == [["path lost <b>", True]]
        assert [name for name, _ in found["charts"][0]["lines"]] == ["calls/s", "messages/s"]
        assert [name for name, _ in found["charts"][1]["lines"]] == ["median", "99 of 100"]
        assert "<html" in client.get("/node/NODE-1/rates").text
        assert "/node/NODE-1/rates" in client.get("/node/NODE-1").text
        assert client.get("/node/NODE-9/rates").status_code == 404


def test_failovers_are_counted_in_steps_of_ten_minutes(history: ConsoleHistory) -> None:
    now = time.time()
    lost = [Change(now - age_s, "path lost", "N", "mq-a", "") for age_s in (0, 0, 90_000)]
    history.add([*lost, Change(now, "deploy", "N", "", ""), Change(now - 3600, "broker lost", "", "mq-a", "")])
    with client_of(drawn(), history=history) as client:
        found = shown(client.get("/timeline/failovers").text)
        lines = dict(found["charts"][0]["lines"])
        assert len(found["times"]) == 144 and found["charts"][0]["stepped"]
        assert (sum(lines["paths lost"]), sum(lines["brokers lost"]), sum(lines["workers started"])) == (2, 1, 0)
        assert max(lines["paths lost"][-2:]) >= 1


def test_a_day_without_a_failover_says_so(history: ConsoleHistory) -> None:
    with client_of(drawn(), history=history) as client:
        assert "Nothing has failed over in the last day." in client.get("/timeline/failovers").text
        assert "/timeline/failovers" in client.get("/timeline").text
