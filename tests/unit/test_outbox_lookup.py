"""Messages are found in an outbox by their ids, beside the Sender that uses it, and without a trace."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from servicebus.client.outbox_file import OutboxFile, Stored
from servicebus.client.outbox_lookup import KeptMessage, look_in_outbox
from servicebus.errors import OutboxUnavailable

NOW = 1_800_000_000_000
IDS = [f"0123456789abcdef-{number}" for number in (1, 2, 3)]
WAITS, REFUSED = KeptMessage(IDS[0], "N.audit.note", ""), KeptMessage(IDS[1], "N.audit.note", "it is too large")


def fill(path: Path) -> OutboxFile:
    """The first id waits there, the second was refused, the third is not there."""
    file = OutboxFile(path, 100, 100_000)
    with file.transaction():
        for number, id in enumerate(IDS[:2], 1):
            file.add("N", Stored("N.audit.note", number, id, None, NOW + 60_000, b"<event/>"), NOW)
    with file.transaction():
        file.refuse(file.oldest("N", 2)[1].seq, "it is too large")
    return file


def test_what_waits_and_what_was_refused_is_found_also_while_it_is_used(tmp_path: Path) -> None:
    file = fill(tmp_path / "outbox")
    assert look_in_outbox(tmp_path / "outbox", IDS) == [WAITS, REFUSED]
    with file.transaction():
        file.add("N", Stored("N.b.c", 3, IDS[2], None, NOW + 60_000, b""), NOW)
        assert look_in_outbox(tmp_path / "outbox", IDS[2:]) == [], "it is not stored yet"
    assert look_in_outbox(tmp_path / "outbox", IDS[2:]) == [KeptMessage(IDS[2], "N.b.c", "")]
    file.close()


def test_looking_leaves_a_closed_outbox_as_it_is(tmp_path: Path) -> None:
    fill(tmp_path / "outbox").close()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert look_in_outbox(str(tmp_path / "outbox"), IDS) == [WAITS, REFUSED]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_is_no_outbox_is_said_and_not_made(tmp_path: Path) -> None:
    other, text = tmp_path / "other", tmp_path / "text"
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE messages (wire_id)")
    db.close()
    text.write_text("a text")
    for path, why in (
        (other, "is no outbox"),
        (text, "cannot be read"),
        (tmp_path, "regular"),
        (tmp_path / "x", "regular"),
    ):
        with pytest.raises(OutboxUnavailable, match=why):
            look_in_outbox(path, IDS)
    assert not (tmp_path / "x").exists()
