from __future__ import annotations

from itertools import pairwise

import pytest

from logging_service.intake import FIRST_PAUSE_S, LARGEST_WINDOW, LONGEST_PAUSE_S, SMALLEST_WINDOW, Intake, Refusals
from logging_service.lines import LineFormat
from logging_service.sessions import MAX_AHEAD, MAX_HELD_BYTES, LogSessions
from servicebus.wire.logrecord import (
    MAX_BATCH_BYTES,
    Datagram,
    DatagramKind,
    Record,
    decode_object,
    encode_batch,
    encode_datagram,
    encode_object,
)
from servicebus.wire.signing import Keyring

KEYS = Keyring(["secret token"])
SENDER = b"0123456789abcdef"
FROM = ("127.0.0.1", 4711)


def record(message: str) -> Record:
    return Record(0.0, 20, "INFO", "app", "main", message)


class Client:
    """One process with its session, and what the server wrote and answered."""

    def __init__(self, intake: Intake | None = None, sender: bytes = SENDER, first_record: int = 1):
        self.intake = intake or Intake(b"f" * 16, LineFormat("%(message)s"), KEYS, 1 << 20)
        self.sender = sender
        hello = encode_object({"pid": 7, "name": "worker", "record": first_record})
        answer = self.give(Datagram(DatagramKind.HELLO, sender, number=5, body=hello))
        assert answer is not None
        assert (answer.kind, answer.number) == (DatagramKind.WELCOME, 5)
        self.session = answer.session

    def give(self, datagram: Datagram, now: float = 1.0) -> Datagram | None:
        return self.intake.take(encode_datagram(datagram, KEYS), FROM, now, 1_000_000.0)

    def packet(self, number: int, body: bytes, kind: DatagramKind = DatagramKind.RECORDS, attempt: int = 0) -> Datagram:
        return Datagram(kind, self.sender, self.session, number, attempt, body)

    def records(self, number: int, first: int, *messages: str, attempt: int = 0) -> Datagram | None:
        body = encode_batch(first, [record(message) for message in messages])
        return self.give(self.packet(number, body, attempt=attempt))

    def written(self) -> list[str]:
        return [line.decode().rstrip("\n") for line in self.intake.take_lines()]

    @property
    def refusals(self) -> dict[str, int]:
        return dict(self.intake.refusals.counts)


def test_records_are_written_in_order_though_their_packets_change_places() -> None:
    client = Client()
    client.records(2, 2, "second")
    assert client.written() == []
    assert [decode_object(answer.body)["missing"] for answer, _ in client.intake.acknowledgements()] == [[1]]
    client.records(1, 1, "first")
    assert client.written() == ["first", "second"]
    assert [answer.number for answer, _ in client.intake.acknowledgements()] == [3]


def test_a_gap_in_the_numbers_is_counted_as_lost_with_the_process_it_belongs_to() -> None:
    client = Client()
    client.records(1, 1, "a", "b")
    client.records(2, 6, "f")
    client.give(client.packet(3, encode_batch(10, [])))
    assert client.intake.lost == 3 + 3
    assert client.intake.take_losses() == ["6 log records of process 7 (worker) were lost"]
    assert client.intake.take_losses() == []


def test_what_the_client_accounted_for_to_an_earlier_server_is_not_lost_here() -> None:
    client = Client(first_record=41)
    client.records(1, 41, "a")
    assert client.intake.lost == 0


def test_a_packet_played_back_is_refused_and_not_written_again() -> None:
    client = Client()
    client.records(1, 1, "once")
    client.records(1, 1, "once")
    client.records(3, 3, "ahead")
    client.records(3, 3, "ahead")
    assert client.written() == ["once"]
    assert client.refusals == {"replayed": 2}


def test_a_packet_sent_again_by_its_client_is_acknowledged_but_not_written_again() -> None:
    """Its acknowledgement was late: not the client's fault, so it is no refusal."""
    client = Client()
    client.records(1, 1, "once")
    client.intake.acknowledgements()
    client.records(1, 1, "once", attempt=1)
    assert client.written() == ["once"]
    assert (client.intake.repeated, client.refusals) == (1, {})
    assert [answer.number for answer, _ in client.intake.acknowledgements()] == [2]


def test_packets_of_another_server_are_refused_and_their_client_is_told() -> None:
    """All that was recorded from the wire is worthless once the server has been started anew."""
    recorded = Client()
    body = encode_batch(1, [record("yesterday's")])
    old = recorded.packet(1, body)
    fresh = Intake(b"e" * 16, LineFormat("%(message)s"), KEYS, 1 << 20)
    answer = fresh.take(encode_datagram(old, KEYS), FROM, 1.0, 0.0)
    assert answer == Datagram(DatagramKind.UNKNOWN, SENDER, recorded.session)
    assert fresh.take_lines() == []
    assert fresh.refusals.counts == {"unknown-session": 1}


def test_a_hello_played_back_changes_nothing() -> None:
    client = Client()
    client.records(1, 1, "a")
    again = Client(client.intake)
    assert again.session == client.session
    client.records(2, 2, "b")
    assert client.written() == ["a", "b"]


def test_a_forgotten_session_never_comes_back() -> None:
    """Else a recorded hello would open the door for recorded records."""
    sessions = LogSessions(b"f" * 16, max_sessions=2)
    first = sessions.greet(b"a", 1, "one", 1, 0.0)
    sessions.greet(b"b", 2, "two", 1, 0.0)
    sessions.greet(b"c", 3, "three", 1, 0.0)
    assert sessions.find(Datagram(DatagramKind.RECORDS, b"a", first.id), 0.0) is None
    assert sessions.greet(b"a", 1, "one", 1, 0.0).id != first.id
    assert sessions.count == 4


def test_the_process_that_was_heard_last_is_forgotten_last() -> None:
    sessions = LogSessions(b"f" * 16, max_sessions=2)
    first = sessions.greet(b"a", 1, "one", 1, 0.0)
    second = sessions.greet(b"b", 2, "two", 1, 0.0)
    sessions.find(Datagram(DatagramKind.RECORDS, b"a", first.id), 0.0)
    sessions.greet(b"c", 3, "three", 1, 0.0)
    assert sessions.find(Datagram(DatagramKind.RECORDS, b"a", first.id), 0.0) is first
    assert sessions.find(Datagram(DatagramKind.RECORDS, b"b", second.id), 0.0) is None


def test_pieces_become_one_record() -> None:
    client = Client()
    body = encode_batch(1, [record("ä" * 1000)])
    client.give(client.packet(1, body[:701], DatagramKind.PIECE))
    client.give(client.packet(2, body[701:1400], DatagramKind.PIECE))
    assert client.written() == []
    client.give(client.packet(3, body[1400:], DatagramKind.LAST))
    assert client.written() == ["ä" * 1000]


def test_pieces_without_end_take_no_memory_and_cost_only_their_own_record() -> None:
    client = Client()
    piece = b"x" * 60_000
    count = MAX_BATCH_BYTES // len(piece) + 2
    for number in range(1, count + 1):
        client.give(client.packet(number, piece, DatagramKind.PIECE))
    client.give(client.packet(count + 1, piece, DatagramKind.LAST))
    assert client.refusals == {"oversized": 1}
    client.records(count + 2, 2, "goes on")
    assert client.written() == ["goes on"]
    assert client.intake.lost == 1


def test_a_packet_that_holds_no_batch_costs_only_its_own_records() -> None:
    client = Client()
    client.records(2, 3, "after")
    client.give(client.packet(1, b"no batch"))
    assert client.written() == ["after"]
    assert client.refusals == {"malformed": 1}
    assert client.intake.lost == 2


def test_numbers_that_were_used_before_are_refused() -> None:
    client = Client()
    client.records(1, 1, "a", "b")
    client.records(2, 2, "b again")
    assert client.written() == ["a", "b"]
    assert client.refusals == {"malformed": 1}


def test_a_packet_far_ahead_is_refused_and_may_come_again() -> None:
    client = Client()
    client.records(2 + MAX_AHEAD, 1, "far")
    assert client.refusals == {"oversized": 1}
    client.records(1, 1, "near")
    assert client.written() == ["near"]


@pytest.mark.parametrize("body", [b"", b"{}", b'{"pid":"7","name":"n","record":1}', b'{"pid":7,"name":"n","record":0}'])
def test_a_hello_that_does_not_say_who_it_is_from_is_refused(body: bytes) -> None:
    client = Client()
    assert client.give(Datagram(DatagramKind.HELLO, b"a" * 16, body=body)) is None
    assert client.refusals == {"malformed": 1}


def test_an_answer_sent_to_the_server_is_refused() -> None:
    client = Client()
    client.give(Datagram(DatagramKind.WELCOME, SENDER, client.session))
    assert client.refusals == {"malformed": 1}


def test_a_request_for_statistics_is_good_for_a_minute() -> None:
    client = Client()
    assert client.give(Datagram(DatagramKind.STATS, SENDER, number=1_000_000 - 59_000)) is not None
    assert client.give(Datagram(DatagramKind.STATS, SENDER, number=1_000_000 - 61_000)) is None
    assert client.refusals == {"stale": 1}


def test_the_windows_of_all_processes_together_fit_the_buffer() -> None:
    intake = Intake(b"f" * 16, LineFormat(), KEYS, 4 << 20)

    def window() -> int:
        client = Client(intake, sender=b"%016x" % intake.sessions.count)
        client.records(1, 1, "x")
        [(answer, _)] = intake.acknowledgements()
        return int(decode_object(answer.body)["window"])

    windows = [window() for _ in range(60)]
    assert windows[0] == LARGEST_WINDOW
    assert 60 * windows[-1] <= 2 << 20
    assert windows == sorted(windows, reverse=True)
    assert Intake(b"f" * 16, LineFormat(), KEYS, 10_000)._window == SMALLEST_WINDOW


class TestRefusals:
    def test_the_first_is_said_at_once_and_the_next_ones_ever_more_rarely(self) -> None:
        """Else whoever reaches the port could fill the disk with lines about his garbage."""
        refusals = Refusals()
        said_at = []
        for second in range(7200):
            for _ in range(100):
                refusals.count("malformed", "127.0.0.1:9")
            if refusals.due_lines(float(second)):
                said_at.append(second)
        pauses = [later - earlier for earlier, later in pairwise(said_at)]
        assert said_at[0] == 0
        assert pauses[0] == FIRST_PAUSE_S
        assert pauses[-1] == LONGEST_PAUSE_S
        assert len(said_at) < 20

    def test_a_line_says_how_many_for_which_reason_and_from_where(self) -> None:
        refusals = Refusals()
        for reason in ("signature", "malformed", "signature"):
            refusals.count(reason, "127.0.0.1:9")
        assert refusals.due_lines(0.0) == ["refused 3 datagrams (malformed=1, signature=2), the last from 127.0.0.1:9"]

    def test_pickled_records_are_explained_once(self) -> None:
        refusals = Refusals()
        refusals.count("pickled", "127.0.0.1:9")
        [_, why] = refusals.due_lines(0.0)
        assert "py-servicebus 2.x are refused by policy" in why
        refusals.count("pickled", "127.0.0.1:9")
        assert len(refusals.due_lines(1000.0)) == 1


class TestStrangersAndReplays:
    def test_all_processes_together_hold_so_much_and_the_one_that_holds_most_starts_again(self) -> None:
        intake = Intake(b"f" * 16, LineFormat("%(message)s"), KEYS, 1 << 20)
        honest = Client(intake, b"a" * 16)
        honest.give(honest.packet(1, encode_batch(1, [record("h" * 1000)])[:500], DatagramKind.PIECE))
        for sender in range(40):
            client = Client(intake, b"%016x" % sender)
            for number in range(1, 100):
                client.give(client.packet(number, b"x" * 60_000, DatagramKind.PIECE))
            held = sum(session.held_bytes for session in intake.sessions._by_sender.values())
            assert held == intake.sessions._held_bytes <= MAX_HELD_BYTES
        honest.give(honest.packet(2, encode_batch(1, [record("h" * 1000)])[500:], DatagramKind.LAST))
        assert honest.written() == ["h" * 1000]

    def test_small_packets_above_a_hole_are_counted_with_what_they_take(self) -> None:
        client = Client()
        for number in range(2, 200):
            client.records(number, number, "")
        assert client.intake.sessions._held_bytes > 198 * 1024

    def test_a_hello_that_is_played_back_to_a_new_server_counts_no_losses(self) -> None:
        """The old one says that record 1 is next, and the process has had 500 acknowledged since."""
        intake = Intake(b"f" * 16, LineFormat("%(message)s"), KEYS, 1 << 20)
        Client(intake, first_record=1)
        client = Client(intake, first_record=501)
        Client(intake, first_record=1)
        client.records(1, 501, "next")
        Client(intake, first_record=900)
        client.records(2, 502, "after")
        assert (client.written(), intake.lost) == (["next", "after"], 0)

    def test_what_is_played_back_from_elsewhere_does_not_divert_the_acknowledgement(self) -> None:
        client = Client()
        packet = client.packet(1, encode_batch(1, [record("once")]))
        again = encode_datagram(packet._replace(attempt=1), KEYS)
        client.give(packet)
        for raw in (encode_datagram(packet, KEYS), again):
            client.intake.take(raw, ("127.0.0.1", 6666), 1.0, 0.0)
        told = [address for _, address in client.intake.acknowledgements()]
        assert FROM in told
        client.intake.take(encode_datagram(packet, KEYS), ("127.0.0.1", 6666), 1.0, 0.0)
        assert client.intake.acknowledgements() == [], "a replay is not answered"

    def test_a_name_is_made_printable_and_a_process_number_can_be_one(self) -> None:
        intake = Intake(b"f" * 16, LineFormat("%(processName)s %(message)s"), KEYS, 1 << 20)
        for pid, kind in ((10**50, None), (-1, None), (7, DatagramKind.WELCOME)):
            body = encode_object({"pid": pid, "name": "w\n[\x1b\u202e\u200b", "record": 1})
            answer = intake.take(encode_datagram(Datagram(DatagramKind.HELLO, SENDER, body=body), KEYS), FROM, 1.0, 0.0)
            assert (answer.kind if answer else None) == kind
        session = answer.session if answer else b""
        body = encode_batch(3, [record("m\u200f")])
        intake.take(encode_datagram(Datagram(DatagramKind.RECORDS, SENDER, session, 1, 0, body), KEYS), FROM, 1.0, 0.0)
        assert intake.take_lines() == [b"w\\n[\\x1b\\u202e\\u200b m\\u200f\n"]
        assert "(w\\n[\\x1b" in intake.take_losses()[0]
