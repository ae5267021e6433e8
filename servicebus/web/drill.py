"""The drill page: a broker out of service for a while, under load, and back, as ``servicebus drill`` does it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from servicebus._load_targets import pings_of, preferring
from servicebus.configuration import BrokerHost, Configuration
from servicebus.errors import ServiceBusError
from servicebus.fleet.view import PathState
from servicebus.fleet.watch import FleetWatch
from servicebus.operations.drill import PHASES, Drill, DrillRefused
from servicebus.operations.load import LoadGenerator
from servicebus.sender import Sender
from servicebus.transport.loggers import get_logger
from servicebus.web.forecast import forecast_of
from servicebus.web.overview import MOST_ROWS, unchanged
from servicebus.web.templates import page

LOG = get_logger(__name__)

__all__ = ["DrillActions", "DrillJob", "DrillJobs", "DrillPage"]

DEFAULT_S = 60.0
_LONGEST_S = 3600.0
_AROUND_S = 5.0
_PER_S = 5.0
_PING_S = 10.0
_UNDER_WAY = 64


@dataclass(eq=False)
class DrillJob:
    """A drill that runs, or the last one."""

    drill: Drill
    user: str
    for_s: float
    started_at: float = field(default_factory=time.time)
    ended_at: float | None = None
    step: str = ""
    problem: str = ""
    """Why it was not begun, or has failed."""

    @property
    def outcome(self) -> str:
        """One line, when it has ended."""
        return self.problem or self.drill.report.outcome()

    @property
    def is_well(self) -> bool:
        return not self.problem and self.drill.report.is_good


class DrillJobs:
    """One drill at a time, in a thread of its own. For any thread."""

    def __init__(self, config: Configuration, make_sender: Callable[[Configuration], Sender] = Sender):
        self._config, self._make_sender = config, make_sender
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self.last: DrillJob | None = None

    def start(
        self, broker: str, nodes: Sequence[str], here: Sequence[str], for_s: float, user: str,
        on_end: Callable[[DrillJob], None],
    ) -> bool:  # fmt: skip
        """Begin one. False: another runs.

        Args:
            nodes: all that answer, which are asked.
            here: those that answer over *broker*.
            on_end: called when it is over, in its thread.
        """
        host = next(each for each in self._config.hosts if each.name == broker)
        with self._lock:
            if self.last is not None and self.last.ended_at is None:
                return False
            sender = self._make_sender(preferring(self._config, host))
            self.last = job = self._job(sender, host, nodes, here, for_s, user)
            self._thread = threading.Thread(target=self._run, args=(job, sender, on_end), name="drill", daemon=True)
            self._thread.start()
        return True

    def stop(self) -> None:
        """Bring the broker back now, if a drill runs."""
        if self.last is not None:
            self.last.drill.stop()

    def close(self) -> None:
        """The same, and wait until it is back."""
        self.stop()
        if self._thread is not None:
            self._thread.join()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _job(
        self, sender: Sender, host: BrokerHost, nodes: Sequence[str], here: Sequence[str], for_s: float, user: str
    ) -> DrillJob:
        load = LoadGenerator(pings_of(sender, nodes, _PING_S), in_flight=_UNDER_WAY, per_s=_PER_S, limit_s=_PING_S)
        drill = Drill(self._config, host, here, load, for_s=for_s, around_s=_AROUND_S)
        job = DrillJob(drill, user, for_s)

        def tell(step: str) -> None:
            job.step = step

        drill.on_step = tell
        return job

    def _run(self, job: DrillJob, sender: Sender, on_end: Callable[[DrillJob], None]) -> None:
        try:
            with sender:
                job.drill.run()
        except (DrillRefused, ServiceBusError) as error:
            job.problem = str(error)
        except Exception as error:  # a defect of ours: the page must say that it has ended
            LOG.exception("the drill of %s has failed", job.drill.report.broker)
            job.problem = f"unexpected {type(error).__name__}: {error}"
        job.ended_at = time.time()
        on_end(job)


class DrillPage:
    """``/drill``"""

    def __init__(self, watch: FleetWatch, jobs: DrillJobs):
        self._watch, self._jobs = watch, jobs

    def __call__(self, request: Request) -> Response:
        job = self._jobs.last
        report = None if job is None else job.drill.report
        running = job if job is not None and job.ended_at is None else None
        seen = "" if job is None or report is None else f"{job.started_at} {job.ended_at} {job.step} {report.requests}"
        if unchanged(request, seen):
            return Response(status_code=204)
        view = self._watch.view
        names = [broker.name for broker in view.brokers]
        broker = request.query_params.get("broker", "")
        return page(
            request, "drill", names=names, broker=broker, job=job, running=running, report=report, seen=seen,
            risks=forecast_of(view, broker).risks() if broker in names else [], default_s=DEFAULT_S,
            phases=[] if report is None else [(phase, report.of_phase(phase)) for phase in PHASES],
            nodes=[] if report is None else report.nodes[:MOST_ROWS], during=PHASES[1],
        )  # fmt: skip


class DrillActions:
    """What the forms of the page do.

    Args:
        record: notes who does what: the user, the node and a text.
    """

    def __init__(self, watch: FleetWatch, jobs: DrillJobs, record: Callable[[str, str, str], None]):
        self._watch, self._jobs, self._record = watch, jobs, record

    def start(self, request: Request) -> Response:
        form, user, view = request.state.form, request.state.visitor.name, self._watch.view
        broker, for_s = form.get("broker", ""), _seconds(form.get("for", ""))
        if broker not in [each.name for each in view.brokers]:
            raise HTTPException(404, "The configuration has no such broker")
        if "sure" not in form:
            raise HTTPException(400, "Nothing was changed: say that you are sure")
        risks = forecast_of(view, broker).risks()
        if risks and "force" not in form:
            raise HTTPException(409, f"Nothing was changed: {'; '.join(risks)}")
        nodes = [node.name for node in view.nodes.values() if node.answers]
        paths = {node.name: node.paths.get(broker) for node in view.nodes.values()}
        here = [name for name, path in paths.items() if path is not None and path.state is PathState.ANSWERS]

        def ended(job: DrillJob) -> None:
            self._record(user, "", f"the drill of {broker} has ended: {job.outcome}")

        if not self._jobs.start(broker, nodes, here, for_s, user, ended):
            raise HTTPException(409, "A drill runs; wait for its end, or stop it")
        self._record(user, "", f"drill {broker} for {for_s:g} s")
        return RedirectResponse("/drill", 303)

    def stop(self, request: Request) -> Response:
        self._jobs.stop()
        self._record(request.state.visitor.name, "", "stop the drill")
        return RedirectResponse("/drill", 303)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= _LONGEST_S:
        raise HTTPException(400, f"Nothing was changed: a drill takes up to {_LONGEST_S:g} seconds")
    return seconds
