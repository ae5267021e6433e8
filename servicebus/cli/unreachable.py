"""What a command that goes over several brokers says of those that it could not use; it goes on with the others."""

from __future__ import annotations

from collections.abc import Mapping

import click

from servicebus.cli.exit_codes import ExitCode
from servicebus.cli.output import Output, warn
from servicebus.errors import NoBrokerAvailable, TransportError

__all__ = ["end_with", "no_broker"]


def end_with(ctx: click.Context, failed: Mapping[str, TransportError], *, is_partial: bool = False) -> None:
    """Name the brokers that *failed* on stderr, and end with the status that says so; come back if all was well.

    Args:
        is_partial: something else was not done.
    """
    if not ctx.ensure_object(Output).json:  # the document has it all
        for error in failed.values():
            warn(str(error))
    if failed or is_partial:
        ctx.exit(ExitCode.PARTIAL)


def no_broker(what: str, failed: Mapping[str, TransportError]) -> NoBrokerAvailable:
    """The error of a command for *what* that could use none of its brokers."""
    attempts = [(host, getattr(error, "reason", str(error))) for host, error in failed.items()]
    error = NoBrokerAvailable(what, attempts, "nothing was done")
    error.__cause__ = list(failed.values())[-1]
    return error
