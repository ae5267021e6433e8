"""What ``servicebus doctor`` asks brokers by AMQP, on brokers in memory; and the forecast."""

from __future__ import annotations

from typing import Any

import pytest
from doctor_facts import NODE, SECRET

from servicebus.configuration import Configuration
from servicebus.operations.doctor.checks import examine
from servicebus.operations.doctor.facts import FleetFacts
from servicebus.operations.doctor.forecast import without
from servicebus.operations.doctor.gather import administrations, looked_at
from servicebus.operations.doctor.repairs import mend
from servicebus.operations.session import open_session
from servicebus.transport.memory import MemoryNetwork
from servicebus.transport.steps import bind_queue, declare_exchange
from servicebus.transport.stored import stored_queues

A, B = "127.0.0.1:5701", "127.0.0.1:5702"


def fleet_of(**settings: Any) -> FleetFacts:
    given = {"hosts": [A, B], "node_name": NODE, "secret_token": SECRET, "max_envelope_bytes": 10_000, **settings}
    return FleetFacts(Configuration(given), (), [NODE])


def declare(network: MemoryNetwork, fleet: FleetFacts, address: str, kind: Any = "direct") -> None:
    """The exchange of the bus, and the queues of the node."""
    host = next(each for each in fleet.config.hosts if each.address == address)
    with open_session(host, fleet.config, connect=network.connect) as session, session.channel() as channel:
        channel.run(declare_exchange("servicebus", kind=kind), "the exchange")
        for name in stored_queues(NODE):
            channel.declare(name, durable=True)
        if kind == "direct":
            channel.run(bind_queue(f"{NODE}.messages", "servicebus", f"{NODE}.messages"), "a binding")


def found(fleet: FleetFacts, network: MemoryNetwork) -> set[tuple[str, str]]:
    """Codes and hosts, but for those about nodes, which nobody has asked here."""
    with looked_at(fleet, connect=network.connect):
        findings = examine(fleet)
    return {(each.code, each.host) for each in findings if not each.code.startswith("node-")}


def test_a_healthy_broker_gives_no_finding_and_keeps_nothing_of_it() -> None:
    network, fleet = MemoryNetwork(A, B), fleet_of()
    for address in (A, B):
        declare(network, fleet, address)
    before = {address: sorted(network[address].queues) for address in (A, B)}
    assert found(fleet, network) == set()
    assert all(facts.returns and facts.version and facts.frame_max and facts.channel_max for facts in fleet.brokers)
    assert {address: sorted(network[address].queues) for address in (A, B)} == before
    assert not network[A].sessions and not network[B].sessions


def test_what_amqp_alone_shows_is_found() -> None:
    network, fleet = MemoryNetwork(A, B, max_message_size=5000), fleet_of(queue_type="quorum")
    declare(network, fleet, A)
    declare(network, fleet, B, "topic")
    codes = found(fleet, network)
    assert {("queue-type", A), ("message-size", A), ("exchange-otherwise", B)} <= codes
    assert ("exchange-otherwise", A) not in codes


def test_what_is_missing_is_mended() -> None:
    network, fleet = MemoryNetwork(A, B), fleet_of()
    declare(network, fleet, A)
    for name in (f"{NODE}.dead", f"{NODE}.messages"):
        network[A].forget_queue(name)
    with looked_at(fleet, connect=network.connect) as sessions:
        missing = [each for each in examine(fleet) if each.repair is not None]
        assert {(each.code, each.host) for each in missing} == {("queue-missing", A), ("exchange-missing", B)}
        for each in missing:
            mend(sessions[each.host], fleet, each)
    assert found(fleet, network) == set()


def test_two_names_of_one_broker_are_found_out() -> None:
    fleet = fleet_of(hosts=["127.0.0.1:5701", "127.0.0.2:5701"])
    network = MemoryNetwork(A)
    network.brokers["127.0.0.2:5701"] = network[A]
    declare(network, fleet, A)
    assert found(fleet, network) == {("same-broker", "127.0.0.2:5701")}


def test_a_broker_with_an_alarm_is_not_waited_for() -> None:
    network, fleet = MemoryNetwork(A, B), fleet_of()
    for address in (A, B):
        declare(network, fleet, address)
    network[B].block("low on disk")
    assert found(fleet, network) == {("alarm", B)}
    assert fleet.brokers[1].blocked == "low on disk"


def test_a_broker_that_is_not_there_is_one_finding() -> None:
    network, fleet = MemoryNetwork(A, B), fleet_of()
    declare(network, fleet, A)
    network[B].refuse()
    assert found(fleet, network) == {("unreachable", B)}


def test_a_url_on_the_command_line_comes_before_that_of_the_file() -> None:
    from servicebus.configuration import Secret

    fleet = fleet_of(hosts=[{"host": "127.0.0.1", "port": 5701, "management": "http://of-file"}, B])
    apis = administrations(fleet.config, {}, {}, 30.0).apis
    assert list(apis) == [A]
    assert apis[A].timeout_s == 30.0
    given = {A: Secret("http://admin:x@of-line"), B: Secret("http://mq")}
    found = administrations(fleet.config, given, {B: "sudo rabbitmqctl"})
    assert [each.user for each in found.apis.values()] == ["admin", "guest"]
    assert list(found.ctls) == [B]


@pytest.mark.parametrize(("lost", "nodes", "services"), [("a", ["N-2"], ["only.two"]), ("b", [], []), ("c", [], [])])
def test_without_a_broker_those_are_lost_that_answer_over_it_alone(
    lost: str, nodes: list[str], services: list[str]
) -> None:
    reach = {"N-1": ("a", "b"), "N-2": ("a",)}
    having = [("both.have", "call", ("N-1", "N-2")), ("only.two", "message", ("N-2",))]
    drawn = without(lost, reach, having)
    assert drawn.lost_nodes == nodes and [each.name for each in drawn.lost_services] == services
    if lost == "a":
        assert (drawn.services[0].left, drawn.services[0].lost) == (["N-1"], ["N-2"])
    assert drawn.to_json()["if_lost"] == lost
