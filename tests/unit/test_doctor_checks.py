"""Every kind of finding of ``servicebus doctor``, by made-up facts; and none where nothing is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from doctor_facts import DAY_S, EVENTS, NODE, NOW, SECRET, binding, healthy, policy

from servicebus.configuration import Configuration
from servicebus.errors import ConnectFailed
from servicebus.operations.doctor.checks import BROKER_CHECKS, FLEET_CHECKS, examine, unchecked
from servicebus.operations.doctor.facts import BrokerFacts, CertificateFacts, FleetFacts, NodeFacts, QueueLook
from servicebus.operations.doctor.finding import KINDS, DoctorFinding
from servicebus.operations.doctor.policy_checks import effective
from servicebus.operations.doctor.rights import needed_rights
from servicebus.operations.queue_types import LIMITED
from servicebus.wire.address import dead_queue, messages_queue, rpc_queue

TLS = {"hosts": [{"host": "127.0.0.1", "tls": {"ca": "ca.pem"}}]}
RPC, MESSAGES, DEAD = rpc_queue(NODE), messages_queue(NODE), dead_queue(NODE)
Plant = Callable[[FleetFacts, BrokerFacts], object]


class Case(NamedTuple):
    """What is planted, and what must be said of it."""

    code: str
    plant: Plant
    words: str = ""
    """In what, cause or fix."""
    settings: dict[str, Any] = {}  # noqa: RUF012 - never changed


def put(name: str, value: Any) -> Plant:
    return lambda fleet, broker: setattr(broker, name, value)


def managed(name: str, value: Any) -> Plant:
    return lambda fleet, broker: setattr(broker.managed, name, value)


def fails(kind: str, reason: str = "no entry") -> Plant:
    return put("failure", ConnectFailed("mq", reason, kind=kind))


def certificate(**facts: Any) -> Plant:
    return put("certificate", CertificateFacts(NOW - DAY_S, NOW + 90 * DAY_S, **facts))


def queue(name: str, look: QueueLook | None) -> Plant:
    return lambda fleet, broker: broker.queues.update({name: look})


def member(**facts: Any) -> Plant:
    def plant(fleet: FleetFacts, broker: BrokerFacts) -> None:
        assert broker.managed is not None and broker.managed.nodes is not None
        broker.managed.nodes = [{**broker.managed.nodes[0], **facts}]

    return plant


def node(**facts: Any) -> Plant:
    def plant(fleet: FleetFacts, broker: BrokerFacts) -> None:
        for name, value in facts.items():
            setattr(fleet.nodes[NODE], name, value)

    return plant


def other_node(**facts: Any) -> Plant:
    def plant(fleet: FleetFacts, broker: BrokerFacts) -> None:
        names = [each.name for each in fleet.brokers]
        fleet.nodes = {**fleet.nodes, "NODE-02": NodeFacts("NODE-02", names, **facts)}

    return plant


def managed_queue(name: str, **facts: Any) -> Plant:
    def plant(fleet: FleetFacts, broker: BrokerFacts) -> None:
        assert broker.managed is not None and broker.managed.queues is not None
        broker.managed.queues = {**broker.managed.queues, name: {**broker.managed.queues.get(name, {}), **facts}}

    return plant


def nobody(fleet: FleetFacts, broker: BrokerFacts) -> None:
    fleet.nodes = {}
    for each in fleet.brokers:
        each.queues[RPC] = None


def nothing(fleet: FleetFacts, broker: BrokerFacts) -> None:
    pass


def policies(*listed: dict[str, Any]) -> Plant:
    return managed("policies", list(listed))


ALL = r"^NODE"
CASES = [
    Case("weak-secret", nothing, "public", {"secret_token": "for trying out only"}),
    Case("weak-secret", nothing, "shorter", {"secret_token": "short"}),
    Case("default-credentials", nothing, "guest", {"hosts": ["mq-a"]}),
    Case("plain-connection", nothing, "unencrypted", {"hosts": [{"host": "mq-a", "user": "bus", "password": "x"}]}),
    Case("certificate-unverified", nothing, "verify", {"hosts": [{"host": "localhost", "tls": {"verify": False}}]}),
    Case("unreachable", fails("refused"), "nothing listens"),
    Case("unreachable", fails("silent"), "hangs"),
    Case("unreachable", fails("unreachable", "no route"), "firewall"),
    Case("member-unreachable", put("members_down", {"mq-2:5672": "refused"}), "mq-2:5672"),
    Case("not-amqp", fails("closed", "is it a TLS port?"), "TLS port"),
    Case("tls-refused", fails("tls", "wrong version number"), "wrong version"),
    Case("tls-files", certificate(file_problem="tls.ca cannot be used"), "tls.ca", TLS),
    Case("certificate-untrusted", certificate(problem_code=20, problem="unable to get issuer"), "ca.pem", TLS),
    Case("certificate-name", certificate(problem_code=62, problem="hostname mismatch"), "127.0.0.1", TLS),
    Case("certificate-expired", certificate(problem_code=10, problem="expired"), "valid from", TLS),
    Case("certificate-expired", put("certificate", CertificateFacts(NOW - 9, NOW - 1)), "renew", TLS),
    Case("certificate-expires", put("certificate", CertificateFacts(NOW - 9, NOW + 3 * DAY_S)), "3 days", TLS),
    Case("client-certificate", certificate(own_begins=NOW - 9, own_ends=NOW + DAY_S), "our certificate", TLS),
    Case("credentials", fails("credentials", "the broker refused the credentials"), "change_password"),
    Case("virtual-host", fails("credentials", "the broker refused virtual host '/'"), "add_vhost"),
    Case("connection-limit", fails("limits", "limit reached"), "set_vhost_limits"),
    Case("same-broker", put("same_as", "127.0.0.1:5702"), "both fail"),
    Case("version-untested", put("version", "3.8.9"), "3.8.9"),
    Case("version-advice", nothing, "quorum", {"hosts": [{"members": ["127.0.0.1:1", "127.0.0.1:2"], "name": "c"}]}),
    Case("few-channels", put("channel_max", 8), "channel_max"),
    Case("small-frames", put("frame_max", 4096), "frame_max"),
    Case("message-size", put("largest", 1_000_000), "max_message_size"),
    Case("consumer-timeout", put("consumer_timeout_s", 10.0), "10 s"),
    Case("alarm", member(mem_alarm=True), "memory"),
    Case("alarm", member(disk_free_alarm=True), "disk"),
    Case("alarm", put("blocked", "low on memory"), "low on memory"),
    Case("resources-low", member(fd_used=95), "file descriptors"),
    Case("resources-low", member(mem_used=900), "memory"),
    Case("resources-low", member(disk_free=15_000_000), "disk"),
    Case("member-down", member(running=False), "rabbit@a"),
    Case("partition", member(partitions=["rabbit@b"]), "rabbit@b"),
    Case("drained", put("is_drained", True), "--undo"),
    Case("limit-near", managed("limits", {"max-queues": 3}), "3 of at most 3"),
    Case("limit-near", put("takes_queues", False), "no more queues"),
    Case("limit-near", managed("limits", {"max-connections": 2}), "2 connections"),
    Case("default-queue-type", managed("virtual_host", {"default_queue_type": "quorum"}), "queue_type: quorum"),
    Case("permissions", managed("permissions", {"configure": "^x$", "write": ".*", "read": ".*"}), "configure"),
    Case("permissions", managed("permissions", {"configure": ".*", "write": "^NODE", "read": ".*"}), "amq.default"),
    Case("permissions", managed("permissions", {"configure": ".*", "write": ".*", "read": ""}), "none"),
    Case(
        "topic-permissions",
        managed("topic_permissions", [{"exchange": "servicebus.events", "write": "^orders", "read": ".*"}]),
        "clear_topic_permissions",
    ),
    Case("administrator", managed("tags", ["administrator"]), "administrator"),
    Case("exchange-missing", put("exchanges", {"servicebus": "missing"}), "no exchange servicebus"),
    Case("exchange-otherwise", put("exchanges", {"servicebus": "otherwise"}), "direct"),
    Case("exchange-otherwise", put("exchanges", {"servicebus.events": "otherwise"}), "topic"),
    Case("alternate-exchange", put("returns", False), "alternate exchange"),
    Case("alternate-exchange", policies(policy("lost", "^servicebus$", {"alternate-exchange": "x"})), "lost"),
    Case("queue-missing", queue(MESSAGES, None), MESSAGES),
    Case("queue-missing", queue(DEAD, None), DEAD),
    Case("queue-type", queue(MESSAGES, QueueLook(0, 1, "quorum", fits=False)), "migrate-queue"),
    Case("queue-otherwise", queue(DEAD, QueueLook(0, 0, "another", fits=False)), DEAD),
    Case("queue-otherwise", managed_queue(RPC, arguments={"x-expires": 60000, "x-max-length": 5}), "x-max-length"),
    Case("queue-otherwise", managed_queue(RPC, auto_delete=False), "auto_delete"),
    Case("delivery-limit", queue(MESSAGES, QueueLook(0, 1, LIMITED, fits=False)), "20 times", {"queue_type": "quorum"}),
    Case("binding-missing", managed("bindings", [binding(RPC), binding(f"{NODE}.control")]), MESSAGES),
    Case("binding-foreign", lambda fleet, broker: broker.managed.bindings.append(binding("tap", RPC)), "tap"),  # type: ignore[union-attr]
    Case("half-moved", queue(f"{MESSAGES}.moving", QueueLook(3, 0)), "run it again"),
    Case("no-consumer", queue(MESSAGES, QueueLook(3, 0, "classic")), "3 messages wait"),
    Case("calls-unheard", queue("NODE-02.rpc", QueueLook(0, 0)), "NODE-02.rpc"),
    Case("backlog", queue(MESSAGES, QueueLook(1000, 1, "classic")), "1000 messages"),
    Case("dead-letters", queue(DEAD, QueueLook(2, 0, "classic")), "servicebus dead list"),
    Case("subscription-unused", queue(EVENTS, QueueLook(0, 0)), "servicebus events drop audit.note"),
    Case("policy-message-ttl", policies(policy("ttl", ALL, {"message-ttl": 1000})), "clear_policy"),
    Case("policy-expires", policies(policy("gone", ".*", {"expires": 1000}, "queues")), "1000 ms"),
    Case("policy-max-length", policies(policy("short", ALL, {"max-length": 9})), "drops the oldest"),
    Case("policy-max-length", policies(policy("s", ALL, {"max-length": 9, "overflow": "reject-publish"})), "refuses"),
    Case("policy-dead-letter", policies(policy("dlx", ALL, {"dead-letter-exchange": "x"})), "'x'"),
    Case("policy-delivery-limit", policies(policy("limit", ALL, {"delivery-limit": 5})), "5 times"),
    Case("policy-federation", policies(policy("fed", "^servicebus$", {"federation-upstream-set": "all"})), "fed"),
    Case("policy-mirrors", policies(policy("ha", ".*", {"ha-mode": "all"})), "quorum"),
    Case("policy-consumer-timeout", policies(policy("t", ALL, {"consumer-timeout": 1000})), "1000 ms"),
    Case(
        "policy-max-length",
        managed("operator_policies", [policy("op", ALL, {"max-length": 9}, "queues")]),
        "clear_operator_policy",
    ),
    Case("node-silent", node(brokers=["127.0.0.1:5702"]), "none answers"),
    Case("node-missing", nobody, "start it"),
    Case(
        "node-not-there",
        lambda fleet, broker: (node(brokers=["127.0.0.1:5702"])(fleet, broker), queue(RPC, None)(fleet, broker)),
        "not over 127.0.0.1:5701",
    ),
    Case("secret-differs", node(brokers=[], refusal="signature"), "refuses our signature"),
    Case("keys-differ", node(keys=["0badc0de"]), "0badc0de"),
    Case("encryption-differs", node(encryption=["0badc0de"]), "0badc0de"),
    Case("clock-skew", node(skew_s=-45.0), "45 s behind"),
    Case("clock-skew", node(brokers=[], keys=None, stale="sent 90.000 s in the future"), "90.000 s in the future"),
    Case("versions-differ", other_node(version="2.9.9"), "2.9.9 on NODE-02"),
    Case("contracts-differ", other_node(contracts={"math.add": "f" * 24}), "contract diff NODE-01 NODE-02"),
    Case("brokers-differ", put("version", "3.13.7"), "3.13"),
    Case("queue-types-differ", queue(MESSAGES, QueueLook(0, 1, "quorum", fits=False)), "quorum on 127.0.0.1:5701"),
    Case("policies-differ", policies(policy("lazy", ALL, {"queue-mode": "lazy"})), "lazy"),
    Case("rights-differ", managed("permissions", {"configure": "^.*$", "write": ".*", "read": ".*"}), "127.0.0.1:5702"),
]


def test_nothing_is_wrong_with_a_healthy_bus() -> None:
    for settings in ({}, {"queue_type": "quorum"}, TLS):
        fleet = healthy(**settings)
        assert examine(fleet) == []
        assert unchecked(fleet) == []


@pytest.mark.parametrize("case", CASES, ids=[f"{case.code}-{number}" for number, case in enumerate(CASES)])
def test_what_is_planted_is_named_with_its_cause_and_fix(case: Case) -> None:
    fleet = healthy(**case.settings)
    case.plant(fleet, fleet.brokers[0])
    found = [each for each in examine(fleet) if each.code == case.code]
    assert found, [each.code for each in examine(fleet)]
    for each in found:
        assert each.what and each.cause and each.fix
        assert each.host or each.node or case.code in ("weak-secret", *BETWEEN), "it says where"
        assert SECRET not in str(each)
    assert any(case.words in " ".join((each.what, each.cause, each.fix)) for each in found), found


BETWEEN = ("versions-differ", "contracts-differ", "brokers-differ", "policies-differ", "rights-differ")


def test_every_kind_is_planted() -> None:
    assert {case.code for case in CASES} == set(KINDS)


def test_every_check_finds_something() -> None:
    seen: set[Any] = set()
    for case in CASES:
        fleet = healthy(**case.settings)
        case.plant(fleet, fleet.brokers[0])
        seen |= {check for check in BROKER_CHECKS for broker in fleet.brokers if [*check(fleet, broker)]}
        seen |= {check for check in FLEET_CHECKS if [*check(fleet)]}
    assert seen == {*BROKER_CHECKS, *FLEET_CHECKS}


def test_a_planted_fault_of_a_broker_is_named_there_and_nowhere_else() -> None:
    fleet = healthy()
    queue(DEAD, QueueLook(2, 0, "classic"))(fleet, fleet.brokers[1])
    assert [(each.code, each.host) for each in examine(fleet)] == [("dead-letters", "127.0.0.1:5702")]


def test_without_the_management_api_it_is_said_what_was_not_looked_at() -> None:
    fleet = healthy()
    fleet.brokers[0].managed, fleet.brokers[0].unmanaged = None, "no URL"
    fleet.brokers[1].consumer_timeout_s = None
    assert fleet.brokers[1].managed is not None
    fleet.brokers[1].managed.problems["policies"] = "HTTP 401"
    node(keys=None)(fleet, fleet.brokers[0])
    said = [f"{each.host} {each.what}: {each.why}" for each in unchecked(fleet)]
    for words in ("5701 permissions, policies", "5702 policies: HTTP 401", "consumer_timeout", "clock, keys"):
        assert any(words in each for each in said), (words, said)


def test_a_right_that_amqp_was_refused_is_named_without_the_management_api() -> None:
    fleet = healthy()
    fleet.brokers[0].managed = None
    fleet.brokers[0].refused.append("write to exchange servicebus")
    (found,) = examine(fleet)
    assert (found.code, "may not write to exchange servicebus" in found.what) == ("permissions", True)


def test_each_advice_for_a_version_says_what_to_do() -> None:
    cluster = {"hosts": [{"members": ["127.0.0.1:1", "127.0.0.1:2"], "name": "c"}]}
    for settings, version in (
        (cluster, "4.0.5"),
        (cluster, "3.12.0"),
        ({"queue_type": "quorum", "priorities": True}, "3.13.0"),
    ):
        fleet = healthy(**settings)
        fleet.brokers[0].version = version
        found = [each for each in examine(fleet) if each.code == "version-advice"]
        assert found and all(each.fix.startswith(("use RabbitMQ", "set queue_type: quorum")) for each in found), found


def test_a_drained_broker_is_one_finding() -> None:
    fleet = healthy()
    first = fleet.brokers[0]
    first.is_drained = True
    first.queues[RPC], first.queues[MESSAGES] = None, QueueLook(4, 0, "classic")
    node(brokers=["127.0.0.1:5702"])(fleet, first)
    assert [each.code for each in examine(fleet)] == ["drained"]


def test_of_policies_that_match_the_one_with_the_highest_priority_holds() -> None:
    low, high = policy("low", ".*", {}, priority=1), policy("high", "^NODE", {}, "queues", priority=2)
    assert effective([low, high], MESSAGES) == high
    assert effective([high, low], "servicebus", is_exchange=True) == low
    assert effective([high, policy("broken", "(", {})], "other") is None


def test_the_least_rights_are_enough_and_less_is_not() -> None:
    for nodes in ([], [NODE], [NODE, "NODE-02"]):
        needed = needed_rights("servicebus", nodes)
        assert needed.lacking(needed.patterns) == {}
    needed = needed_rights("servicebus", [NODE], has_events=True)
    assert needed.lacking(needed.patterns) == {}
    assert "servicebus" in needed.lacking({**needed.patterns, "read": r"^NODE-01\."})["read"]


def test_a_file_without_a_node_is_that_of_a_sender() -> None:
    given = {"hosts": ["127.0.0.1:5701"], "secret_token": SECRET}
    fleet = healthy(hosts=["127.0.0.1:5701"])
    fleet.config, fleet.own_nodes = Configuration(given), []
    managed("permissions", {"configure": "", "write": "^servicebus$", "read": ""})(fleet, fleet.brokers[0])
    assert examine(fleet) == []


def test_a_finding_is_plain_values_for_machines() -> None:
    fleet = healthy()
    queue(MESSAGES, None)(fleet, fleet.brokers[0])
    (found,) = (each for each in examine(fleet) if each.code == "queue-missing")
    said = found.to_json()
    assert said["severity"] == "error" and said["fixable"] and said["node"] == NODE
    assert isinstance(found, DoctorFinding) and found.repair is not None
    assert found.repair.describe() == f"declare queue {MESSAGES}"
