"""The click group of ``servicebus``: imports commands when they are asked for, makes every error a line and a code."""

from __future__ import annotations

import errno
import importlib
import json
import os
import traceback
from collections.abc import Mapping
from typing import IO, Any

import click

from servicebus._nearest import nearest
from servicebus.cli.exit_codes import ExitCode, exit_code_of
from servicebus.cli.output import Output, OutputFailed
from servicebus.errors import ServiceBusError
from servicebus.wire.printable import printable

_NOTHING: Mapping[str, Any] = {}


class Failure(click.ClickException):
    """Ends the command with one line on stderr: a sentence, or a JSON object after ``--json``.

    Args:
        beside: what that object says as well.
    """

    def __init__(
        self, kind: str, message: str, exit_code: ExitCode, *, as_json: bool, beside: Mapping[str, Any] = _NOTHING
    ):
        super().__init__(message)
        self.kind = kind
        self.beside = beside
        vars(self)["exit_code"] = int(exit_code)  # click types it as the class's, but reads the instance's
        self.as_json = as_json

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the line; click calls this."""
        click.echo(self._line(), file=file, err=True)

    def _line(self) -> str:
        if self.as_json:
            found = {"error": self.kind, "message": self.message, "exit_code": int(self.exit_code), **self.beside}
            return json.dumps(found)
        return "servicebus: " + printable(" ".join(self.message.split()))


class CommandGroup(click.Group):
    """A group whose commands are named by import path, so that ``call`` never pays for what ``broker`` imports.

    Args:
        lazy: ``package.module:attribute`` of each command by its name.
    """

    def __init__(self, *arguments: Any, lazy: Mapping[str, str] | None = None, **options: Any):
        super().__init__(*arguments, **options)
        self._lazy = dict(lazy or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, sorted."""
        return sorted({*super().list_commands(ctx), *self._lazy})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now if it was not yet."""
        if cmd_name in self._lazy and cmd_name not in self.commands:
            module, _, attribute = self._lazy[cmd_name].partition(":")
            self.add_command(getattr(importlib.import_module(module), attribute), cmd_name)
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that *args* begin with. click itself suggests only what was imported already, from 8.4 on."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            meant = nearest(args[0], self.list_commands(ctx))
            if meant is None or args[0].startswith("-"):
                raise
            message = f"No such command {args[0]!r}. Did you mean {meant!r}?"
            raise click.UsageError(message, error.ctx) from None

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; every error but click's own leaves as Failure."""
        output = ctx.ensure_object(Output)
        try:
            return super().invoke(ctx)
        except ServiceBusError as error:
            _show_traceback_if_asked()
            raise Failure(
                type(error).__name__, str(error), exit_code_of(error), as_json=output.json, beside=output.beside_error
            ) from error
        except OutputFailed as error:
            message = f"it is done, but the output cannot be written: {error}"
            raise Failure("OutputFailed", message, ExitCode.FAILED, as_json=output.json) from error
        except KeyboardInterrupt:
            raise click.exceptions.Exit(ExitCode.INTERRUPTED) from None
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise  # the reader of a pipe has gone; click ends quietly
            _show_traceback_if_asked()
            message = f"unexpected {type(error).__name__}: {error}; SERVICEBUS_TRACEBACK=1 shows where"
            raise Failure(type(error).__name__, message, ExitCode.DEFECT, as_json=output.json) from error


def _show_traceback_if_asked() -> None:
    """That of the error which is being handled."""
    if os.environ.get("SERVICEBUS_TRACEBACK"):
        click.echo(printable(traceback.format_exc(), keep_newlines=True), err=True, nl=False)
