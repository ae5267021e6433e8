"""ProgressLine: how far a long command has come, on stderr."""

from __future__ import annotations

import time

import click

EVERY_S = 2.0


class ProgressLine:
    """Says nothing to those who wait for less than two seconds, and then a line every two."""

    def __init__(self, done: str):
        self._done = done
        self._told_at = time.monotonic()

    def tell(self, host: str, count: int, total: int) -> None:
        """*count* of *total* are done on *host*."""
        now = time.monotonic()
        if now - self._told_at >= EVERY_S:
            self._told_at = now
            click.echo(f"servicebus: {host}: {count} of {total} {self._done}", err=True)
