"""Places: the files of one shared journal, by the path that the configuration names.

That path itself is SQLite's (with ``-wal`` and ``-shm``). Beside it are ``.head``, segments ``.rows-<number>`` and
``.answers-<number>``; and, for as long as workers live, ``.lock``, ``.turn`` and their black boxes ``.box-<number>``.
"""

from __future__ import annotations

from pathlib import Path

from servicebus.runtime.journal.segments import Stream

__all__ = ["Places", "parts_of"]

_ROWS_BYTES = _ANSWERS_BYTES = 1 << 20
"""Small: what is written to is in the memory of every worker, and a segment goes as a whole."""
_SQLITE = ("", "-wal", "-shm")
_OURS = (".head", ".rows-", ".answers-")


class Places:
    """Args: identity: of the journal; files that belong to another one are not believed."""

    def __init__(self, path: Path, identity: bytes):
        self.path = path
        self.identity = identity
        self.head = path.with_name(path.name + ".head")
        self.rows = Stream(path.with_name(path.name + ".rows-"), identity, _ROWS_BYTES)
        self.answers = Stream(path.with_name(path.name + ".answers-"), identity, _ANSWERS_BYTES)

    def __repr__(self) -> str:
        return f"<Places of {self.path}>"


def parts_of(path: Path) -> list[str]:
    """What follows the journal's own name in the names of the files that hold what it knows."""
    names = [file.name for file in path.parent.iterdir() if file.name.startswith(path.name)]
    parts = [name[len(path.name) :] for name in names]
    return [part for part in parts if part in _SQLITE or part.startswith(_OURS)]
