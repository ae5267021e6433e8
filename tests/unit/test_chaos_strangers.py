"""What strangers, operators and rude services of the rig do: that they do it, and that it is told."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pika
import pytest
from envelopes import signed

from servicebus.transport.frames import read_properties
from servicebus.transport.tables import Unreadable
from servicebus.wire import headers
from servicebus.wire.envelope import Kind
from servicebus.wire.signing import Keyring
from servicebus.wire.stamps import DeadLetterStamp, write_dead_letter_stamp
from tests.chaos import dead_letters
from tests.chaos.history import History, files, read_file
from tests.chaos.stranger_program import UNREADABLE, Stranger

ROOT = Path(__file__).parent.parent.parent
SECRET = "the secret"


class Put(NamedTuple):
    url: str
    trick: str
    queue: str
    body: bytes
    properties: Any


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stranger]:
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    made = Stranger({"seed": 1, "wiretap": "tap", "urls": ["one", "two"], "nodes": ["N-1", "N-2"], "per_s": 1})
    yield made
    made._tap.close()


def hear(stranger: Stranger) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as tap:
        for said in (b"message N-1 id-1\nmessage", b"asked N-1 7 reply-to\ncall", b"answered N-1 6\nreply"):
            tap.sendto(said, "tap")
    stranger._listen()


def test_a_stranger_does_all_that_it_can(stranger: Stranger, monkeypatch: pytest.MonkeyPatch) -> None:
    put: list[Put] = []
    monkeypatch.setattr(stranger, "_put_at", lambda *what: put.append(Put(*what)))
    hear(stranger)
    tricks = [trick for trick, _ in stranger._tricks()]
    for trick in tricks:
        trick()
    by_trick = {each.trick: each for each in put}
    assert len(by_trick) == len(tricks)
    assert by_trick["buried"].queue == "N-1.dead"
    assert by_trick["buried"].body == b"message"
    assert (by_trick["replayed reply"].queue, by_trick["replayed reply"].body) == ("reply-to", b"reply")
    assert by_trick["misdirected"].properties.reply_to == "reply-to"
    assert {each.url for each in put if each.trick == "misdirected"} == {"one", "two"}


def test_what_it_makes_up_can_be_sent(stranger: Stranger) -> None:
    for _ in range(50):
        pika.BasicProperties(headers=stranger._made_up("id-1")).encode()


@pytest.mark.parametrize("properties", UNREADABLE)
def test_what_is_unreadable_is(properties: Any) -> None:
    """Else it would be no fault at all."""
    raw = b"".join(properties.encode())
    with pytest.raises(Unreadable):
        read_properties(raw, 2, len(raw), int.from_bytes(raw[:2], "big"))


def message(node: str = "NODE-01", kind: Kind = Kind.MESSAGE, secret: str = SECRET) -> bytes:
    return signed(f"{node}.jobs.record", {"op": 7}, kind=kind, secret=secret)


def stamped(body: bytes, reason: str = "Failure") -> tuple[bytes, str]:
    return body, write_dead_letter_stamp(Keyring([SECRET]), body, reason, DeadLetterStamp(1, 1, 3, 9, ""))


@pytest.mark.parametrize(
    ("letter", "counted", "is_told"),
    [
        (stamped(message()), "Failure", True),
        (stamped(message(), "unreadable"), "unreadable", False),
        ((message(), None), "not signed by a worker", False),
        ((message(), "1 1 3 9  made up"), "not signed by a worker", False),
        (stamped(message(secret="another")), "forged", False),
        (stamped(message("NODE-02")), "misdirected", False),
        (stamped(message(kind=Kind.CALL)), "misdirected", False),
    ],
)
def test_only_what_a_worker_has_signed_counts_as_dead(
    letter: tuple[bytes, str | None], counted: str, is_told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body, stamp = letter
    reason = "unreadable" if counted == "unreadable" else "Failure"
    properties = pika.BasicProperties(headers={headers.REASON: reason, headers.DEAD_LETTER: stamp})
    monkeypatch.setattr(dead_letters, "_taken", lambda *_: iter([(properties, body)]))
    broker: Any = None
    taken = dead_letters.take_dead_letters(broker, "NODE-01", Keyring([SECRET]), History(tmp_path, "rig"))
    assert taken == {counted: 1}
    told = [record["op"] for path in files(tmp_path) for record in read_file(path) if record["what"] == "dead"]
    assert told == [7] * is_told


CHILDREN = """
import signal, sys
from tests.chaos import rude
from tests.chaos.history import History
history = History(sys.argv[1], "worker")
for how in rude.CHILDREN:
    rude.make_child({"op": 7, "how": how}, history)
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the child has it from its parent
rude._ENDS_WITHIN_S = 0.1
rude.make_child({"op": 7, "how": "gets TERM"}, history)
"""


def test_a_child_is_told_to_end_and_one_that_does_not_is_found(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", CHILDREN, str(tmp_path)], cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    (path,) = files(tmp_path)
    ends = [(record["how"], record["ended"]) for record in read_file(path) if record["what"] == "child"]
    assert ends == [("exits", True), ("raises", True), ("gets TERM", True), ("pool", True), ("gets TERM", False)]
