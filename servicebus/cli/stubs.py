"""``servicebus stubs``: a client for a node, as one Python file."""

from __future__ import annotations

import click

from servicebus.cli.contract_source import SOURCES, load_contract
from servicebus.cli.options import TEXT, config_source, json_option, timeout_option
from servicebus.cli.output import Output, write_file
from servicebus.configuration import Configuration
from servicebus.wire.printable import counted


@click.command(epilog=f"SOURCE: {SOURCES}.")
@click.argument("source", type=TEXT)
@click.option("-o", "--output", "path", type=click.Path(dir_okay=False), default="-", help="The file; - is stdout.")
@config_source(required=False)
@timeout_option("10", 10.0)
@json_option
@click.pass_context
def stubs(ctx: click.Context, source: str, path: str, configuration: Configuration | None, timeout: float) -> None:
    """Write a client for the services of SOURCE: models, errors and methods, for threads and for asyncio.

    It needs this package alone, without pydantic, and mypy and pyright know its types.

    Example: servicebus stubs NODE-01 -o shop_client.py
    """
    from servicebus.contracts.stubs import stub_of

    contract = load_contract(source, configuration, timeout, "SOURCE")
    text = stub_of(contract)
    output = ctx.ensure_object(Output)
    if path == "-":
        output.result({"source": source, "text": text}, text.rstrip("\n"))
        return
    count = sum(not each.former for each in contract)
    if write_file(path, text):
        output.result({"source": source, "file": path, "services": count}, f"{path}: {counted(count, 'service')}")
