"""``servicebus mock``: a node made from its contract."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from servicebus.cli.contract_source import SOURCES, load_contract
from servicebus.cli.exit_codes import ExitCode
from servicebus.cli.group import Failure
from servicebus.cli.options import TEXT, Seconds, config_source, read_json, timeout_option
from servicebus.cli.output import note
from servicebus.cli.run import log_to_stderr
from servicebus.configuration import Configuration
from servicebus.errors import AddressError, ContractError
from servicebus.wire.address import check_node_name

if TYPE_CHECKING:
    from servicebus.contracts import NodeContract
    from servicebus.testing import MockNode


@click.command(epilog=f"SOURCE: {SOURCES}.")
@click.argument("source", type=TEXT)
@click.option("--node", type=TEXT, default=None, metavar="NAME", help="The node to serve, if not that of SOURCE.")
@click.option("--reply", "replies", type=TEXT, multiple=True, metavar="SERVICE=JSON", help="What calls of SERVICE get.")
@click.option(
    "--fail",
    "failures",
    type=TEXT,
    multiple=True,
    metavar="SERVICE=ERROR[:JSON]",
    help="Have SERVICE raise ERROR, with these fields.",
)
@click.option("--latency", type=Seconds(), default=None, metavar="SECONDS", help="How long each request takes.")
@config_source(required=False)
@timeout_option("10", 10.0)
@click.pass_context
def mock(
    ctx: click.Context,
    source: str,
    node: str | None,
    replies: tuple[str, ...],
    failures: tuple[str, ...],
    latency: float | None,
    configuration: Configuration | None,
    timeout: float,
) -> None:
    """Serve the services of SOURCE without their code, until a signal stops it.

    Params that the schemas refuse are answered InvalidParams. Calls get an example of the result that the schema names,
    its default, or a value that is made from it; messages are taken. SERVICE is category.name.

    It takes the calls and messages of the node, those that wait on the brokers too, so use brokers of your own.

    Example: servicebus mock shop.json -c dev.yaml --fail 'shop.price=OutOfStock:{"sku": "s-1", "left": 0}'
    """
    contract = load_contract(source, configuration, timeout, "SOURCE")
    if configuration is None and source.endswith((".yaml", ".yml")):
        configuration = Configuration.load(source)
    if configuration is None:
        raise click.UsageError("no configuration: name one with the brokers to serve on by -c FILE")
    configuration = _renamed(configuration, node or contract.node)
    made = _made(contract, latency or 0.0)
    _tell(made, replies, failures)
    _must_be_free(configuration)
    from servicebus.service import ServiceBus  # here, so that --help and completion do not wait for pika

    bus = ServiceBus(configuration)
    bus.include(made)  # type: ignore[arg-type]
    log_to_stderr(configuration)
    ctx.exit(bus.run())


def _renamed(configuration: Configuration, node: str) -> Configuration:
    if not node and not configuration.names_node:
        raise click.UsageError("neither SOURCE nor the configuration names a node: say which one by --node NAME")
    if not node:
        return configuration
    try:
        check_node_name(node)
    except AddressError as error:
        raise click.BadParameter(str(error), param_hint="--node") from error
    return configuration.with_node_name(node)


def _made(contract: NodeContract, latency: float) -> MockNode:
    from servicebus.testing.mock import MockNode

    try:
        return MockNode(contract, latency)
    except ImportError as error:
        raise Failure("MissingExtra", str(error), ExitCode.FAILED, as_json=False) from error


def _tell(made: MockNode, replies: tuple[str, ...], failures: tuple[str, ...]) -> None:
    """What the options say. Raises click.BadParameter."""
    for text in replies:
        service, _, result = text.partition("=")
        try:
            made.reply(service, read_json(result))
        except (ValueError, RecursionError, ContractError) as error:
            raise click.BadParameter(f"{text}: {error}", param_hint="--reply") from error
    for text in failures:
        service, _, error_text = text.partition("=")
        name, has_fields, fields = error_text.partition(":")
        try:
            made.fail(service, name, read_json(fields) if has_fields else None)
        except (ValueError, RecursionError, ContractError) as error:
            raise click.BadParameter(f"{text}: {error}", param_hint="--fail") from error
    for service, problem in made.problems().items():
        note(f"calls of {service} will fail: {problem}")


def _must_be_free(configuration: Configuration) -> None:
    """Raises click.UsageError: a node of that name runs, whose calls and messages would come here."""
    from servicebus.sender import Sender

    with Sender(configuration) as sender:
        if sender.ping(configuration.node_name):
            raise click.UsageError(
                f"{configuration.node_name} runs already, and would lose calls and messages to its mock: "
                "name another node by --node NAME, or other brokers by -c FILE"
            )
