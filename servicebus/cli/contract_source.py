"""Where commands get a contract from: a file, a group of services, an agent's configuration, or a node that runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from servicebus.cli.importing import Unusable, imported, make_importable
from servicebus.cli.options import read_stdin
from servicebus.configuration import Configuration
from servicebus.errors import ContractError

if TYPE_CHECKING:
    from servicebus.contracts import NodeContract

SOURCES = "a file of `servicebus describe NODE --json` (- is stdin), module:group, the YAML file of an agent, or a node"


def load_contract(source: str, configuration: Configuration | None, timeout: float, hint: str) -> NodeContract:
    """The contract that *source* means; one of a file or module needs no configuration.

    Args:
        hint: the name of the argument, for errors.

    Raises:
        click.UsageError: nothing can be read there.
        ContractError: what is read there is no description.
        ServiceBusError: the node does not answer, or the configuration cannot be used.
    """
    if _is_file(source):
        return _from_file(source, hint)
    if ":" in source:
        return _from_module(source, hint)
    if configuration is None:
        raise click.UsageError(
            f"{source} is no file and no module:group; to ask a node, name a configuration by -c FILE"
        )
    from servicebus.sender import Sender  # here, so that files and --help do not wait for pika

    with Sender(configuration) as sender:
        return sender.describe(source, timeout)


def is_node(source: str) -> bool:
    """Whether *source* means a node that runs."""
    return not (_is_file(source) or ":" in source)


def category_of(source: str) -> str | None:
    """The category of a group, which is all that *source* can speak of; None for what describes a node entirely."""
    found = None if _is_file(source) or ":" not in source else imported(source)
    return getattr(found, "category", None)


def _is_file(source: str) -> bool:
    return source == "-" or "/" in source or source.endswith((".json", ".yaml", ".yml")) or Path(source).is_file()


def _from_file(source: str, hint: str) -> NodeContract:
    from servicebus.contracts import NodeContract

    if source.endswith((".yaml", ".yml")):
        from servicebus.cli.run import build

        return build(Configuration.load(source)).contract()
    try:
        text = read_stdin() if source == "-" else Path(source).read_bytes()
        return NodeContract.from_json(json.loads(text))
    except (OSError, ValueError, RecursionError) as error:
        raise click.BadParameter(f"{source}: {error}", param_hint=hint) from error
    except ContractError as error:
        raise ContractError(f"{source}: {error}") from error


def _from_module(source: str, hint: str) -> NodeContract:
    make_importable()
    try:
        found = imported(source)
        if not callable(getattr(found, "contract", None)):
            raise Unusable(f"is no group (servicebus.typed.Services) but a {type(found).__name__}")
    except Unusable as error:
        raise click.BadParameter(f"{source} {error}", param_hint=hint) from error
    contract: NodeContract = found.contract()
    return contract
