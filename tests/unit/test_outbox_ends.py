"""EndsFile: the room in which ends are noted, and what is read again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from servicebus.client.outbox_ends import EndsFile

HEAD_BYTES, ENTRY_BYTES, STEP_BYTES = 16, 16, 65536


def ends(first: int, count: int) -> list[tuple[int, str]]:
    return [(row, f"x-{row}") for row in range(first, first + count)]


def reopened(path: Path) -> dict[int, bytes]:
    file = EndsFile(path)
    file.close()
    return file.noted


def test_ends_are_read_again_and_belong_to_their_messages(tmp_path: Path) -> None:
    file = EndsFile(tmp_path / "ends")
    file.note(ends(1, 2))
    file.note(ends(7, 1))
    file.close()
    noted = reopened(tmp_path / "ends")
    assert sorted(noted) == [1, 2, 7]
    assert file.is_of(noted[7], "x-7") and not file.is_of(noted[7], "x-1")


def test_room_that_is_not_used_holds_no_ends(tmp_path: Path) -> None:
    file = EndsFile(tmp_path / "ends")
    file.make_room(10)
    file.note(ends(1, 1))
    file.close()
    again = EndsFile(tmp_path / "ends")
    assert list(again.noted) == [1]
    again.note(ends(2, 1))
    again.close()
    assert (tmp_path / "ends").stat().st_size == STEP_BYTES
    assert sorted(reopened(tmp_path / "ends")) == [1, 2], "behind the first"


def test_room_is_made_beside_what_is_noted(tmp_path: Path) -> None:
    file = EndsFile(tmp_path / "ends")
    most = (STEP_BYTES - HEAD_BYTES) // ENTRY_BYTES
    file.note(ends(1, most - 1))
    file.make_room(1)
    assert (tmp_path / "ends").stat().st_size == STEP_BYTES
    file.make_room(2)
    assert (tmp_path / "ends").stat().st_size == 2 * STEP_BYTES
    file.close()


def test_after_a_clear_nothing_is_noted(tmp_path: Path) -> None:
    file = EndsFile(tmp_path / "ends")
    file.note(ends(1, 2))
    file.clear()
    file.note(ends(3, 1))
    file.close()
    assert list(reopened(tmp_path / "ends")) == [3]


def test_room_that_was_taken_by_a_process_that_was_killed_then_is_ours(tmp_path: Path) -> None:
    (tmp_path / "ends").write_bytes(bytes(STEP_BYTES))
    assert reopened(tmp_path / "ends") == {}


@pytest.mark.parametrize(
    "make",
    [lambda path: path.write_text("of another"), lambda path: path.symlink_to("/dev/null")],
    ids=["file", "link"],
)
def test_what_is_not_ours_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "ends")
    with pytest.raises(OSError, match="ends"):
        EndsFile(tmp_path / "ends")


def test_a_device_is_refused() -> None:
    with pytest.raises(FileExistsError, match="is of another program"):
        EndsFile(Path("/dev/null"))
