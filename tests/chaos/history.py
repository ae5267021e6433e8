"""The history of a run: what every process saw, one line of JSON for each event, in a file of its own.

This is what the programs of the rig write and what the checker reads; nothing else passes between them. It needs
nothing but the standard library, so that programs of py-servicebus 2.19 write the same history (``import history``).

Rules for those who write:

* ``t`` is ``time.monotonic()``: CLOCK_MONOTONIC, one clock for all processes of a machine, which nobody sets.
* A record is one ``write()`` to a file opened with O_APPEND, before the next step is taken. kill -9 costs a process the
  record it had not written yet, and never half of the file. About 5 us each; nothing is buffered.
* Cause before effect: ``invoked`` before the Sender is asked, ``started`` before the work, ``finished`` after the work
  and before the service returns. What has a moment of its own (``confirmed``, ``replied``) is given it as *t*.
* An operation is known by its ``op``, a number unique in the run, which travels in the params; ``id`` is the id on the
  wire where the writer knows it. A repetition by the bus keeps both. A program that sends again sends a new op.
* A process that ends as it should writes ``ended`` last. Without it, it was killed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

__all__ = [
    "History",
    "HistoryError",
    "Record",
    "answer",
    "files",
    "op_number",
    "read",
    "read_file",
    "read_ops",
    "sender_of",
    "told_op",
]

Record = dict[str, Any]

_OPS_PER_SENDER = 100_000_000
_MOST_OPERATIONS = 20_000_000
"""Of a sender. What lies above are the events that services publish when they run those."""
_OP = re.compile(rb'"op": ?(\d+)')
_encode = json.JSONEncoder(separators=(",", ":"), default=str).encode


def op_number(sender: int, count: int) -> int:
    """The op of a sender process's *count*-th operation; *sender* counts from 1 and is not used again in a run."""
    return sender * _OPS_PER_SENDER + count


def sender_of(op: int) -> int:
    return op // _OPS_PER_SENDER


def told_op(op: int, index: int) -> int:
    """The op of the *index*-th event, from 1 to 4, that the service publishes which runs *op*."""
    return op + index * _MOST_OPERATIONS


def answer(op: int) -> str:
    """What the service of the rig answers to *op*: nobody can have it from another call's reply."""
    return hashlib.blake2b(b"%d" % op, digest_size=8).hexdigest()


class History:
    """Writes the history of this process to a file of its own in *folder*; for any thread, and goes through a fork.

    Args:
        folder: of this run, the same for all processes.
        role: ``sender``, ``worker``, ``log``, ``faults``, ``health``, ``rig``; the checker does not read it, people do.
        name: which of them, for people.
    """

    def __init__(self, folder: str | os.PathLike[str], role: str, name: str = ""):
        self._folder = Path(folder)
        self._role = role
        self._name = name
        self._pid = 0
        self._fd = -1
        self._lock = threading.Lock()

    def record(self, what: str, t: float | None = None, **fields: Any) -> None:
        """Append one record; *t* is now, if it is not given."""
        now = time.monotonic() if t is None else t
        if self._pid != os.getpid():
            self._open()
        os.write(self._fd, (_encode({"t": round(now, 6), "what": what, **fields}) + "\n").encode())

    def _open(self) -> None:
        with self._lock:
            pid = os.getpid()
            if self._pid == pid:
                return
            now = time.monotonic()
            path = self._folder / f"{self._role}-{self._name or 'x'}-{pid}-{now * 1000:.0f}.jsonl"
            # Not closed: after a fork it is the parent's file, and threads may stand between the test and the write.
            self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            begin = {"t": round(now, 6), "what": "begin", "role": self._role, "name": self._name, "pid": pid}
            os.write(self._fd, (_encode(begin) + "\n").encode())
            self._pid = pid

    def ended(self) -> None:
        """This process ends as it should: nothing of it was cut short. Its last record."""
        self.record("ended")

    # -- senders -------------------------------------------------------------------------------------------------

    def invoked(
        self,
        op: int,
        kind: str,
        target: str,
        deadline: float | None = None,
        *,
        idempotent: bool = False,
        too_large: bool = False,
        subscribers: Sequence[str] = (),
        stream: Mapping[str, Any] | None = None,
        may: bool | None = None,
    ) -> None:
        """The next step is to ask the Sender. *kind* is ``call``, ``message``, ``event``, ``stream`` or ``plain`` (a
        message of another program); *deadline* on the monotonic clock.

        *too_large*: no broker takes it, and the Sender has to say so. *subscribers*: who is to get an event, or the
        stages that a plain message passes. *idempotent*, of a stream: it is resumable. *stream*: its ``count`` of
        items, and which one it ``fails_at``. *may*: its caller has a key of its own, and a right to do that, or not.
        """
        flags = {"idempotent": idempotent, "too_large": too_large}
        more: dict[str, Any] = {name: True for name, is_so in flags.items() if is_so}
        if deadline is not None:
            more["deadline"] = round(deadline, 6)
        if subscribers:
            more["subscribers"] = subscribers
        if stream is not None:
            more["stream"] = stream
        if may is not None:
            more["may"] = may
        self.record("invoked", op=op, kind=kind, target=target, **more)

    def confirmed(
        self, op: int, id: object, *, outbox: bool = False, unheard: bool = False, t: float | None = None
    ) -> None:
        """``send()`` or ``publish()`` has returned: a broker has the message, or the *outbox* on disk has it.

        *unheard*: nobody has subscribed to the event, it said.
        """
        flags = {"outbox": outbox, "unheard": unheard}
        self.record("confirmed", t, op=op, id=str(id), **{name: True for name, is_so in flags.items() if is_so})

    def published(self, op: int, by: int, target: str, subscribers: Sequence[str]) -> None:
        """The service that runs *by* is about to publish event *op*, which goes out if, and only if, it succeeds."""
        self.record("published", op=op, by=by, target=target, subscribers=subscribers)

    def sent(self, op: int, id: object = "", *, t: float | None = None) -> None:
        """``send()`` has returned and promises nothing: py-servicebus 2.19, which knows no confirms."""
        self.record("sent", t, op=op, id=str(id))

    def refused(self, op: int, error: BaseException, *, t: float | None = None) -> None:
        """``send()`` has raised: the message was not taken, or nobody knows (SendUnconfirmed)."""
        self.record("refused", t, op=op, error=type(error).__name__, text=str(error)[:300])

    def expired(self, op: int, *, t: float | None = None) -> None:
        """A message that the outbox had taken was given up by its own expiry, and its sender was told so."""
        self.record("expired", t, op=op)

    def replied(self, op: int, id: object, right: bool, *, t: float) -> None:
        """``call()`` has returned at *t*; *right*: its value was ``answer(op)``."""
        self.record("replied", t, op=op, id=str(id), outcome="ok", right=right)

    def failed(self, op: int, error: BaseException, *, fault: bool = False, t: float) -> None:
        """``call()`` has raised at *t*; *fault*: what the service itself raised (RemoteError)."""
        outcome = "fault" if fault else "error"
        self.record("replied", t, op=op, outcome=outcome, error=type(error).__name__, text=str(error)[:300])

    def streamed(
        self,
        op: int,
        outcome: str,
        runs: Sequence[Sequence[int]],
        right: bool,
        error: BaseException | None,
        *,
        t: float,
    ) -> None:
        """The reading of a stream has ended at *t*: ``ok``, ``left`` by its reader, or with *error*, a ``fault`` of the
        service or another ``error``.

        *runs*: the first and last number of each run of items that followed one another. *right*: all are its own.
        """
        more: dict[str, Any] = {}
        if error is not None:
            more = {"error": type(error).__name__, "text": str(error)[:300]}
            more |= {"position": getattr(error, "position", None), "cause": type(error.__cause__).__name__}
        self.record("replied", t, op=op, outcome=outcome, runs=runs, right=right, **more)

    # -- workers of agents ---------------------------------------------------------------------------------------

    def started(
        self, op: int, id: object, attempt: int | None = None, subscriber: str = "", *, position: int | None = None
    ) -> None:
        """The service was entered with *op*. Written before anything is done. *attempt* as the bus counts, from 1.

        *subscriber*, here and below: of an event, ``NODE.category.name``. *position*: the first item of a stream.
        """
        more = {} if position is None else {"position": position}
        self.record("started", op=op, id=str(id), attempt=attempt, pid=os.getpid(), **_of(subscriber), **more)

    def finished(
        self, op: int, id: object, attempt: int | None = None, subscriber: str = "", *, verdict: str = "done"
    ) -> None:
        """The work is done and the service is about to return, or to raise.

        *verdict*: ``done``, or how it is left: ``failed`` (raises), ``retry``, ``reject``, ``requeue``, ``cancelled``;
        of a stream that nobody reads any more ``closed``.
        """
        more = _of(subscriber)
        self.record("finished", op=op, id=str(id), attempt=attempt, pid=os.getpid(), verdict=verdict, **more)

    def forged(self, what_came: str) -> None:
        """A service was given something that was forged; it must never come to this."""
        self.record("forged", came=what_came[:300])

    def dead(self, op: int, id: object, reason: str, attempts: int | None = None, subscriber: str = "") -> None:
        """Found among the dead letters, when the run was over."""
        self.record("dead", op=op, id=str(id), reason=reason[:300], attempts=attempts, **_of(subscriber))

    def child(self, op: int, how: str, ended: bool) -> None:
        """A child that a service made has ended by itself, *how* it was told to; or it lives on."""
        self.record("child", op=op, how=how, ended=ended)

    def requeued(self, op: int, subscriber: str = "") -> None:
        """An operator is about to send its dead letter back: its attempts are counted from 1 again."""
        self.record("requeued", op=op, **_of(subscriber))

    # -- the bridge ----------------------------------------------------------------------------------------------

    def moving(self, op: int) -> None:
        """The bridge is about to publish it to its target."""
        self.record("moving", op=op)

    def moved(self, op: int) -> None:
        """The target has confirmed it to the bridge."""
        self.record("moved", op=op)

    # -- faults --------------------------------------------------------------------------------------------------

    def fault_begin(self, number: int, kind: str, target: str, **facts: Any) -> None:
        """Fault *number* of the schedule (its index for the seed) is applied now, by the next step."""
        self.record("fault-begin", number=number, kind=kind, target=target, **facts)

    def fault_end(self, number: int, kind: str, target: str, **facts: Any) -> None:
        """It is taken back, or was over in a moment (kill -9)."""
        self.record("fault-end", number=number, kind=kind, target=target, **facts)

    def stall(self, seconds: float) -> None:
        """The machine itself gave no processor for *seconds* before now: a thread that only sleeps woke up late, or the
        kernel says that a sender's thread was ready to run and had to wait. A sender's own slowness is no excuse.
        """
        self.record("stall", seconds=round(seconds, 6))

    # -- health --------------------------------------------------------------------------------------------------

    def health(
        self, target: str, green: bool, consumers: int | None, *, ready: bool = False, t: float | None = None
    ) -> None:
        """What the agent's health said of *target* (an agent and a host) at *t*, and who really consumes there.

        *consumers*: 0 when the broker cannot be asked because it is down or frozen; None when the poller does not know.
        """
        self.record("health", t, target=target, green=green, ready=ready, consumers=consumers)

    def agent(self, node: str, live: bool | None, ready: bool, consumers: int | None, *, t: float) -> None:
        """What the agent of *node* said of itself at *t*, and the consumers of the worker of it that has most.

        *live*: None if it did not answer.
        """
        self.record("agent", t, node=node, live=live, ready=ready, consumers=consumers)

    # -- log records ---------------------------------------------------------------------------------------------

    def log_sent(self, source: str, count: int) -> None:
        """*source* has logged *count* records so far (the last of these counts)."""
        self.record("log-sent", source=source, count=count)

    def log_written(self, source: str, count: int) -> None:
        """So many records of *source* stand in the log server's files, at the end."""
        self.record("log-written", source=source, count=count)

    def log_lost(self, source: str, count: int) -> None:
        """So many records of *source* were counted as lost by this process so far: the server, or who logged them."""
        self.record("log-lost", source=source, count=count)

    # -- resources -----------------------------------------------------------------------------------------------

    def base(self, counts: Mapping[str, int]) -> None:
        """What is in use before the load: sockets, threads, processes, queues (any names, the same as at the end)."""
        self.record("base", counts=dict(counts))

    def end(self, counts: Mapping[str, int], lengths: Mapping[str, int]) -> None:
        """The same when all is over and settled, and the length of every queue and outbox (dead letters taken out)."""
        self.record("end", counts=dict(counts), lengths=dict(lengths))


def _of(subscriber: str) -> dict[str, Any]:
    return {"subscriber": subscriber} if subscriber else {}


class HistoryError(Exception):
    """Raised when a history cannot be read, at other places than a torn last line."""


def files(folder: str | os.PathLike[str]) -> list[Path]:
    return sorted(Path(folder).glob("*.jsonl"))


def read_file(path: Path) -> Iterator[Record]:
    """The records of one process in the order in which it wrote them. A torn last line is left out."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield json.loads(line)
            except ValueError:
                if line.endswith(b"\n"):
                    raise HistoryError(f"{path.name}:{number} is no record: {line[:200]!r}") from None


def read_ops(path: Path, ops: Set[int]) -> Iterator[Record]:
    """Those records of one process that are about *ops*: several times as fast as reading all of them."""
    with path.open("rb") as lines:
        for line in lines:
            if (found := _OP.search(line)) and int(found[1]) in ops and line.endswith(b"\n"):
                yield json.loads(line)


def read(folder: str | os.PathLike[str]) -> Iterable[tuple[str, Iterator[Record]]]:
    """Each process's name and its records, process by process."""
    return ((path.stem, read_file(path)) for path in files(folder))
