"""Looks for messages in the outbox of a Sender, by their ids on the wire; beside the Sender that uses it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from servicebus.client.outbox_file import APPLICATION_ID
from servicebus.errors import OutboxUnavailable

__all__ = ["KeptMessage", "look_in_outbox"]


class KeptMessage(NamedTuple):
    """A message that stands in the outbox."""

    id: str
    target: str
    refused: str
    """Why it is not sent any more; "" for one that waits for a broker."""


def look_in_outbox(path: str | os.PathLike[str], ids: Sequence[str]) -> list[KeptMessage]:
    """Those of *ids* that are in the outbox at *path*, which stays as it is.

    One that a broker has taken just now may stand there for a moment yet.

    Raises:
        OutboxUnavailable: there is none, or it cannot be read.
    """
    file = Path(path).absolute()
    # A file that no Sender has open has no log beside it, and SQLite would want to make one.
    mode = "mode=ro" if file.with_name(file.name + "-wal").exists() else "immutable=1"
    try:
        if not file.is_file():
            raise OutboxUnavailable(str(path), "is no regular file")
        with closing(sqlite3.connect(f"{file.as_uri()}?{mode}", uri=True)) as db:
            if db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
                raise OutboxUnavailable(str(path), "is no outbox")
            return list(_found(db, ids))
    except (sqlite3.Error, OSError) as error:
        raise OutboxUnavailable(str(path), f"cannot be read: {error}") from error


def _found(db: sqlite3.Connection, ids: Sequence[str]) -> Iterator[KeptMessage]:
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    for table, reason in (("messages", "''"), ("refused", "reason")):
        if table in tables:
            for id in ids:
                query = f"SELECT wire_id, target, {reason} FROM {table} WHERE wire_id = ?"  # noqa: S608 - of our own words
                yield from (KeptMessage(*map(str, row)) for row in db.execute(query, (id,)))
