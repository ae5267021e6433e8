"""ConsoleHistory: the timeline of the console on disk, in SQLite; bounded, and there again after a restart.

It also keeps which paths were known, so that a node that is down when the console starts is shown as lost.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path

from servicebus.fleet.view import BrokerView, Change, FleetView, NodeView, PathState, PathView
from servicebus.transport.loggers import get_logger

LOG = get_logger(__name__)

__all__ = ["ConsoleHistory", "history_file"]

_MOST_ROWS = 100_000
_TRIM_EVERY = 500
_VERSION = 1
_INSERT = "INSERT INTO changes (at, kind, node, broker, text) VALUES (?, ?, ?, ?, ?)"
_TABLES = """
CREATE TABLE IF NOT EXISTS changes (
    number INTEGER PRIMARY KEY, at REAL NOT NULL, kind TEXT NOT NULL, node TEXT NOT NULL, broker TEXT NOT NULL,
    text TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS changes_node ON changes (node, number);
CREATE INDEX IF NOT EXISTS changes_at ON changes (at);
CREATE TABLE IF NOT EXISTS paths (
    node TEXT NOT NULL, broker TEXT NOT NULL, state TEXT NOT NULL, since REAL NOT NULL, versions TEXT NOT NULL,
    PRIMARY KEY (node, broker)
);
"""


def history_file() -> Path:
    """Where it is kept without ``--history``: in $STATE_DIRECTORY, which systemd sets, or the user's state folder."""
    state = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if state:
        return Path(state, "console.sqlite")
    home = os.environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser()
    return Path(home, "servicebus", "console.sqlite")


class ConsoleHistory:
    """For any thread. A disk that is full costs what happens then, and nothing else.

    Raises:
        OSError: the folder cannot be made.
        sqlite3.Error: the file cannot be opened, or is none of ours.
    """

    def __init__(self, path: Path, most_rows: int = _MOST_ROWS):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._most_rows = most_rows
        self._lock = threading.Lock()
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        self._file = sqlite3.connect(path, check_same_thread=False, timeout=2, isolation_level=None)
        try:
            (version,) = self._file.execute("PRAGMA user_version").fetchone()
            if version not in (0, _VERSION):
                raise sqlite3.DatabaseError(f"a history of format {version}; this version knows {_VERSION}")
            self._file.execute("PRAGMA journal_mode = WAL")
            self._file.execute("PRAGMA synchronous = NORMAL")
            self._file.executescript(_TABLES)
            self._file.execute(f"PRAGMA user_version = {_VERSION}")
        except BaseException:
            self._file.close()
            raise
        self._written = 0

    def close(self) -> None:
        """Close the file; nothing is written afterwards."""
        with self._lock:
            self._file.close()

    def add(self, changes: Sequence[Change], view: FleetView | None = None) -> None:
        """Keep *changes*, and the paths that are known now."""
        if not changes:
            return
        try:
            with self._lock, self._file:
                self._file.execute("BEGIN")
                self._file.executemany(_INSERT, changes)
                if view is not None:
                    self._keep_paths(view)
                self._trim(len(changes))
        except sqlite3.Error as error:
            LOG.error("the history is not written: %s", error)

    def _keep_paths(self, view: FleetView) -> None:
        rows = [
            (node.name, broker, path.state.value, path.since, "\n".join(node.versions))
            for node in view.nodes.values()
            for broker, path in node.paths.items()
        ]
        self._file.execute("DELETE FROM paths")
        self._file.executemany("INSERT INTO paths VALUES (?, ?, ?, ?, ?)", rows)

    def _trim(self, count: int) -> None:
        self._written += count
        if self._written >= _TRIM_EVERY:
            self._written = 0
            oldest = "SELECT number FROM changes ORDER BY number DESC LIMIT 1 OFFSET ?"
            self._file.execute(f"DELETE FROM changes WHERE number <= ({oldest})", (self._most_rows,))  # noqa: S608

    def changes(
        self, node: str = "", kind: str = "", before: int | None = None, limit: int = 100
    ) -> list[tuple[int, Change]]:
        """The latest first, each with its number.

        Args:
            node: only of this one.
            kind: only those whose kind begins like this.
            before: only those with smaller numbers.
        """
        sql = (
            "SELECT number, at, kind, node, broker, text FROM changes WHERE (? = '' OR node = ?)"
            " AND substr(kind, 1, length(?)) = ? AND (? IS NULL OR number < ?) ORDER BY number DESC LIMIT ?"
        )
        with self._lock:
            rows = self._file.execute(sql, (node, node, kind, kind, before, before, limit)).fetchall()
        return [(row[0], Change(*row[1:])) for row in rows]

    def counts(self, kinds: Sequence[str], since: float, step_s: int) -> dict[tuple[str, int], int]:
        """How many changes of each kind there were in each step of *step_s*, by kind and number of the step.

        Args:
            since: Unix time.
        """
        marks = ", ".join("?" * len(kinds))
        sql = (
            "SELECT kind, CAST(at / ? AS INTEGER), count(*) FROM changes"  # noqa: S608 - question marks alone
            f" WHERE at >= ? AND kind IN ({marks}) GROUP BY 1, 2"
        )
        with self._lock:
            rows = self._file.execute(sql, (float(step_s), since, *kinds)).fetchall()
        return {(kind, step): count for kind, step, count in rows}

    def restored(self, brokers: Sequence[str], now: float) -> FleetView:
        """What was known when it was written last. What does not answer any more is found out by the next looks."""
        with self._lock:
            rows = self._file.execute("SELECT node, broker, state, since, versions FROM paths ORDER BY node").fetchall()
        nodes: dict[str, NodeView] = {}
        for name, broker, state, since, versions in rows:
            if broker not in brokers:
                continue
            known = nodes.get(name)
            paths = {**(known.paths if known is not None else {}), broker: PathView(PathState(state), since)}
            nodes[name] = NodeView(name, paths, tuple(versions.split("\n")) if versions else ())
        return FleetView(tuple(BrokerView(name, now) for name in brokers), nodes)
