"""The fault proxy, against a small echo server on loopback."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from servicebus.testing import FaultProxy, Mode

SHORT_S = 0.15
"""How long a test listens to hear that nothing comes."""


class EchoServer:
    """Sends back what it gets, one thread per connection."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._echo, args=(sock,)))
            self._threads[-1].start()

    def _echo(self, sock: socket.socket) -> None:
        with sock:
            try:
                while data := sock.recv(65_536):
                    sock.sendall(data)
            except OSError:
                return

    def close(self) -> None:
        # A listener that is only closed leaves the thread in accept().
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(5)


@pytest.fixture
def proxy() -> Iterator[FaultProxy]:
    server = EchoServer()
    with FaultProxy(server.port) as running:
        yield running
    server.close()


def connect(proxy: FaultProxy) -> socket.socket:
    sock = socket.create_connection((proxy.host, proxy.port), timeout=5)
    sock.settimeout(5)
    return sock


def echo(sock: socket.socket, data: bytes) -> bytes:
    sock.sendall(data)
    received = b""
    while len(received) < len(data) and (part := sock.recv(65_536)):
        received += part
    return received


def hears_nothing(sock: socket.socket) -> bool:
    sock.settimeout(SHORT_S)
    try:
        sock.recv(1)
    except TimeoutError:
        return True
    finally:
        sock.settimeout(5)
    return False


def test_what_passes_arrives_whole_and_in_order(proxy: FaultProxy) -> None:
    sent = bytes(range(256)) * 20_000
    with connect(proxy) as sock:
        writer = threading.Thread(target=sock.sendall, args=(sent,))
        writer.start()
        received = b""
        while len(received) < len(sent):
            received += sock.recv(65_536)
        writer.join()
    assert received == sent
    assert proxy.forwarded == 2 * len(sent)
    assert proxy.accepted == 1


def test_the_end_of_input_passes_and_closes_the_connection(proxy: FaultProxy) -> None:
    with connect(proxy) as sock:
        sock.sendall(b"last words")
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(100) == b"last words"
        assert sock.recv(100) == b""
        wait_until(lambda: proxy.open_connections == 0)


def test_a_deaf_proxy_accepts_and_never_answers_until_it_is_healed(proxy: FaultProxy) -> None:
    with connect(proxy) as old:
        assert echo(old, b"before") == b"before"
        proxy.set_mode(Mode.DEAF)
        with connect(proxy) as new:
            for sock in (old, new):
                sock.sendall(b"x")
                assert hears_nothing(sock)
            proxy.heal()
            assert old.recv(1) == b"x"
            assert new.recv(1) == b"x"


def test_what_is_swallowed_never_arrives_not_even_after_healing(proxy: FaultProxy) -> None:
    with connect(proxy) as sock:
        proxy.set_mode(Mode.SWALLOW)
        sock.sendall(b"lost")
        assert hears_nothing(sock)
        proxy.heal()
        assert echo(sock, b"kept") == b"kept"


def test_a_sender_feels_that_the_other_side_does_not_read(proxy: FaultProxy) -> None:
    proxy.set_mode(Mode.DEAF)
    with connect(proxy) as sock:
        sock.settimeout(SHORT_S)
        with pytest.raises(TimeoutError):
            sock.sendall(bytes(50_000_000))


def test_refusing_closes_open_connections_and_refuses_new_ones(proxy: FaultProxy) -> None:
    with connect(proxy) as sock:
        assert echo(sock, b"1") == b"1"
        proxy.set_mode(Mode.REFUSE)
        assert sock.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            connect(proxy)
    proxy.heal()
    with connect(proxy) as sock:
        assert echo(sock, b"2") == b"2"


def test_resetting_breaks_open_and_new_connections(proxy: FaultProxy) -> None:
    with connect(proxy) as old:
        assert echo(old, b"1") == b"1"
        proxy.set_mode(Mode.RESET)
        with pytest.raises(ConnectionResetError):
            old.recv(1)
        # The reset may come while connecting, or with the first read.
        with pytest.raises(ConnectionResetError), connect(proxy) as new:
            new.recv(1)


def test_cutting_resets_once(proxy: FaultProxy) -> None:
    with connect(proxy) as old:
        assert echo(old, b"1") == b"1"
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            old.recv(1)
    with connect(proxy) as new:
        assert echo(new, b"2") == b"2"


def test_dropping_lets_nobody_connect_and_nothing_move(proxy: FaultProxy) -> None:
    with connect(proxy) as old:
        assert echo(old, b"1") == b"1"
        proxy.set_mode(Mode.DROP)
        old.sendall(b"x")
        assert hears_nothing(old)
        with pytest.raises(TimeoutError):
            socket.create_connection((proxy.host, proxy.port), timeout=SHORT_S)
        proxy.heal()
        assert old.recv(1) == b"x"
        with connect(proxy) as new:
            assert echo(new, b"2") == b"2"


def test_packets_can_be_dropped_in_one_direction_alone(proxy: FaultProxy) -> None:
    with connect(proxy) as old:
        assert echo(old, b"1") == b"1"
        proxy.set_mode(Mode.DROP_TO_SERVER)
        old.sendall(b"x")
        assert hears_nothing(old)
        before = proxy.forwarded
        proxy.set_mode(Mode.DROP_TO_CLIENT)
        assert hears_nothing(old)
        wait_until(lambda: proxy.forwarded == before + 1)
        with pytest.raises(TimeoutError):
            socket.create_connection((proxy.host, proxy.port), timeout=SHORT_S)
        proxy.heal()
        assert old.recv(1) == b"x"


def test_what_is_lost_comes_late_and_in_order(proxy: FaultProxy) -> None:
    with connect(proxy) as sock:
        assert echo(sock, b"1") == b"1"
        proxy.set_delay(0.0, loss=0.5)
        before = time.monotonic()
        for number in range(10):
            assert echo(sock, b"%d" % number) == b"%d" % number
        assert time.monotonic() - before >= 0.2


def test_a_connection_is_torn_in_the_middle_of_what_it_carries(proxy: FaultProxy) -> None:
    with connect(proxy) as old:
        assert echo(old, b"1") == b"1"
        proxy.tear()
        old.sendall(bytes(100))
        with pytest.raises(ConnectionResetError):
            while old.recv(100):
                pass
    with connect(proxy) as new:
        assert echo(new, b"2") == b"2"


def test_a_delay_holds_back_in_both_directions(proxy: FaultProxy) -> None:
    with connect(proxy) as sock:
        assert echo(sock, b"1") == b"1"
        proxy.set_delay(0.1)
        before = time.monotonic()
        assert echo(sock, b"2") == b"2"
        assert time.monotonic() - before >= 0.2


def test_a_stopped_proxy_comes_back_on_the_same_port(proxy: FaultProxy) -> None:
    port = proxy.port
    proxy.stop()
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    proxy.start()
    assert proxy.port == port
    with connect(proxy) as sock:
        assert echo(sock, b"again") == b"again"


def test_a_proxy_without_a_server_behind_it_resets() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with FaultProxy(port) as proxy, pytest.raises(ConnectionResetError), connect(proxy) as sock:
        sock.recv(1)


def wait_until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.005)


def test_it_stops_when_it_is_awake_for_something_else_and_ends_before_it_is_woken(proxy: FaultProxy) -> None:
    class SlowWaker:
        def __init__(self, waker: socket.socket, thread: threading.Thread | None):
            self._waker = waker
            self._thread = thread
            self.close = waker.close

        def send(self, data: bytes) -> int:
            assert self._thread is not None
            self._thread.join(10)
            return self._waker.send(data)

    with connect(proxy) as sock:
        proxy.set_delay(0.05)
        sock.sendall(b"what is held back wakes it")
        proxy._wake_write = SlowWaker(proxy._wake_write, proxy._thread)  # type: ignore[assignment]
        proxy.stop()
    assert proxy._thread is None
