"""``servicebus asyncapi``: a contract as an AsyncAPI document."""

from __future__ import annotations

import json
from typing import Any

import click

from servicebus.cli.contract_source import SOURCES, load_contract
from servicebus.cli.options import TEXT, config_source, json_option, timeout_option
from servicebus.cli.output import Output, write_file
from servicebus.configuration import Configuration
from servicebus.errors import AddressError
from servicebus.wire.address import check_node_name
from servicebus.wire.printable import counted

_YAML = (".yaml", ".yml")


@click.command(epilog=f"SOURCE: {SOURCES}.")
@click.argument("source", type=TEXT)
@click.option("-o", "--output", "path", type=click.Path(dir_okay=False), metavar="FILE", help="YAML if so named.")
@click.option("--node", type=TEXT, default="", metavar="NAME", help="The node that serves a group of services.")
@click.option("--api-version", type=TEXT, default="", metavar="TEXT", help="The version that the document bears.")
@config_source(required=False)
@timeout_option("10", 10.0)
@json_option
@click.pass_context
def asyncapi(
    ctx: click.Context,
    source: str,
    path: str | None,
    node: str,
    api_version: str,
    configuration: Configuration | None,
    timeout: float,
) -> None:
    """Print the AsyncAPI 3.0 document of SOURCE, or write it to FILE.

    Servers are the brokers of the configuration, without their credentials.

    Example: servicebus asyncapi shop.services:group -o shop.yaml
    """
    from servicebus.contracts.asyncapi import asyncapi_document

    if node:
        try:
            check_node_name(node)
        except AddressError as error:
            raise click.BadParameter(str(error), param_hint="--node") from error
    contract = load_contract(source, configuration, timeout, "SOURCE")
    if source.endswith(_YAML):
        configuration = Configuration.load(source)
    brokers: dict[str, Any] = {}
    if configuration is not None:
        brokers = {"hosts": configuration.hosts, "exchange": configuration.exchange_name}
    document = asyncapi_document(contract, node=node, version=api_version, **brokers)
    output = ctx.ensure_object(Output)
    if path is None:
        output.result(document, _json(document).rstrip())
        return
    count = len(document["operations"])
    if write_file(path, _yaml(document) if path.endswith(_YAML) else _json(document)):
        output.result({"source": source, "file": path, "operations": count}, f"{path}: {counted(count, 'operation')}")


def _json(document: Any) -> str:
    # Only ASCII: what could move the cursor of a terminal is escaped.
    return json.dumps(document, indent=2) + "\n"


def _yaml(document: Any) -> str:
    import yaml

    # Without anchors, which YAML writes for what stands twice.
    text: str = yaml.safe_dump(json.loads(json.dumps(document)), sort_keys=False, allow_unicode=True, width=120)
    return text
