"""Recovery: where the rows of the shared log end after the machine went down, when the head cannot be believed.

The kernel writes mapped pages when it likes to, so a row may be there and one before it may not. Rows are read on from
the state that SQLite has, which is sound; they end before the first one that is not whole, and what stands behind that
is not believed. New rows go into new segments, so that nothing old is ever read as the end of something new.
"""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

from servicebus.runtime.journal.head import Head, word_of
from servicebus.runtime.journal.log import Damaged
from servicebus.runtime.journal.places import Places
from servicebus.runtime.journal.segments import FIRST_AT, BadSegment, Stream
from servicebus.transport.loggers import get_logger

LOG = get_logger(__name__)

__all__ = ["opened_head"]

_BOOT = Path("/proc/sys/kernel/random/boot_id")


def opened_head(places: Places, saved: int, *, is_alone: bool) -> Head:
    """The head that the others use, or a new one if there are none and it is not of this boot.

    Args:
        saved: the row up to which the state is saved.

    Raises:
        Damaged: it is gone, or another journal's, while others use it. OSError.
    """
    boot = _this_boot()
    head = Head.open(places.head, places.identity, boot)
    if not is_alone:
        if head is None:
            raise Damaged(str(places.path), f"{places.head.name} is gone, or of another journal, while it is in use")
        return head
    # Of a machine that does not say which boot this is, every first one to open it thinks the worst.
    if head is None or not boot:
        head = _rebuilt(places, saved, boot)
    return head


def _rebuilt(places: Places, saved: int, boot: bytes) -> Head:
    for stream in (places.rows, places.answers):
        _remove_bad(stream)
    last = _last_row(places.rows, saved)
    for stream in (places.rows, places.answers):
        for first in stream.firsts():
            if first > last:
                stream.remove(first)
    places.rows.create(last + 1).flush()
    had_answers = bool(places.answers.firsts())
    if had_answers:
        places.answers.create(last + 1).flush()
    # What was removed must not be there again after the next time.
    _flush_folder(places.path.parent)
    if last:
        LOG.info("journal %s: known up to row %d; %d rows were read on from the state", places.path, last, last - saved)
    answers_first, answers_end = (last + 1, FIRST_AT) if had_answers else (0, 0)
    return Head.create(places.head, places.identity, boot, last + 1, answers_first, word_of(0, answers_end))


def _remove_bad(stream: Stream) -> None:
    for first in stream.firsts():
        try:
            stream.open(first)
        except BadSegment as error:
            LOG.warning("journal: %s, and is removed", error)
            stream.remove(first)


def _last_row(rows: Stream, saved: int) -> int:
    """The last row that is whole, and so are all between it and *saved*."""
    last = saved
    for first, following in pairwise([*rows.firsts(), 1 << 63]):
        if following <= saved + 1 or first > last + 1:
            continue
        segment = rows.open(first)
        seq, at = first - 1, FIRST_AT
        while seq + 1 < following and (found := segment.find(at)) is not None and found[0] == seq + 1:
            seq, at = found[0], found[4]
        last = max(last, seq)
    return last


def _flush_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _this_boot() -> bytes:
    try:
        return _BOOT.read_bytes().strip()
    except OSError:
        return b""
