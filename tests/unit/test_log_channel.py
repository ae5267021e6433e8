"""Both ends of the log channel: the client's LogChannel, the server's Intake, a network made of a list."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logging_service.intake import Intake
from logging_service.lines import LineFormat
from servicebus.policy.logchannel import FIRST_WAIT_S, LONGEST_WAIT_S, FlushLimit, LogChannel, Packet
from servicebus.wire.logrecord import (
    Datagram,
    DatagramKind,
    Record,
    decode_object,
    encode_batch,
    encode_datagram,
    in_pieces,
)

SENDER = b"0123456789abcdef"
MESSAGES_ONLY = LineFormat("%(message)s")
WINDOW = 100_000


def opened_channel(window: int = WINDOW) -> LogChannel:
    channel = LogChannel()
    channel.opened(b"s1", 1, window, 0.0)
    return channel


def add(channel: LogChannel, *bodies: bytes, through: int) -> None:
    channel.add([("records", body) for body in bodies], through)


def numbers(packets: list[Packet]) -> list[int]:
    return [packet.number for packet in packets]


class TestPackets:
    def test_nothing_is_sent_before_the_server_answered(self) -> None:
        channel = LogChannel()
        add(channel, b"a", through=1)
        assert channel.due(0.0) == []
        assert channel.next_due() is None
        channel.opened(b"s1", 1, WINDOW, 0.0)
        assert numbers(channel.due(0.0)) == [1]

    def test_no_more_is_on_its_way_than_the_window_holds(self) -> None:
        channel = opened_channel(window=10_000)
        add(channel, *[b"x" * 2_000] * 5, through=5)
        assert numbers(channel.due(0.0)) == [1, 2]
        assert not channel.has_room
        channel.acknowledged(2, (), 10_000, 0.1)
        assert numbers(channel.due(0.1)) == [3]

    def test_one_packet_travels_however_small_the_window_is(self) -> None:
        channel = opened_channel(window=0)
        add(channel, b"x" * 50_000, through=1)
        assert numbers(channel.due(0.0)) == [1]

    def test_without_an_answer_only_the_oldest_is_sent_again_ever_more_rarely(self) -> None:
        """A frozen server's buffer holds what was sent; repeating all of it would overflow the buffer when it thaws."""
        channel = opened_channel()
        add(channel, b"a", b"b", b"c", through=3)
        channel.due(0.0)
        assert channel.due(FIRST_WAIT_S - 0.01) == []
        now = FIRST_WAIT_S
        waits = []
        for _ in range(6):
            assert channel.next_due() == pytest.approx(now)
            again = channel.due(now)
            assert numbers(again) == [1]
            due = channel.next_due()
            assert due is not None
            waits.append(due - now)
            now = due
        assert waits == pytest.approx([0.4, 0.8, LONGEST_WAIT_S, LONGEST_WAIT_S, LONGEST_WAIT_S, LONGEST_WAIT_S])
        assert again[0].attempt == 6
        assert channel.silent_s(now) == pytest.approx(now)

    def test_a_hole_that_the_server_names_is_filled_at_once_and_not_twice(self) -> None:
        channel = opened_channel()
        add(channel, b"a", b"b", b"c", b"d", through=4)
        channel.due(0.0)
        assert numbers(channel.acknowledged(2, [2, 3], WINDOW, 0.05)) == [2, 3]
        assert channel.acknowledged(2, [2, 3], WINDOW, 0.06) == []
        assert numbers(channel.acknowledged(2, [3], WINDOW, 0.2)) == [3]

    def test_records_count_as_acknowledged_when_their_last_piece_is(self) -> None:
        channel = opened_channel()
        add(channel, b"a", b"b", through=9)
        channel.due(0.0)
        channel.acknowledged(2, (), WINDOW, 0.1)
        assert channel.records_acknowledged == 0
        channel.acknowledged(3, (), WINDOW, 0.1)
        assert channel.records_acknowledged == 9
        assert channel.is_empty

    def test_a_new_session_gets_all_pieces_again_also_those_the_old_server_had(self) -> None:
        """The old server had two pieces in its memory, not in its file."""
        channel = opened_channel()
        add(channel, b"one", through=1)
        add(channel, b"p", b"q", b"r", through=2)
        channel.due(0.0)
        channel.acknowledged(4, (), WINDOW, 0.1)
        channel.suspend()
        assert channel.due(5.0) == []
        channel.opened(b"s2", 1, WINDOW, 5.0)
        again = channel.due(5.0)
        assert [(packet.number, packet.body, packet.attempt) for packet in again] == [
            (1, b"p", 0),
            (2, b"q", 0),
            (3, b"r", 0),
        ]

    def test_the_same_session_goes_on_where_it_was(self) -> None:
        channel = opened_channel()
        add(channel, b"a", b"b", through=2)
        channel.due(0.0)
        channel.suspend()
        channel.opened(b"s1", 2, WINDOW, 1.0)
        assert channel.due(1.0 + FIRST_WAIT_S)[0].number == 2

    def test_an_acknowledgement_of_what_was_never_sent_changes_nothing(self) -> None:
        channel = opened_channel()
        add(channel, b"a", through=1)
        channel.due(0.0)
        channel.acknowledged(99, (), WINDOW, 0.1)
        assert not channel.is_empty
        assert channel.records_acknowledged == 0


class TestFlushLimit:
    def test_without_progress_it_ends_after_its_time(self) -> None:
        limit = FlushLimit(1.0, 100.0)
        assert not limit.is_over(5, 100.0)
        assert not limit.is_over(5, 100.9)
        assert limit.is_over(5, 101.0)

    def test_progress_gives_more_time_but_ten_times_as_much_at_most(self) -> None:
        """A second counted from the start would cut off long records on a machine that is busy."""
        limit = FlushLimit(1.0, 100.0)
        over_at = next(tick for tick in range(100) if limit.is_over(tick, 100.0 + tick / 2))
        assert over_at == 20


@dataclass
class Network:
    """One client and its server. ``fate`` says what becomes of each datagram: 0 lost, 1 arrives, 2 twice, 3 late."""

    fate: list[int]
    channel: LogChannel = field(default_factory=LogChannel)
    now: float = 0.0
    incarnations: int = 0
    file: list[str] = field(default_factory=list)
    late: list[tuple[str, bytes]] = field(default_factory=list)
    sent: int = 0

    def __post_init__(self) -> None:
        self.start_server()

    def start_server(self) -> None:
        self.incarnations += 1
        self.intake = Intake(b"%016x" % self.incarnations, MESSAGES_ONLY, None, 1 << 20)

    def travels(self, what: tuple[str, bytes]) -> list[tuple[str, bytes]]:
        fate = self.fate.pop() if self.fate else 1
        due, self.late = self.late, []
        if fate == 3:
            self.late = [what]
            return due
        return [what] * fate + due

    def exchange(self) -> None:
        """One exchange: what the client has due, the server's file, its answers."""
        self.now += FIRST_WAIT_S
        answers: list[Datagram] = []
        due = (
            [("hello", b"")]
            if not self.channel.open
            else [("packet", self.encode(p)) for p in self.channel.due(self.now)]
        )
        for what in due:
            for kind, raw in self.travels(what):
                answer = self.greet() if kind == "hello" else self.intake.take(raw, ("h", 1), self.now, 0.0)
                answers += [answer] if answer else []
        self.file += [line.decode().rstrip("\n") for line in self.intake.take_lines()]
        answers += [answer for answer, _ in self.intake.acknowledgements()]
        for answer in answers:
            for _ in self.travels(("answer", b"")):
                self.hear(answer)

    def encode(self, packet: Packet) -> bytes:
        session = self.channel.session or b"-"
        head = Datagram(DatagramKind(packet.kind), SENDER, session, packet.number, packet.attempt, packet.body)
        return encode_datagram(head, None)

    def greet(self) -> Datagram | None:
        body = b'{"pid": 7, "name": "client", "record": %d}' % (self.channel.records_acknowledged + 1)
        return self.intake.take(
            encode_datagram(Datagram(DatagramKind.HELLO, SENDER, body=body), None), ("h", 1), self.now, 0.0
        )

    def hear(self, answer: Datagram) -> None:
        if answer.kind is DatagramKind.WELCOME:
            body = decode_object(answer.body)
            if not self.channel.open:
                self.channel.opened(answer.session, body["next"], body["window"], self.now)
        elif answer.session != self.channel.session:
            return
        elif answer.kind is DatagramKind.UNKNOWN:
            self.channel.suspend()
        else:
            body = decode_object(answer.body)
            for packet in self.channel.acknowledged(answer.number, body["missing"], body["window"], self.now):
                self.intake.take(self.encode(packet), ("h", 1), self.now, 0.0)

    def log(self, message: str, piece_bytes: int) -> None:
        self.sent += 1
        body = encode_batch(self.sent, [Record(0.0, 20, "INFO", "app", "main", message)])
        self.channel.add([(kind.value, piece) for kind, piece in in_pieces(body, piece_bytes)], self.sent)

    def settle(self) -> None:
        self.fate.clear()
        for _ in range(500):
            if self.channel.is_empty:
                return
            self.exchange()
        raise AssertionError(f"not delivered: {self.channel}")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=60), st.lists(st.integers(1, 200), min_size=1, max_size=12))
def test_whatever_the_network_loses_doubles_or_delays_each_record_is_written_once_in_order(
    fate: list[int], lengths: list[int]
) -> None:
    network = Network(fate)
    messages = [f"{index}:" + "x" * length for index, length in enumerate(lengths)]
    for message in messages:
        network.log(message, piece_bytes=80)
        network.exchange()
    network.settle()
    assert network.file == messages
    assert network.intake.lost == 0


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(0, 3), max_size=60),
    st.lists(st.integers(1, 200), min_size=1, max_size=12),
    st.integers(0, 11),
)
def test_a_server_that_starts_anew_gets_whatever_the_old_one_did_not_acknowledge(
    fate: list[int], lengths: list[int], at: int
) -> None:
    """Killed between writing and acknowledging, the old one's last records are written again: never lost."""
    network = Network(fate)
    messages = [f"{index}:" + "x" * length for index, length in enumerate(lengths)]
    for index, message in enumerate(messages):
        network.log(message, piece_bytes=80)
        network.exchange()
        if index == at:
            network.start_server()
    network.settle()
    assert list(dict.fromkeys(network.file)) == messages
    assert network.intake.lost == 0
