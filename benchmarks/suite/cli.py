"""The commands of ``bench``; each part is imported when it is asked for."""

from __future__ import annotations

import importlib
import signal
import sys
from typing import Any

import click

PARTS = {
    "calls": "benchmarks.suite.parts.calls",
    "messages": "benchmarks.suite.parts.messages",
    "events": "benchmarks.suite.parts.events",
    "workers": "benchmarks.suite.parts.workers",
    "logs": "benchmarks.suite.parts.logs",
    "failover": "benchmarks.suite.parts.failover",
    "growth": "benchmarks.suite.parts.growth",
    "footprint": "benchmarks.suite.parts.footprint",
    "fleet": "benchmarks.suite.parts.fleet",
    "storm": "benchmarks.suite.parts.storm",
}
"""Modules by command, in the order of ``bench all``."""
COMMANDS = {
    **PARTS,
    "guard": "benchmarks.suite.parts.guard",
    "all": "benchmarks.suite.parts.everything",
    "report": "benchmarks.suite.parts.again",
}


class Commands(click.Group):
    """A group whose commands are the ``command`` of a module each."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        return importlib.import_module(COMMANDS[cmd_name]).command  # type: ignore[no-any-return]


def part(name: str) -> Any:
    """The module of a part."""
    return importlib.import_module(PARTS[name])


@click.group(cls=Commands)
def main() -> None:
    """Measure servicebus beside its peers, on private brokers; tables and plots go to benchmarks/results/.

    Only the ratios of one run mean anything, and only on a machine that does nothing else.
    """
    # As an exception, so that brokers and processes are ended on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
