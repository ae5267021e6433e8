"""What a Sender asks all nodes at once: who is found, over which brokers, and how long that takes."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from virtual_bus import SECRET, Node, VirtualBus, virtual_bus

from servicebus._discovering import survey, survey_ids
from servicebus.client.discovery import Discovery
from servicebus.errors import AddressError, CallError, EnvelopeError, LifecycleError, NoBrokerAvailable
from servicebus.protocol.discovery import MOST_IDS, Answer, Question, ask_for, read_answer, read_question
from servicebus.runtime.journal import IdRecord, IdState
from servicebus.runtime.registration import former_key
from servicebus.sender import Discovered, NodeInfo, ServiceInfo
from servicebus.transport import forks
from servicebus.transport.interface import Delivery, Flaw
from servicebus.wire.envelope import CALL, FAULT, MESSAGE, OK, Reply
from servicebus.wire.fault import Fault
from servicebus.wire.jsontext import encode_json
from servicebus.wire.signing import Keyring
from servicebus.wire.xmlcodec import encode_reply

A, B = "mq-a:5672", "mq-b:5672"
ID = "0123456789abcdef-17"
NOBODY: Any = None


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualBus]:
    with virtual_bus(monkeypatch) as bus:
        let_wait(bus)
        yield bus


def let_wait(bus: VirtualBus) -> None:
    """A thread that waits for the Sender turns the loops."""

    def wait(has_ended: Callable[[], object]) -> None:
        bus.time.until(has_ended)

    bus.loop.wait = wait


def begin(bus: VirtualBus, timeout: float = 2, quiet: float = 0.25) -> Discovery:
    discovery = bus.sender._discover(ask_for("*"), timeout, quiet)
    bus.time.settle()
    return discovery


def took(bus: VirtualBus, discovery: Discovery) -> float:
    """How long it took, until its end."""
    bus.time.until(lambda: discovery.has_ended)
    return bus.time.now - discovery.started_at


def slow(node: Node, seconds: float) -> None:
    """Let *node* take so long to answer what all nodes are asked."""
    node.on_own = partial(lambda answer, *what: node.bus.loop.call_later(seconds, partial(answer, *what)), node.on_own)  # type: ignore[method-assign,assignment]


# -- who is found ------------------------------------------------------------------------------------------------------


def test_each_node_is_found_once_with_the_brokers_that_reach_it(bus: VirtualBus) -> None:
    for name, brokers in {"N-3": bus.brokers[:1], "N-1": bus.brokers, "N-2": bus.brokers[1:]}.items():
        bus.node(*brokers, name=name)
    bus.node(name="N-1")  # a second agent of this node
    found = bus.sender.nodes()
    assert found.unreachable == {}
    assert found == (NodeInfo("N-1", (A, B)), NodeInfo("N-2", (B,)), NodeInfo("N-3", (A,)))


def test_each_service_is_found_once_with_the_nodes_that_have_it(bus: VirtualBus) -> None:
    first, second = bus.node(name="N-1"), bus.node(name="N-2")
    newer = bus.node(bus.brokers[0], name="N-2")
    for node in (first, second, newer):
        node.services.clear()
        node.services[CALL, "math.add"] = None
    first.services[MESSAGE, "audit.note"] = newer.services[CALL, "math.mul"] = None
    newer.services[CALL, former_key("math.add", "0123456789abcdef01234567")] = None
    assert bus.sender.services() == (
        ServiceInfo("audit.note", "message", ("N-1",)),
        ServiceInfo("math.add", "call", ("N-1", "N-2")),
        ServiceInfo("math.mul", "call", ("N-2",)),
    )


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*", "A-1 A-2 B-1 B[1]"),
        ("A-*", "A-1 A-2"),
        ("?-1", "A-1 B-1"),
        ("[AC]-[!2]", "A-1"),
        ("B[1]", "B[1]"),
        ("a-*", ""),
    ],
)
def test_a_node_of_another_name_does_not_answer(bus: VirtualBus, pattern: str, found: str) -> None:
    nodes = [bus.node(name=name) for name in ("A-1", "A-2", "B-1", "B[1]")]
    assert [each.name for each in bus.sender.nodes(pattern, timeout=0.3)] == found.split()
    assert sum(node.dispatcher.counters["discoveries"] for node in nodes) == 2 * len(found.split())


@pytest.mark.parametrize("pattern", ["", "a.b", "N *", "x" * 101, "N\n"])
def test_a_pattern_that_no_name_can_fit_is_refused(bus: VirtualBus, pattern: str) -> None:
    for ask in (bus.sender.nodes, bus.sender.services):
        with pytest.raises(AddressError):
            ask(pattern)
    assert not any(broker.connects for broker in bus.brokers)


def test_a_node_that_stops_or_leaves_a_broker_is_not_found_there(bus: VirtualBus) -> None:
    node = bus.node()
    node.dispatcher.is_stopping = True
    assert bus.sender.nodes(timeout=0.5) == ()
    node.dispatcher.is_stopping, node.control.is_leaving = False, True
    assert bus.sender.nodes(timeout=0.5) == ()


# -- how long it takes -------------------------------------------------------------------------------------------------


def test_it_ends_when_nothing_new_has_come_for_a_while(bus: VirtualBus) -> None:
    bus.node()
    slow(bus.node(name="N-2"), 0.2)
    assert took(bus, begin(bus, quiet=0.25)) == pytest.approx(0.45, abs=0.01)
    assert len(bus.sender.nodes(quiet=0.25)) == 2
    assert len(bus.sender.nodes(quiet=0.1)) == 1, "slower than that"


def test_a_slow_fleet_is_waited_for_as_long_again_as_the_last_answer_took(bus: VirtualBus) -> None:
    for number, seconds in enumerate((0.04, 0.07, 0.13)):
        slow(bus.node(name=f"N-{number}"), seconds)
    discovery = begin(bus, quiet=0.05)
    assert took(bus, discovery) == pytest.approx(0.26, abs=0.005)
    assert len(discovery.nodes) == 3


def test_what_comes_again_prolongs_nothing(bus: VirtualBus) -> None:
    """A node of many agents, and a stranger who plays their answers again."""
    bus.node()
    for _ in range(4):
        slow(bus.node(), 0.2)
    assert took(bus, begin(bus)) == pytest.approx(0.25, abs=0.01)


def test_it_ends_at_once_where_no_agent_is(bus: VirtualBus) -> None:
    discovery = begin(bus)
    assert took(bus, discovery) < 0.05
    assert bus.sender.nodes() == () and bus.sender.services().unreachable == {}


def test_nodes_that_are_not_meant_or_too_slow_are_not_waited_for(bus: VirtualBus) -> None:
    slow(bus.node(), 9)
    assert took(bus, begin(bus, quiet=1)) == pytest.approx(1, abs=0.01)
    began = bus.time.now
    assert bus.sender.nodes("OTHER-*", quiet=0.1) == ()
    assert bus.time.now - began == pytest.approx(0.5, abs=0.01)


def test_until_the_first_answer_nodes_have_more_time(bus: VirtualBus) -> None:
    slow(bus.node(), 0.4)
    assert len(bus.sender.nodes(quiet=0.05)) == 1


def test_a_broker_that_is_silent_costs_all_the_time_and_is_named(bus: VirtualBus) -> None:
    bus.node(bus.brokers[0], name="N-1")
    bus.node(bus.brokers[1], name="N-2")
    bus.sender.nodes()
    bus.brokers[1].freeze()
    began = bus.time.now
    found = bus.sender.nodes(timeout=1.5)
    assert list(found.unreachable) == [B] and "no answer within 1.5" in found.unreachable[B]
    assert found == (NodeInfo("N-1", (A,)),)
    assert bus.time.now - began == pytest.approx(1.5, abs=0.01)


# -- brokers that cannot be asked --------------------------------------------------------------------------------------


def test_a_broker_that_is_down_is_named_and_costs_nothing(bus: VirtualBus) -> None:
    bus.node()
    bus.brokers[0].refuse()
    began = bus.time.now
    found = bus.sender.nodes()
    assert list(found.unreachable) == [A] and "connection refused" in found.unreachable[A]
    assert found == (NodeInfo("NODE-01", (B,)),)
    assert bus.time.now - began < 0.4


def test_without_any_broker_it_is_an_error_that_says_why(bus: VirtualBus) -> None:
    for broker in bus.brokers:
        broker.refuse("credentials", "ACCESS_REFUSED")
    for ask in (bus.sender.nodes, bus.sender.services, partial(bus.sender.gather, "*.test.echo")):
        with pytest.raises(NoBrokerAvailable, match="ACCESS_REFUSED") as caught:
            ask()
        assert getattr(caught.value.__cause__, "kind", "") == "credentials"


def test_a_broker_that_is_lost_meanwhile_keeps_what_it_has_brought(bus: VirtualBus) -> None:
    bus.node()
    slow(bus.node(bus.brokers[0], name="N-2"), 0.2)
    discovery = begin(bus)
    bus.brokers[0].drop("cut by the test")
    bus.time.until(lambda: discovery.has_ended)
    assert sorted(discovery.nodes) == ["NODE-01"] and list(discovery.nodes["NODE-01"]) == [A, B]
    assert "cut by the test" in discovery.problems[A] and B not in discovery.problems


def test_a_blocked_broker_is_not_waited_for(bus: VirtualBus) -> None:
    bus.node()
    assert len(bus.sender.nodes()) == 1
    bus.brokers[0].block("low on disk")
    bus.call()
    bus.time.advance(0.2)
    found = bus.sender.nodes()
    assert "low on disk" in found.unreachable[A] and found == (NodeInfo("NODE-01", (B,)),)


def test_a_broker_of_many_connections_is_asked_over_the_one_that_is_there(bus: VirtualBus) -> None:
    bus.node()
    bus.sender.nodes()
    connects = [broker.connects for broker in bus.brokers]
    bus.sender.services()
    bus.sender.gather("*.test.echo")
    assert [broker.connects for broker in bus.brokers] == connects


def test_a_connection_that_only_a_discovery_needed_is_closed_after_a_while(bus: VirtualBus) -> None:
    bus.node()
    bus.sender.nodes()
    assert bus.state() == ["up", "up"]
    bus.time.advance(70)
    assert bus.state() == ["up", "idle"]


# -- strangers ---------------------------------------------------------------------------------------------------------


def answer_to(
    discovery: Discovery, node: str = "FORGED", *, asked: int = 0, secret: str = SECRET, **how: Any
) -> Delivery:
    """An answer to what was asked over one broker."""
    question = discovery.asked[asked]
    message = encode_json(how.get("said", {"node": node}))
    id, fault = how.get("id", question.wire_id), how.get("fault")
    status, message = (OK, message) if fault is None else (FAULT, b"")
    token = Keyring([secret]).sign_reply(how.get("token", question.token), id, status, message, fault)
    body = encode_reply(Reply(id, how.get("signed", token), status, message, fault))
    return Delivery(NOBODY, 1, body, correlation_id=question.wire_id)


FORGERIES: dict[str, Any] = {
    "another secret": lambda it: answer_to(it, secret="of a stranger"),
    "no signature": lambda it: answer_to(it, signed="unsigned"),
    "for another request": lambda it: answer_to(it, token="e8e26184:" + "0" * 64),
    "for what was asked over another broker": lambda it: answer_to(it, token=it.asked[1].token),
    "another id": lambda it: answer_to(it, id=it.asked[1].wire_id),
    "a fault": lambda it: answer_to(it, fault=Fault("refused", "never")),
    "no answer": lambda it: answer_to(it, said=["FORGED"]),
    "no name": lambda it: answer_to(it, said={"node": 1}),
    "no services": lambda it: answer_to(it, said={"node": "FORGED", "services": [["call"]]}),
    "no document": lambda it: Delivery(NOBODY, 1, b"<response", correlation_id=it.asked[0].wire_id),
    "oversized": lambda it: Delivery(NOBODY, 1, b"", it.asked[0].wire_id, flaw=Flaw("oversized", "9 MB")),
}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES)
def test_an_answer_that_is_not_signed_for_this_request_is_refused_and_counted(bus: VirtualBus, forge: Any) -> None:
    bus.node()
    discovery = begin(bus)
    bus.links[0].replied(forge(discovery))
    bus.time.until(lambda: discovery.has_ended)
    assert list(discovery.nodes) == ["NODE-01"]
    assert bus.sender.status()["unverified_replies"] == 1


def test_an_answer_that_is_brought_over_another_broker_is_refused(bus: VirtualBus) -> None:
    slow(bus.node(), 1)
    discovery = begin(bus)
    bus.links[1].replied(answer_to(discovery, asked=0))
    assert not discovery.nodes and bus.engine.discoveries.unverified == 1
    bus.links[0].replied(answer_to(discovery, "TRUE", asked=0))
    assert discovery.nodes == {"TRUE": {A: None}}


def test_a_flood_of_bogus_answers_costs_neither_time_nor_memory(
    bus: VirtualBus, caplog: pytest.LogCaptureFixture
) -> None:
    bus.node()
    discovery = begin(bus, quiet=0.25)
    forged = [forge(discovery) for forge in FORGERIES.values()]

    def flood(times: int) -> int:
        for number in range(times):
            bus.links[0].replied(forged[number % len(forged)])
        gc.collect()
        return len(gc.get_objects())

    before = flood(1000)
    assert flood(2000) - before < 50
    assert bus.sender.status()["unverified_replies"] == 3000
    assert len(caplog.records) < 10
    assert took(bus, discovery) == pytest.approx(0.25, abs=0.01), "it is as long as without"


def test_what_comes_after_its_end_is_late(bus: VirtualBus) -> None:
    bus.node()
    discovery = begin(bus)
    bus.time.until(lambda: discovery.has_ended)
    bus.links[0].replied(answer_to(discovery))
    assert bus.sender.status()["late_replies"] == 1 and len(discovery.nodes) == 1


# -- its end -----------------------------------------------------------------------------------------------------------


def test_a_sender_that_is_closed_ends_it(bus: VirtualBus) -> None:
    slow(bus.node(), 9)
    discovery, engine = begin(bus), bus.engine
    bus.close()
    with pytest.raises(CallError, match="closed"):
        discovery.future.result()
    engine.discoveries.ask(late := Discovery(ask_for("*"), 1, 1), NOBODY)
    bus.time.settle()
    assert isinstance(late.future.exception(), CallError) and not len(engine.discoveries)


def test_a_caller_who_gives_up_leaves_nothing_behind(bus: VirtualBus) -> None:
    slow(bus.node(), 0.1)
    discovery = begin(bus)
    assert discovery.future.cancel() and len(bus.engine.discoveries) == 1
    bus.time.advance(1)
    assert not len(bus.engine.discoveries) and not bus.engine.discoveries._asked
    assert bus.sender.status()["late_replies"] == 2


def test_a_thread_that_waits_ends_what_the_loop_has_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    discovery = Discovery(ask_for("*"), 1.0, 0.1)
    assert not discovery.is_overdue() and not discovery.has_ended
    discovery.overdue_at -= 60
    with pytest.raises(LifecycleError):
        discovery.future.result()
    forked = Discovery(ask_for("*"), 60.0, 0.1)
    monkeypatch.setattr(forks, "notice", lambda: forks.count + 1)
    assert forked.is_overdue() and forked.has_ended


def test_it_says_what_it_is(bus: VirtualBus) -> None:
    bus.node()
    assert repr(begin(bus)) == "<Discovery of * nodes=1 over 2 brokers>"
    assert repr(bus.engine.discoveries) == "<Discoveries open=1>"


# -- values ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "question",
    [
        Question("N-*"),
        Question("*", "a.b"),
        Question("*", lists_services=True),
        Question("*", asks_about=True),
        Question("*", ids=(ID, "ffffffffffffffff-2")),
    ],
)
def test_a_question_comes_back_as_it_was_asked(question: Question) -> None:
    said = {**question.to_json(), "of a later version": 1}
    assert read_question(encode_json(said)) == question


MANY = encode_json({"nodes": "*", "ids": [ID] * (MOST_IDS + 1)})
NO_QUESTIONS = [b"null", b"[]", b"{}", b'{"nodes": 1}', b'{"nodes": "*", "service": []}', b"{", MANY]


@pytest.mark.parametrize("params", [*NO_QUESTIONS, b'{"nodes":"*","ids":["x"]}', b'{"nodes":"*","ids":"x"}'])
def test_what_asks_nothing_is_refused(params: bytes) -> None:
    with pytest.raises(EnvelopeError):
        read_question(params)


def test_an_answer_says_what_was_asked_alone() -> None:
    answer = Answer("N", True, (("call", "a.b"),))
    assert answer.to_json(Question("*")) == {"node": "N"}
    assert read_answer(answer.to_json(Question("*", "a.b", True))) == answer
    assert read_answer({"node": "N", "of a later version": 1}) == Answer("N")
    about = Answer("N", about={"time": 1.5})
    assert "about" not in about.to_json(Question("*"))
    assert read_answer(about.to_json(Question("*", asks_about=True))) == about
    assert read_answer({"node": "N", "about": [1]}) == Answer("N")
    known = Answer("N", known={ID: [{"state": "finished"}]}, problem="its disk is full")
    assert known.to_json(Question("*")) == {"node": "N"}
    assert read_answer(known.to_json(Question("*", ids=(ID,)))) == known


@pytest.mark.parametrize("known", [1, [1], {ID: {}}, {ID: [1]}, {ID: [{"state": 1}]}])
def test_what_is_said_of_ids_has_a_form(known: Any) -> None:
    with pytest.raises(EnvelopeError):
        read_answer({"node": "N", "known": known})
    with pytest.raises(EnvelopeError):
        read_answer({"node": "N", "known": {}, "problem": 1})


def test_a_survey_has_nodes_services_and_what_differs_between_them(bus: VirtualBus) -> None:
    bus.node(name="N-1")
    bus.node(bus.brokers[0], name="N-2")
    found = survey(bus.sender, 2, 0.25)
    assert found.nodes == (NodeInfo("N-1", (A, B)), NodeInfo("N-2", (A,)))
    assert [each.name for each in found.services if len(each.nodes) == 2]
    assert sorted(each.answer.node for each in found.heard) == ["N-1", "N-1", "N-2"]
    assert {(each.answer.node, each.broker) for each in found.heard} == {("N-1", A), ("N-1", B), ("N-2", A)}
    for each in found.heard:
        assert each.at >= found.asked_at and each.answer.about is not None and each.answer.about["keys"]


def test_each_node_says_what_it_knows_of_ids_also_when_it_is_stopping(bus: VirtualBus) -> None:
    first, second = bus.node(name="N-1"), bus.node(bus.brokers[0], name="N-2")
    first.known[ID] = IdRecord(IdState.RUNNING, 2, 1)
    second.dispatcher.is_stopping = True
    nodes, heard = survey_ids(bus.sender, [ID], [], 2, 0.25)
    assert [each.name for each in nodes] == ["N-1", "N-2"] and nodes.unreachable == {}
    assert {answer.node: answer.known for answer in heard} == {
        "N-1": {ID: [{"state": "running", "attempts": 2, "deaths": 1}]},
        "N-2": {},
    }
    assert [each.name for each in bus.sender.nodes()] == ["N-1"], "it takes no calls"


def test_a_node_that_is_named_is_waited_for_however_slow_it_is(bus: VirtualBus) -> None:
    bus.node(name="N-1")
    slow(bus.node(bus.brokers[0], name="N-2"), 1.5)
    began = bus.time.now
    assert [each.name for each in survey_ids(bus.sender, [ID], ["N-2"], 5, 0.25)[0]] == ["N-1", "N-2"]
    assert bus.time.now - began < 4, "and no longer than that"
    assert [each.name for each in survey_ids(bus.sender, [ID], [], 5, 0.25)[0]] == ["N-1"]


@pytest.mark.parametrize(
    "services", [1, [1], [["call", ""]], [["call", 1]], [["control", "a.b", 1]], ["ab"], [["x", "a"]]]
)
def test_services_that_are_none_are_refused(services: Any) -> None:
    with pytest.raises(EnvelopeError):
        read_answer({"node": "N", "services": services})


def test_what_was_found_survives_a_pickle() -> None:
    import pickle

    found = Discovered([NodeInfo("N", ("mq",))], {"mq-b": "down"})
    again = pickle.loads(pickle.dumps(found))
    assert again == found and again.unreachable == {"mq-b": "down"}
