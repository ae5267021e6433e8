"""What the console makes of one look at the fleet after the other."""

from __future__ import annotations

from web_clients import BROKERS, drawn, look

from servicebus.web.fleet import FORGET_S, PathState, seen

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


def test_a_node_that_is_gone_for_a_day_is_forgotten() -> None:
    view = drawn(BOTH, look({"NODE-1": BROKERS}), look({"NODE-1": BROKERS}))
    still = look({"NODE-1": BROKERS})
    assert set(seen(view, still, 1002 + FORGET_S - 1)[0].nodes) == {"NODE-1", "NODE-2"}
    assert set(seen(view, still, 1002 + FORGET_S)[0].nodes) == {"NODE-1"}
