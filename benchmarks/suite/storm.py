"""A storm of reconnects, simulated: every client reconnects to a broker that has returned. Pure; time is simulated.

The clients wait as the real ones do: by servicebus's own `Backoff` and `cap_for`, with its own limits of time. The
broker is a model. It shares itself out equally among all that it has begun (Erlang's scheduler does); ten acceptors
take connections out of the kernel's queue, and have no more than their share either; what does not fit into that queue
is repeated by the client's kernel a second later. Whatever a client gives up in the middle was work for nothing.

Work is counted in handshakes: what the broker has to do until a plain connection is open is 1.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from servicebus.configuration import Configuration
from servicebus.policy.backoff import Backoff, cap_for
from servicebus.transport.connection_manager import CONNECT_LIMIT_S, HURRY_S

ACCEPTORS = 10
"""RabbitMQ's num_acceptors.tcp."""
SYN_AGAIN_S = 1.0
_STEP = 0.5
"""Work is given in such portions: that much may be done for a client that has gone, before the broker notices."""
_DEFAULTS = Configuration({"hosts": ["broker"], "secret_token": "storm", "node_name": "N"})
SENDER_WAIT_LIMIT_S = CONNECT_LIMIT_S + _DEFAULTS.socket_timeout
WORKER_WAIT_LIMIT_S = CONNECT_LIMIT_S + max(_DEFAULTS.socket_timeout, 10.0)
"""From the first packet to an open connection; beyond it the attempt is given up."""


@dataclass(frozen=True)
class Kind:
    """*connections* at the same time, and then *setup* handshakes' worth of channels and queues."""

    name: str
    connections: int
    setup: float
    wait_limit_s: float


@dataclass(frozen=True)
class Scene:
    """Who wants back, and to what."""

    workers: int
    senders: int
    handshakes_per_s: float
    worker_setup: float
    sender_setup: float
    accept_work: float = 0.1
    """Of a handshake: to take a connection out of the kernel's queue and start a process for it."""
    backlog: int = 128
    """Connections that the kernel holds for the broker (tcp_listen_options.backlog)."""
    down_s: float = 5.0
    is_host_alive: bool = True
    """While the broker is away its machine refuses connections; else packets are lost."""
    is_hurrying: bool = False
    """Calls wait in every Sender and it has no other broker, so backoffs are cut short."""
    cap_s: float | None = None
    """Instead of what `cap_for` says."""
    limit_s: float = 600.0
    seed: int = 1

    @property
    def clients(self) -> int:
        return self.workers + self.senders

    @property
    def work(self) -> float:
        """Handshakes' worth of work that all of it is if nothing is done in vain."""
        return self.workers * (2 + self.worker_setup) + self.senders * (1 + self.sender_setup)

    @property
    def shortest_s(self) -> float:
        return self.work / self.handshakes_per_s


@dataclass
class Storm:
    """What happened; times are seconds after the broker's return."""

    scene: Scene
    back_at: list[float] = field(default_factory=list)
    attempts: Counter[int] = field(default_factory=Counter)
    """Connections that were begun, by second; negative seconds are before the return."""
    failed: Counter[str] = field(default_factory=Counter)

    @property
    def missing(self) -> int:
        return self.scene.clients - len(self.back_at)

    def back_share_at(self, share: float) -> float | None:
        """When *share* of the clients were back; None if they never were."""
        needed = max(1, round(share * self.scene.clients))
        return sorted(self.back_at)[needed - 1] if len(self.back_at) >= needed else None

    @property
    def peak(self) -> int:
        """The most connections begun in a second after the return."""
        return max((count for second, count in self.attempts.items() if second >= 0), default=0)

    @property
    def attempts_after(self) -> int:
        return sum(count for second, count in self.attempts.items() if second >= 0)


def simulate(scene: Scene) -> Storm:
    return _Simulation(scene).run()


class _Client:
    """A worker or a Sender: up, or waiting for the end of a backoff, or trying."""

    __slots__ = ("backoff", "kind", "live", "tried_at")

    def __init__(self, kind: Kind, rng: random.Random):
        self.kind = kind
        self.backoff = Backoff(rng=rng)
        self.live: _Attempt | None = None
        self.tried_at = 0.0


class _Attempt:
    """One try of a client, with all its connections; over when `client.live` is another."""

    __slots__ = ("client", "opened")

    def __init__(self, client: _Client):
        self.client = client
        self.opened = 0

    @property
    def is_over(self) -> bool:
        return self.client.live is not self


class _Simulation:
    def __init__(self, scene: Scene):
        self._scene = scene
        self._storm = Storm(scene)
        self._rng = random.Random(scene.seed)
        self._now = -scene.down_s
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._broker = _Broker(scene.handshakes_per_s)
        self._queue: deque[_Attempt] = deque()
        self._accepting = 0

    def run(self) -> Storm:
        for client in self._clients():
            # They lost the broker at the same moment, and have been trying since.
            client.tried_at = self._now
            self._after(client.backoff.next_s(self._cap("closed")), partial(self._try, client))
        while self._storm.missing:
            at = self._events[0][0] if self._events else float("inf")
            served_at = self._broker.next_at(self._now)
            if min(at, served_at) > self._scene.limit_s:
                break
            if served_at <= at:
                self._now = served_at
                self._broker.take_done(self._now)()
            else:
                self._now, _, happen = heapq.heappop(self._events)
                happen()
        return self._storm

    def _clients(self) -> list[_Client]:
        scene = self._scene
        worker = Kind("worker", 2, scene.worker_setup, WORKER_WAIT_LIMIT_S)
        sender = Kind("sender", 1, scene.sender_setup, SENDER_WAIT_LIMIT_S)
        kinds = [worker] * scene.workers + [sender] * scene.senders
        return [_Client(kind, self._rng) for kind in kinds]

    # -- the client's side ---------------------------------------------------------------------------------------------

    def _try(self, client: _Client) -> None:
        attempt = client.live = _Attempt(client)
        client.tried_at = self._now
        self._storm.attempts[int(self._now // 1)] += client.kind.connections
        if self._now < 0:
            delay_s = 0.0 if self._scene.is_host_alive else CONNECT_LIMIT_S
            self._after(delay_s, lambda: self._fail(attempt, "refused" if delay_s == 0 else "unreachable"))
            return
        for _ in range(client.kind.connections):
            self._knock(attempt, may_repeat=True)
        self._after(client.kind.wait_limit_s, lambda: self._fail(attempt, "silent"))

    def _knock(self, attempt: _Attempt, *, may_repeat: bool) -> None:
        """A SYN: taken if the kernel's queue has room, else sent again, and then given up."""
        if attempt.is_over:
            return
        if len(self._queue) < self._scene.backlog:
            self._queue.append(attempt)
            self._accept()
        elif may_repeat:
            self._after(SYN_AGAIN_S, lambda: self._knock(attempt, may_repeat=False))
        else:
            self._after(CONNECT_LIMIT_S - SYN_AGAIN_S, lambda: self._fail(attempt, "unreachable"))

    def _fail(self, attempt: _Attempt, kind: str) -> None:
        client = attempt.client
        if attempt.is_over or attempt.opened == client.kind.connections:
            return  # another failed first; or it is connected, and what follows has no limit but the heartbeat
        self._storm.failed[kind] += 1
        client.live = None
        pause_s = client.backoff.next_s(self._cap(kind))
        if self._scene.is_hurrying and client.kind.name == "sender":
            pause_s = min(pause_s, max(0.0, client.tried_at + HURRY_S - self._now))
        self._after(pause_s, lambda: self._try(client))

    def _cap(self, kind: str) -> float | None:
        return cap_for(kind) if self._scene.cap_s is None else self._scene.cap_s

    # -- the broker's side ---------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        while self._queue and self._accepting < ACCEPTORS:
            self._accepting += 1
            attempt = self._queue.popleft()
            self._broker.begin(self._now, self._scene.accept_work, partial(self._accepted, attempt))

    def _accepted(self, attempt: _Attempt) -> None:
        self._accepting -= 1
        self._serve(attempt, 1.0 - self._scene.accept_work, lambda: self._opened(attempt))
        self._accept()

    def _serve(self, attempt: _Attempt, work: float, then: Callable[[], None]) -> None:
        if attempt.is_over:
            return
        step = min(work, _STEP)
        rest = work - step
        done = then if rest <= 1e-9 else lambda: self._serve(attempt, rest, then)
        self._broker.begin(self._now, step, lambda: None if attempt.is_over else done())

    def _opened(self, attempt: _Attempt) -> None:
        attempt.opened += 1
        if attempt.opened == attempt.client.kind.connections:
            self._serve(attempt, attempt.client.kind.setup, lambda: self._back(attempt))

    def _back(self, attempt: _Attempt) -> None:
        self._storm.back_at.append(self._now)

    def _after(self, delay_s: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self._now + delay_s, next(self._order), happen))


class _Broker:
    """Serves all jobs at the same speed, which is its own divided by their number.

    *shared* is how much each job that was there all the time has got; a job is done when that has grown by its work.
    """

    def __init__(self, per_s: float):
        self._per_s = per_s
        self._shared = 0.0
        self._at = 0.0
        self._jobs: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def begin(self, now: float, work: float, done: Callable[[], None]) -> None:
        self._share_until(now)
        heapq.heappush(self._jobs, (self._shared + work, next(self._order), done))

    def next_at(self, now: float) -> float:
        """When the next job is done if no other comes."""
        if not self._jobs:
            return float("inf")
        return max(now, self._at + (self._jobs[0][0] - self._shared) * len(self._jobs) / self._per_s)

    def take_done(self, now: float) -> Callable[[], None]:
        self._share_until(now)
        return heapq.heappop(self._jobs)[2]

    def _share_until(self, now: float) -> None:
        if self._jobs:
            self._shared += (now - self._at) * self._per_s / len(self._jobs)
        self._at = now
