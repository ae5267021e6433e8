"""The EventLoop in a real thread, its streams over real socket pairs."""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trustme
from loops import turning
from waiting import Stopwatch, wait_until

from servicebus.transport.dialing import connect, handshake_tls, resolve
from servicebus.transport.loop import READ, EventLoop
from servicebus.transport.stream import SocketStream


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    with turning(EventLoop("test")) as loop:
        yield loop


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.settimeout(10)
    yield ours, theirs
    ours.close()
    theirs.close()


class Recorder:
    """A protocol that remembers what its stream told it."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.received = b""
        self.saw_eof = False
        self.lost: list[BaseException | None] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data

    def eof_received(self) -> None:
        self.saw_eof = True

    def connection_lost(self, error: BaseException | None) -> None:
        self.lost.append(error)


def in_loop(loop: EventLoop, function: Callable[[], Any]) -> Any:
    """Run *function* in the loop's thread and give its result."""
    done = threading.Event()
    result: list[Any] = []

    def run() -> None:
        try:
            result.append(function())
        finally:
            done.set()

    loop.post(run)
    assert done.wait(10), "the loop did not run it"
    return result[0]


def open_stream(loop: EventLoop, sock: socket.socket) -> tuple[SocketStream, Recorder]:
    recorder = Recorder()
    stream = SocketStream(loop, sock, recorder)
    in_loop(loop, stream.start)
    return stream, recorder


def receive(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = sock.recv(min(65536, size - len(data)))
        assert piece, "closed too early"
        data += piece
    return data


class TestPosting:
    def test_what_any_thread_posts_runs_in_the_loops_thread_and_in_each_threads_order(self, loop: EventLoop) -> None:
        ran: list[tuple[int, int]] = []
        where: set[str] = set()

        def post_many(number: int) -> None:
            for count in range(2000):
                loop.post(partial(note, number, count))

        def note(number: int, count: int) -> None:
            ran.append((number, count))
            where.add(threading.current_thread().name)

        threads = [threading.Thread(target=post_many, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait_until(lambda: len(ran) == 16_000, what=lambda: f"{len(ran)} of 16000 ran: a wake-up was lost")
        assert where == {"loop"}
        for number in range(8):
            assert [count for n, count in ran if n == number] == list(range(2000))

    def test_a_sleeping_loop_is_woken_by_every_single_post(self, loop: EventLoop) -> None:
        """The race that loses a wake-up shows only now and then: between the last look at the deque and the sleep."""
        for _ in range(3000):
            in_loop(loop, lambda: None)

    def test_a_batch_costs_one_wake_up(self, loop: EventLoop, monkeypatch: pytest.MonkeyPatch) -> None:
        written: list[int] = []
        real_write = os.write

        def counting_write(fd: int, data: bytes) -> int:
            if fd == loop._wake_out:
                written.append(fd)
            return real_write(fd, data)

        monkeypatch.setattr(os, "write", counting_write)
        held, go_on, ran = threading.Event(), threading.Event(), threading.Event()

        def hold() -> None:
            held.set()
            go_on.wait(10)

        loop.post(hold)
        assert held.wait(10)
        del written[:]
        for _ in range(1000):
            loop.post(lambda: None)
        loop.post(ran.set)
        go_on.set()
        assert ran.wait(10)
        assert len(written) <= 1

    def test_callbacks_that_post_again_do_not_starve_the_sockets(
        self, loop: EventLoop, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        ours, theirs = pair
        _, recorder = open_stream(loop, ours)
        stop = threading.Event()

        def again() -> None:
            if not stop.is_set():
                loop.post(again)

        loop.post(again)
        theirs.sendall(b"hello")
        wait_until(lambda: recorder.received == b"hello")
        stop.set()

    def test_a_callback_that_raises_is_logged_and_ends_nothing(
        self, loop: EventLoop, caplog: pytest.LogCaptureFixture, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        def broken(*_args: Any) -> None:
            raise ValueError("from a callback")

        ours, theirs = pair
        with caplog.at_level(logging.ERROR):
            loop.post(broken)
            in_loop(loop, lambda: loop.call_later(0, broken))

            def read(_mask: int) -> None:
                ours.recv(10)
                broken()

            in_loop(loop, lambda: loop.watch(ours, READ, read))
            theirs.send(b"x")
            wait_until(lambda: len(caplog.records) >= 3)
        assert in_loop(loop, lambda: 42) == 42
        assert all(record.exc_info for record in caplog.records)
        assert loop.failures.count == 3
        in_loop(loop, lambda: loop.unwatch(ours))

    @pytest.mark.parametrize("kind", ["post", "timer", "flush", "send"])
    def test_what_one_of_many_raises_costs_none_of_the_others(self, loop: EventLoop, kind: str) -> None:
        """All of them are due in one turn."""
        ran: list[int] = []

        class Each:
            def __init__(self, number: int):
                self.number = number

            def flush(self) -> None:
                ran.append(self.number)
                if self.number == 2:
                    raise OverflowError("one too many")

        def begin() -> None:
            for each in map(Each, range(5)):
                if kind == "post":
                    loop.post(each.flush)
                elif kind == "timer":
                    loop.call_later(0.0, each.flush)
                elif kind == "flush":
                    loop.flush_later(each)
                else:
                    loop.send_later(each)

        in_loop(loop, begin)
        wait_until(lambda: len(ran) == 5)
        assert ran == [0, 1, 2, 3, 4]
        assert in_loop(loop, lambda: loop.failures.count) == 1

    def test_a_callback_that_raises_all_the_time_is_counted_and_does_not_fill_the_log(
        self, loop: EventLoop, caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken() -> None:
            raise ValueError("from a callback")

        for _ in range(100):
            loop.post(broken)
        wait_until(lambda: loop.failures.count == 100)
        assert 1 <= len(caplog.records) <= 3
        assert "callback" in caplog.records[0].getMessage()
        assert "broken" in caplog.records[0].getMessage()

    def test_a_filter_of_the_programs_that_raises_does_not_end_the_loop(
        self, loop: EventLoop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_args: Any) -> None:
            raise ValueError("from a callback, and from a filter")

        monkeypatch.setattr(logging.getLogger("servicebus.transport.failurelog"), "filter", broken)
        loop.post(broken)
        assert in_loop(loop, lambda: 42) == 42

    def test_iterations_go_on_counting_while_the_loop_lives(self, loop: EventLoop) -> None:
        before = loop.iterations
        in_loop(loop, lambda: None)
        in_loop(loop, lambda: None)
        assert loop.iterations > before
        assert "test running" in repr(loop)

    def test_a_stop_from_another_thread_ends_a_loop_that_sleeps(self) -> None:
        loop = EventLoop("stopped")
        thread = threading.Thread(target=loop.run)
        thread.start()
        in_loop(loop, lambda: None)
        loop.stop()
        thread.join(5)
        assert not thread.is_alive()
        assert "stopping" in repr(loop)
        loop.close()


class TestTimers:
    def test_timers_run_in_the_order_of_their_times_not_of_their_making(self, loop: EventLoop) -> None:
        ran: list[str] = []

        def make() -> None:
            loop.call_later(0.06, lambda: ran.append("third"))
            loop.call_later(0.02, lambda: ran.append("first"))
            loop.call_later(0.04, lambda: ran.append("second"))

        in_loop(loop, make)
        wait_until(lambda: len(ran) == 3)
        assert ran == ["first", "second", "third"]

    def test_timers_of_one_time_run_in_the_order_of_their_making(self, loop: EventLoop) -> None:
        ran: list[int] = []

        def make() -> None:
            for number in range(50):
                loop.call_later(0.01, partial(ran.append, number))

        in_loop(loop, make)
        wait_until(lambda: len(ran) == 50)
        assert ran == sorted(ran)

    def test_a_timer_does_not_run_before_its_time(self, loop: EventLoop) -> None:
        watch, ran = Stopwatch(), threading.Event()
        in_loop(loop, lambda: loop.call_later(0.1, ran.set))
        assert ran.wait(10)
        assert watch.elapsed_s >= 0.1

    def test_a_cancelled_timer_does_not_run_and_may_be_cancelled_again(self, loop: EventLoop) -> None:
        ran: list[str] = []

        def make() -> None:
            doomed = loop.call_later(0.01, lambda: ran.append("doomed"))
            loop.call_later(0.02, lambda: ran.append("kept"))
            doomed.cancel()
            doomed.cancel()

        in_loop(loop, make)
        wait_until(lambda: "kept" in ran)
        assert ran == ["kept"]

    def test_a_timer_may_cancel_another_that_is_due_at_the_same_time(self, loop: EventLoop) -> None:
        ran: list[str] = []

        def make() -> None:
            timers: list[Any] = []

            def first() -> None:
                ran.append("first")
                timers[0].cancel()

            loop.call_later(0.01, first)
            timers.append(loop.call_later(0.01, lambda: ran.append("second")))
            loop.call_later(0.02, lambda: ran.append("last"))

        in_loop(loop, make)
        wait_until(lambda: "last" in ran)
        assert ran == ["first", "last"]

    def test_a_timer_that_starts_itself_again_leaves_time_for_the_rest(self, loop: EventLoop) -> None:
        beats: list[int] = []

        def tick() -> None:
            beats.append(1)
            loop.call_later(0, tick)

        in_loop(loop, tick)
        wait_until(lambda: len(beats) > 100)
        assert in_loop(loop, lambda: "still here") == "still here"


class TestStreams:
    def test_bytes_go_both_ways(self, loop: EventLoop, pair: tuple[socket.socket, socket.socket]) -> None:
        ours, theirs = pair
        stream, recorder = open_stream(loop, ours)
        assert recorder.transport is stream
        theirs.sendall(b"question")
        wait_until(lambda: recorder.received == b"question")
        assert stream.bytes_received == len(b"question")
        in_loop(loop, lambda: stream.write(b"answer"))
        assert receive(theirs, 6) == b"answer"

    def test_what_one_iteration_writes_is_sent_together(
        self, loop: EventLoop, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        ours, theirs = pair
        stream, _ = open_stream(loop, ours)

        def write_many() -> None:
            for number in range(100):
                stream.write(b"%02d" % number)
            assert stream.get_write_buffer_size() == 200
            theirs.setblocking(False)
            with pytest.raises(BlockingIOError):
                theirs.recv(1)  # nothing leaves before the end of the turn

        in_loop(loop, write_many)
        theirs.settimeout(10)
        assert receive(theirs, 200) == b"".join(b"%02d" % number for number in range(100))

    def test_what_the_socket_does_not_take_waits_and_keeps_its_order(
        self, loop: EventLoop, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        """Partial writes: 16 MB into a socket whose reader is slow, with more written while some still waits."""
        ours, theirs = pair
        stream, _ = open_stream(loop, ours)
        pieces = [os.urandom(1 << 20) for _ in range(16)]
        for piece in pieces:
            in_loop(loop, partial(stream.write, piece))
        assert stream.get_write_buffer_size() > 0
        assert receive(theirs, 16 << 20) == b"".join(pieces)
        wait_until(lambda: stream.get_write_buffer_size() == 0)
        in_loop(loop, lambda: stream.write(b"and on it goes"))
        assert receive(theirs, 14) == b"and on it goes"

    def test_a_loop_whose_peer_does_not_read_goes_on_and_does_not_spin(
        self, loop: EventLoop, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        ours, _theirs = pair
        stream, _ = open_stream(loop, ours)
        in_loop(loop, lambda: stream.write(b"x" * (4 << 20)))
        before = loop.iterations
        ran = threading.Event()
        in_loop(loop, lambda: loop.call_later(0.1, ran.set))
        assert ran.wait(10)
        assert loop.iterations - before < 20

    def test_the_peers_goodbye_is_told_as_end_of_file_and_then_as_loss(
        self, loop: EventLoop, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        ours, theirs = pair
        stream, recorder = open_stream(loop, ours)
        theirs.sendall(b"last words")
        theirs.close()
        wait_until(lambda: recorder.lost)
        assert (recorder.received, recorder.saw_eof, recorder.lost) == (b"last words", True, [None])
        in_loop(loop, lambda: stream.write(b"too late"))
        assert stream.get_write_buffer_size() == 0
        assert "closed=True" in repr(stream)

    def test_an_abort_tells_the_loss_once_and_in_a_later_callback(
        self, loop: EventLoop, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        ours, _theirs = pair
        stream, recorder = open_stream(loop, ours)

        def abort_twice() -> list[Any]:
            stream.abort()
            stream.abort()
            return list(recorder.lost)

        told_inside = in_loop(loop, abort_twice)
        assert told_inside == []
        wait_until(lambda: recorder.lost)
        in_loop(loop, lambda: None)
        assert recorder.lost == [None]

    def test_an_abort_resets_a_tcp_connection_and_drops_what_was_not_sent(self, loop: EventLoop) -> None:
        """A silent peer must not keep our memory and port for the minutes that a polite close would wait."""
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as ours:
            theirs, _ = server.accept()
            with theirs:
                theirs.settimeout(10)
                ours.setblocking(False)
                stream, _ = open_stream(loop, ours)
                in_loop(loop, lambda: stream.write(b"x" * (8 << 20)))
                in_loop(loop, stream.abort)
                with pytest.raises(ConnectionResetError):
                    receive(theirs, 8 << 20)

    def test_a_reset_by_the_peer_is_told_with_its_error(self, loop: EventLoop) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as ours:
            theirs, _ = server.accept()
            ours.setblocking(False)
            _, recorder = open_stream(loop, ours)
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            theirs.close()
            wait_until(lambda: recorder.lost)
            assert isinstance(recorder.lost[0], ConnectionResetError)

    def test_what_came_before_a_reset_is_told_before_it(
        self, loop: EventLoop, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        ours, theirs = pair
        stream, recorder = open_stream(loop, ours)
        in_loop(loop, lambda: stream.write(b"never read: why the peer's end is a reset"))
        wait_until(lambda: stream.get_write_buffer_size() == 0)

        def fill_a_read_and_reset() -> None:
            theirs.sendall(bytes(SocketStream.READ_BYTES))
            theirs.close()

        in_loop(loop, fill_a_read_and_reset)
        wait_until(lambda: recorder.lost)
        assert isinstance(recorder.lost[0], ConnectionResetError)
        assert len(recorder.received) == SocketStream.READ_BYTES

    def test_data_that_the_protocol_cannot_read_costs_that_connection_only(
        self, loop: EventLoop, pair: tuple[socket.socket, socket.socket], caplog: pytest.LogCaptureFixture
    ) -> None:
        class Fussy(Recorder):
            def data_received(self, data: bytes) -> None:
                raise ValueError("not a frame")

        ours, theirs = pair
        recorder = Fussy()
        stream = SocketStream(loop, ours, recorder)
        in_loop(loop, stream.start)
        with caplog.at_level(logging.WARNING):
            theirs.sendall(b"garbage")
            wait_until(lambda: recorder.lost)
        assert isinstance(recorder.lost[0], ValueError)
        assert in_loop(loop, lambda: "alive") == "alive"


class TestConnecting:
    def test_a_connection_to_a_listener_succeeds(self, loop: EventLoop) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as ours:
            ours.setblocking(False)
            results: list[Any] = []
            in_loop(loop, lambda: connect(loop, ours, server.getsockname(), results.append))
            wait_until(lambda: results)
            assert results == [None]

    def test_a_refused_connection_says_so(self, loop: EventLoop) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = server.getsockname()
        with socket.socket() as ours:
            ours.setblocking(False)
            results: list[Any] = []
            in_loop(loop, lambda: connect(loop, ours, address, results.append))
            wait_until(lambda: results)
            assert isinstance(results[0], ConnectionRefusedError)

    def test_a_cancelled_attempt_tells_nothing(self, loop: EventLoop) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as ours:
            ours.setblocking(False)
            results: list[Any] = []

            def start_and_cancel() -> bool:
                return connect(loop, ours, server.getsockname(), results.append)()

            assert in_loop(loop, start_and_cancel) is True
            in_loop(loop, lambda: None)
            assert results == []

    @pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
    def test_names_and_literal_addresses_are_resolved(self, loop: EventLoop, host: str) -> None:
        results: list[Any] = []
        in_loop(loop, lambda: resolve(loop, host, 5672, results.append, type=socket.SOCK_STREAM))
        wait_until(lambda: results)
        assert any(entry[4][1] == 5672 for entry in results[0])

    def test_a_name_that_does_not_exist_gives_the_error(self, loop: EventLoop) -> None:
        results: list[Any] = []
        in_loop(loop, lambda: resolve(loop, "no such host.invalid", 5672, results.append))
        wait_until(lambda: results)
        assert isinstance(results[0], OSError)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    issued.private_key_pem.write_to_path(str(key))
    for blob in (*issued.cert_chain_pems, authority.cert_pem):
        blob.write_to_path(str(certificate), append=True)
    return certificate, key


class TlsPeer:
    """The server's end of a TLS connection, in a thread of its own; speaks first, as nothing in AMQP forbids."""

    def __init__(self, sock: socket.socket, certificate: tuple[Path, Path], greeting: bytes):
        self.socket: ssl.SSLSocket | None = None
        self.error: Exception | None = None
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(*certificate)
        self._thread = threading.Thread(target=self._run, args=(sock, greeting))
        self._thread.start()

    def _run(self, sock: socket.socket, greeting: bytes) -> None:
        try:
            tls = self._context.wrap_socket(sock, server_side=True)
            if greeting:
                tls.sendall(greeting)
            self.socket = tls
        except (OSError, ssl.SSLError) as error:
            self.error = error

    def ready(self) -> ssl.SSLSocket:
        self._thread.join(10)
        assert self.socket is not None, self.error
        return self.socket

    def close(self) -> None:
        self._thread.join(10)
        if self.socket is not None:
            self.socket.close()


@pytest.fixture
def tls_pair(
    loop: EventLoop, pair: tuple[socket.socket, socket.socket], certificate: tuple[Path, Path]
) -> Iterator[tuple[SocketStream, Recorder, ssl.SSLSocket]]:
    ours, theirs = pair
    peer = TlsPeer(theirs, certificate, b"hello from the broker")
    results: list[Any] = []
    context = ssl.create_default_context(cafile=certificate[0])
    in_loop(loop, lambda: handshake_tls(loop, ours, context, "localhost", results.append))
    wait_until(lambda: results)
    assert isinstance(results[0], ssl.SSLSocket), results
    stream, recorder = open_stream(loop, results[0])
    yield stream, recorder, peer.ready()
    in_loop(loop, stream.abort)
    peer.close()


class TestTls:
    def test_bytes_that_came_with_the_handshake_are_not_forgotten(
        self, tls_pair: tuple[SocketStream, Recorder, ssl.SSLSocket]
    ) -> None:
        """They may lie in the TLS layer already, where no selector sees them."""
        _, recorder, _ = tls_pair
        wait_until(lambda: recorder.received == b"hello from the broker")

    def test_large_data_goes_both_ways_whole_while_the_reader_is_slow(
        self, loop: EventLoop, tls_pair: tuple[SocketStream, Recorder, ssl.SSLSocket]
    ) -> None:
        """OpenSSL wants a write that it could not finish repeated with the same bytes; more is added meanwhile."""
        stream, recorder, peer = tls_pair
        wait_until(lambda: recorder.received == b"hello from the broker")
        recorder.received = b""
        pieces = [os.urandom(700_001) for _ in range(8)]
        for piece in pieces:
            in_loop(loop, partial(stream.write, piece))
        assert stream.get_write_buffer_size() > 0
        assert receive(peer, sum(map(len, pieces))) == b"".join(pieces)
        answer = os.urandom(5_000_000)
        peer.sendall(answer)
        wait_until(lambda: len(recorder.received) == len(answer))
        assert hashlib.sha256(recorder.received).digest() == hashlib.sha256(answer).digest()

    def test_the_peers_goodbye_is_told(self, tls_pair: tuple[SocketStream, Recorder, ssl.SSLSocket]) -> None:
        _, recorder, peer = tls_pair
        peer.close()
        wait_until(lambda: recorder.lost)
        assert recorder.saw_eof, recorder.lost

    def test_a_certificate_that_nobody_vouches_for_is_refused(
        self, loop: EventLoop, pair: tuple[socket.socket, socket.socket], certificate: tuple[Path, Path]
    ) -> None:
        ours, theirs = pair
        peer = TlsPeer(theirs, certificate, b"")
        results: list[Any] = []
        context = ssl.create_default_context()
        in_loop(loop, lambda: handshake_tls(loop, ours, context, "localhost", results.append))
        wait_until(lambda: results)
        assert isinstance(results[0], ssl.SSLCertVerificationError)
        peer.close()

    def test_a_certificate_of_another_name_is_refused(
        self, loop: EventLoop, pair: tuple[socket.socket, socket.socket], certificate: tuple[Path, Path]
    ) -> None:
        ours, theirs = pair
        peer = TlsPeer(theirs, certificate, b"")
        results: list[Any] = []
        context = ssl.create_default_context(cafile=certificate[0])
        in_loop(loop, lambda: handshake_tls(loop, ours, context, "mq-a.example", results.append))
        wait_until(lambda: results)
        assert isinstance(results[0], ssl.SSLCertVerificationError)
        peer.close()

    def test_a_peer_that_does_not_speak_tls_is_told_from_one_that_is_silent(
        self, loop: EventLoop, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        ours, theirs = pair
        results: list[Any] = []
        context = ssl.create_default_context()
        in_loop(loop, lambda: handshake_tls(loop, ours, context, "localhost", results.append))
        theirs.sendall(b"AMQP\0\0\x09\x01")
        wait_until(lambda: results)
        assert isinstance(results[0], ssl.SSLError)

    def test_a_cancelled_handshake_tells_nothing_and_closes_the_socket(
        self, loop: EventLoop, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        ours, theirs = pair
        results: list[Any] = []
        context = ssl.create_default_context()
        cancel = in_loop(loop, lambda: handshake_tls(loop, ours, context, "localhost", results.append))
        assert in_loop(loop, cancel) is True
        assert in_loop(loop, cancel) is False
        while theirs.recv(65536):  # the first words of the handshake, then the end
            pass
        assert results == []
