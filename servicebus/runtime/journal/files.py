"""The files of one shared journal, and how they are found: by others in use, or after the machine went down.

The path that the configuration names is the snapshot. Beside it are ``.head``, segments ``.rows-<number>`` and
``.answers-<number>``; and, for as long as workers live, ``.lock`` and their black boxes ``.box-<number>``.

When the machine went down the head cannot be believed. The kernel writes mapped pages when it likes to, so a row may be
there and one before it may not. Rows are read on from the snapshot, which is sound; they end before the first one that
is not whole, and what stands behind that is not believed. New rows go into new segments, so that nothing old is ever
read as the end of something new.
"""

from __future__ import annotations

import os
from pathlib import Path

from servicebus.runtime.journal import snapshot
from servicebus.runtime.journal.head import Head, this_boot, word_of
from servicebus.runtime.journal.interface import Damaged
from servicebus.runtime.journal.ledger import State
from servicebus.runtime.journal.segments import FIRST_AT, BadSegment, Segment, Stream
from servicebus.runtime.journal.snapshot import Header, Place, flush_folder
from servicebus.transport.loggers import get_logger

LOG = get_logger(__name__)

__all__ = ["Files", "after_snapshot", "found_files", "found_head", "parts_of"]

_ROWS_BYTES = _ANSWERS_BYTES = 1 << 20
"""Small: what is written to is in the memory of every worker, and a segment goes as a whole."""
_PARTS = (".head", ".rows-", ".answers-", ".new")


class Files:
    """Args: identity: of the journal; files that belong to another one are not believed."""

    def __init__(self, path: Path, identity: bytes):
        self.path = path
        self.identity = identity
        self.head = path.with_name(path.name + ".head")
        self.rows = Stream(path.with_name(path.name + ".rows-"), identity, _ROWS_BYTES)
        self.answers = Stream(path.with_name(path.name + ".answers-"), identity, _ANSWERS_BYTES)

    def __repr__(self) -> str:
        return f"<Files of {self.path}>"


def parts_of(path: Path) -> list[str]:
    """What follows the journal's own name in the names of the files that hold what it knows."""
    names = [file.name for file in path.parent.iterdir() if file.name.startswith(path.name)]
    parts = [name[len(path.name) :] for name in names]
    return [part for part in parts if not part or part.startswith(_PARTS)]


def found_files(path: Path, *, is_alone: bool) -> tuple[Files, Header]:
    """Those that are there; if there are none, those of a new journal.

    Args:
        is_alone: nobody else has the journal open, or opens it.

    Raises:
        Damaged: they make no sense, or are gone while others use them. JournalUnavailable: they are of a format of
            another day. OSError.
    """
    # An empty file is a new journal, like none, if nothing stands beside it.
    if path.exists() and (path.stat().st_size or Files(path, b"").head.exists()):
        header = snapshot.read_header(path)
        return Files(path, header.identity), header
    if not is_alone:
        raise Damaged(str(path), f"{path.name} is gone, or of another journal, while it is in use")
    header = Header(os.urandom(16), 0, Place(1, FIRST_AT))
    snapshot.write(path, header, State(), lambda: True, lambda: None)
    return Files(path, header.identity), header


def found_head(files: Files, header: Header, *, is_alone: bool) -> Head:
    """The head that the others use, or a new one if there are none and it is not of this boot.

    Raises:
        Damaged: it is gone, or another journal's, while others use it. OSError.
    """
    boot = this_boot()
    head = Head.open(files.head, files.identity, boot)
    if not is_alone:
        if head is None:
            raise Damaged(str(files.path), f"{files.head.name} is gone, or of another journal, while it is in use")
        return head
    # Of a machine that does not say which boot this is, every first one to open it thinks the worst.
    if head is None or not boot:
        head = _rebuilt(files, header, boot)
    return head


def _rebuilt(files: Files, header: Header, boot: bytes) -> Head:
    for stream in (files.rows, files.answers):
        _remove_bad(stream)
    last = _last_row(files.rows, header)
    for stream in (files.rows, files.answers):
        for first in stream.firsts():
            if first > last:
                stream.remove(first)
    for first in files.answers.firsts():
        files.answers.open(first).end_after(last)
    files.rows.create(last + 1).flush()
    had_answers = bool(files.answers.firsts())
    if had_answers:
        files.answers.create(last + 1).flush()
    # What was removed must not be there again after the next time.
    flush_folder(files.path.parent)
    if last:
        LOG.info(
            "journal %s: known up to row %d; %d rows were read on from the state", files.path, last, last - header.seq
        )
    answers_first, answers_end = (last + 1, FIRST_AT) if had_answers else (0, 0)
    return Head.create(files.head, files.identity, boot, last + 1, answers_first, word_of(0, answers_end))


def _remove_bad(stream: Stream) -> None:
    for first in stream.firsts():
        try:
            stream.open(first)
        except BadSegment as error:
            LOG.warning("journal: %s, and is removed", error)
            stream.remove(first)


def _last_row(rows: Stream, header: Header) -> int:
    """The last row that is whole, and so are all between it and the snapshot."""
    seq = header.seq
    segment, at = after_snapshot(rows, header)
    while segment is not None:
        while (found := segment.find(at)) is not None and found[0] == seq + 1:
            seq, at = found[0], found[4]
        following = _opened(rows, seq + 1) if segment.first <= seq else None
        segment, at = following, FIRST_AT
    return seq


def after_snapshot(rows: Stream, header: Header) -> tuple[Segment | None, int]:
    """Where the next row is read; nowhere if it was removed."""
    segment = _opened(rows, header.place.first)
    if segment is not None:
        return segment, header.place.at
    # The machine may have lost it, and new rows stand in a new one.
    return _opened(rows, header.seq + 1), FIRST_AT


def _opened(stream: Stream, first: int) -> Segment | None:
    try:
        return stream.open(first)
    except FileNotFoundError:
        return None
