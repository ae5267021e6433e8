#!/usr/bin/env python3
"""What do traces cost? Calls to agents and by Senders with traces, and to and by those without; interleaved.

All agents run all the time, on one broker. ``off`` is without them; so is ``absent``, in processes in which
opentelemetry cannot be imported. ``api`` has ``traces: true`` and no SDK. The others have the SDK with a batch
processor and an exporter that throws away: ``part`` has ``traces: 0.01``, ``sampled`` has ``traces: true`` and a
sampler that keeps one in a hundred, ``all`` keeps all of them. Each round calls all, so that what else the machine does
hits them alike::

    python -m benchmarks.traces --rounds 40
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from benchmarks.agent import Agent, place, sender_configuration
from benchmarks.side_by_side import DRIVES, undisturbed
from servicebus.configuration import Configuration
from servicebus.sender import Sender
from servicebus.testing import BrokerPool

GOALS: dict[str, float] = {"off": 0.0, "absent": 0.0, "part": 0.97, "api": 0.0, "sampled": 0.0, "all": 0.0}
"""Which part of the calls per second of ``off`` each form must have; 0 for none."""
RATES = {"part": 1.0, "sampled": 0.01, "all": 1.0}
"""Of the samplers."""
_FORM = "BENCH_TRACES"


def provide() -> None:
    """Be of the form that the environment names; in each process that makes spans."""
    form = os.environ.get(_FORM, "off")
    if form == "absent":
        sys.modules["opentelemetry"] = None  # type: ignore[assignment]
    if form not in RATES:
        return
    from opentelemetry import trace
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
    from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

    class Nowhere(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    provider = TracerProvider(sampler=ParentBasedTraceIdRatio(RATES[form]))
    provider.add_span_processor(BatchSpanProcessor(Nowhere()))
    trace.set_tracer_provider(provider)


def serve(path: str) -> int:
    """Be the agent of the file *path*."""
    from servicebus.cli.run import build

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    bus = build(Configuration.load(path))
    bus.set_after_fork_hook(provide)
    return bus.run()


def call(host: str) -> int:
    """Be a caller: for each line ``DRIVE CALLS`` say in how many seconds they were made."""
    provide()
    form = os.environ[_FORM]
    with Sender(sender_configuration([host], **settings_of(form))) as sender:
        for line in sys.stdin:
            drive, calls = json.loads(line)
            began = time.perf_counter()
            DRIVES[drive](sender, f"{node_of(form)}.math.add", [20, 22], 42, calls)
            print(time.perf_counter() - began, flush=True)
    return 0


def node_of(form: str) -> str:
    return f"TRACES-{form.upper()}"


def settings_of(form: str) -> dict[str, Any]:
    return {"node_name": node_of(form), "traces": 0.01 if form == "part" else form not in ("off", "absent")}


class TracedAgent(Agent):
    program = ("-m", "benchmarks.traces", "--serve")


class Caller:
    """A process that calls the agent of its form."""

    def __init__(self, host: str, form: str):
        program = [sys.executable, "-m", "benchmarks.traces", "--call", host]
        environment = {**os.environ, _FORM: form}
        self._process = subprocess.Popen(
            program, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def drive(self, drive: str, calls: int) -> float:
        """Microseconds for each call."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps([drive, calls]), file=self._process.stdin, flush=True)
        return float(self._process.stdout.readline()) / calls * 1e6

    def close(self) -> None:
        self._process.communicate(timeout=60)


def measure(callers: dict[str, Caller], rounds: int, calls: int) -> dict[tuple[str, str], list[float]]:
    """Drive and form -> microseconds per call, in each round."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    cases = [(drive, form) for drive in DRIVES for form in callers]
    for number in range(rounds + 1):
        random.shuffle(cases)
        for drive, form in cases:
            us = callers[form].drive(drive, calls)
            if number:  # the first one warms up
                found[drive, form].append(us)
    return found


def report(found: dict[tuple[str, str], list[float]]) -> bool:
    """Whether all goals are met, by the lower quartiles: what else a machine does only adds."""
    is_met = True
    for drive in DRIVES:
        base = found[drive, "off"]
        for form in [each for each in GOALS if (drive, each) in found]:
            goal = GOALS[form]
            ratio = undisturbed(base) / undisturbed(found[drive, form])
            paired = statistics.median(off / us for off, us in zip(base, found[drive, form], strict=True))
            is_met &= ratio >= goal
            rate = f"{1e6 / undisturbed(found[drive, form]):8.0f} calls/s"
            print(
                f"{drive:14} {form:8} {rate}, ratio {ratio:.3f} (median of the rounds {paired:.3f}), goal {goal or '-'}"
            )
    return is_met


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--calls", type=int, default=640, help="in each round, for each form and drive")
    parser.add_argument("--forms", nargs="+", choices=GOALS, default=list(GOALS), help="off is always among them")
    parser.add_argument("--serve", metavar="FILE", help="be an agent")
    parser.add_argument("--call", metavar="HOST", help="be a caller")
    options = parser.parse_args()
    if options.serve:
        return serve(options.serve)
    if options.call:
        return call(options.call)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        host = place(stack.enter_context(closing(BrokerPool())).take(1)[0])
        callers = {}
        for form in {"off": 0.0, **dict.fromkeys(options.forms)}:
            (own := folder / form).mkdir()
            os.environ[_FORM] = form
            stack.enter_context(TracedAgent(own, [host], **settings_of(form)))
            callers[form] = stack.enter_context(closing(Caller(host, form)))
        is_met = report(measure(callers, options.rounds, options.calls))
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
