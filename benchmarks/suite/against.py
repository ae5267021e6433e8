"""``--against KEY=VALUE``: our own program a second time, with another setting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click
import yaml

from benchmarks.suite.peers import SERVICEBUS, Peer

option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--against", multiple=True, metavar="KEY=VALUE", help="servicebus once more, with this setting; may be repeated."
)


def variants(against: Sequence[str]) -> list[Peer]:
    """A peer for each."""
    made = []
    for each in against:
        key, equals, value = each.partition("=")
        if not equals:
            raise click.UsageError(f"--against {each}: KEY=VALUE is wanted, such as fast_path=false")
        made.append(SERVICEBUS.with_settings(f"{SERVICEBUS.name} {each}", {key: yaml.safe_load(value)}))
    return made
