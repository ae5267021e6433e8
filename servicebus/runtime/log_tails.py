"""LogTails: sends the log records of one worker to those who tail them.

Theory of operation. Who tails asks each worker again every few seconds, by a request of its own each time, and gets
records for a lease. They are put into a bounded buffer for each tail by the threads that log, and go out as chunks that
answer its last request, in the I/O thread. From one request to the next so many bytes may go: a reader that is stuck is
not sent more than that. What does not fit is left out, and counted; each chunk says how many records were sent before
it, so that one which is lost on the way is missed. While the broker is lost records wait in the buffer, for a minute.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from servicebus._secret import secret_text
from servicebus.protocol.interface import Incoming
from servicebus.protocol.tail import (
    LEASE_S,
    TailedRecord,
    TailHead,
    TailQuestion,
    read_row,
    write_tail_head,
    write_tail_record,
)
from servicebus.protocol.v2 import ProtocolV2
from servicebus.runtime.job import PendingDelivery
from servicebus.runtime.log_tap import LogTap
from servicebus.runtime.publisher import Publisher
from servicebus.runtime.relay_queue import RelayQueue
from servicebus.runtime.streams import Connections
from servicebus.transport.interface import Delivery
from servicebus.transport.loop import EventLoop
from servicebus.wire.fault import BUSY, Fault
from servicebus.wire.jsontext import decode_json
from servicebus.wire.streams import items_id

__all__ = ["MOST_TAILS", "LogTails"]

MOST_TAILS = 8
_MOST_RECORDS = 2000
_MOST_BYTES = 1024 * 1024
"""Of what waits in one buffer."""
_REQUEST_BYTES = 1024 * 1024
"""So much is sent from one request to the next."""
_CHUNK_BYTES = 32 * 1024
_HEAD_BYTES = 2048
"""Of a chunk, beside its records; at most."""
_PAUSE_S = 0.05
_TICK_S = 1.0
_LOST_S = 60.0
"""So long a tail is kept while it cannot be asked for again, since the broker is lost."""
_QUEUE = "-"
"""In a chunk of log records: no credit goes to this worker."""


class _Tail:
    """One reader. ``rows`` to ``left_out`` are guarded by the lock of LogTails; the rest is the I/O thread's."""

    def __init__(self, question: TailQuestion):
        self.question = question
        self.session = os.urandom(4).hex()
        self.rows: deque[bytes] = deque()
        self.size = self.left_out = 0
        self.sent = 0
        """Records."""
        self.is_held = False
        """A chunk waits for the broker's confirm, and the next ones behind it."""
        self.incoming: Any = None
        self.pending: Any = None
        self.left_bytes = 0
        self.asked_at = self.expires_at = 0.0

    def asked(self, question: TailQuestion, incoming: Incoming, pending: PendingDelivery, now: float) -> None:
        if self.pending is not None and self.pending.epoch != pending.epoch:
            self.is_held = False  # the confirm that it waits for went with the connections
        self.question, self.incoming, self.pending = question, incoming, pending
        self.left_bytes = _REQUEST_BYTES
        self.asked_at, self.expires_at = now, now + question.lease_s

    def put(self, row: bytes, most_bytes: int) -> None:
        if len(self.rows) < _MOST_RECORDS and self.size + len(row) <= _MOST_BYTES and len(row) <= most_bytes:
            self.rows.append(row)
            self.size += len(row)
        else:
            self.left_out += 1

    def take(self, most_bytes: int) -> list[bytes]:
        taken: list[bytes] = []
        size = 0
        while self.rows and size + len(self.rows[0]) < most_bytes:
            size += len(self.rows[0]) + 1
            taken.append(self.rows.popleft())
        self.size -= sum(map(len, taken))
        return taken


class LogTails:
    """Belongs to the I/O thread, but for ``put()``, ``put_for()``, ``served()`` and ``served_elsewhere()``.

    Args:
        protocol: signs and encrypts.
        process: the name of this process, for readers.
        max_bytes: of an envelope.
        is_blocked: whether the broker does not read what is published now; for any thread.
    """

    def __init__(
        self,
        loop: EventLoop,
        connections: Connections,
        protocol: ProtocolV2,
        node_name: str,
        process: str,
        max_bytes: int,
        is_blocked: Callable[[], bool],
    ):
        self._loop = loop
        self._connections = connections
        self._protocol = protocol
        self._node_name = node_name
        self._process = process
        self._is_blocked = is_blocked
        # Encrypted it takes a third more.
        most = max_bytes * 3 // 4 if protocol.has_encryption else max_bytes
        self._most_bytes = min(_CHUNK_BYTES, max(0, most - _HEAD_BYTES))
        self._open: dict[str, _Tail] = {}
        """By the caller and the digits of the tail."""
        self._elsewhere: dict[str, int] = {}
        """The readers that other workers of the agent serve now, with the levels that they ask for."""
        self.relayed = RelayQueue()
        """What they are to be sent by those."""
        self._tap = LogTap(self.put, process)
        self._lock = threading.RLock()  # a signal handler that logs may interrupt its holder
        self._is_posted = self._is_ticking = False
        self._sending_in = 0
        """The thread that sends just now: what it logs meanwhile would be sent in turn, endlessly."""
        self._sent_at = 0.0

    def __repr__(self) -> str:
        return f"<LogTails of {self._process} open={len(self._open)}>"

    def __len__(self) -> int:
        return len(self._open)

    @property
    def _is_lost(self) -> bool:
        """Nothing can be sent now."""
        return self._connections.publisher is None or self._is_blocked()

    # -- for any thread ------------------------------------------------------------------------------------------------

    def put(self, record: TailedRecord) -> None:
        """A record of this process."""
        if threading.get_ident() == self._sending_in:
            return
        with self._lock:
            is_lost = self._is_lost
            elsewhere = {id for id in self._elsewhere if is_lost or id not in self._open}
            self._put(record, [tail for id, tail in self._open.items() if id not in elsewhere])
            if ids := [id for id in elsewhere if record.level >= self._elsewhere[id]]:
                self.relayed.put(ids, record)

    def put_for(self, ids: Sequence[str], record: TailedRecord) -> None:
        """A record of another process of the agent, for the readers *ids*."""
        with self._lock:
            self._put(record, [tail for id, tail in self._open.items() if id in ids])

    def served(self) -> dict[str, int]:
        """The readers that get their records from here now, with the levels that they ask for."""
        with self._lock:
            return {} if self._is_lost else {id: tail.question.level for id, tail in self._open.items()}

    def served_elsewhere(self, levels: dict[str, int]) -> None:
        """All readers that workers of the agent serve now."""
        with self._lock:
            self._elsewhere = levels
            self._listen()

    def _put(self, record: TailedRecord, tails: Iterable[_Tail]) -> None:
        row = b""
        for tail in tails:
            if tail.question.takes(record):
                row = row or write_tail_record(record)
                tail.put(row, self._most_bytes - 1)
        if row and not self._is_posted:
            self._is_posted = True
            self._loop.post(self._send_soon)

    def _listen(self) -> None:
        """Take the records that some reader asks for, and none if there is no reader."""
        levels = [*(tail.question.level for tail in self._open.values()), *self._elsewhere.values()]
        if levels:
            self._tap.attach(min(levels))
        else:
            self._tap.detach()

    # -- the I/O thread ------------------------------------------------------------------------------------------------

    def ask(self, question: TailQuestion, incoming: Incoming, delivery: Delivery) -> Fault | None:
        """Send the records that *question* asks for, for its lease. None, or why not."""
        key, now = f"{incoming.caller}/{question.tail}", time.monotonic()
        tail = self._open.get(key)
        if tail is None:
            if len(self._open) >= MOST_TAILS:
                return Fault(BUSY, f"{self._process} of {self._node_name} has {MOST_TAILS} readers of its log already")
            tail = _Tail(question)
        tail.asked(question, incoming, PendingDelivery(delivery, self._connections.epoch or 0, incoming.reply_to), now)
        with self._lock:
            self._open[key] = tail
            self._listen()
        self._send(tail, is_asked=True)
        if not self._is_ticking:
            self._is_ticking = True
            self._loop.call_later(_TICK_S, self._tick)
        return None

    def send_all(self) -> None:
        """Send what waits, as far as it can be sent now."""
        self._is_posted = False
        self._sent_at = time.monotonic()
        for tail in list(self._open.values()):
            self._send(tail)

    def _send_soon(self) -> None:
        early_s = self._sent_at + _PAUSE_S - time.monotonic()
        if early_s > 0:
            self._loop.call_later(early_s, self.send_all)
        else:
            self.send_all()

    def _send(self, tail: _Tail, *, is_asked: bool = False) -> None:
        """Publish what waits; if the reader has just asked, at least who this is."""
        publisher, self._sending_in = self._connections.publisher, threading.get_ident()
        try:
            # Over connections that are new its reader has to ask again: it may have lost the broker as well.
            while publisher is not None and tail.pending.epoch == self._connections.epoch and not tail.is_held:
                if self._is_blocked():
                    break
                if not is_asked and not (tail.rows and tail.left_bytes > 0):
                    break
                self._publish(tail, publisher)
                is_asked = False
        finally:
            self._sending_in = 0

    def _publish(self, tail: _Tail, publisher: Publisher) -> None:
        with self._lock:
            rows, left_out = tail.take(self._most_bytes), tail.left_out
        head = TailHead(self._node_name, socket.gethostname(), self._process, os.getpid(), tail.session, left_out)
        items = [write_tail_head(head), *rows]
        if self._protocol.has_encryption:
            items[0] = secret_text(items[0], ())
        body = self._protocol.encode_chunk(tail.incoming, tail.sent, items, _QUEUE, is_resumable=False)
        tail.sent += len(rows)
        tail.left_bytes -= sum(map(len, rows))
        id = items_id(tail.incoming.given_id)
        tail.is_held = publisher.items(tail.pending, id, body, lambda _refused: self._let_go(tail))

    def _let_go(self, tail: _Tail) -> None:
        """The broker has a large chunk, or has refused it: then its reader misses so many records."""
        tail.is_held = False
        self._send(tail)

    def _hand_on(self, id: str, tail: _Tail) -> None:
        """What waits for a broker that is lost, another worker of the agent can send, if it has the same reader."""
        with self._lock:
            while tail.rows and id in self._elsewhere:
                row = tail.rows.popleft()
                tail.size -= len(row)
                self.relayed.put([id], read_row(decode_json(row)))

    def _tick(self) -> None:
        now, is_lost = time.monotonic(), self._is_lost
        for key, tail in list(self._open.items()):
            if is_lost and now < tail.asked_at + _LOST_S:
                tail.expires_at = max(tail.expires_at, now + LEASE_S)
                self._hand_on(key, tail)
            elif now >= tail.expires_at:
                with self._lock:
                    del self._open[key]
        with self._lock:
            self._listen()
        self._is_ticking = bool(self._open)
        if self._is_ticking:
            self._loop.call_later(_TICK_S, self._tick)

    def end(self) -> None:
        """The worker ends: what waits goes out, if it still can, and no more is taken."""
        self.send_all()
        self.close()

    def close(self) -> None:
        """Take no more records. For any thread."""
        with self._lock:
            self._open.clear()
            self._elsewhere = {}
            self._tap.detach()
