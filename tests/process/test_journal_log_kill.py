"""The log of the shared journal, its writers killed for real: what was told is there, and nothing is there by half."""

from __future__ import annotations

import itertools
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import log_worker
import pytest
from log_worker import SNAPSHOT_POINTS, Told, row_of, small_segments, take_snapshot

from servicebus.runtime.journal import files, records
from servicebus.runtime.journal.log import Log, Row
from servicebus.runtime.journal.records import RowKind
from servicebus.runtime.journal.segments import FIRST_AT


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    for name in ("_ROWS_BYTES", "_ANSWERS_BYTES"):
        monkeypatch.setattr(files, name, getattr(files, name))
    small_segments()
    log = Log(tmp_path / "j", 10.0, is_alone=True)
    yield log
    log.close()


class Writer:
    """One process; what it told is in ``told``."""

    def __init__(self, path: Path, name: str):
        self.process = subprocess.Popen([sys.executable, log_worker.__file__, path, name], stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self._out: IO[bytes] = self.process.stdout
        self.told: list[Told] = []

    def read_one(self) -> None:
        self.told.append(json.loads(self._out.readline()))

    def kill(self) -> None:
        """Returns when it is dead, and all that it told is here."""
        self.process.kill()
        lines = self._out.read().splitlines(keepends=True)
        self.told += [json.loads(line) for line in lines if line.endswith(b"\n")]
        self._out.close()
        self.process.wait(30)


class ShortLives:
    """Writers that kill themselves, one after the other: children of one process, each sooner there than a new one."""

    def __init__(self, path: Path):
        self._parent = subprocess.Popen(
            [sys.executable, log_worker.__file__, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def live(self, name: str, point: str) -> tuple[int, list[Told]]:
        """How it ended, 0 or -9, and what it told."""
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._parent.stdin.write(f"{name} {point}\n".encode())
        self._parent.stdin.flush()
        told: list[Told] = []
        while not isinstance(line := json.loads(self._parent.stdout.readline()), int):
            told.append(line)
        return line, told

    def close(self) -> None:
        self._parent.communicate(timeout=30)


@pytest.fixture
def lives(tmp_path: Path) -> Iterator[ShortLives]:
    lives = ShortLives(tmp_path / "j")
    yield lives
    lives.close()


def rows_of(log: Log) -> list[Row]:
    """All, from the first one on."""
    log._segment, log._seq, log._at = log._rows.open(1), 0, FIRST_AT
    return log.read(0) or []


def all_rows(log: Log) -> dict[int, tuple[int, str]]:
    """Kind and text of each row."""
    rows = rows_of(log)
    assert [row[0] for row in rows] == list(range(1, len(rows) + 1))
    found = {}
    for seq, kind, data in rows:
        if kind == RowKind.ANSWERS:
            data = records.answer_in(log.answer_row(records.unpack_place(data)) or b"", 4) or b""
        found[seq] = (kind, "" if kind == RowKind.COMPACT else data.decode())
    return found


def test_writers_that_are_killed_among_others_lose_nothing_and_leave_nothing_by_half(log: Log, tmp_path: Path) -> None:
    rng = random.Random(1)
    names = (f"w{number}" for number in itertools.count())
    writers = [Writer(tmp_path / "j", next(names)) for _ in range(3)]
    dead = []
    for _ in range(25):
        victim = rng.randrange(3)
        writers[victim].read_one()
        time.sleep(rng.uniform(0.0, 0.05))  # not waiting for anything: the moment of death is what varies
        writers[victim].kill()
        dead.append(writers[victim])
        writers[victim] = Writer(tmp_path / "j", next(names))
    for writer in writers:
        writer.read_one()
        writer.kill()
    told = [told for writer in dead + writers for told in writer.told]
    said = list(itertools.chain.from_iterable(told))
    rows = all_rows(log)
    texts = [text for _, text in rows.values() if text]
    assert len(texts) == len(set(texts))
    for seq, text in said:
        assert rows[seq][1] == text
    assert len(told) > 1000
    # At most the last action of each was not told any more.
    unsaid = set(texts) - {text for _, text in said}
    actions = [text.rstrip(".").rpartition("-")[0] for text in unsaid]
    assert len(set(actions)) <= len(dead) + len(writers)
    assert len({action.partition("-")[0] for action in actions}) == len(set(actions))
    for seq, (_, text) in rows.items():
        action, _, part = text.rstrip(".").rpartition("-")
        if part == "a":
            assert rows[seq + 1][1] == f"{action}-b"
        elif part == "c":
            assert rows[seq + 1][0] == RowKind.COMPACT
    # What is there is one whole state, the last of those that were said to be taken or a later one, and the rows since.
    seq, state, since = log.load()
    taken = [each for each, text in said if text.endswith("-c")]
    assert seq == state.owner > max(taken)
    assert [row[0] for row in since] == list(range(seq + 1, len(rows) + 1))


@pytest.mark.parametrize("point", SNAPSHOT_POINTS)
def test_wherever_one_dies_who_takes_a_snapshot_the_former_one_is_there_or_this_one_and_the_rows_since(
    log: Log, lives: ShortLives, tmp_path: Path, point: str
) -> None:
    for life in range(3):
        for number in range(60):
            log.append(row_of(f"{life}-{number}" + "." * 200, has_answer=True))
        before, _, rows = log.load()
        last = before + len(rows)
        code, _ = lives.live(f"dies{life}", point)
        assert code == -signal.SIGKILL
        seq, state, since = log.load()
        assert seq == (last + 2 if point in ("renamed", "taken", "dropped") else before)
        assert state.owner == seq
        assert [row[0] for row in since] == list(range(seq + 1, last + 3))
        # And so on: what the dead one has left is in nobody's way.
        assert log.append(row_of("after", has_answer=True)) == last + 3
    take_snapshot(log, "ours")
    seq, state, since = log.load()
    assert (seq, since) == (state.owner, [])
    assert not list(tmp_path.glob("*.new"))


@pytest.mark.parametrize("point", ["made", "publishing", "published"])
def test_a_segment_that_was_made_and_not_used_does_no_harm(
    log: Log, lives: ShortLives, tmp_path: Path, point: str
) -> None:
    for life in range(8):
        code, said = lives.live(f"dies{life}", point)
        assert code == -signal.SIGKILL
        rows = rows_of(log)
        found = all_rows(log)
        for seq, text in itertools.chain.from_iterable(said):
            assert found[seq][1] == text
        for number in range(3):
            assert log.append(row_of(f"{life}-{number}", has_answer=number == 1)) == len(rows) + 1 + number
        assert not list(tmp_path.glob("*.new"))
        found = all_rows(log)
        assert [found[len(rows) + 1 + number][1] for number in range(3)] == [f"{life}-{number}" for number in range(3)]


def test_two_rows_are_there_both_or_none_wherever_their_writer_is_killed(log: Log, lives: ShortLives) -> None:
    survived = there = 0
    stops = [*range(0, 960, 48), 970, 985, 995, 5000, 5000, 5000]
    for stop in stops:
        code, _ = lives.live(f"dies{stop}", str(stop))
        assert code in (0, -signal.SIGKILL)
        survived += code == 0
        last = len(rows_of(log))
        assert log.append(row_of("", has_answer=False)) == last + 1
        found = [text.rstrip(".").rpartition("-")[2] for _, text in all_rows(log).values()]
        assert found[-2 if found[-2] == "first" else -4 : -1] in (["first"], ["first", "a", "b"])
        there += found[-2] == "b"
    assert 3 <= survived < there < len(stops)
