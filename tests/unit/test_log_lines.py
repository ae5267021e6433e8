from __future__ import annotations

import logging
import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from logging_service.lines import DEFAULT_FORMAT, LineFormat
from servicebus.errors import ConfigurationError
from servicebus.wire.logrecord import Record

ANY_TEXT = st.text(st.characters(codec=None))


def record(message: str, **changes: Any) -> Record:
    return Record(1_700_000_000.25, 20, "INFO", "app", "MainThread", message)._replace(**changes)


def test_the_default_line_is_that_of_py_servicebus_2() -> None:
    """Byte for byte what logging.Formatter makes of the same record."""
    found = LineFormat().line(record("some text"), 4711, "worker")
    made = logging.makeLogRecord(
        {"created": 1_700_000_000.25, "msecs": 250.0, "process": 4711, "levelname": "INFO", "msg": "some text"}
    )
    assert found.decode() == logging.Formatter(DEFAULT_FORMAT).format(made) + "\n"


@given(ANY_TEXT, ANY_TEXT, ANY_TEXT)
@example("x\n[2026-01-01 00:00:00,000 PID:1]CRITICAL:forged", "app", "INFO")
@example("x\r[forged", "a]b:c\n[forged", "x\x0b[forged")
@example("x\u2028[forged\x85[forged\x1e[forged", "app", "INFO")
def test_no_record_can_forge_a_line(message: str, logger: str, level_name: str) -> None:
    """Whatever a reader takes for the end of a line: each line but a record's first begins with a space."""
    line = LineFormat("[%(asctime)s %(name)s]%(levelname)s:%(message)s").line(
        record(message, logger=logger, level_name=level_name), 1, "worker"
    )
    first, *more = line.decode().splitlines()
    assert first.startswith("[2023-11-")
    assert line.endswith(b"\n")
    assert all(each.startswith("    ") for each in more)


@given(ANY_TEXT)
def test_no_record_can_send_commands_to_a_terminal(message: str) -> None:
    line = LineFormat().line(record(message), 1, "worker").decode()
    assert not any(ord(character) < 32 and character not in "\t\n" for character in line)
    assert not any(0x7F <= ord(character) < 0xA0 for character in line)


def test_a_traceback_stays_readable_and_indented() -> None:
    found = LineFormat("%(levelname)s:%(message)s").line(
        record('failed\nTraceback:\n  File "x"\r\n\tValueError\n'), 1, "w"
    )
    assert found == b'INFO:failed\n    Traceback:\n      File "x"\n    \tValueError\n'


def test_a_lone_surrogate_is_written_as_its_escape() -> None:
    assert LineFormat("%(message)s").line(record("a\ud800b"), 1, "w") == b"a\\ud800b\n"


def test_all_fields_can_be_used() -> None:
    template = "%(created).2f %(process)d %(processName)s %(threadName)s %(name)s %(levelno)d %(levelname)s %(message)s"
    found = LineFormat(template).line(record("text"), 4711, "worker")
    assert found == b"1700000000.25 4711 worker MainThread app 20 INFO text\n"


def test_each_second_has_its_own_time() -> None:
    lines = LineFormat("%(asctime)s %(message)s")
    found = [lines.line(record("x", created=created), 1, "w").decode()[:23] for created in (5.75, 6.0, 5.5, 7.0004)]
    wanted = [
        time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(int(created))) + f",{milliseconds:03d}"
        for created, milliseconds in ((5.75, 750), (6.0, 0), (5.5, 500), (7.0004, 0))
    ]
    assert found == wanted


@pytest.mark.parametrize("template", ["%(colour)s %(message)s", "%(", "%d %(message)s", "%(message)d", "no message"])
def test_a_format_that_cannot_work_is_refused_before_the_first_record(template: str) -> None:
    with pytest.raises(ConfigurationError, match="is no format for log lines"):
        LineFormat(template)
