"""How commands print: for people, or one JSON document on stdout after ``--json``."""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from servicebus.wire.printable import printable

PROGRESS_EVERY_S = 2.0
SILENT_S = 3.0
REPEATED_S = 10.0


@dataclass
class Output:
    """What holds for the whole command line; click carries it as ``ctx.obj``."""

    json: bool = False
    beside_error: dict[str, Any] = field(default_factory=dict)
    """What the document of an error says as well."""

    def result(self, document: Any, text: str) -> None:
        """Print the document as JSON, or the text for people, if there is one. Raises OutputFailed."""
        if not (text or self.json):
            return
        try:
            click.echo(as_json(document) if self.json else text)
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # the reader of a pipe has gone; click ends quietly
            # The interpreter flushes what is left at its end, and would fail again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise OutputFailed(error.strerror or str(error)) from error


class OutputFailed(Exception):
    """Raised when the command has done its work and its result cannot be written: a full disk or pipe."""


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


def write_file(path: str, text: str) -> bool:
    """Replace the file *path*, or make it: all of it or nothing. Raises click.BadParameter: it cannot be written.

    Returns:
        Whether it is a regular file. Of another one, which may be stdout, nothing is to be said beside the text.
    """
    file = Path(path).resolve()
    is_device = file.exists() and not file.is_file()  # /dev/null is written to, and stays what it is
    beside = file if is_device else file.with_name(f"{file.name}.new")
    try:
        beside.write_text(text, encoding="utf-8")
        if not is_device:
            beside.replace(file)
    except OSError as error:
        if not is_device:
            beside.unlink(missing_ok=True)
        raise click.BadParameter(f"{path}: {error.strerror or error}", param_hint="-o") from error
    return not is_device


def warn(message: str) -> None:
    """One line on stderr."""
    click.echo(f"servicebus: warning: {printable(message)}", err=True)


def note(message: str) -> None:
    """One line on stderr that is no warning."""
    click.echo(f"servicebus: {printable(message)}", err=True)


@contextmanager
def said_while_waiting(what: str, tell: Callable[[str], None] = note, after_s: float = SILENT_S) -> Iterator[None]:
    """Tell what is waited for, if that takes over *after_s* seconds, and again every ten."""
    is_over, began = threading.Event(), time.monotonic()

    def watch() -> None:
        pause_s = after_s
        while not is_over.wait(pause_s):
            tell(f"still waiting for {what} ({time.monotonic() - began:.0f} s)")
            pause_s = REPEATED_S

    threading.Thread(target=watch, name="says what is waited for", daemon=True).start()
    try:
        yield
    finally:
        is_over.set()


class ProgressLine:
    """How far a long command has come, on stderr: a line every two seconds."""

    def __init__(self, done: str):
        self._done = done
        self._told_at = time.monotonic()

    def update(self, host: str, count: int, total: int) -> None:
        """*count* of *total* are done on *host*."""
        now = time.monotonic()
        if now - self._told_at >= PROGRESS_EVERY_S:
            self._told_at = now
            click.echo(f"servicebus: {host}: {count} of {total} {self._done}", err=True)
