"""HostSelector: the link over which a request should travel now. Pure: links are what the test says of them."""

from __future__ import annotations

from typing import Any

import pytest
from test_answers import FakeLink
from virtual_bus import NODE

from servicebus.client.hosts import HostSelector
from servicebus.client.request import PendingRequest
from servicebus.wire.address import Address
from servicebus.wire.envelope import Kind

NOW = 1000.0
FAILBACK_S = 30.0


class Hosts:
    def __init__(self, count: int = 3):
        self.links: list[Any] = [FakeLink(f"mq-{letter}") for letter in "abc"[:count]]
        self.selector = HostSelector(self.links, FAILBACK_S)
        for link in self.links:
            link.path(NODE, NOW)

    def choose(self, kind: Kind = Kind.CALL, now: float = NOW, **how: Any) -> str | None:
        link = self.selector.choose(request(kind, **how), now)
        return None if link is None else str(link.host.name)

    def path(self, number: int) -> Any:
        return self.links[number].path(NODE, NOW)


def request(kind: Kind = Kind.CALL, *, size: int = 10, **how: Any) -> PendingRequest:
    return PendingRequest(1, "x-1", Address(NODE, "t", "x"), kind, b"x" * size, timeout_s=9.0, **how)


@pytest.fixture
def hosts() -> Hosts:
    return Hosts()


def test_the_first_that_is_usable_is_taken(hosts: Hosts) -> None:
    assert hosts.choose() == "mq-a"
    hosts.links[0].is_usable = False
    assert hosts.choose() == "mq-b"
    hosts.links[1].is_usable = hosts.links[2].is_usable = False
    assert hosts.choose() is None


def test_the_order_may_be_reversed_for_one_request(hosts: Hosts) -> None:
    assert hosts.choose(reverse=True) == "mq-c"
    hosts.path(2).health.fail("dead")
    assert hosts.choose(reverse=True) == "mq-b"


def test_a_request_for_one_link_takes_no_other(hosts: Hosts) -> None:
    pinned = hosts.links[1]
    assert hosts.choose(pinned=pinned) == "mq-b"
    pinned.is_usable = False
    assert hosts.choose(pinned=pinned) is None


@pytest.mark.parametrize("what", ["host", "path"])
def test_what_has_failed_is_used_when_it_has_earned_it_or_there_is_nothing_better(hosts: Hosts, what: str) -> None:
    health = hosts.links[0].health if what == "host" else hosts.path(0).health
    health.fail("lost")
    assert hosts.choose() == "mq-b"
    health.recover(NOW)
    assert hosts.choose(now=NOW + FAILBACK_S - 1) == "mq-b"
    hosts.links[1].is_usable = hosts.links[2].is_usable = False
    assert hosts.choose(now=NOW + 1) == "mq-a", "nothing better"
    hosts.links[1].is_usable = True
    assert hosts.choose(now=NOW + FAILBACK_S) == "mq-a"
    assert not health.failed, "and is as good as new"


def test_a_dead_path_takes_no_call_and_a_message_if_there_is_no_other(hosts: Hosts) -> None:
    for number in range(3):
        hosts.path(number).health.fail("no agent")
    assert hosts.choose(Kind.CALL) is None
    assert hosts.choose(Kind.MESSAGE) == "mq-a", "it is safe in the node's queue"
    single = Hosts(1)
    assert single.choose() == "mq-a"
    single.path(0).health.fail("no agent")
    assert single.choose() is None


def test_a_message_passes_over_a_broker_that_lacks_its_queue(hosts: Hosts) -> None:
    hosts.path(0).lacks_queue_until = NOW + 1
    assert hosts.choose(Kind.MESSAGE) == "mq-b"
    assert hosts.choose(Kind.CALL) == "mq-a"
    assert hosts.choose(Kind.MESSAGE, now=NOW + 1) == "mq-a"


def test_a_message_passes_over_a_broker_that_denies_it(hosts: Hosts) -> None:
    hosts.links[0].denials.learn("refuses messages", NOW, is_delayed=False)
    assert hosts.choose(Kind.MESSAGE) == "mq-b"
    assert hosts.choose(Kind.MESSAGE, now=NOW + 31) == "mq-a"


@pytest.mark.parametrize("kind", [Kind.CALL, Kind.MESSAGE])
def test_what_a_broker_takes_for_too_large_goes_to_another(hosts: Hosts, kind: Kind) -> None:
    hosts.links[0].size_limit.learn(100_000, NOW)
    assert hosts.choose(kind, size=100_001) == "mq-b"
    assert hosts.choose(kind, size=100_000) == "mq-a"
    hosts.links[1].size_limit.learn(1000, NOW)
    hosts.links[2].size_limit.learn(1000, NOW)
    assert hosts.choose(kind, size=100_001) is None


def test_whether_a_message_could_go_now() -> None:
    hosts = Hosts(2)
    assert hosts.selector.has_way_for_messages(NODE, NOW)
    hosts.path(0).lacks_queue_until = NOW + 1
    assert hosts.selector.has_way_for_messages(NODE, NOW)
    hosts.links[1].is_usable = False
    assert not hosts.selector.has_way_for_messages(NODE, NOW)
    hosts.links[1].is_usable = True
    hosts.links[1].denials.learn("refuses", NOW, is_delayed=False)
    assert hosts.selector.has_way_for_messages(NODE, NOW), "delayed ones may pass"
    hosts.links[1].denials.learn("refuses", NOW, is_delayed=True)
    assert not hosts.selector.has_way_for_messages(NODE, NOW)


def test_a_second_copy_goes_over_another_link_that_speaks_the_same(hosts: Hosts) -> None:
    call = request()
    version: Any = "version"
    call.protocol = version
    for number in range(3):
        hosts.path(number).protocol = version

    def beside(number: int) -> str | None:
        link = hosts.selector.choose_beside(call, hosts.links[number], NOW)
        return None if link is None else str(link.host.name)

    assert beside(0) == "mq-b"
    hosts.path(1).health.fail("dead")
    assert beside(0) == "mq-c"
    assert beside(2) == "mq-a"
    hosts.path(2).protocol = "older"
    assert beside(0) is None
    hosts.path(1).health.recover(NOW)
    hosts.links[1].is_usable = False
    assert beside(0) is None
