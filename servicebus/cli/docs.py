"""``servicebus docs``: the documentation of a node's services, as a static site."""

from __future__ import annotations

from pathlib import Path

import click

from servicebus.cli.contract_source import SOURCES, load_contract
from servicebus.cli.exit_codes import ExitCode
from servicebus.cli.group import Failure
from servicebus.cli.options import TEXT, config_source, json_option, timeout_option
from servicebus.cli.output import Output
from servicebus.configuration import Configuration
from servicebus.wire.printable import counted


@click.command(epilog=f"SOURCE: {SOURCES}.")
@click.argument("source", type=TEXT)
@click.option("-o", "--output", "folder", type=click.Path(file_okay=False), required=True, help="The folder.")
@config_source(required=False)
@timeout_option("10", 10.0)
@json_option
@click.pass_context
def docs(ctx: click.Context, source: str, folder: str, configuration: Configuration | None, timeout: float) -> None:
    """Write a site about the services of SOURCE into a folder: params, results, errors, examples, and how to call them.

    A browser reads it from there or from any web server; it loads nothing from elsewhere, and can be searched. Needs
    pip install servicebus-failover[docs].

    Example: servicebus docs NODE-01 -o site/
    """
    try:
        from servicebus.contracts.site import make_site, write_site
    except ImportError as error:
        as_json = ctx.ensure_object(Output).json
        raise Failure("MissingExtra", str(error), ExitCode.FAILED, as_json=as_json) from error

    contract = load_contract(source, configuration, timeout, "SOURCE")
    files = make_site(contract)
    try:
        write_site(Path(folder), files)
    except FileExistsError as error:
        raise click.BadParameter(str(error), param_hint="-o") from error
    except OSError as error:
        raise click.BadParameter(f"{folder}: {error.strerror or error}", param_hint="-o") from error
    document = {"source": source, "folder": folder, "services": len(contract)}
    ctx.ensure_object(Output).result(document, f"{Path(folder, 'index.html')}: {counted(len(contract), 'service')}")
