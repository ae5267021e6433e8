"""Link: one broker as the Sender sees it: connecting, losing, refusals, and the broker's own heartbeat."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from virtual_bus import NODE, configuration
from virtual_time import VirtualTime, virtual_time

from servicebus.client.hosts import is_spare
from servicebus.client.link import Link
from servicebus.client.request import MessageOptions, PendingRequest
from servicebus.errors import ConnectFailed
from servicebus.policy.denials import HOLDS_S
from servicebus.protocol.v2 import ProtocolV2
from servicebus.transport.interface import Delivery, Returned
from servicebus.transport.memory import MemoryBroker
from servicebus.transport.memory_queues import Refusal
from servicebus.wire.address import Address
from servicebus.wire.envelope import Kind
from servicebus.wire.signing import Keyring


class Owner:
    """A link on a broker in memory, and what it tells."""

    def __init__(self, time: VirtualTime, host: Any = "mq-a", **settings: Any):
        self.time = time
        self.broker = MemoryBroker()
        self.told: list[str] = []
        self.orphans: list[PendingRequest] = []
        self.confirms: list[tuple[str, bool]] = []
        self.returned: list[Returned] = []
        self.replies: list[Delivery] = []
        self.hosts: list[str] = []
        config = configuration(host, **settings)
        self.loop = time.loop()

        def connect(loop: Any, member: Any, *about: Any, **how: Any) -> Any:
            self.hosts.append(member.host)
            self.timeouts = how["connect_timeout_s"], how["handshake_timeout_s"]
            return self.broker.connect(loop, member, *about, **how)

        versions = [ProtocolV2(config, Keyring(config.secrets))]
        as_interface: Any = connect
        self.link = Link(self.loop, config.hosts[0], config, versions, self, self, as_interface)
        self._count = 0

    def link_up(self, link: Link) -> None:
        self.told.append("up")

    def link_idle(self, link: Link) -> None:
        self.told.append("idle")

    def link_down(self, link: Link, reason: str, orphans: list[PendingRequest]) -> None:
        self.told.append(f"down: {reason}")
        self.orphans += orphans

    def link_blocked(self, link: Link, reason: str | None) -> None:
        self.told.append(f"blocked: {reason}")

    def link_failed_for(self, request: PendingRequest, error: Exception, handle: Callable[..., object]) -> None:
        self.told.append(f"failed: {error}")

    def replied(self, link: Link, delivery: Delivery) -> None:
        self.replies.append(delivery)

    def unroutable(self, link: Link, returned: Returned) -> None:
        self.returned.append(returned)

    def confirmed(self, link: Link, request: PendingRequest, is_ack: bool) -> None:
        self.confirms.append((request.id, is_ack))
        if request.id == "odd":
            raise OverflowError("of the test")

    def up(self) -> Link:
        self.link.connect(self.time.now)
        self.time.until(lambda: self.link.is_up)
        return self.link

    def request(
        self, kind: Kind = Kind.MESSAGE, *, id: str = "", size: int = 10, options: MessageOptions | None = None
    ) -> PendingRequest:
        self._count += 1
        id = id or f"m{self._count}"
        return PendingRequest(1, id, Address(NODE, "t", "x"), kind, b"x" * size, timeout_s=9.0, options=options)

    def publish(self, *about: Any, **how: Any) -> PendingRequest:
        request = self.request(*about, **how)
        self.link.publish(request, self.time.now)
        return request


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualTime]:
    with virtual_time(monkeypatch) as time:
        yield time


@pytest.fixture
def owner(time: VirtualTime) -> Owner:
    return Owner(time)


# -- connecting and losing -----------------------------------------------------------------------------------------


def test_it_is_up_when_both_channels_are_open_and_the_exchange_returns_what_no_queue_takes(owner: Owner) -> None:
    assert owner.link.describe() == "not tried yet" and owner.link.can_start
    owner.link.connect(owner.time.now)
    assert owner.link.describe() == "no answer to the first attempt yet"
    assert not (owner.link.can_start or owner.link.is_usable or owner.link.connections.is_gone)
    link = owner.up()
    assert owner.told == ["up"]
    assert link.is_usable and link.connections.connecting_since is None and link.failure is None
    assert list(owner.broker.exchanges) == ["servicebus"]
    assert owner.returned == [], "the probe is nobody's"
    assert link.describe() == "connected"


def test_an_exchange_that_returns_nothing_is_no_way(owner: Owner) -> None:
    owner.broker.declare_exchange("servicebus", durable=True, passive=False)
    owner.broker.alternates["servicebus"] = "swallow"
    nobody: Any = None
    with owner.broker.working_for(owner.loop):
        owner.broker.declare_queue(
            "swallow", nobody, durable=True, exclusive=False, auto_delete=False, passive=False, arguments={}
        )
    owner.link.connect(owner.time.now)
    owner.time.settle()
    assert owner.told[0].startswith("down: exchange servicebus does not return what no queue takes")
    assert owner.link.failure is not None and owner.link.failure.kind == "topology"


def test_where_nothing_may_be_declared_the_exchange_must_be_there(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbid(name: str, **_: Any) -> None:
        raise Refusal(403, f"ACCESS_REFUSED - configure access to exchange '{name}' refused")

    owner.broker.declare_exchange("servicebus", durable=True, passive=False)
    monkeypatch.setattr(owner.broker, "declare_exchange", forbid)
    link = owner.up()
    assert link.is_usable
    owner.broker.drop()
    owner.time.until(lambda: owner.told[-1] == "idle")
    del owner.broker.exchanges["servicebus"]
    link.connect(owner.time.now)
    owner.time.settle()
    assert "there is no exchange servicebus, and this user may not declare it" in owner.told[-1]


def test_a_failed_attempt_is_told_and_followed_by_a_pause(owner: Owner) -> None:
    owner.broker.refuse("refused", "connection refused")
    owner.link.connect(owner.time.now)
    owner.time.settle()
    assert owner.told == ["down: connection refused"]
    assert owner.link.connections.is_pausing and owner.link.connections.is_gone
    assert isinstance(owner.link.failure, ConnectFailed)
    assert not owner.link.connections.can_hurry(owner.time.now + 0.19)
    assert owner.link.connections.can_hurry(owner.time.now + 0.2), (
        "an attempt that cost nobody anything may be repeated"
    )
    owner.time.advance(0.2)
    assert owner.told[-1] == "idle" and owner.link.can_start


def test_pauses_grow_and_are_short_for_hosts_that_only_refuse(owner: Owner) -> None:
    def pauses(kind: str) -> float:
        longest = 0.0
        for _ in range(40):
            owner.broker.refuse(kind, "no")
            owner.link.connect(owner.time.now)
            owner.time.settle()
            began, owner.told = owner.time.now, []
            owner.time.until(lambda: owner.told)
            longest = max(longest, owner.time.now - began)
        return longest

    assert 0.5 < pauses("refused") <= 1.0
    assert 7.0 < pauses("credentials") <= 15.0
    assert not owner.link.connections.is_pausing or owner.link.connections.can_hurry(owner.time.now) is False


def test_a_success_begins_the_pauses_anew(owner: Owner) -> None:
    owner.broker.refuse("credentials", "no")
    for _ in range(10):
        owner.link.connect(owner.time.now)
        owner.time.until(lambda: owner.link.can_start)
    owner.broker.accept()
    owner.up()
    owner.broker.drop()
    owner.time.settle()
    began = owner.time.now
    owner.time.until(lambda: owner.link.can_start)
    assert owner.time.now - began <= 0.2


def test_what_was_on_its_way_comes_back_with_the_connection(owner: Owner) -> None:
    link = owner.up()
    owner.broker.holds_confirms = True
    sent, call = owner.publish(), owner.publish(Kind.CALL)
    owner.broker.drop("reset")
    owner.time.settle()
    assert owner.told == ["up", "down: reset"]
    assert owner.orphans == [sent, call]
    assert link.last_error == "reset" and link.connections.is_gone
    assert link.paths[NODE].outstanding == {} and link.unconfirmed == 0
    assert link.path(NODE, owner.time.now) is link.paths[NODE], "what is known of the node is kept"


def test_a_connection_that_rests_is_opened_again_when_it_is_wanted(owner: Owner) -> None:
    link = owner.up()
    link.is_wanted = True
    link.rest()
    assert (link.state.value, link.is_wanted, link.is_usable) == ("idle", False, False)
    owner.time.settle()
    assert owner.told == ["up"], "nobody hears of it"
    assert owner.broker.sessions == []
    owner.up()
    assert owner.told == ["up", "up"]


def test_what_an_older_connection_says_concerns_nobody(owner: Owner) -> None:
    link = owner.up()
    former: Any = link.connections.connection
    link.rest()
    link.connect(owner.time.now)
    link.connections.connection_blocked(former, "low on memory")
    link.connections.connection_lost(former, "lost")  # type: ignore[arg-type]
    link.connections.connection_failed(former, "failed")  # type: ignore[arg-type]
    assert owner.told == ["up"] and not link.connections.is_gone
    late = owner.broker.connect(
        owner.loop, link.host, link.connections,
        label="late", heartbeat_s=5, connect_timeout_s=1.0, handshake_timeout_s=1.0, most_bytes=1,
    )  # fmt: skip
    owner.time.settle()
    assert not late.is_open, "it came too late"
    assert owner.told == ["up", "up"] and link.is_usable


def test_a_second_attempt_beside_the_first_is_none(owner: Owner) -> None:
    owner.link.connect(owner.time.now)
    owner.link.connect(owner.time.now)
    owner.time.settle()
    owner.link.connect(owner.time.now)
    assert owner.broker.connects == 1


def test_the_end_says_goodbye_and_nothing_comes_after_it(owner: Owner) -> None:
    link = owner.up()
    link.close()
    owner.time.advance(60)
    assert owner.told == ["up"] and link.connections.is_gone
    assert link.state.value == "closed"
    link.connect(owner.time.now)
    assert owner.broker.connects == 1


def test_the_end_cuts_an_attempt_short(owner: Owner) -> None:
    owner.broker.freeze()
    owner.link.connect(owner.time.now)
    owner.link.close()
    owner.time.settle()
    assert owner.link.connections.is_gone and owner.told == []


def test_members_of_a_cluster_are_tried_one_after_the_other_and_named(time: VirtualTime) -> None:
    owner = Owner(time, {"name": "mq", "members": ["mq-1", "mq-2", "mq-3"]})
    owner.broker.refuse()
    for _ in range(3):
        owner.link.connect(time.now)
        time.until(lambda: owner.link.can_start)
    assert owner.hosts == ["mq-1", "mq-2", "mq-3"]
    assert [told for told in owner.told if told != "idle"] == [
        f"down: member mq-{number}:5672: connection refused" for number in (1, 2, 3)
    ]


def test_tcp_alone_is_not_waited_for_longer_than_a_repeated_syn_needs(time: VirtualTime) -> None:
    owner = Owner(time, socket_timeout=7.0)
    owner.link.connect(time.now)
    assert owner.timeouts == (2.0, 7.0)


# -- what the broker refuses ---------------------------------------------------------------------------------------


def test_a_message_that_is_too_large_teaches_the_limit(owner: Owner) -> None:
    link = owner.up()
    owner.broker.max_message_size = 100_000
    small, large = owner.request(size=100_000), owner.request(size=100_001)
    assert not link.refuses(large, owner.time.now)
    sent = owner.publish(size=100_001)
    owner.time.settle()
    assert owner.orphans == [sent]
    assert link.refuses(large, owner.time.now) and not link.refuses(small, owner.time.now)


def test_a_broker_that_forbids_to_publish_gets_no_message_for_a_while(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = owner.up()

    def forbid(_exchange: str, _key: str) -> Any:
        raise Refusal(403, "ACCESS_REFUSED - write access to exchange 'servicebus' refused")

    monkeypatch.setattr(owner.broker, "route", forbid)
    first, second = owner.publish(), owner.publish()
    owner.time.settle()
    assert owner.orphans == [first, second]
    assert (first.maybe_ran, second.maybe_ran) == (True, True), "of several, some may have been stored"
    assert "ACCESS_REFUSED" in link.denies(first, owner.time.now)
    assert link.denies(owner.request(Kind.CALL), owner.time.now) == ""
    delayed = owner.request(options=MessageOptions(due_ms=1))
    assert link.denies(delayed, owner.time.now) == "", "they go past the exchange"
    assert link.denies(first, owner.time.now + HOLDS_S - 1)
    assert not link.denies(first, owner.time.now + HOLDS_S)


def test_of_one_message_that_was_forbidden_it_is_known_that_it_was_not_stored(owner: Owner) -> None:
    owner.up()
    owner.broker.exchanges.clear()
    sent = owner.publish()
    owner.time.settle()
    assert owner.orphans == [sent] and not sent.maybe_ran
    assert "NOT_FOUND" in str(sent.attempts)


# -- publishing ----------------------------------------------------------------------------------------------------


def test_what_is_published_is_noted_where_it_travels(owner: Owner) -> None:
    link = owner.up()
    owner.time.advance(5)
    call = owner.publish(Kind.CALL)
    path = link.paths[NODE]
    assert (call.link, call.path, call.protocol, call.attempt, call.sent_as) == (link, path, path.protocol, 1, 1)
    assert call.published_at == path.used_at == link.used_at == owner.time.now
    assert list(path.outstanding) == [call.id]
    assert (path.calls, link.calls) == (1, 1)
    assert call.maybe_ran
    owner.time.settle()
    (returned,) = owner.returned
    assert (returned.correlation_id, returned.routing_key) == (call.id, f"{NODE}.rpc")
    control = owner.publish(Kind.CONTROL)
    assert link.calls == 1, "a ping is no call"
    assert list(path.outstanding) == [call.id, control.id]


def test_a_message_is_confirmed(owner: Owner) -> None:
    link = owner.up()
    sent = owner.publish()
    assert link.unconfirmed == 1
    assert sent.path is None and link.paths[NODE].outstanding == {}
    owner.time.settle()
    assert owner.confirms == [(sent.id, True)]
    assert [returned.message_id for returned in owner.returned] == [sent.id], "and before it returned: no queue"
    assert link.unconfirmed == 0


def test_what_raises_for_one_confirm_costs_that_one(owner: Owner) -> None:
    owner.up()
    for id in ("a", "odd", "b"):
        owner.publish(id=id)
    owner.time.settle()
    assert [id for id, _ in owner.confirms] == ["a", "odd", "b"]
    assert owner.told == ["up", "failed: of the test"]


def test_a_blocked_broker_is_of_no_use(owner: Owner) -> None:
    link = owner.up()
    owner.broker.block("low on memory")
    owner.publish()
    owner.time.settle()
    assert owner.told[-1] == "blocked: low on memory"
    assert (link.connections.blocked, link.is_usable, link.is_up) == ("low on memory", False, True)
    assert link.describe() == "blocked by the broker (low on memory)"
    owner.broker.unblock()
    owner.time.settle()
    assert owner.told[-1] == "blocked: None"
    assert link.is_usable and owner.confirms


# -- the broker's own heartbeat ----------------------------------------------------------------------------------------


def test_a_broker_that_owes_a_confirm_is_asked_and_then_given_up(time: VirtualTime) -> None:
    owner = Owner(time, path_ping_after=1.0, path_ping_timeout=2.0)
    link = owner.up()
    dead: list[Link] = []
    link.check_heartbeat(time.now, dead.append)
    owner.broker.freeze()
    owner.publish()

    def look(seconds: float) -> bool:
        time.advance(seconds)
        link.look()
        link.check_heartbeat(time.now, dead.append)
        return bool(dead)

    assert [look(each) for each in (0.9, 0.2, 1.9)] == [False, False, False]
    assert look(0.1) and dead == [link]


def test_any_byte_of_the_brokers_shows_that_it_is_alive(time: VirtualTime) -> None:
    owner = Owner(time, path_ping_after=1.0, path_ping_timeout=2.0)
    link = owner.up()
    dead: list[Link] = []
    owner.broker.holds_confirms = True
    owner.publish()
    for _ in range(20):
        time.advance(0.5)
        link.look()
        link.check_heartbeat(time.now, dead.append)
    assert dead == [], "it is asked, and answers"


def test_it_is_spare_when_nothing_was_published_for_a_while(owner: Owner) -> None:
    link = owner.up()
    assert not is_spare(link, owner.time.now + 60)
    assert is_spare(link, owner.time.now + 61)
    owner.time.advance(30)
    owner.broker.holds_confirms = True
    owner.publish()
    assert not is_spare(link, owner.time.now + 1000), "a confirm is waited for"
    owner.broker.release_confirms()
    owner.time.settle()
    assert not is_spare(link, owner.time.now + 60)
    assert is_spare(link, owner.time.now + 61)
    owner.publish(Kind.CALL)
    assert not is_spare(link, owner.time.now + 1000), "an answer is waited for"
