"""``python -m servicebus``: half a minute of a bus in memory, whose brokers fail while calls flow."""

from __future__ import annotations

import logging
import os
import select
import sys
import termios
import tty
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from time import monotonic, sleep  # by name: the module's clock is the bus's while that is open
from typing import IO, Any

import servicebus.testing
from servicebus.cli.show_picture import Picture, ShownCall
from servicebus.errors import ServiceBusError
from servicebus.services import RpcService
from servicebus.testing import FaultyBroker, MemoryBus
from servicebus.wire.printable import counted

__all__ = ["show"]

LASTS_S = 30.0
FRAME_S = 0.1
CALL_EVERY_S = 0.3
FAILBACK_S = 6.0
WAY_S = 0.15
"""From Sender to broker, and from broker to node."""
TARGET = "NODE-01.price.total"
SCRIPT = ((7.0, 0, "kill"), (11.0, 0, "start"), (20.0, 1, "freeze"), (25.0, 1, "thaw"))
"""When, to which broker (by its number among all; 1 stands for the one in use), and what happens."""
PAST = {"kill": "is killed", "start": "is back", "freeze": "is frozen: connected, and silent", "thaw": "goes on"}
_PROGRAM = "servicebus"
KEYS = "1 and 2 kill a broker or start it again, q ends"


class Total(RpcService):
    """The service of the show."""

    def handle(self, request: Any) -> Any:
        price, count = request.params
        return price * count


def show(out: IO[str] | None = None) -> int:
    """Run the show on *out* (stdout), as a picture on a terminal, else line by line; returns the exit status."""
    out = out or sys.stdout
    logging.getLogger(_PROGRAM).addHandler(logging.NullHandler())  # it is meant that brokers fail
    try:
        with servicebus.testing.bus({"price.total": Total()}, failback_after=FAILBACK_S) as world:
            stage = Stage(world)
            if out.isatty() and os.environ.get("TERM", "dumb") != "dumb":
                _draw(stage, out)
            else:
                _tell(stage, out)
            for line in stage.summary():
                out.write(line + "\n")
            out.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # its reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


@dataclass
class Stage:
    """The bus and what was done with it; time passes by ``step()`` alone."""

    world: MemoryBus
    events: deque[str] = field(default_factory=lambda: deque(maxlen=100))
    """What happened, for people."""
    calls: list[ShownCall] = field(default_factory=list)
    """Those under way."""
    answered: Counter[str] = field(default_factory=Counter)
    """By the broker over which their answers came."""
    begun: int = 0
    moved: int = 0
    """Calls that went on over another broker."""
    slowest_s: float = 0.0
    errors: int = 0

    def __post_init__(self) -> None:
        self.world.sender.ping("NODE-01")  # it is connected, to its first broker, before anything takes time
        for broker in self.world.brokers:
            broker.delay(WAY_S)
        self._script = deque(SCRIPT)
        self._next_call_at = 0.0
        self._futures: dict[str, Future[Any]] = {}
        self._faulty: FaultyBroker | None = None

    @property
    def is_over(self) -> bool:
        return self.world.now >= LASTS_S and not self.calls

    def step(self) -> None:
        """Let a frame's time pass."""
        now = self.world.now
        while self._script and self._script[0][0] <= now:
            _, number, fault = self._script.popleft()
            self._play(number, fault)
        if now >= self._next_call_at and now < LASTS_S - 1:
            self._next_call_at = now + CALL_EVERY_S
            self._call(now)
        self.world.advance(FRAME_S)
        self._look()

    def press(self, key: str) -> None:
        """A key of the one who watches: from now on nothing happens by itself."""
        if key in "12":
            self._script.clear()
            broker = self.world.brokers[int(key) - 1]
            self._order(broker, "kill" if broker.state == "running" else "start")

    def summary(self) -> list[str]:
        shares = ", ".join(f"{name} {count}" for name, count in sorted(self.answered.items()))
        runs = Counter(entry.id for entry in self.world.history.only("executed"))
        once = sum(count == 1 for count in runs.values())
        return [
            f"{counted(self.begun, 'call')}, {sum(self.answered.values())} answered ({shares}), {self.errors} errors; "
            f"{once} executed once, {len(runs) - once} twice.",
            f"{counted(self.moved, 'call')} went on over the other broker; the slowest took {self.slowest_s:.1f} s.",
            "Next: docs/testing.rst is this bus for your tests; bin/demo does the same with real brokers.",
        ]

    def _play(self, number: int, fault: str) -> None:
        if fault == "freeze":  # the one that has the calls
            used = [call.broker for call in self.calls if call.broker]
            names = [broker.name for broker in self.world.brokers]
            self._faulty = self.world.brokers[names.index(used[-1]) if used else number]
        broker = self._faulty if fault in ("freeze", "thaw") and self._faulty else self.world.brokers[number]
        self._order(broker, fault)

    def _order(self, broker: FaultyBroker, fault: str) -> None:
        caught = sum(call.broker == broker.name for call in self.calls)
        getattr(broker, fault)()
        under_way = f"; calls under way over it: {caught}" if fault in ("kill", "freeze") else ""
        self._note(f"{broker.name} {PAST[fault]}{under_way}")

    def _call(self, now: float) -> None:
        self.begun += 1
        future = self.world.sender.call_async(TARGET, [self.begun, 2], timeout=20.0)
        id = str(getattr(future, "wire_id", ""))
        self.calls.append(ShownCall(self.begun, id, now, now, None))
        self._futures[id] = future

    def _look(self) -> None:
        now, moved = self.world.now, Counter[str]()
        frozen = {broker.name for broker in self.world.brokers if broker.state == "frozen"}
        for call in list(self.calls):
            broker = self.world.broker_of(call.id)
            if broker is not None and broker != call.broker:
                if call.broker is not None:
                    moved[broker] += 1
                call.broker, call.since = broker, now
            if broker in frozen:
                call.since += FRAME_S  # it stands where it is
            if self._futures[call.id].done():
                self._end(call, now)
        for broker, count in moved.items():
            self.moved += count
            self._note(f"calls that go on over {broker}: {count}")

    def _end(self, call: ShownCall, now: float) -> None:
        self.calls.remove(call)
        try:
            self._futures.pop(call.id).result()
        except ServiceBusError as error:
            self.errors += 1
            self._note(f"call {call.number}: {error}")
            return
        self.slowest_s = max(self.slowest_s, now - call.begun)
        self.answered[call.broker or ""] += 1

    def _note(self, text: str) -> None:
        self.events.append(f"{self.world.now:5.1f} s  {text}")


def _draw(stage: Stage, out: IO[str]) -> None:
    """As a picture that moves."""
    from rich.console import Console
    from rich.live import Live

    picture = Picture(stage.world, is_ascii=not (getattr(out, "encoding", None) or "").lower().startswith("utf"))
    console = Console(file=out)
    with _keys() as keys, Live(console=console, auto_refresh=False) as live:
        due_at = monotonic()
        while not stage.is_over:
            stage.step()
            counts = f"calls {stage.begun}   answered {sum(stage.answered.values())}   moved {stage.moved}"
            live.update(
                picture.text(stage.calls, counts, list(stage.events), "" if keys is None else KEYS), refresh=True
            )
            due_at = max(due_at + FRAME_S, monotonic())
            key = _key(keys, due_at - monotonic())
            if key == "q":
                return
            if key:
                stage.press(key)


def _tell(stage: Stage, out: IO[str]) -> None:
    """Line by line; at its own pace on a terminal that cannot move its cursor, else at once."""
    out.write("servicebus on a bus in memory: two brokers, one node, no RabbitMQ, no configuration\n")
    told_at, told = 0.0, 0
    while not stage.is_over:
        stage.step()
        while stage.events:
            out.write(stage.events.popleft() + "\n")
        if stage.world.now - told_at > 1.0 - FRAME_S / 2:
            told_at, before, told = stage.world.now, told, sum(stage.answered.values())
            brokers = sorted({call.broker for call in stage.calls if call.broker})
            route = f"Sender -> {' and '.join(brokers) or '...'} -> NODE-01"
            out.write(f"{told_at:5.1f} s  {route}: {told - before} answered\n")
        if out.isatty():
            out.flush()
            sleep(FRAME_S)


@contextmanager
def _keys() -> Iterator[int | None]:
    """The file descriptor to read keys from, each as it is pressed; None without a terminal."""
    if not (sys.stdin and sys.stdin.isatty()):
        yield None
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    try:
        tty.setcbreak(fd)
        yield fd
    finally:
        with suppress(termios.error):
            termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _key(fd: int | None, pause_s: float) -> str:
    """The key that is pressed within *pause_s*, or ""."""
    pause_s = max(0.0, pause_s)
    if fd is None:
        sleep(pause_s)
        return ""
    ready, _, _ = select.select([fd], [], [], pause_s)
    return os.read(fd, 1).decode(errors="replace") if ready else ""
