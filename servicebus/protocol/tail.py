"""What a Sender asks nodes whose log records it shows, and what their workers send: values, as they stand in JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from servicebus.errors import EnvelopeError
from servicebus.wire.address import node_name
from servicebus.wire.jsontext import decode_json, encode_json
from servicebus.wire.logrecord import Record, read_record

__all__ = [
    "LEASE_S",
    "TAIL",
    "TailHead",
    "TailQuestion",
    "TailedRecord",
    "as_row",
    "read_row",
    "read_tail_items",
    "read_tail_question",
    "tail_of",
    "write_tail_head",
    "write_tail_record",
]

TAIL = "tail"
LEASE_S = 15.0
"""So long a worker sends records after it was asked; it is asked again before."""
_MOST_LEASE_S = 60.0
_MOST_PATTERN = 300
_ID = re.compile(r"[0-9a-f]{16}", re.ASCII)
_WILDCARDS = re.compile(r"[*?\[]")


class TailQuestion(NamedTuple):
    """Which nodes are to send which of their log records."""

    tail: str
    """16 hexadecimal digits; the same over all brokers, and each time the same is asked again."""
    nodes: str
    """A pattern for their names, as in ``fnmatch``: ``*``, ``?`` and ``[...]``. Case matters."""
    level: int = 0
    """Records at this level and above, as numbered by Python's logging."""
    service: str = ""
    """A pattern for ``category.name``: records made while such a service runs; without wildcards also those whose text
    names it. "" for all."""
    request: str = ""
    """An id on the wire: records made while that request is served, and those whose text names it. "" for all."""
    lease_s: float = LEASE_S

    def to_json(self) -> dict[str, Any]:
        """What stands in the params of the request."""
        asked: dict[str, Any] = {"tail": self.tail, "nodes": self.nodes, "level": self.level, "lease": self.lease_s}
        if self.service:
            asked["service"] = self.service
        if self.request:
            asked["request"] = self.request
        return asked

    def is_for(self, node: str) -> bool:
        return node == self.nodes or fnmatchcase(node, self.nodes)

    def takes(self, record: TailedRecord) -> bool:
        """Whether *record* is one of those that are asked for."""
        if record.level < self.level:
            return False
        if self.request and self.request != record.request_id and self.request not in record.message:
            return False
        pattern = self.service
        if not pattern or fnmatchcase(record.service, pattern):
            return True
        return not _WILDCARDS.search(pattern) and pattern in record.message


class TailedRecord(NamedTuple):
    """A log record as it travels to who tails it: what travels to a log server, and where it was made."""

    created: float
    """Seconds since the epoch."""
    level: int
    level_name: str
    logger: str
    thread: str
    message: str
    """The formatted message, with the traceback behind it where there is one."""
    process: str = ""
    """``master``, or the worker by its broker."""
    pid: int = 0
    service: str = ""
    """``category.name`` of the service that ran in its thread or task."""
    request_id: str = ""
    caller: str = ""
    trace_id: str = ""
    span_id: str = ""


_ABOUT = TailedRecord._fields[6:]
_TEXTS = tuple(name for name in _ABOUT if name != "pid")


class TailHead(NamedTuple):
    """The first item of each chunk: who sends it."""

    node: str
    machine: str
    process: str
    pid: int
    session: str
    """Another text each time that the worker begins to count again."""
    left_out: int
    """How many records it has left out since then: of those that were asked for, because more came than may travel."""


def tail_of(tail: str, nodes: str, level: int, service: str = "", request: str = "") -> TailQuestion:
    """A question of our own. Raises AddressError: no node has a name like *nodes*."""
    return TailQuestion(tail, node_name(nodes), level, service, request)


def read_tail_question(params: bytes) -> TailQuestion:
    """Raises EnvelopeError. What a later version may add is left out."""
    asked = decode_json(params)
    if isinstance(asked, dict):
        tail, nodes, service, request = (asked.get(name, "") for name in ("tail", "nodes", "service", "request"))
        level, lease_s = asked.get("level"), asked.get("lease")
        is_text = all(isinstance(each, str) and len(each) <= _MOST_PATTERN for each in (tail, nodes, service, request))
        is_named = is_text and _ID.fullmatch(tail) and nodes
        if is_named and type(level) is int and isinstance(lease_s, (int, float)) and lease_s > 0:
            return TailQuestion(tail, nodes, level, service, request, min(lease_s, _MOST_LEASE_S))
    raise EnvelopeError("malformed", "the params of a tail do not say whose records are asked for")


def write_tail_head(head: TailHead) -> bytes:
    return encode_json(head._asdict())


def write_tail_record(record: TailedRecord) -> bytes:
    """An array: the six fields of a record, and an object with the others that are known."""
    return encode_json(as_row(record))


def as_row(record: TailedRecord) -> list[Any]:
    """The array, as values."""
    return [*record[:6], {name: value for name in _ABOUT if (value := getattr(record, name))}]


def read_tail_items(text: bytes) -> tuple[TailHead, list[TailedRecord]]:
    """The items of a chunk. Raises EnvelopeError."""
    items = decode_json(text)
    if not isinstance(items, list) or not items:
        raise EnvelopeError("malformed", "a chunk of log records has no head")
    return _read_head(items[0]), [read_row(row) for row in items[1:]]


def _read_head(said: Any) -> TailHead:
    if isinstance(said, Mapping):
        texts = [said.get(name) for name in ("node", "machine", "process", "session")]
        node, machine, process, session = texts
        pid, left_out = said.get("pid"), said.get("left_out")
        if all(isinstance(each, str) for each in texts) and type(pid) is int and type(left_out) is int:
            return TailHead(str(node), str(machine), str(process), pid, str(session), left_out)
    raise EnvelopeError("malformed", "the head of a chunk of log records does not say who sends it")


def read_row(row: Any) -> TailedRecord:
    """The record of an array. Raises EnvelopeError."""
    if not isinstance(row, Sequence) or len(row) < 7 or not isinstance(row[6], Mapping):
        raise EnvelopeError("malformed", "a log record has seven parts")
    record, about = read_record(row[:6]), row[6]
    pid = about.get("pid", 0)
    texts = {name: about.get(name, "") for name in _TEXTS}
    if type(pid) is not int or not all(isinstance(each, str) for each in texts.values()):
        raise EnvelopeError("malformed", "a field of a log record has the wrong type")
    return TailedRecord(*Record(*record), pid=pid, **texts)
