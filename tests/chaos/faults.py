"""The faults: what each kind does to the world, and how it is taken back.

Each is a generator: what stands before its ``yield`` breaks something, what stands behind it heals it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from servicebus.testing import Mode
from tests.chaos import erlang
from tests.chaos.caretaker import strays
from tests.chaos.orders import CLOCK_SKEW_S
from tests.chaos.plan import CLUSTER
from tests.chaos.process_faults import (
    Breaking,
    FaultMissed,
    agent_rolled,
    bridge_kill,
    chance_of,
    key_changed,
    worker_freeze,
    worker_kill,
    workers_rolled,
)
from tests.chaos.processes import RigError
from tests.chaos.schedule import Fault
from tests.chaos.world import Endpoint, World

__all__ = ["FAULTS", "FaultMissed", "apply"]

_ASKED_FOR_S = 5.0
_WRONG_CLOCK_S = (15.0, 40.0)
_SLOW_BYTES_PER_S = (50_000.0, 300_000.0)
_POLICY_ENDS_S = 60.0
_POLICY_HOLDS_S = 20.0


def apply(world: World, fault: Fault) -> contextlib.AbstractContextManager[None]:
    """A context in which *fault* holds."""
    return contextlib.contextmanager(FAULTS[fault.kind])(world, fault)


# -- brokers -----------------------------------------------------------------------------------------------------------


def _running(world: World, fault: Fault) -> Endpoint:
    """What *fault* is aimed at, if the one before, which may have taken long, is over."""
    endpoint = world.proxied_brokers[fault.target]
    with endpoint.lock:
        state = endpoint.broker.state
    if state != "running":
        raise FaultMissed(f"{fault.kind} {fault.target}: the broker is {state}")
    members = world.plan.targets.hosts.get(CLUSTER, ())
    if fault.target in members and strays(world.member_views()):
        # Of three members one at a time may be away. With a second one no piece has a majority, and a member that
        # starts waits for tables that no other one has.
        raise FaultMissed(f"{fault.kind} {fault.target}: the cluster is in pieces")
    return endpoint


def _broker_kill(world: World, fault: Fault) -> Breaking:
    endpoint = _running(world, fault)
    with _cut_off(endpoint):
        with endpoint.lock:
            endpoint.broker.kill()
        yield
        _start_again(endpoint)


def _broker_stop(world: World, fault: Fault) -> Breaking:
    endpoint = _running(world, fault)
    with _cut_off(endpoint):
        with endpoint.lock:
            endpoint.broker.stop()
        yield
        _start_again(endpoint)


def _start_again(endpoint: Endpoint) -> None:
    with endpoint.lock:
        endpoint.broker.start()


def _freeze(world: World, fault: Fault) -> Breaking:
    endpoint = _running(world, fault)
    with _cut_off(endpoint):
        with endpoint.lock:
            endpoint.broker.freeze()
        yield
        with endpoint.lock:
            endpoint.broker.thaw()


def _alarm(begin: str, end: str) -> Callable[[World, Fault], Breaking]:
    def alarm(world: World, fault: Fault) -> Breaking:
        endpoint = world.proxied_brokers[fault.target]
        _done(fault, endpoint.do(begin), "ok")
        yield
        endpoint.do(end)

    return alarm


# -- networks ----------------------------------------------------------------------------------------------------------


def _network(mode: Mode) -> Callable[[World, Fault], Breaking]:
    def network(world: World, fault: Fault) -> Breaking:
        endpoint = world.proxied_brokers[fault.target]
        with _cut_off(endpoint):
            endpoint.proxy.set_mode(mode)
            yield
            endpoint.proxy.heal()

    return network


def _reset_in_frame(world: World, fault: Fault) -> Breaking:
    world.proxied_brokers[fault.target].proxy.tear()
    yield


def _delay(world: World, fault: Fault) -> Breaking:
    proxy = world.proxied_brokers[fault.target].proxy
    proxy.set_delay(chance_of(fault).uniform(0.02, 0.2))
    yield
    proxy.heal()


def _loss(world: World, fault: Fault) -> Breaking:
    proxy = world.proxied_brokers[fault.target].proxy
    proxy.set_delay(0.005, loss=chance_of(fault).uniform(0.01, 0.1))
    yield
    proxy.heal()


def _slow_link(world: World, fault: Fault) -> Breaking:
    proxy = world.proxied_brokers[fault.target].proxy
    proxy.set_rate(chance_of(fault).uniform(*_SLOW_BYTES_PER_S))
    yield
    proxy.heal()


def _all_down(world: World, fault: Fault) -> Breaking:
    mode = chance_of(fault).choice([Mode.REFUSE, Mode.DROP])
    with contextlib.ExitStack() as stack:
        for endpoint in world.proxied_brokers.values():
            stack.enter_context(_cut_off(endpoint))
            endpoint.proxy.set_mode(mode)
        yield
        for endpoint in world.proxied_brokers.values():
            endpoint.proxy.heal()


def _done(fault: Fault, answer: str, wanted: str) -> None:
    if wanted not in answer:
        raise FaultMissed(f"{fault.kind} {fault.target}: {answer or 'the broker does not answer'}")


# -- what the broker does to its users ---------------------------------------------------------------------------------


def _connections_closed(world: World, fault: Fault) -> Breaking:
    _done(fault, world.proxied_brokers[fault.target].do(erlang.CLOSE_ALL), "closed")
    yield


def _connection_closed(world: World, fault: Fault) -> Breaking:
    _done(fault, world.proxied_brokers[fault.target].do(erlang.CLOSE_ONE), "closed")
    yield


def _to_a_queue(expressions: Callable[[str], str], done: str) -> Callable[[World, Fault], Breaking]:
    def to_a_queue(world: World, fault: Fault) -> Breaking:
        host, _, queue = fault.target.partition("/")
        deadline = time.monotonic() + _ASKED_FOR_S
        answer = ""
        while done not in answer:
            if time.monotonic() > deadline:
                _done(fault, answer, done)
            endpoint = world.one_of(host)
            answer = endpoint.do(expressions(queue)) if endpoint is not None else ""
            if done not in answer:
                time.sleep(0.02)
        yield

    return to_a_queue


# -- what a node keeps -------------------------------------------------------------------------------------------------


def _full(queues: str) -> Callable[[World, Fault], Breaking]:
    """The *queues* of a node, a pattern that follows its name, take nothing."""

    def full(world: World, fault: Fault) -> Breaking:
        node, _, host = fault.target.partition("@")
        policy = f"chaos {fault.kind} {node}"
        endpoint = _answering(world, host)
        if endpoint is None:
            raise FaultMissed(f"{fault.kind} {fault.target}: {host} does not answer")
        try:
            for definition in (erlang.REJECT, erlang.FULL):
                _done(fault, endpoint.do(erlang.set_policy(policy, f"^{node}\\.{queues}$", definition)), "ok")
                _wait_taken(world, fault, endpoint, policy, definition)
            yield
        finally:
            _remove_policy(world, fault, host, policy)

    return full


def _wait_taken(world: World, fault: Fault, endpoint: Endpoint, policy: str, definition: str) -> None:
    answer = ""

    def have_taken() -> bool:
        nonlocal answer
        answer = endpoint.do(erlang.with_policy(policy))
        return erlang.have_taken(answer, definition)

    if not world.wait(have_taken, _POLICY_HOLDS_S):
        raise RigError(f"{fault.kind} {fault.target}: no queue takes the policy: {answer}")


def _remove_policy(world: World, fault: Fault, host: str, policy: str) -> None:
    answer = ""
    if world.wait(lambda: _answering(world, host) is not None, _POLICY_ENDS_S):
        endpoint = _answering(world, host)
        answer = endpoint.do(erlang.accept_publishes(policy)) if endpoint is not None else ""
    if answer != "ok":
        raise RigError(f"{fault.kind} {fault.target}: the policy cannot be taken away: {answer}")


def _answering(world: World, host: str) -> Endpoint | None:
    """An endpoint of *host* that answers: some member of a cluster may be away."""
    return next((each for each in world.proxied_brokers_of(host) if each.evaluate("up.") == "up"), None)


def _dead_requeued(world: World, fault: Fault) -> Breaking:
    """An operator sends back what stands among the dead letters; a stranger has put copies of others beside them."""
    node, _, host = fault.target.partition("@")
    said = world.requeue(node, host, f"operator-{fault.at_s:g}")
    if said.startswith("unreachable"):
        raise FaultMissed(f"{fault.kind} {fault.target}: {said}")
    yield


# -- clocks ------------------------------------------------------------------------------------------------------------


def _clock(least_s: float, most_s: float) -> Callable[[World, Fault], Breaking]:
    def clock(world: World, fault: Fault) -> Breaking:
        chance = chance_of(fault)
        world.set_clock(fault.target, chance.choice([-1, 1]) * chance.uniform(least_s, most_s))
        yield
        world.set_clock(fault.target, 0.0)

    return clock


# -- all ---------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _cut_off(endpoint: Endpoint) -> Iterator[None]:
    endpoint.is_cut_off = True
    try:
        yield
    finally:
        endpoint.is_cut_off = False


FAULTS: dict[str, Callable[[World, Fault], Breaking]] = {
    "broker-kill": _broker_kill,
    "broker-stop": _broker_stop,
    "broker-restart": _broker_stop,
    "freeze-3s": _freeze,
    "freeze-10s": _freeze,
    "freeze-60s": _freeze,
    "memory-alarm": _alarm(erlang.MEMORY_ALARM, erlang.MEMORY_FREE),
    "disk-alarm": _alarm(erlang.DISK_ALARM, erlang.DISK_FREE),
    "drop-both": _network(Mode.DROP),
    "drop-to-broker": _network(Mode.DROP_TO_SERVER),
    "drop-from-broker": _network(Mode.DROP_TO_CLIENT),
    "reset-in-frame": _reset_in_frame,
    "delay": _delay,
    "loss": _loss,
    "slow-link": _slow_link,
    "all-away": _all_down,
    "connections-closed": _connections_closed,
    "connection-closed": _connection_closed,
    "queue-deleted": _to_a_queue(erlang.delete_queue, "deleted"),
    "queue-crashed": _to_a_queue(erlang.crash_queue, "crashed"),
    "consumer-cancelled": _to_a_queue(erlang.cancel_consumer, "cancelled"),
    "consumer-forgotten": _to_a_queue(erlang.forget_consumer, "forgotten"),
    "messages-full": _full(r"messages(~\d+)?"),
    "events-full": _full(r"events\..*"),
    "delays-full": _full(r"messages\.delay\..*"),
    "dead-letters-full": _full(r"dead(~\d+)?"),
    "dead-requeued": _dead_requeued,
    "worker-kill": worker_kill,
    "worker-freeze-3s": worker_freeze,
    "worker-freeze-10s": worker_freeze,
    "agent-rolled": agent_rolled,
    "workers-rolled": workers_rolled,
    "bridge-kill": bridge_kill,
    "key-changed": key_changed,
    "clock-skewed": _clock(1.0, CLOCK_SKEW_S - 1.0),
    "clock-wrong": _clock(*_WRONG_CLOCK_S),
}
