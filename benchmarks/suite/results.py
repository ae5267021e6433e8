"""Documents of measurements, kept as JSON, and the tables and plots that are made from them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from benchmarks.figures import machine
from benchmarks.suite.charts import Chart, draw
from benchmarks.suite.settings import RESULTS, ROOT, Settings
from benchmarks.suite.tables import Table


@dataclass(frozen=True)
class Report:
    """What people read of a document."""

    title: str
    tables: Sequence[Table]
    charts: Sequence[Chart] = ()
    notes: Sequence[str] = field(default_factory=tuple)


def document(
    part: str,
    settings: Settings,
    results: Sequence[Mapping[str, Any]],
    began: float,
    versions: Mapping[str, str] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """What is kept of a run that began at Unix time *began*; *versions* are those of the peers."""
    return {
        "part": part,
        "machine": {**machine(), "revision": _revision(), **(versions or {})},
        "rounds": settings.rounds,
        "seconds": settings.seconds,
        "took_s": round(time.time() - began),
        **more,
        "results": list(results),
    }


def keep(found: Mapping[str, Any], settings: Settings, made: Report, *, is_whole: bool = True) -> None:
    """Write NAME.json, .rst and .svg into the folder of results, and show the tables.

    What is not the whole part goes into a folder of its own, unless another was asked for: a look at one peer must not
    take the place of the table that the documents show.
    """
    folder = settings.results if is_whole or settings.results != RESULTS else RESULTS / "partial"
    folder.mkdir(parents=True, exist_ok=True)
    _path(folder, found["part"], "json").write_text(json.dumps(found, indent=1) + "\n")
    publish(found, folder, made)
    if settings.prints_json:
        json.dump(found, sys.stdout, indent=1)
        print()
    else:
        click.echo(markdown(found, made))


def publish(found: Mapping[str, Any], folder: Path, made: Report) -> None:
    """Write the tables and plots of a document that is kept already."""
    part = found["part"]
    blocks = [*(table.rst() for table in made.tables), *(f"{note}\n" for note in made.notes), f"{about(found)}\n"]
    _path(folder, part, "rst").write_text("\n".join(blocks))
    if made.charts:
        draw(made.charts, _path(folder, part, "svg"), about(found))


def load(folder: Path, part: str) -> dict[str, Any] | None:
    """The document of a part; None if it was never measured."""
    path = _path(folder, part, "json")
    return json.loads(path.read_text()) if path.exists() else None


def markdown(found: Mapping[str, Any], made: Report) -> str:
    parts = [f"## {made.title}\n", *(table.markdown() for table in made.tables), *(f"{note}\n" for note in made.notes)]
    return "\n".join([*parts, about(found)]) + "\n"


def about(found: Mapping[str, Any]) -> str:
    """When, on what, and how it was measured, in one line."""
    machine_facts = ", ".join(f"{key} {value}" for key, value in found["machine"].items() if key != "date")
    how = f"{found['rounds']} rounds of {found['seconds']:g} s a phase, {found['took_s']} s in all"
    return f"{found['machine']['date']}; {machine_facts}; {how}."


def _revision() -> str:
    """Of this repository; with a plus if something is not committed."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--abbrev=8"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _path(folder: Path, part: str, kind: str) -> Path:
    return folder / f"{part}.{kind}"
