"""The log of one node, as it comes: ``/node/{node}/log``, which the page of the node asks again and again."""

from __future__ import annotations

import logging
import threading
import time
import zlib
from collections import deque
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from servicebus._discovering import begin_tail, end_tail
from servicebus.client.tails import LogTail, Tailed
from servicebus.errors import AddressError
from servicebus.sender import Sender
from servicebus.web.templates import is_fragment, page

__all__ = ["LEVELS", "MOST_ROWS", "NodeLog", "NodeLogs", "level_of"]

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
DEFAULT_LEVEL = "INFO"
MOST_ROWS = 500
"""So many of one log are kept, the last ones; a page shows no more of them either."""
_MOST_LOGS = 8
"""So many are tailed at a time; of more the one that was looked at longest ago is ended."""


class _Log:
    """One node at one level, for all pages that show it."""

    def __init__(self, tail: LogTail):
        self.tail = tail
        self.rows: deque[tuple[int, Tailed]] = deque(maxlen=MOST_ROWS)


class NodeLogs:
    """What pages show just now; each is tailed as long as a page asks for it. For any thread."""

    def __init__(self, sender: Sender):
        self._sender = sender
        self._logs: dict[tuple[str, str], _Log] = {}
        """The one that was looked at last is the last one."""
        self._count = 0
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<NodeLogs {len(self._logs)} tailed>"

    def look(self, node: str, level: str, after: int) -> tuple[list[tuple[int, Tailed]], str]:
        """What has come behind the row *after*, and what is to be said of it. Raises AddressError."""
        with self._lock:
            log = self._logs.pop((node, level), None)
            if log is None or log.tail.has_ended:
                rows = log.rows if log is not None else ()
                log = _Log(begin_tail(self._sender, _escaped(node), getattr(logging, level)))
                log.rows.extend(rows)
            self._logs[node, level] = log
            for each in sorted(log.tail.take(0), key=_made_at):
                self._count += 1
                log.rows.append((self._count, each))
            while len(self._logs) > _MOST_LOGS:
                end_tail(self._sender, self._logs.pop(next(iter(self._logs))).tail)
            return [row for row in log.rows if row[0] > after], _state(log.tail)


class NodeLog:
    """``/node/{node}/log``"""

    def __init__(self, logs: NodeLogs):
        self._logs = logs

    def __call__(self, request: Request) -> Response:
        node, level = request.path_params["node"], level_of(request)
        if not is_fragment(request):
            return RedirectResponse(f"/node/{quote(node)}?level={level}#log", 303)
        number, _, said = request.query_params.get("seen", "").partition(".")
        after = int(number) if number.isascii() and number.isdigit() else 0
        try:
            rows, state = self._logs.look(node, level, after)
        except AddressError as error:
            raise HTTPException(404, "No node has such a name") from error
        now_said = str(zlib.crc32(state.encode()))
        if not rows and now_said == said:
            return Response(status_code=204)
        seen = f"{rows[-1][0] if rows else after}.{now_said}"
        shown = [(_moment(each), _kind(each), each) for _, each in rows]
        return page(request, "log", node=node, level=level, rows=shown, state=state, seen=seen)


def level_of(request: Request) -> str:
    """The level that is chosen."""
    level = request.query_params.get("level", DEFAULT_LEVEL).upper()
    return level if level in LEVELS else DEFAULT_LEVEL


def _state(tail: LogTail) -> str:
    if tail.refusals:
        return "; ".join(tail.refusals)
    if not tail.nodes:
        return "No worker of it has answered yet."
    lost = [f"{broker}: {why}" for broker, why in sorted(tail.problems.items())]
    return f"Nothing comes over {'; '.join(lost)}" if lost else ""


def _kind(each: Tailed) -> str:
    if each.record is None or each.record.level >= logging.ERROR:
        return "bad"
    return "warn" if each.record.level >= logging.WARNING else ""


def _made_at(each: Tailed) -> float:
    """Records of one worker come over several brokers, and not always in their order."""
    return 0.0 if each.record is None else each.record.created


def _moment(each: Tailed) -> str:
    made_at = each.record.created if each.record is not None else time.time()
    return f"{time.strftime('%H:%M:%S', time.localtime(made_at))}.{int(made_at % 1 * 1000):03d}"


def _escaped(node: str) -> str:
    """The pattern that this name alone fits."""
    return "".join(f"[{char}]" if char in "*?[" else char for char in node)
