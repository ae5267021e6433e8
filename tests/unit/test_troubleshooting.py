"""docs/troubleshooting.rst has an entry for every error class, and every line that is logged at WARNING or above."""

from __future__ import annotations

import re

import pytest
from log_lines import ROOT, LogLine, log_lines

from servicebus import errors

PAGE = (ROOT / "docs" / "troubleshooting.rst").read_text()
_ERRORS, _LINES = PAGE.split("Log lines: the agent starts and stops\n", 1)
ENTRY = re.compile(r"^``(.+)``\n    \S", re.MULTILINE)
ERRORS, HEADINGS = ENTRY.findall(_ERRORS), ENTRY.findall(_LINES)

QUOTED: dict[str, tuple[str, ...]] = {
    "logging_service/__main__.py:main": ("records are not signed",),
    "logging_service/server.py:_say_counts": (
        "servicebus-logd: 12 log records",
        "servicebus-logd: refused",
        "servicebus-logd: pickled",
    ),
    "servicebus/runtime/leaving.py:end_child": ("servicebus: process 4711 was forked",),
    "servicebus/client/outbox_writer.py:_failed": ("outbox /var/lib/shop/outbox cannot be written",),
    "servicebus/client/session.py:__init__": ("outbox /var/lib/shop/outbox is in use by",),
    "servicebus/operations/bridge.py:_end_lost": ("bridge from orders on old to the default exchange on new: waits: ",),
    "servicebus/operations/bridge.py:_refused_in": (
        "bridge from orders on old to the default exchange on new: waits: ",
    ),
    "servicebus/runtime/broker_notes.py:seen": ("mq-a:5672: exchange servicebus does not return",),
    "servicebus/runtime/execution.py:_denied": ("service math.add: call 7f2c-12 refused: permission-denied",),
    "servicebus/runtime/extra_host.py:tell": ("old:5672: the queues",),
    "servicebus/runtime/master.py:_become_worker": ("worker mq-a:5672#0: hosts[0]", "worker mq-a:5672#0 failed"),
    "servicebus/runtime/master.py:_stop": ("killing worker",),
    "servicebus/runtime/outage_log.py:tell": (
        "mq-a:5672: connection refused; reconnecting",
        "mq-a:5672: ACCESS_REFUSED",
    ),
    "servicebus/runtime/pipeline.py:_tick": ("mq-a:5672: journal redis://db: connection refused",),
    "servicebus/runtime/refusal_log.py:refused": ("mq-a:5672: call refused: ", "mq-a:5672: message refused: "),
    "servicebus/runtime/service_loop.py:_take_posted": ("asyncio-mq-a:5672: <function> failed",),
    "servicebus/runtime/service_thread.py:_tear_down": ("teardown() of service",),
    "servicebus/runtime/singletons.py:failed": ("mq-a:5672: PRECONDITION_FAILED",),
    "servicebus/runtime/task_service.py:_tear_down_async": ("teardown() of service",),
    "servicebus/runtime/worker.py:_call_hook": ("mq-a:5672: after-fork hook failed",),
    "servicebus/transport/failurelog.py:report": ("consumer failed",),
    "servicebus/transport/loggers.py:log_once": ("secret_token is shorter",),
}
"""Lines of which little is the same each time, with the beginnings of the entries that explain them."""
FEW = 8
"""Fewer letters than these make no entry found by them."""
THEIR_OWN = (
    "servicebus/transport/ratelimitedlog.py:",
    "logging_service/server.py:_complain",
    "logging_service/server.py:warn",
)
"""They log what others give them, which is found there."""
LINES = [line for line in log_lines() if not line.place.startswith(THEIR_OWN)]
FOUND = {
    line: [heading for heading in HEADINGS if re.search(rf"(^|\b|: ){line.pattern}", heading)]
    for line in LINES
    if len(line.fixed) >= FEW
}


def test_every_error_has_an_entry_and_no_other() -> None:
    assert sorted(set(errors.__all__)) == sorted(ERRORS)


def test_the_lines_are_found() -> None:
    assert len(LINES) > 90
    assert any(line.text.endswith("no echo through the broker; reconnecting") for line in LINES)


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.place)
def test_a_line_of_the_log_has_an_entry(line: LogLine) -> None:
    if line in FOUND:
        assert FOUND[line], f"docs/troubleshooting.rst has no entry for {line}"
    else:
        assert line.place in QUOTED, f"little of it is the same each time: write its entry, and name that here: {line}"


def test_an_entry_is_of_a_line_that_is_logged() -> None:
    known = {heading for headings in FOUND.values() for heading in headings}
    beginnings = {beginning for each in QUOTED.values() for beginning in each}
    assert not [each for each in HEADINGS if each not in known and not each.startswith(tuple(beginnings))]
    assert not [each for each in beginnings if not any(heading.startswith(each) for heading in HEADINGS)]
    assert QUOTED.keys() <= {line.place for line in LINES}
