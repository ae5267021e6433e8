"""Objects of the user's programs, by ``module:name``."""

from __future__ import annotations

import importlib
import sys
from contextlib import suppress
from functools import reduce
from pathlib import Path
from typing import Any

from servicebus.wire.printable import describe


class Unusable(Exception):
    """Raised when a name leads to nothing, or to something of another kind; the text goes on after the name."""


def make_importable(path: str | None = None) -> None:
    """Let modules be imported from the folder of the file *path* and the current one, behind all else.

    A file that lies there by chance, or by another user's hand, must not stand in for an installed package.
    """
    folders = [str(Path(path).resolve().parent)] if path else []
    with suppress(OSError):  # the current folder may be gone
        folders.append(str(Path.cwd()))
    sys.path += [folder for folder in dict.fromkeys(folders) if folder not in sys.path]


def imported(target: str) -> Any:
    """The object that ``package.module:name`` means. Raises Unusable."""
    module, _, name = target.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:  # whatever the module's own code raises
        raise Unusable(f"cannot be imported: {describe(error)}") from error
    try:
        return reduce(getattr, name.split("."), found)
    except AttributeError as error:
        raise Unusable(f"{module} has no {name}") from error
