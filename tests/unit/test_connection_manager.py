"""ConnectionManager: one, two or a single attempt; what ends a backoff; and what connections of the past may say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
from virtual_bus import configuration
from virtual_time import VirtualTime, virtual_time

from servicebus.errors import ConnectFailed, ConnectionLost, LifecycleError, TransportError
from servicebus.policy.connection import ConnectionEvent, ConnectionState
from servicebus.transport.connection_manager import HURRY_S, ConnectionManager, Loss
from servicebus.transport.memory import MemoryBroker


class Owner:
    """Of connections to a broker in memory, ready as soon as they are open."""

    def __init__(self, time: VirtualTime, count: int = 1, host: Any = "mq-a", **how: Any):
        self.time = time
        self.broker = MemoryBroker()
        self.told: list[str] = []
        self.losses: list[Loss] = []
        self.dialled: list[tuple[str, float, float]] = []
        self.is_ready_at_once = True
        config = configuration(host, socket_timeout=7.0)
        self.loop = time.loop()
        labels = [f"test {number}" for number in range(count)]
        self.manager = ConnectionManager(
            self.loop, config.hosts[0], config, self, cast(Any, self.connect),
            labels=labels, timeout_s=config.socket_timeout, on_rest=lambda: self.told.append("rest"), **how,
        )  # fmt: skip

    def connect(self, loop: Any, member: Any, *about: Any, **how: Any) -> Any:
        self.dialled.append((member.host, how["connect_timeout_s"], how["handshake_timeout_s"]))
        return self.broker.connect(loop, member, *about, **how)

    def connections_open(self) -> None:
        self.told.append("open")
        if self.is_ready_at_once:
            self.manager.ready()

    def connections_lost(self, loss: Loss) -> None:
        self.told.append(f"lost in {self.manager.state}")
        self.losses.append(loss)

    def connection_blocked(self, reason: str | None) -> None:
        self.told.append(f"blocked: {reason}")

    def up(self) -> ConnectionManager:
        self.manager.connect(self.time.now)
        self.time.until(lambda: self.manager.state is ConnectionState.UP)
        return self.manager


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualTime]:
    with virtual_time(monkeypatch) as time:
        yield time


# -- opening -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2])
def test_it_is_up_when_all_are_open_and_the_owner_is_ready(time: VirtualTime, count: int) -> None:
    owner = Owner(time, count)
    owner.is_ready_at_once = False
    manager = owner.manager
    assert (manager.state, manager.epoch, manager.connection, manager.is_gone) == (ConnectionState.IDLE, 0, None, True)
    manager.connect(time.now)
    assert (manager.state, manager.epoch, manager.connecting_since) == (ConnectionState.CONNECTING, 1, time.now)
    time.advance(3.0)
    assert owner.told == ["open"] and manager.state is ConnectionState.CONNECTING
    manager.ready()
    assert (manager.state, manager.up_since, manager.connecting_since) == (ConnectionState.UP, time.now, None)
    assert len(manager.connections) == len(owner.broker.sessions) == count
    assert {each.connection.label.rpartition(" pid ")[0] for each in owner.broker.sessions} == {
        f"test {number}" for number in range(count)
    }


def test_what_cannot_be_done_in_a_state_raises_and_changes_nothing(time: VirtualTime) -> None:
    manager = Owner(time).up()
    with pytest.raises(LifecycleError):
        manager.connect(time.now)
    with pytest.raises(LifecycleError):
        manager.ready()
    assert (manager.state, manager.epoch) == (ConnectionState.UP, 1)


def test_tcp_alone_is_not_waited_for_longer_than_a_repeated_syn_needs(time: VirtualTime) -> None:
    owner, patient = Owner(time), Owner(time, handshake_timeout_s=10.0)
    owner.manager.connect(time.now)
    patient.manager.connect(time.now)
    assert owner.dialled + patient.dialled == [("mq-a", 2.0, 7.0), ("mq-a", 2.0, 10.0)]


# -- losing --------------------------------------------------------------------------------------------------------


def test_when_one_is_lost_all_are(time: VirtualTime) -> None:
    owner = Owner(time, 2)
    manager = owner.up()
    with owner.broker.lock:
        owner.broker.sessions[1].cut("reset\x1b")
    time.settle()
    assert owner.broker.sessions == [] and manager.is_gone
    assert (manager.state, manager.epoch, manager.up_since) == (ConnectionState.BACKOFF, 2, None)
    (loss,) = owner.losses
    assert (loss.reason, loss.kind, loss.is_silent) == ("reset\\x1b", "closed", False)
    assert isinstance(loss.error, ConnectionLost)
    assert owner.told == ["open", "lost in backoff"], "once for both"


def test_an_attempt_that_fails_is_a_loss_with_its_error(time: VirtualTime) -> None:
    owner = Owner(time, 2)
    owner.broker.refuse("credentials", "who is this")
    owner.manager.connect(time.now)
    time.settle()
    (loss,) = owner.losses
    assert isinstance(loss.error, ConnectFailed) and loss.kind == "credentials"


def test_the_owner_may_give_them_up_as_well_and_hears_of_it_at_once(time: VirtualTime) -> None:
    owner = Owner(time)
    manager = owner.up()
    manager.lose(Loss.of(TransportError("a channel broke")))
    assert owner.told[-1] == "lost in backoff" and owner.losses[0].reason == "a channel broke"
    manager.lose(Loss("twice"))
    time.settle()
    assert len(owner.losses) == 1, "what is gone cannot be lost"


def test_the_broker_hears_of_a_silent_loss_when_it_can_be_reached_again(time: VirtualTime) -> None:
    owner = Owner(time)
    manager = owner.up()
    owner.broker.freeze()
    manager.lose(Loss("silence", is_silent=True))
    time.advance(1.0)
    assert len(owner.broker.sessions) == 1, "it does not know yet"
    owner.broker.thaw()
    time.until(lambda: manager.state is ConnectionState.UP)
    assert [id(each.connection) for each in owner.broker.sessions] == [id(each) for each in manager.connections]


def test_a_silent_one_that_is_not_reached_again_is_let_go_at_the_end(time: VirtualTime) -> None:
    owner = Owner(time)
    manager = owner.up()
    owner.broker.freeze()
    manager.lose(Loss("silence", is_silent=True))
    manager.close()
    owner.broker.thaw()
    time.advance(1.0)
    assert owner.broker.sessions == []


def test_cutting_them_is_reported_later(time: VirtualTime) -> None:
    owner = Owner(time)
    owner.up().abort("cut")
    assert owner.losses == []
    time.settle()
    assert owner.losses[0].reason == "cut"


# -- what ends a backoff -------------------------------------------------------------------------------------------


def test_after_a_backoff_it_connects_again(time: VirtualTime) -> None:
    owner = Owner(time)
    manager = owner.up()
    owner.broker.drop()
    time.settle()
    assert manager.attempts == 1
    time.until(lambda: manager.state is ConnectionState.UP)
    assert (manager.epoch, manager.attempts) == (3, 0)


def test_a_loss_of_our_own_waits_for_no_backoff_and_counts_for_none(time: VirtualTime) -> None:
    owner = Owner(time)
    manager = owner.up()
    began = time.now
    manager.lose(Loss("asked for", at_once=True))
    assert manager.attempts == 0
    time.until(lambda: manager.state is ConnectionState.UP)
    assert time.now == began


def test_a_backoff_may_end_in_rest(time: VirtualTime) -> None:
    owner = Owner(time, after_backoff=ConnectionEvent.REST)
    manager = owner.up()
    owner.broker.drop()
    time.advance(60.0)
    assert manager.state is ConnectionState.IDLE and owner.told == ["open", "lost in backoff", "rest"]
    assert owner.broker.connects == 1
    owner.up()


def test_a_cheap_backoff_may_be_cut_short_and_its_timer_does_not_end_the_next_one(time: VirtualTime) -> None:
    owner = Owner(time, after_backoff=ConnectionEvent.REST)
    manager = owner.manager
    owner.broker.refuse()
    for _ in range(12):  # until the pauses are long
        manager.connect(time.now)
        time.until(lambda: manager.state is ConnectionState.IDLE)
    began = time.now
    pauses: list[float] = []
    while len(pauses) < 4:
        manager.connect(time.now)
        time.settle()
        assert manager.is_pausing and not manager.can_hurry(time.now + HURRY_S - 0.01)
        pauses.append(owner.loop.due_at - time.now)
        time.advance(HURRY_S)
        if manager.state is ConnectionState.BACKOFF:
            assert manager.can_hurry(time.now)
    assert time.now == pytest.approx(began + 4 * HURRY_S)
    assert max(pauses) > HURRY_S


def test_a_backoff_after_an_attempt_that_cost_the_broker_work_is_not_cut_short(time: VirtualTime) -> None:
    owner = Owner(time, after_backoff=ConnectionEvent.REST)
    owner.broker.refuse("credentials", "no")
    owner.manager.connect(time.now)
    time.settle()
    assert owner.manager.state is ConnectionState.BACKOFF
    assert not owner.manager.is_pausing and not owner.manager.can_hurry(time.now + 60)


def test_a_single_attempt_is_followed_by_none(time: VirtualTime) -> None:
    owner = Owner(time, after_backoff=ConnectionEvent.STOP)
    manager = owner.up()
    owner.broker.drop()
    time.advance(60.0)
    assert manager.state is ConnectionState.CLOSED and owner.told == ["open", "lost in closed"]
    assert owner.broker.connects == 1


# -- members -------------------------------------------------------------------------------------------------------

CLUSTER = {"name": "mq", "members": ["mq-1", "mq-2", "mq-3"]}


def test_members_are_dialled_one_after_the_other_until_one_answers(time: VirtualTime) -> None:
    owner = Owner(time, host=CLUSTER)
    owner.broker.refuse()
    owner.manager.connect(time.now)
    time.until(lambda: len(owner.dialled) == 4)
    owner.broker.accept()
    time.until(lambda: owner.manager.state is ConnectionState.UP)
    assert [host for host, *_ in owner.dialled] == ["mq-1", "mq-2", "mq-3", "mq-1", "mq-2"]
    assert owner.manager.member.address == "mq-2:5672"
    limits = [limit_s for _, limit_s, _ in owner.dialled]
    assert limits == [0.5, 0.5, 0.5, 1.0, 1.0], "a member that does not answer costs little"
    owner.manager.lose(Loss("for a reason of ours", keeps_member=True, at_once=True))
    time.settle()
    assert owner.dialled[-1] == ("mq-2", 0.5, 0.5)
    owner.manager.lose(Loss("gone", at_once=True))
    time.settle()
    assert owner.dialled[-1][0] == "mq-3"


def test_a_single_attempt_goes_to_the_member_that_it_was_given(time: VirtualTime) -> None:
    host = configuration(CLUSTER).hosts[0].member(1)
    owner = Owner(time, after_backoff=ConnectionEvent.STOP)
    owner.manager = ConnectionManager(
        owner.loop, host, configuration(CLUSTER), owner, cast(Any, owner.connect),
        labels=["tool"], timeout_s=3.0, after_backoff=ConnectionEvent.STOP,
    )  # fmt: skip
    owner.up()
    assert owner.dialled == [("mq-2", 2.0, 3.0)]


# -- the past ------------------------------------------------------------------------------------------------------


def test_what_a_connection_of_an_earlier_epoch_says_is_dropped(time: VirtualTime) -> None:
    owner = Owner(time, 2)
    manager = owner.up()
    former: Any = manager.connections[0]
    manager.lose(Loss("given up"))
    time.until(lambda: manager.state is ConnectionState.UP)
    told = list(owner.told)
    manager.connection_blocked(former, "low on memory")
    manager.connection_lost(former, ConnectionLost("mq-a", "late", sent=True))
    manager.connection_failed(former, ConnectFailed("mq-a", "late"))
    late = owner.broker.connect(
        owner.loop, manager.member, manager,
        label="late", heartbeat_s=5, connect_timeout_s=1.0, handshake_timeout_s=1.0, most_bytes=1,
    )  # fmt: skip
    time.settle()
    assert not late.is_open, "it came too late"
    assert owner.told == told and manager.state is ConnectionState.UP and len(manager.connections) == 2


def test_a_callback_is_not_called_beyond_its_epoch(time: VirtualTime) -> None:
    owner = Owner(time)
    manager = owner.up()
    called: list[str] = []
    callback = manager.in_this_epoch(called.append)
    callback("now")
    manager.lose(Loss("given up"))
    callback("then")
    time.until(lambda: manager.state is ConnectionState.UP)
    callback("afterwards")
    assert called == ["now"]


def test_an_alarm_is_that_of_any_connection(time: VirtualTime) -> None:
    owner = Owner(time, 2)
    manager = owner.up()
    publishes, consumes = (each for each in manager.connections)
    assert manager.blocked is None
    for connection, reason in ((consumes, "low on disk"), (publishes, "low on memory"), (consumes, None)):
        connection.blocked = reason  # type: ignore[misc]
        manager.connection_blocked(connection, reason)
    assert manager.blocked == "low on memory"
    assert owner.told[1:] == ["blocked: low on disk", "blocked: low on memory", "blocked: None"]


# -- the end -------------------------------------------------------------------------------------------------------


def test_a_rest_is_no_loss_and_the_next_connect_opens_again(time: VirtualTime) -> None:
    owner = Owner(time)
    manager = owner.up()
    manager.rest()
    assert (manager.state, manager.epoch, manager.is_gone) == (ConnectionState.IDLE, 2, True)
    manager.rest()
    time.settle()
    assert owner.broker.sessions == [] and owner.told == ["open"]
    owner.up()


def test_stopped_connections_stay_until_they_are_closed_in_order(time: VirtualTime) -> None:
    owner = Owner(time, 2)
    manager = owner.up()
    manager.stop()
    time.advance(30.0)
    assert (manager.state, len(owner.broker.sessions)) == (ConnectionState.DRAINING, 2)
    manager.close()
    assert (manager.state, manager.is_gone) == (ConnectionState.CLOSED, False), "their goodbyes are on their way"
    time.advance(30.0)
    assert manager.is_gone and owner.broker.sessions == []
    assert owner.told == ["open"] and owner.broker.connects == 2


def test_what_is_lost_while_draining_is_reported_and_not_opened_again(time: VirtualTime) -> None:
    owner = Owner(time, 2)
    manager = owner.up()
    manager.stop()
    owner.broker.drop()
    time.advance(30.0)
    assert owner.told == ["open", "lost in closed"] and manager.is_gone and owner.broker.connects == 2


@pytest.mark.parametrize("end", ["stop", "close"])
@pytest.mark.parametrize("state", [ConnectionState.IDLE, ConnectionState.CONNECTING, ConnectionState.BACKOFF])
def test_the_end_comes_from_every_state_and_nothing_follows(
    time: VirtualTime, state: ConnectionState, end: str
) -> None:
    owner = Owner(time, 2)
    manager = owner.manager
    if state is not ConnectionState.IDLE:
        owner.broker.freeze() if state is ConnectionState.CONNECTING else owner.broker.refuse()
        manager.connect(time.now)
        time.settle()
    assert manager.state is state
    told, connects = list(owner.told), owner.broker.connects
    getattr(manager, end)()
    owner.broker.thaw()
    owner.broker.accept()
    time.advance(60.0)
    getattr(manager, end)()
    assert manager.state is ConnectionState.CLOSED and manager.is_gone
    assert (owner.told, owner.broker.connects) == (told, connects)
