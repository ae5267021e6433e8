"""Figures: samples of one kind with their goal; a table for people, JSON for machines, an exit status for both."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lxml.etree
import pika
from rich import box
from rich.console import Console
from rich.table import Table

import servicebus
from servicebus.testing import find_broker_program


@dataclass
class Figure:
    """One line of the table. Samples and limits are seconds, or counts when ``unit`` is empty."""

    name: str
    median_limit: float | None = None
    p99_limit: float | None = None
    max_limit: float | None = None
    unit: str = "s"
    samples: list[float] = field(default_factory=list)

    @property
    def goal(self) -> str:
        limits = {"median": self.median_limit, "p99": self.p99_limit, "max": self.max_limit}
        parts = [f"{name} {self._limit(limit)}" for name, limit in limits.items() if limit is not None]
        return ", ".join(parts) or "-"

    @property
    def median(self) -> float:
        return quantile(self.samples, 0.5)

    @property
    def p99(self) -> float:
        return quantile(self.samples, 0.99)

    @property
    def max(self) -> float:
        return max(self.samples)

    @property
    def result(self) -> str:
        if not self.samples:
            return "not measured"
        if self.goal == "-":
            return "-"
        pairs = ((self.median, self.median_limit), (self.p99, self.p99_limit), (self.max, self.max_limit))
        is_met = all(limit is None or (value < limit or value == limit == 0) for value, limit in pairs)
        return "met" if is_met else "MISSED"

    def row(self) -> list[str]:
        values = [self._text(value) for value in (self.median, self.p99, self.max)] if self.samples else ["-"] * 3
        return [self.name, str(len(self.samples)), *values, self.goal, self.result]

    def as_dict(self) -> dict[str, Any]:
        stats = {"median": self.median, "p99": self.p99, "max": self.max} if self.samples else {}
        return {"name": self.name, "unit": self.unit, "goal": self.goal, "verdict": self.result, **stats,
                "samples": self.samples}  # fmt: skip

    def _limit(self, limit: float) -> str:
        return f"< {limit:g} s" if self.unit else f"{limit:g}"

    def _text(self, value: float) -> str:
        return f"{value:.3f}" if self.unit else f"{value:g}"


def quantile(samples: Sequence[float], share: float) -> float:
    """The sample that *share* of them do not exceed. Nearest rank: of 20, the 99th percentile is the largest."""
    ranked = sorted(samples)
    return ranked[max(0, -int(-share * len(ranked) // 1) - 1)]


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    cpu = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "cpu": f"{os.cpu_count()} x {cpu.group(1) if cpu else platform.machine()}",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "rabbitmq": _rabbitmq_version(),
        "pika": pika.__version__,
        "lxml": ".".join(str(part) for part in lxml.etree.LXML_VERSION[:3]),
        "servicebus": servicebus.__version__,
    }


def report(title: str, figures: Sequence[Figure], json_path: Path | None, facts: dict[str, Any] | None = None) -> int:
    """Print the table, write the JSON if asked for; returns the exit status: 0 if every measured goal is met."""
    table = Table(title=title, box=box.MARKDOWN)
    for heading in ("figure", "n", "median", "p99", "max", "goal", "verdict"):
        table.add_column(heading, justify="right" if heading in ("n", "median", "p99", "max") else "left")
    for figure in figures:
        table.add_row(*figure.row())
    console = Console(width=None if os.isatty(1) else 140)
    console.print(table)
    about = machine()
    console.print(", ".join(f"{key} {value}" for key, value in {**about, **(facts or {})}.items()), highlight=False)
    if json_path is not None:
        document = {"title": title, "machine": about, **(facts or {}), "figures": [each.as_dict() for each in figures]}
        json_path.write_text(json.dumps(document, indent=1) + "\n")
    return 1 if any(figure.result == "MISSED" for figure in figures) else 0


def _rabbitmq_version() -> str:
    home = find_broker_program().resolve().parent.parent
    found = next(iter(sorted(home.glob("plugins/rabbit-*"))), None)
    if found is not None:
        return re.sub(r"\.ez$", "", found.name).removeprefix("rabbit-")
    done = subprocess.run(["rabbitmqctl", "version"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
