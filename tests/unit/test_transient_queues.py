"""TransientQueues: which name is taken when queues are out of reach."""

from __future__ import annotations

import pytest

from servicebus.configuration import Configuration
from servicebus.runtime.transient_queues import TransientQueues

CONFIG = Configuration({"hosts": ["mq-a"], "secret_token": "a secret of the test"})


class Refused(Exception):
    """The broker closed the channel, at the step about this queue."""


class Broker:
    """Answers a script step by step; *unavailable* can be neither declared nor deleted, *crashed* can be deleted."""

    def __init__(self, unavailable: set[str] | None = None, crashed: set[str] | None = None):
        self.unavailable = unavailable or set()
        self.crashed = crashed or set()
        self.waiting: dict[str, int] = {}
        self.consumers: dict[str, int] = {}
        self.deleted: list[str] = []
        self._answer: tuple[str, int, int] = ("", 0, 0)

    def declare_queue(self, name: str, _on_done: object, **_: object) -> None:
        if name in self.unavailable | self.crashed:
            raise Refused(name)
        self._answer = (name, self.waiting.setdefault(name, 0), self.consumers.get(name, 0))

    def delete_queue(self, name: str, _on_done: object, **_: object) -> None:
        if name in self.unavailable:
            raise Refused(name)
        self.deleted.append(name)
        self.crashed.discard(name)
        self.waiting.pop(name, None)

    def bind_queue(self, *_: object) -> None: ...

    def take(self, transient: TransientQueues) -> str:
        """The queue that is taken, trying again for as long as that is said to be worth it."""
        for _ in range(10):
            script = transient.take("N.rpc")
            try:
                step = next(script)
                while True:
                    step(self, lambda _answer: None)  # type: ignore[arg-type]
                    step = script.send(self._answer)
            except StopIteration as ended:
                return str(ended.value)
            except Refused as refused:
                if not transient.is_spared(str(refused)):
                    return ""
        raise AssertionError("it goes on for ever")


def test_a_queue_that_has_crashed_is_deleted_and_made_again() -> None:
    broker = Broker(crashed={"N.rpc"})
    assert broker.take(TransientQueues(CONFIG)) == "N.rpc"
    assert broker.deleted == ["N.rpc"]


def test_one_that_cannot_be_deleted_either_is_left_for_later() -> None:
    broker, transient = Broker(unavailable={"N.rpc"}), TransientQueues(CONFIG)
    assert broker.take(transient) == ""
    transient.try_all_again()
    broker.unavailable.clear()
    assert broker.take(transient) == "N.rpc"
    assert broker.deleted == []


@pytest.mark.parametrize("kind", ["unavailable", "crashed"])
def test_on_a_cluster_the_spare_name_is_taken(kind: str) -> None:
    broker = Broker(**{kind: {"N.rpc"}})
    assert broker.take(TransientQueues(CONFIG, 3)) == "N.rpc~2"
    assert broker.deleted == []


def test_when_all_names_are_out_of_reach_they_are_deleted_once() -> None:
    broker = Broker(crashed={"N.rpc", "N.rpc~2"})
    assert broker.take(TransientQueues(CONFIG, 3)) == "N.rpc"
    assert set(broker.deleted) == {"N.rpc", "N.rpc~2"}


def test_calls_in_a_queue_that_came_back_with_its_member_are_not_run() -> None:
    """They are copies of what the other queue had, which may have been answered as not run."""
    broker, transient = Broker(), TransientQueues(CONFIG, 3)
    broker.waiting = {"N.rpc": 3, "N.rpc~2": 1}
    assert broker.take(transient) == "N.rpc"
    assert broker.waiting == {"N.rpc": 0}
    assert transient.made_at("N.rpc") is not None, "their Senders learn that it is new"


def test_what_waits_in_a_queue_that_is_consumed_stays() -> None:
    broker, transient = Broker(), TransientQueues(CONFIG, 3)
    broker.waiting, broker.consumers = {"N.rpc": 3, "N.rpc~2": 1}, {"N.rpc~2": 2}
    assert broker.take(transient) == "N.rpc~2"
    assert broker.waiting == {"N.rpc~2": 1}
    assert transient.made_at("N.rpc") is None


def test_without_spare_names_calls_wait_for_the_agent() -> None:
    broker = Broker()
    broker.waiting = {"N.rpc": 3}
    assert broker.take(TransientQueues(CONFIG)) == "N.rpc"
    assert broker.waiting == {"N.rpc": 3}


def test_a_queue_that_is_not_ours_any_more_is_left_for_another_name() -> None:
    broker, transient = Broker(), TransientQueues(CONFIG, members=3)
    assert broker.take(transient) == "N.rpc"
    transient.leave("N.rpc")
    assert broker.take(transient) == "N.rpc~2"
    transient.try_all_again()
    transient.leave("N.rpc")
    assert broker.take(transient) == "N.rpc"


def test_a_single_broker_has_no_other_name() -> None:
    broker, transient = Broker(), TransientQueues(CONFIG)
    broker.take(transient)
    transient.leave("N.rpc")
    assert (broker.take(transient), broker.deleted) == ("N.rpc", [])
