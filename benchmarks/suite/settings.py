"""What every part is told on the command line."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"


@dataclass(frozen=True)
class Settings:
    """How long to measure, whom, and where the results go."""

    rounds: int = 3
    seconds: float = 1.0
    only: tuple[str, ...] = ()
    wait_limit_s: float = 5.0
    results: Path = RESULTS
    prints_json: bool = False

    def wants(self, name: str) -> bool:
        """Whether *name* has one of the words of ``--only``; every one is wanted without it."""
        return not self.only or any(word.lower() in name.lower() for word in self.only)


def shared_options(*, rounds: int = 3, seconds: float = 1.0) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The options of every part; the command gets them as one `Settings`."""

    options = (
        click.option("--rounds", default=rounds, show_default=True, help="How often each one is measured."),
        click.option("--seconds", default=seconds, show_default=True, help="Length of one measured phase."),
        click.option("--only", default="", help="Words of names, with commas between."),
        click.option(
            "--patience", default=5.0, show_default=True, help="Wait so long for a quiet machine before each."
        ),
        click.option("--results", type=click.Path(path_type=Path), default=RESULTS, help="Folder."),
        click.option("--json", "prints_json", is_flag=True, help="Print the document instead of the tables."),
    )

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def command(rounds: int, seconds: float, only: str, patience: float, results: Path, prints_json: bool,
                    **others: Any) -> None:  # fmt: skip
            words = tuple(word.strip() for word in only.split(",") if word.strip())
            function(Settings(rounds, seconds, words, patience, results, prints_json), **others)

        decorated: Callable[..., None] = command
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return decorate
