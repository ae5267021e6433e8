"""How commands print: for people, or one JSON document on stdout after ``--json``."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

import click


@dataclass
class Output:
    """What holds for the whole command line; click carries it as ``ctx.obj``."""

    json: bool = False

    def result(self, document: Any, text: str) -> None:
        """Print the document as JSON, or the text for people."""
        click.echo(as_json(document) if self.json else text)


def as_json(value: Any) -> str:
    """One line of JSON, readable where the terminal can show it, and without what could move its cursor."""
    line = json.dumps(value, ensure_ascii=False)
    if not line.isprintable():  # C1, bidi: JSON leaves them as they are, and reads their escapes alike
        line = "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in line)
    try:
        line.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:  # lone surrogates, or a terminal that is not UTF-8
        return json.dumps(value)
    return line


def warn(message: str) -> None:
    """One line on stderr."""
    click.echo(f"servicebus: warning: {message}", err=True)
