"""Asking the log server how it is: what is no answer, and what is told where there is none."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from servicebus.errors import ConnectFailed
from servicebus.transport.logquery import ask_statistics
from servicebus.wire.logrecord import Datagram, DatagramKind, decode_datagram, encode_datagram

Answers = Callable[[Datagram], list[bytes]]


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(30)
        yield server


def serve(server: socket.socket, answers: Answers) -> threading.Thread:
    def run() -> None:
        data, address = server.recvfrom(65536)
        for answer in answers(decode_datagram(data, None)):
            server.sendto(answer, address)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def counts(sender: bytes, body: bytes) -> bytes:
    return encode_datagram(Datagram(DatagramKind.COUNTS, sender, body=body), None)


def test_the_answer_to_our_own_question_counts(server: socket.socket) -> None:
    def answers(asked: Datagram) -> list[bytes]:
        assert asked.kind is DatagramKind.STATS
        return [b"rubbish", counts(b"0123456789abcdef", b'{"records": 1}'), counts(asked.sender, b'{"records": 7}')]

    thread = serve(server, answers)
    host, port = server.getsockname()
    assert ask_statistics(host, port, None, 30.0) == {"records": 7}
    thread.join()


def test_a_server_that_is_silent_is_told_from_one_that_is_not_there(server: socket.socket) -> None:
    host, port = server.getsockname()
    with pytest.raises(ConnectFailed, match="the same secret") as silent:
        ask_statistics(host, port, None, 0.05)
    assert silent.value.kind == "silent"
    server.close()
    with pytest.raises(ConnectFailed, match="no log server") as refused:
        ask_statistics(host, port, None, 30.0)
    assert refused.value.kind == "refused"
