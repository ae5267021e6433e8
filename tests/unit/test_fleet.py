"""What is made of one look at the fleet after the other."""

from __future__ import annotations

import pytest
from fleet_looks import BROKERS, drawn, look

from servicebus.fleet.rates import UNREADABLE, Rates
from servicebus.fleet.view import FORGET_S, BrokerView, Change, FleetView, Look, PathState, WorkerView, seen
from servicebus.fleet.watch import FleetWatch
from servicebus.services import Request, Response
from servicebus.testing import bus

BOTH = look({"NODE-1": BROKERS, "NODE-2": ("mq-a",)})


def states(view: object, node: str) -> dict[str, str]:
    return {broker: path.state.value for broker, path in view.nodes[node].paths.items()}  # type: ignore[attr-defined]


def test_a_path_is_known_from_its_first_answer_on() -> None:
    view = drawn(BOTH)
    assert states(view, "NODE-1") == {"mq-a": "answers", "mq-b": "answers"}
    assert states(view, "NODE-2") == {"mq-a": "answers"}, "nobody can know of a path that was never there"
    assert all(node.is_whole for node in view.nodes.values())


def test_a_lost_broker_is_seen_at_once_with_all_its_paths() -> None:
    view, changes = seen(drawn(BOTH), look({"NODE-1": ("mq-b",)}, {"mq-a": "refused"}), 2000.0)
    assert [broker.problem for broker in view.brokers] == ["refused", ""]
    assert states(view, "NODE-1") == {"mq-a": "broker lost", "mq-b": "answers"}
    assert not view.nodes["NODE-2"].answers
    told = {(each.kind, each.node, each.broker) for each in changes}
    assert told == {
        ("broker lost", "", "mq-a"),
        ("path lost", "NODE-1", "mq-a"),
        ("path lost", "NODE-2", "mq-a"),
        ("node lost", "NODE-2", ""),
    }
    back, changes = seen(view, BOTH, 2001.0)
    assert {each.kind for each in changes} == {"broker back", "path back", "node back"}
    assert back.nodes["NODE-2"].paths["mq-a"] == (PathState.ANSWERS, 2001.0)


def test_one_missed_answer_is_none_lost() -> None:
    missed = look({"NODE-2": ("mq-a",)})
    view, changes = seen(drawn(BOTH), missed, 2000.0)
    assert view.nodes["NODE-1"].is_whole and not changes
    view, changes = seen(view, missed, 2001.0)
    assert states(view, "NODE-1") == {"mq-a": "silent", "mq-b": "silent"}
    assert [each.kind for each in changes] == ["path lost", "path lost", "node lost"]


def test_a_broker_that_is_back_without_a_node_makes_it_silent() -> None:
    lost = look({"NODE-1": ("mq-b",)}, {"mq-a": "refused"})
    back = look({"NODE-1": ("mq-b",)})
    assert states(drawn(BOTH, lost, lost, lost, back), "NODE-1")["mq-a"] == "broker lost", "it has a moment to return"
    assert states(drawn(BOTH, lost, back, back), "NODE-1")["mq-a"] == "silent"


def test_the_revision_grows_with_what_is_seen_and_with_nothing_else() -> None:
    view = drawn(BOTH)
    same, changes = seen(view, BOTH, 3000.0)
    assert same.revision == view.revision and not changes
    missed, _ = seen(view, look({}), 3000.0)
    assert missed.revision == view.revision, "one missed answer is not seen"
    assert seen(missed, look({}), 3001.0)[0].revision == view.revision + 1


def test_deploys_and_services_are_changes() -> None:
    before = look({"N": ("mq-a",)}, versions={"N": ("1",)}, services={"N": (("call", "a.b"),)})
    after = look({"N": ("mq-a",)}, versions={"N": ("1", "2")}, services={"N": (("call", "a.c"),)})
    view, changes = seen(drawn(before), after, 2000.0)
    assert [(each.kind, each.text) for each in changes] == [("deploy", "1 to 1, 2"), ("services", "+ a.c, - a.b")]
    assert [(each.name, len(each.nodes)) for each in view.services()] == [("a.c", 1)]
    unasked, changes = seen(view, after._replace(services=None), 2001.0)
    assert unasked.nodes["N"].services == (("call", "a.c"),) and not changes


def test_the_same_of_many_nodes_is_beside_each_other_and_of_brokers_last() -> None:
    names = [f"N{number}" for number in range(4)]
    both, one = dict.fromkeys(names, BROKERS), dict.fromkeys(names[:3], ("mq-b",))
    _, changes = seen(drawn(look(both)), look(one, {"mq-a": "refused"}), 2000.0)
    assert [(each.kind, each.node) for each in changes] == [
        *(("path lost", name) for name in names),
        ("broker lost", ""),
    ]


def test_a_node_that_is_gone_for_a_day_is_forgotten() -> None:
    view = drawn(BOTH, look({"NODE-1": BROKERS}), look({"NODE-1": BROKERS}))
    still = look({"NODE-1": BROKERS})
    assert set(seen(view, still, 1002 + FORGET_S - 1)[0].nodes) == {"NODE-1", "NODE-2"}
    assert set(seen(view, still, 1002 + FORGET_S)[0].nodes) == {"NODE-1"}


def worker(pid: int, calls: int = 0) -> WorkerView:
    return WorkerView("m-1", pid, 900.0, {"executed.call": calls}, {})


def test_a_worker_that_was_not_there_is_a_change_and_told_once() -> None:
    def heard(*pids: int) -> Look:
        return look({"N": ("mq-a",)})._replace(workers={"N": tuple(map(worker, pids))})

    view = drawn(heard(1, 2))
    view, changes = seen(view, heard(1), 2000.0)
    assert not changes, "it may have missed one question"
    view, changes = seen(view, heard(1, 2), 2001.0)
    assert not changes
    view, changes = seen(view, heard(3), 2002.0)
    assert [(each.kind, each.text) for each in changes] == [("worker new", "pid 3 on m-1 serves")]
    assert [each.pid for each in view.nodes["N"].workers] == [3]


def test_rates_are_counted_from_one_look_to_the_next() -> None:
    rates = Rates()
    said = {"machine": "m-1", "pid": 7, "since": 900.0, "counters": {"executed.call": 10}}
    assert rates.worker({"worker": said}, 1000.0).per_s == {}
    rates.forget()
    grown = rates.worker({"worker": {**said, "counters": {"executed.call": 40}}}, 1002.0)
    assert grown.per_s == {"executed.call": 15.0}
    rates.forget()
    rates.forget()
    assert rates.worker({"worker": said}, 1004.0).per_s == {}, "it has not answered meanwhile"
    for wrong in (None, {}, {**said, "pid": "x"}, {**said, "counters": {"a": []}}):
        with pytest.raises(UNREADABLE):
            rates.worker({"worker": wrong}, 1005.0)


class Add:
    def on_call(self, request: Request, response: Response) -> None:
        response.send(sum(request.get_params()))


def test_a_look_asks_the_bus_for_nodes_services_and_workers() -> None:
    with bus({"math.add": Add()}, brokers=2) as world:
        names = [broker.name for broker in world.brokers]
        told: list[Change] = []
        view = FleetView(tuple(BrokerView(name, 0.0) for name in names))
        watch = FleetWatch(world.sender, view, lambda _view, changes: told.extend(changes))
        assert watch.is_stale
        watch.look()
        node = watch.view.nodes["NODE-01"]
        assert list(node.paths) == names and node.services == (("call", "math.add"),) and node.versions
        assert sum(each.counters["discoveries"] for each in node.workers) >= 1
        world.brokers[0].kill()
        watch.look()
        assert [each.kind for each in told] == ["node new", "path lost", "broker lost"]
        for broker in world.brokers:
            broker.kill()
        watch.look()
        assert all(broker.problem for broker in watch.view.brokers) and not watch.view.nodes["NODE-01"].answers
