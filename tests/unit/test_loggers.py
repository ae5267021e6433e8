"""The package's loggers never raise into the thread that logs, whatever the program has hung onto them."""

from __future__ import annotations

import io
import logging
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import servicebus
from servicebus.transport import loggers
from servicebus.transport.loggers import get_logger

ERRORS = [ValueError, RecursionError, SystemExit, GeneratorExit]


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kept]:
    """The last handler of the logger that this module's tests use."""
    monkeypatch.setattr(loggers, "_reported", set())
    logger, handler = get_logger("servicebus.tests.loggers"), Kept()
    yield handler
    logger.handlers.clear()
    logger.filters.clear()


def raising(error: type[BaseException]) -> Callable[..., Any]:
    def action(*_: Any, **__: Any) -> Any:
        raise error("of the program's")

    return action


class BadHandler(logging.Handler):
    def __init__(self, error: type[BaseException]) -> None:
        super().__init__()
        self.emit = raising(error)  # type: ignore[method-assign]


def bad_formatter(error: type[BaseException]) -> logging.Handler:
    handler = logging.StreamHandler(io.StringIO())
    handler.format = raising(error)  # type: ignore[method-assign]
    return handler


def closed_stream(_: type[BaseException]) -> logging.Handler:
    handler = logging.StreamHandler(io.StringIO())
    handler.stream.close()
    return handler


def bad_filter(error: type[BaseException]) -> logging.Handler:
    handler = Kept()
    handler.addFilter(raising(error))
    return handler


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("make", [BadHandler, bad_formatter, closed_stream, bad_filter])
def test_a_handler_that_raises_costs_the_others_nothing(
    kept: Kept,
    make: Callable[[type[BaseException]], logging.Handler],
    error: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    logger = get_logger("servicebus.tests.loggers")
    logger.addHandler(make(error))
    logger.addHandler(kept)
    logger.warning("it says %s", "this")
    assert [record.getMessage() for record in kept.records] == ["it says this"]
    assert (kept.records[0].filename, kept.records[0].funcName) == (
        "test_loggers.py",
        "test_a_handler_that_raises_costs_the_others_nothing",
    )


@pytest.mark.parametrize("error", ERRORS)
def test_a_filter_or_factory_that_raises_ends_nothing(
    kept: Kept, error: type[BaseException], capfd: pytest.CaptureFixture[str]
) -> None:
    logger = get_logger("servicebus.tests.loggers")
    logger.addHandler(kept)
    before = logging.getLogRecordFactory()
    logging.setLogRecordFactory(raising(error))
    try:
        logger.warning("it says %s", "this")
    finally:
        logging.setLogRecordFactory(before)
    assert [record.getMessage() for record in kept.records] == ["it says this"]
    logger.addFilter(raising(error))
    for _ in range(3):
        logger.error("not seen")
    assert len(kept.records) == 1
    assert capfd.readouterr().err.count(f"logging failed with {error.__name__}") == 1


def test_ctrl_c_reaches_the_program_and_in_another_thread_nothing_does(kept: Kept) -> None:
    logger = get_logger("servicebus.tests.loggers")
    logger.addHandler(BadHandler(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        logger.warning("main thread")
    logger.addHandler(kept)
    thread = threading.Thread(target=logger.warning, args=("another",))
    thread.start()
    thread.join()
    assert [record.getMessage() for record in kept.records] == ["another"]


def test_a_logger_that_the_program_made_before_keeps_its_level_and_class() -> None:
    class Own(logging.Logger):
        pass

    logging.setLoggerClass(Own)
    try:
        before = logging.getLogger("servicebus.tests.loggers.before")
    finally:
        logging.setLoggerClass(logging.Logger)
    before.setLevel(logging.ERROR)
    assert get_logger(before.name) is before
    assert get_logger(before.name) is logging.getLogger(before.name)
    assert isinstance(before, Own)
    assert not before.isEnabledFor(logging.WARNING)


def test_every_module_uses_them() -> None:
    """All of them at once: one that logs by a plain logger lets a filter end its thread."""
    modules = list(Path(servicebus.__file__).parent.rglob("*.py"))
    logging_ones = [module for module in modules if re.search(r"^LOG\b", module.read_text(), re.MULTILINE)]
    plain = [
        module.name for module in modules if re.search(r"getLogger\((__name__|[\"']servicebus)", module.read_text())
    ]
    assert not plain
    assert all("LOG = get_logger(__name__)\n" in module.read_text() for module in logging_ones)
    assert len(logging_ones) > 20
