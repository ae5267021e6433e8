"""What is made of the load that workers say: rates, times of the last minute, sums; and what is no load."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fleet_looks import drawn, look

from servicebus.fleet.load import LoadHistory, ServiceLoad, WorkerLoad, merged, read_load
from servicebus.fleet.rates import UNREADABLE, Rates
from servicebus.fleet.view import WorkerView
from servicebus.observability.histograms import BOUNDS_S, quantile_s

SERVICE = {
    "kind": "call",
    "name": "math.add",
    "backlog": 2,
    "capacity": 9,
    "ended": 10,
    "failed": 1,
    "run": [9, 1],
    "wait": [10],
}
SAID: dict[str, Any] = {
    "brokers": ["mq-a"],
    "services": [SERVICE],
    "left_out": 3,
    "outbox": 4,
    "problems": ["p"],
    "journal": {"unfinished": 5, "x": "y"},
}


def grown(ended: int, failed: int, *run: int) -> WorkerLoad:
    return WorkerLoad(services=(ServiceLoad("call", "a.b", ended=ended, failed=failed, runs=run, waits=run),))


def test_what_a_worker_says_is_read() -> None:
    service = ServiceLoad("call", "math.add", 2, 9, 10, 1, runs=(9, 1), waits=(10,))
    assert read_load(SAID) == WorkerLoad(("mq-a",), (service,), 3, ("p",), 4, {"unfinished": 5})
    bare = {"kind": "call", "name": "a.b", "backlog": 0, "capacity": 1}
    assert read_load({"services": [bare]}).services == (ServiceLoad("call", "a.b", 0, 1),)


@pytest.mark.parametrize(
    "said",
    [None, [], {}, {"services": 1}, {"services": [1]}, {"services": [{**SERVICE, "run": 1}]}, {**SAID, "outbox": "x"}],
)
def test_what_is_no_load_is_refused(said: Any) -> None:
    with pytest.raises(UNREADABLE):
        read_load(said)


def test_a_flood_of_words_is_cut() -> None:
    load = read_load({**SAID, "services": [SERVICE] * 5000, "problems": ["p"] * 500, "brokers": ["b"] * 500})
    assert len(load.services) == 1000 and len(load.problems) == len(load.brokers) == 20
    assert len(read_load({"services": [{**SERVICE, "run": [1] * 500}]}).services[0].runs) == len(BOUNDS_S) + 1


def test_rates_are_those_of_the_last_two_answers_and_times_those_of_the_window() -> None:
    history = LoadHistory()
    (first,) = history.watched(grown(100, 10, 100), 0.0).services
    assert (first.ended, first.per_s, first.failed_per_s, first.run_ms(0.5)) == (100, None, None, None)
    (second,) = history.watched(grown(120, 14, 100, 20), 10.0).services
    assert (second.per_s, second.failed_per_s, second.runs) == (2.0, 0.4, (0, 20))
    (third,) = history.watched(grown(120, 14, 100, 20), 12.0).services
    assert (third.per_s, third.runs) == (0.0, (0, 20)), "what has ended lately is still in the window"
    for at in (31.0, 62.0, 93.0):
        (later,) = history.watched(grown(120, 14, 100, 20), at).services
    assert later.runs == (0, 0) and later.run_ms(0.99) is None


def test_counts_that_fall_are_no_negative_times() -> None:
    history = LoadHistory()
    history.watched(grown(10, 0, 10), 0.0)
    (after,) = history.watched(grown(10, 0, 3), 1.0).services
    assert after.runs == (0,)


def test_what_is_not_counted_has_no_rates() -> None:
    load = WorkerLoad(services=(ServiceLoad("call", "a.b", 1, 2),))
    assert LoadHistory().watched(load, 1.0) == load


def test_workers_are_summed() -> None:
    first = ServiceLoad("call", "a.b", 1, 8, 10, 1, 2.0, 0.5, (1, 2), (3,))
    assert merged([first]) is first
    counted = replace(first, per_s=None, failed_per_s=None, runs=(5,))
    silent = ServiceLoad("call", "a.b", 3, 8)
    assert merged([first, counted, silent]) == ServiceLoad("call", "a.b", 5, 24, 20, 2, 2.0, 0.5, (6, 2), (6,))
    assert merged([silent, silent]).ended is None


@pytest.mark.parametrize(
    ("buckets", "share", "found"),
    [
        ((), 0.5, None),
        ((0, 0), 0.5, None),
        ((4,), 0.5, 0.00025),
        ((4,), 1.0, 0.0005),
        ((2, 2), 0.75, 0.00075),
        ((0, 0, 1), 0.99, 0.001 + 0.99 * 0.0015),
        ((1, *[0] * 13, 1), 0.99, 10.0),
    ],
)
def test_quantiles_are_estimated_within_their_bucket(
    buckets: tuple[int, ...], share: float, found: float | None
) -> None:
    assert quantile_s(buckets, share) == (None if found is None else pytest.approx(found))


def test_kinds_are_those_under_which_a_node_lists_its_services() -> None:
    kinds = {kind: ServiceLoad(kind, "a.b").listed_kind for kind in ("call", "stream", "message", "event", "plain")}
    assert kinds == {"call": "call", "stream": "stream", "message": "message", "event": "message", "plain": "message"}


def about(**more: Any) -> dict[str, Any]:
    return {"worker": {"machine": "m-1", "pid": 7, "since": 900.0, "counters": {}}, **more}


def test_the_load_stays_until_it_is_said_again() -> None:
    rates = Rates()
    assert rates.worker(about(load=SAID), 1.0, "mq-a").load is not None
    rates.forget()
    again = rates.worker(about(), 2.0, "mq-a")
    assert again.load is not None and again.load.outbox == 4 and again.broker == "mq-a"
    rates.forget()
    assert rates.worker(about(load={**SAID, "outbox": 9}), 3.0).load.outbox == 9  # type: ignore[union-attr]
    rates.forget()
    assert rates.worker(about(load=[]), 4.0).load.outbox == 9  # type: ignore[union-attr]
    assert Rates().worker(about(), 1.0).load is None


def test_a_broker_with_two_names_makes_no_two_workers() -> None:
    rates = Rates()
    first = rates.worker(about(load=SAID), 1.0, "mq-a")
    assert rates.worker(about(load=SAID), 1.1, "alias") is first


def worker(pid: int, broker: str, load: WorkerLoad | None, **per_s: float) -> WorkerView:
    return WorkerView("m-1", pid, 900.0, {}, {f"executed.{name}": rate for name, rate in per_s.items()}, broker, load)


def test_a_node_is_the_sum_of_its_workers() -> None:
    load = WorkerLoad(
        services=(ServiceLoad("call", "a.b", 1, 8), ServiceLoad("message", "c.d", 2, 8)), problems=("full",)
    )
    workers = worker(1, "mq-a", load, call=2.0, message=1.0), worker(2, "mq-b", load, call=1.0, event=0.5)
    found = look({"N": ("mq-a", "mq-b"), "M": ("mq-a",)})._replace(
        workers={"N": workers, "M": (worker(3, "mq-a", None),)}
    )
    view = drawn(found)
    node = view.nodes["N"]
    assert (node.calls_per_s, node.messages_per_s) == (3.0, 1.5)
    assert [(each.name, each.backlog) for each in node.loads] == [("a.b", 2), ("c.d", 4)]
    assert node.problems == ["mq-a: full", "mq-b: full"] and not node.is_well
    assert view.nodes["M"].calls_per_s is None and view.nodes["M"].loads == [] and view.nodes["M"].is_well
    assert [(each.load.name, each.nodes) for each in view.sums()] == [("a.b", ["N"]), ("c.d", ["N"])]


def test_a_broker_of_its_file_over_which_a_node_was_never_heard_is_silent() -> None:
    own = WorkerLoad(brokers=("mq-a", "mq-b", "elsewhere"))
    found = look({"N": ("mq-a",)})._replace(workers={"N": (worker(1, "mq-a", own),)})
    assert list(drawn(found).nodes["N"].paths) == ["mq-a"], "it may be about to begin there"
    node = drawn(found, found).nodes["N"]
    assert {name: path.state.value for name, path in node.paths.items()} == {"mq-a": "answers", "mq-b": "silent"}
    assert not node.is_well and not node.is_whole
    lost = drawn(found._replace(unreachable={"mq-b": "refused"})).nodes["N"]
    assert lost.paths["mq-b"].state.value == "broker lost" and lost.is_well and not lost.is_whole
