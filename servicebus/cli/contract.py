"""``servicebus contract``: what has changed between two contracts, and whether that breaks callers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING

import click

from servicebus.cli.contract_source import SOURCES, category_of, load_contract
from servicebus.cli.exit_codes import ExitCode
from servicebus.cli.options import TEXT, config_source, json_option, timeout_option
from servicebus.cli.output import Output, note
from servicebus.configuration import Configuration
from servicebus.wire.printable import counted, printable

if TYPE_CHECKING:
    from servicebus.contracts import NodeContract
    from servicebus.contracts.schema_differences import Difference


@click.group()
def contract() -> None:
    """Work with the contracts of nodes: what they offer their callers."""


@contract.command(epilog=f"OLD and NEW: {SOURCES}.")
@click.argument("old", type=TEXT)
@click.argument("new", type=TEXT)
@config_source(required=False)
@timeout_option("10", 10.0)
@json_option
@click.pass_context
def diff(ctx: click.Context, old: str, new: str, configuration: Configuration | None, timeout: float) -> None:
    """Tell what has changed from OLD to NEW, and whether it breaks the callers of OLD.

    Params may widen; results, errors and the events that a node publishes may narrow. What cannot be decided counts as
    breaking. Exit status 0 if nothing breaks, 1 if something does.

    Example: servicebus contract diff released.json shop.services:group
    """
    from servicebus.contracts.differences import compare_contracts

    output = ctx.ensure_object(Output)
    before, after = (
        load_contract(source, configuration, timeout, hint) for source, hint in ((old, "OLD"), (new, "NEW"))
    )
    before, after = _comparable(before, after, {category_of(old), category_of(new)})
    found = compare_contracts(before, after)
    breaking = sum(each.breaks for each in found)
    document = {"old": old, "new": new, "breaking": breaking, "differences": [each.to_json() for each in found]}
    output.result(document, printable("\n".join(_lines(found, breaking)), keep_newlines=True))
    ctx.exit(ExitCode.FAILED if breaking else ExitCode.OK)


def _comparable(old: NodeContract, new: NodeContract, categories: set[str | None]) -> tuple[NodeContract, NodeContract]:
    """Without the services of other categories, if one side is a group and the other one more than that."""
    category = next(iter(categories - {None}), None) if None in categories else None
    parts = (*old, *old.publishes, *new, *new.publishes)
    if category is None or all(each.category == category for each in parts):
        return old, new
    note(f"only what belongs to {category} is compared, since a group of that is all that one side is")
    return _only(old, category), _only(new, category)


def _only(contract: NodeContract, category: str) -> NodeContract:
    services = tuple(each for each in contract if each.category == category)
    return replace(
        contract, services=services, publishes=tuple(e for e in contract.publishes if e.category == category)
    )


def _lines(found: Sequence[Difference], breaking: int) -> Iterator[str]:
    for service, differences in groupby(found, key=lambda each: each.service):
        yield service
        for each in differences:
            yield f"    {'BREAKING  ' if each.breaks else 'compatible'}  {each}"
    if not found:
        yield "no differences"
    else:
        verb = "break" if breaking > 1 else "breaks"
        whom = "callers or subscribers" if any(each.service.startswith("event ") for each in found) else "callers"
        yield f"{counted(len(found), 'difference')}, {breaking or 'none'} of which {verb} {whom}"
