"""The files of one shared journal, and how they are found: in use by others, or after the machine went down.

The configured path is the snapshot. Beside it are the commit pointer ``.head``, segments ``.rows-<number>`` and
``.answers-<number>``; and, for as long as workers live, ``.lock`` and in-flight files ``.box-<number>``.

After the machine went down the commit pointer cannot be trusted: the kernel writes mapped pages in any order, so a row
may be there and one before it may not. Rows are read on from the snapshot, and end before the first that is not whole.
New rows go into new segments, so nothing old is ever read as the continuation of something new.
"""

from __future__ import annotations

import os
from pathlib import Path

from servicebus.runtime.journal import snapshot
from servicebus.runtime.journal.interface import Damaged
from servicebus.runtime.journal.segments import (
    FIRST_AT,
    BadSegment,
    CommitPointer,
    Segment,
    Stream,
    flush,
    pack_ends,
    this_boot,
)
from servicebus.runtime.journal.snapshot import Header
from servicebus.runtime.journal.state import State
from servicebus.transport.loggers import get_logger

LOG = get_logger(__name__)

__all__ = ["Files", "after_snapshot", "found_files", "found_pointer", "opened", "parts_of"]

_ROWS_BYTES = _ANSWERS_BYTES = 1 << 20
"""Small: what is written to is in the memory of every worker, and a segment is removed in one piece."""
_PARTS = (".head", ".rows-", ".answers-", ".new")


class Files:
    """Args: identity: of the journal; files that belong to another one are ignored."""

    def __init__(self, path: Path, identity: bytes):
        self.path = path
        self.identity = identity
        self.pointer = path.with_name(path.name + ".head")
        self.rows = Stream(path.with_name(path.name + ".rows-"), identity, _ROWS_BYTES)
        self.answers = Stream(path.with_name(path.name + ".answers-"), identity, _ANSWERS_BYTES)


def parts_of(path: Path) -> list[str]:
    """What follows the journal's own name in the names of the files that hold its data."""
    names = [file.name for file in path.parent.iterdir() if file.name.startswith(path.name)]
    parts = [name[len(path.name) :] for name in names]
    return [part for part in parts if not part or part.startswith(_PARTS)]


def found_files(path: Path, *, is_alone: bool) -> tuple[Files, Header]:
    """The journal's files; those of a new one if there are none and the caller *is_alone*.

    Raises:
        Damaged: they make no sense, or are gone while others use them. JournalUnavailable: they have another format.
        OSError.
    """
    # An empty file is a new journal, like none, if nothing stands beside it.
    if path.exists() and (path.stat().st_size or Files(path, b"").pointer.exists()):
        header = snapshot.read_header(path)
        return Files(path, header.identity), header
    if not is_alone:
        raise Damaged(str(path), f"{path.name} is gone, or of another journal, while it is in use")
    header = Header(os.urandom(16), 0, 1, FIRST_AT)
    snapshot.write(path, header, State(), lambda: True, lambda: None)
    return Files(path, header.identity), header


def found_pointer(files: Files, header: Header, *, is_alone: bool) -> CommitPointer:
    """The one in use, or a new one if there is none of this boot. Raises Damaged: others use one. OSError."""
    boot = this_boot()
    pointer = CommitPointer.open(files.pointer, (files.identity, boot))
    if pointer is None and not is_alone:
        text = f"{files.pointer.name} is gone, or of another journal, while it is in use"
        raise Damaged(str(files.path), text)
    # If the machine does not tell its boot, each first process that opens the journal assumes the worst.
    return _rebuilt(files, header, boot) if pointer is None or (is_alone and not boot) else pointer


def _rebuilt(files: Files, header: Header, boot: bytes) -> CommitPointer:
    streams = files.rows, files.answers
    for stream in streams:
        for first in stream.firsts():
            try:
                stream.open(first)
            except BadSegment as error:
                LOG.warning("journal: %s, and is removed", error)
                stream.remove(first)
    last = _last_row(files.rows, header)
    for stream in streams:
        for first in stream.firsts():
            if first > last:
                stream.remove(first)
    answers = files.answers.firsts()
    for first in answers:
        files.answers.open(first).end_after(last)
    for stream in streams if answers else streams[:1]:
        stream.create(last + 1)
        flush(stream.path(last + 1))
    # What was removed must not reappear after the next time.
    flush(files.path.parent)
    if last:
        text = "journal %s: known up to row %d; %d rows were read after the snapshot"
        LOG.info(text, files.path, last, last - header.seq)
    first_ends = (last + 1, last + 1, pack_ends(0, FIRST_AT)) if answers else (last + 1, 0, 0)
    return CommitPointer.create(files.pointer, (files.identity, boot), first_ends)


def _last_row(rows: Stream, header: Header) -> int:
    """The last row that is whole, and so are all between it and the snapshot."""
    seq = header.seq
    segment, at = after_snapshot(rows, header)
    while segment is not None:
        while (found := segment.find(at)) is not None and found[0] == seq + 1:
            seq, at = found[0], found[4]
        segment, at = opened(rows, seq + 1) if segment.first <= seq else None, FIRST_AT
    return seq


def after_snapshot(rows: Stream, header: Header) -> tuple[Segment | None, int]:
    """Where the next row is read; nowhere if it was removed."""
    segment = opened(rows, header.first)
    if segment is not None:
        return segment, header.at
    # The machine may have lost it, and new rows stand in a new one.
    return opened(rows, header.seq + 1), FIRST_AT


def opened(stream: Stream, first: int) -> Segment | None:
    """None if it was removed."""
    try:
        return stream.open(first)
    except FileNotFoundError:
        return None
