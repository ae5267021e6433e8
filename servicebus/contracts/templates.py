"""Templates: Jinja2, all escaped. Whatever a node, a message or a broker says is text of strangers."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from servicebus.wire.printable import printable

__all__ = ["make_environment"]


def make_environment(package: str, folder: str) -> Environment:
    """For the templates in *folder* of *package*; a name that is not given is an error."""
    return Environment(
        loader=PackageLoader(package, folder),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _shown(value: Any) -> Any:
    """What moves the reader's cursor or eye, such as U+202E, is shown as its code."""
    return printable(value, keep_newlines=True) if isinstance(value, str) and not isinstance(value, Markup) else value
