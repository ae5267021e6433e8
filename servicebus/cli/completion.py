"""``servicebus completion``: the script that makes the shell complete commands and options."""

from __future__ import annotations

import os
from pathlib import PurePath

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS), required=False)
@click.pass_context
def completion(ctx: click.Context, shell: str | None) -> None:
    """Print the completion script for SHELL (default: that of $SHELL).

    For bash: echo 'eval "$(servicebus completion bash)"' >> ~/.bashrc
    """
    from servicebus.cli.main import COMPLETION_VARIABLE, PROGRAM

    name = shell or PurePath(os.environ.get("SHELL", "")).name
    found = get_completion_class(name)
    if found is None:
        raise click.UsageError(f"$SHELL names none of {', '.join(SHELLS)}; say which one")
    click.echo(found(ctx.find_root().command, {}, PROGRAM, COMPLETION_VARIABLE).source())
