"""Reading the streams of the shared log, without its lock: rows in their order, answers by the row they belong to."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from servicebus.runtime.journal.head import Head, at_of
from servicebus.runtime.journal.log import Row
from servicebus.runtime.journal.segments import FIRST_AT, BadSegment, Segment, Stream

__all__ = ["AnswerReader", "BadRow", "RowReader"]

_LAST = _ANYWHERE = 2**63
_NOTED_EVERY = 64
"""Of so many answers the place of one is remembered."""


class BadRow(Exception):
    """Raised when a row that must be there is not whole, or not the one that it should be."""


class RowReader:
    """Reads on from where it was, as a rule; from elsewhere it has to look for the place."""

    def __init__(self, stream: Stream, head: Head):
        self._stream = stream
        self._head = head
        self._segment: Segment | None = None
        self._seq = 0
        """The row that it was at; the next one stands at ``_at``."""
        self._at = FIRST_AT

    def __repr__(self) -> str:
        return f"<RowReader of {self._stream!r} at={self._seq}>"

    def go_to(self, segment: Segment, seq: int, at: int) -> None:
        """Read on after row *seq*: the next one stands at *at* in *segment*, if that is not full."""
        self._segment, self._seq, self._at = segment, seq, at

    def forget(self) -> None:
        """Where it was is not what it was."""
        self._segment = None

    def read(self, after: int, before: int | None = None) -> list[Row]:
        """The rows between the two numbers that are still there. Raises BadRow, BadSegment or OSError."""
        position = self._head.position()
        last_at, _ = at_of(position.word)
        last = _LAST if before is None else before - 1
        rows: list[Row] = []
        if self._segment is None or self._seq > after:
            self._look_for(after + 1, position.rows_first)
        while True:
            segment = self._segment
            assert segment is not None
            if segment.first == position.rows_first:
                self._read_on(rows, after, last, last_at)
                return rows
            following = self._following(segment.first, position.rows_first)
            self._read_on(rows, after, min(last, following - 1), segment.size)
            if self._seq >= last:
                return rows
            self._enter(following, position.rows_first)

    def _read_on(self, rows: list[Row], after: int, last: int, last_at: int) -> None:
        """In the segment where it is: up to the row *last*, or the one at *last_at*."""
        segment, seq, at = self._segment, self._seq, self._at
        assert segment is not None
        find, data, append = segment.find, segment.data, rows.append
        while at <= last_at and seq < last:
            found = find(at)
            if found is None or found[0] != seq + 1:
                raise BadRow(f"row {seq + 1} is not where it should be")
            seq, kind, start, stop, at = found
            if seq > after:
                append((seq, kind, data(start, stop)))
        self._seq, self._at = seq, at

    def _look_for(self, seq: int, last_first: int) -> None:
        """To the segment that has that row, or the first one after it."""
        firsts = [first for first in self._stream.firsts() if first < last_first] + [last_first]
        self._enter(firsts[max(0, bisect_right(firsts, seq) - 1)], last_first)

    def _enter(self, first: int, last_first: int) -> None:
        """The segment of that name; if it was removed meanwhile, the one after it."""
        while True:
            try:
                self._segment = self._stream.open(first)
                break
            except FileNotFoundError as error:
                if first == last_first:
                    raise BadSegment(f"{error.filename} is gone") from error
                first = self._following(first, last_first)
        self._seq, self._at = first - 1, FIRST_AT

    def _following(self, first: int, last_first: int) -> int:
        return min((each for each in self._stream.firsts() if first < each < last_first), default=last_first)


@dataclass(slots=True)
class _Places:
    """Of some answers in one segment, where they stand; and how far it was looked through."""

    seqs: array[int] = field(default_factory=lambda: array("Q"))
    ats: array[int] = field(default_factory=lambda: array("Q"))
    count: int = 0
    seq: int = 0
    end: int = FIRST_AT

    def note(self, seq: int, at: int, end: int) -> None:
        if self.count % _NOTED_EVERY == 0:
            self.seqs.append(seq)
            self.ats.append(at)
        self.count += 1
        self.seq, self.end = seq, end

    def before(self, seq: int) -> int:
        """Where to begin to look for *seq*."""
        index = bisect_right(self.seqs, seq) - 1
        return self.ats[index] if index >= 0 else FIRST_AT


class AnswerReader:
    """Each segment is looked through once, as far as it is written; afterwards an answer costs a few dozen steps.

    An answer that is not whole is none, and neither are those behind it in its segment: they were lost when the machine
    went down.
    """

    def __init__(self, stream: Stream, head: Head):
        self._stream = stream
        self._head = head
        self._segment: Segment | None = None
        self._places: dict[int, _Places] = {}
        self._sound_from = head.position().answers_first
        """Segments from this one on were made since the machine was started: what stands there is whole."""

    def __repr__(self) -> str:
        return f"<AnswerReader of {self._stream!r}>"

    def get(self, seq: int) -> bytes | None:
        """The row *seq*; None if it has no answers, or they are gone. Raises BadSegment or OSError."""
        bounds = self._bounds()
        index = bisect_right([first for first, _, _ in bounds], seq) - 1
        segment = self._open(bounds[index][0]) if index >= 0 else None
        if segment is None:
            return None
        _, before, end = bounds[index]
        places = self._places.setdefault(segment.first, _Places())
        if places.seq < seq:
            self._look_through(segment, places, before, end)
        at = places.before(seq)
        while at < places.end:
            found, following = segment.peek(at)
            if found >= seq:
                whole = segment.find(at)
                return segment.data(whole[2], whole[3]) if whole is not None and found == seq else None
            at = following
        return None

    def rows(self, after: int, before: int) -> Iterator[tuple[int, int, memoryview]]:
        """All that are still there between the two numbers; the data is good until the next one is asked for."""
        self._places.clear()
        for first, following, end in self._bounds():
            segment = self._open(first) if first < before and following > after + 1 else None
            if segment is None:
                continue
            places = self._places[first] = _Places()
            for seq, kind, start, stop in self._whole_rows(segment, places, following, end):
                if after < seq < before:
                    yield seq, kind, segment.view(start, stop)

    def _bounds(self) -> list[tuple[int, int, int]]:
        """Of all segments: the first row, the one its rows are before, and up to where it is written at most."""
        position = self._head.position()
        last, end = position.answers_first, at_of(position.word)[1]
        if not last:
            return []
        firsts = [first for first in self._stream.firsts() if first < last] + [last]
        if len(self._places) > len(firsts):
            self._places = {first: places for first, places in self._places.items() if first in firsts}
        return [(first, following, _ANYWHERE) for first, following in pairwise(firsts)] + [(last, _LAST, end)]

    def _look_through(self, segment: Segment, places: _Places, before: int, end: int) -> None:
        if segment.first < self._sound_from:
            for _ in self._whole_rows(segment, places, before, end):
                pass
            return
        at, seq, peek, note = places.end, places.seq, segment.peek, places.note
        while at < end:
            found, following = peek(at)
            if not seq < found < before:
                return
            note(found, at, following)
            seq, at = found, following

    def _whole_rows(
        self, segment: Segment, places: _Places, before: int, end: int
    ) -> Iterator[tuple[int, int, int, int]]:
        while (at := places.end) < end and (found := segment.find(at)) is not None:
            seq, kind, start, stop, following = found
            if not places.seq < seq < before:
                return
            places.note(seq, at, following)
            yield seq, kind, start, stop

    def _open(self, first: int) -> Segment | None:
        if self._segment is None or self._segment.first != first:
            try:
                self._segment = self._stream.open(first)
            except FileNotFoundError:
                self._places.pop(first, None)
                return None
        return self._segment
