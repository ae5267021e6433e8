"""Drill: one broker is out of service for a while, under load, and then back.

Theory of operation. The broker gets the mark of ``servicebus drain``, which all workers and callers obey, as a lease: a
queue that the broker itself deletes when nothing has looked at it for ``LEASE_S``. The drill looks at it all the time.
So the workers come back by themselves within seconds, whatever kills the drill. Requests are made before, meanwhile
and afterwards, by a Sender that prefers the broker.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from servicebus.configuration import BrokerHost, Configuration
from servicebus.errors import TransportError
from servicebus.operations import session as sessions
from servicebus.operations.load import LoadFigures, LoadGenerator
from servicebus.operations.maintenance import LEASE_S, DrainMark
from servicebus.wire.printable import counted

__all__ = ["PHASES", "Drill", "DrillRefused", "DrillReport", "NodeInDrill"]

PHASES = ("before", "during", "after")
_LOOK_S = 0.5
_BACK_S = 30.0
"""Workers look for the mark every two seconds; the rest is for busy machines."""
_RENEWALS = 5
"""So many looks at the mark within a lease."""


class DrillRefused(Exception):
    """Raised before anything is changed; the text says why."""


@dataclass
class NodeInDrill:
    """What a node did that had workers on the broker."""

    name: str
    workers: int
    """That took calls there before."""
    left_s: float | None = None
    """How long after the mark nothing was under way there; None: that was not reached."""
    back_s: float | None = None
    """How long after the mark was removed as many took calls there as before; None: that was not reached."""


@dataclass
class DrillReport:
    """What a drill has found."""

    broker: str
    nodes: Sequence[NodeInDrill]
    figures: Mapping[str, Mapping[str, LoadFigures]]
    """By phase (``before``, ``during``, ``after``), and by node or address."""
    out_s: float = 0.0
    """How long the mark was there."""
    problems: list[str] = field(default_factory=list)
    """What went otherwise than planned."""
    is_stopped: bool = False
    """The operator has ended it early."""

    @property
    def requests(self) -> int:
        """Those that succeeded, and those that failed."""
        return sum(each.requests for phase in [*self.figures.values()] for each in phase.values())

    @property
    def failed(self) -> int:
        return sum(each.failed for phase in [*self.figures.values()] for each in phase.values())

    @property
    def is_back(self) -> bool:
        """Each node takes calls there again, or was never asked to leave."""
        return not self.out_s or all(node.back_s is not None for node in self.nodes)

    @property
    def is_good(self) -> bool:
        """Nothing failed, and all is as it was before."""
        return not (self.failed or self.problems or self.is_stopped) and self.is_back and self.requests > 0

    def of(self, phase: str, target: str) -> LoadFigures:
        """Those of one target; none of a phase that was not reached."""
        return self.figures.get(phase, {}).get(target) or LoadFigures()

    def of_phase(self, phase: str) -> LoadFigures:
        """Those of all targets together."""
        found = LoadFigures()
        for each in self.figures.get(phase, {}).values():
            found.merge(each)
        return found

    def outcome(self) -> str:
        """One line."""
        requests = f"{self.failed} of {counted(self.requests, 'request')} failed"
        where = "all workers are back" if self.is_back else "NOT ALL WORKERS ARE BACK"
        return "; ".join([*(["stopped early"] if self.is_stopped else []), requests, where, *self.problems])

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        phases = {
            phase: {name: each.report() for name, each in targets.items()} for phase, targets in self.figures.items()
        }
        nodes = [vars(node) for node in self.nodes]
        ends = {"good": self.is_good, "stopped": self.is_stopped, "back": self.is_back, "problems": self.problems}
        counts = {"out_s": round(self.out_s, 3), "requests": self.requests, "failed": self.failed}
        return {"broker": self.broker, **ends, **counts, "nodes": nodes, "phases": phases}


class Drill:
    """One drill; ``run()`` is for one thread, ``stop()`` for any.

    Args:
        nodes: the names of those that have workers on the broker.
        load: not started; it is stopped when the drill is over.
        for_s: how long the broker is out.
        around_s: how long requests are made before and afterwards.
        lease_s: how long the mark outlives the drill.
        on_step: told what is being done.
    """

    def __init__(
        self,
        config: Configuration,
        broker: BrokerHost,
        nodes: Sequence[str],
        load: LoadGenerator,
        *,
        for_s: float,
        around_s: float,
        lease_s: float = LEASE_S,
        on_step: Callable[[str], None] = lambda _text: None,
    ):
        self._config, self._broker, self._load = config, broker, load
        self._for_s, self._around_s, self._lease_s = for_s, around_s, lease_s
        self.on_step = on_step
        self._stop = threading.Event()
        self._session: sessions.Session | None = None
        self.report = DrillReport(broker.name, [NodeInDrill(name, 0) for name in nodes], load.figures)

    def __repr__(self) -> str:
        return f"<Drill of {self._broker.name}>"

    def stop(self) -> None:
        """Bring the broker back now, and end."""
        self._stop.set()

    def run(self) -> DrillReport:
        """Do it. The mark is removed whatever happens, Ctrl-C (KeyboardInterrupt, which ends a drill early) included.

        Raises:
            DrillRefused: the broker is out of service already, or no node has workers there.
            TransportError: it cannot be reached, or does not let us mark it. Nothing was changed.
        """
        try:
            self._look()
            self._load.start("before")
            self.on_step(f"requests are made for {self._around_s:g} s before")
            self._pause(self._around_s)
            if not self._stop.is_set():
                self._take_out()
                self.on_step(f"requests are made for {self._around_s:g} s afterwards")
                self._pause(self._around_s)
        finally:
            self._load.stop()
            if self._session is not None:
                self._session.close()
        self.report.is_stopped = self._stop.is_set()
        return self.report

    # -- inside --------------------------------------------------------------------------------------------------------

    def _pause(self, seconds: float) -> None:
        try:
            self._stop.wait(seconds)
        except KeyboardInterrupt:
            self._stop.set()

    def _mark(self) -> DrainMark:
        if self._session is None or not self._session.is_open:
            self._session = sessions.open_session(self._broker, self._config, purpose="drill")
        return DrainMark(self._session, self._config)

    def _look(self) -> None:
        """How many workers each node has there. Raises DrillRefused."""
        mark = self._mark()
        if mark.stands():
            raise DrillRefused(
                f"{self._broker.name} is out of service already, by servicebus drain or by another drill:"
                f" servicebus drain {self._broker.name} --status"
            )
        for node in self.report.nodes:
            node.workers = mark.status_of(node.name).workers
        self.report.nodes = [node for node in self.report.nodes if node.workers]
        if not self.report.nodes:
            raise DrillRefused(f"no node takes calls on {self._broker.name}: there is nothing to learn from a drill")

    def _take_out(self) -> None:
        """And bring back."""
        mark = self._mark()
        self._load.enter("during")
        if not mark.set(self._lease_s):
            raise DrillRefused(f"{self._broker.name} was taken out of service meanwhile, by servicebus drain")
        began = time.monotonic()
        try:
            self.on_step(f"{self._broker.name} is taken out for {self._for_s:g} s")
            self._keep_out(mark, began)
        except KeyboardInterrupt:
            self._stop.set()
        except TransportError as error:
            self.report.problems.append(f"the broker was lost meanwhile: {error}")
        finally:
            self._bring_back(began)

    def _keep_out(self, mark: DrainMark, began: float) -> None:
        until = began + self._for_s
        looked_at = began
        while (now := time.monotonic()) < until and not self._stop.is_set():
            if now - looked_at >= self._lease_s / _RENEWALS:
                if not mark.stands():  # to look is what renews the lease
                    self.report.problems.append(
                        "the broker came back before its time: by servicebus drain --undo, or because this program did"
                        f" not run for {self._lease_s:g} s"
                    )
                    return
                looked_at = now
            for node in self.report.nodes:
                if node.left_s is None and mark.status_of(node.name).has_left:
                    node.left_s = round(time.monotonic() - began, 3)
            self._pause(min(_LOOK_S, self._lease_s / _RENEWALS, max(0.0, until - time.monotonic())))
        self.report.problems += [
            f"{node.name} did not leave the broker"
            for node in self.report.nodes
            if node.left_s is None and not self._stop.is_set()
        ]

    def _bring_back(self, began: float) -> None:
        self.on_step(f"{self._broker.name} is taken back")
        self.report.out_s = time.monotonic() - began
        try:
            mark = self._mark()
            if mark.is_leased(self._lease_s):
                mark.remove()
            removed_at = time.monotonic()
            self._load.enter("after")
            if mark.stands():
                self.report.problems.append("it stays out of service: servicebus drain has marked it meanwhile")
            else:
                self._wait_until_back(mark, removed_at)
        except TransportError as error:
            self.report.problems.append(
                f"the broker could not be taken back: {error}; the mark goes by itself within {self._lease_s:g} s"
                " of its time there"
            )

    def _wait_until_back(self, mark: DrainMark, removed_at: float) -> None:
        missing = list(self.report.nodes)
        while missing and time.monotonic() - removed_at < _BACK_S:
            for node in list(missing):
                if mark.status_of(node.name).workers >= node.workers:
                    node.back_s = round(time.monotonic() - removed_at, 3)
                    missing.remove(node)
            if missing:
                time.sleep(_LOOK_S)
