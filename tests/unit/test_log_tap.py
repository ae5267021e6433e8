"""What takes the records of a process: none before it is attached, what they were made in, and no harm to others."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator

import pytest

from servicebus.protocol.tail import TailedRecord
from servicebus.runtime.log_tap import LogTap
from servicebus.services import Request, Response
from servicebus.testing import bus
from servicebus.transport.logrecords import NAME_LENGTH

LOG = logging.getLogger("shop.orders")


class Tapped:
    def __init__(self) -> None:
        self.records: list[TailedRecord] = []
        self.tap = LogTap(self.records.append, "worker mq-a")

    def texts(self) -> list[str]:
        return [each.message for each in self.records]


@pytest.fixture
def tapped() -> Iterator[Tapped]:
    tapped = Tapped()
    yield tapped
    tapped.tap.detach()


def test_it_takes_records_from_its_level_on_while_it_is_attached(tapped: Tapped) -> None:
    LOG.error("before")
    tapped.tap.attach(logging.ERROR)
    tapped.tap.attach(logging.ERROR)
    assert tapped.tap.is_attached
    LOG.warning("below")
    LOG.error("no such %s", "sku")
    tapped.tap.detach()
    LOG.error("after")
    (record,) = tapped.records
    assert record[1:6] == (logging.ERROR, "ERROR", "shop.orders", "MainThread", "no such sku")
    assert abs(record.created - time.time()) < 60
    assert (record.process, record.pid, record.service, record.request_id) == ("worker mq-a", os.getpid(), "", "")
    assert not tapped.tap.is_attached and tapped.tap not in logging.getLogger().handlers


def test_a_record_names_the_request_and_service_that_it_was_made_for(tapped: Tapped) -> None:
    class Add:
        def on_call(self, request: Request, response: Response) -> None:
            LOG.warning("at work")
            response.send(1)

    with bus({"math.add": Add()}) as world:
        tapped.tap.attach(logging.WARNING)
        event_id, _ = world.sender.call("NODE-01.math.add")
        tapped.tap.detach()
        record = next(each for each in tapped.records if each.message == "at work")
        assert record.service == "math.add"
        assert record.request_id == f"{world.sender.status()['sender']}-{event_id}"


def test_a_long_message_is_cut_and_a_traceback_stands_behind_it(tapped: Tapped) -> None:
    tapped.tap.attach(logging.WARNING)
    LOG.warning("x" * 100_000)
    try:
        raise ValueError("of the test")
    except ValueError:
        LOG.exception("failed")
    tapped.tap.handle(logging.LogRecord("n" * 1000, 30, "", 1, "%d", ("no number",), None))
    long, failed, unfit = tapped.records
    assert 16_000 < len(long.message) < 17_000 and "are missing" in long.message
    assert failed.message.startswith("failed\nTraceback") and failed.message.endswith("ValueError: of the test")
    assert "its arguments do not fit" in unfit.message and len(unfit.logger) == NAME_LENGTH


def test_a_forked_child_is_another_process(tapped: Tapped) -> None:
    tapped.tap.attach(logging.WARNING)
    pid = os.fork()
    if pid == 0:
        LOG.warning("of the child")
        os._exit(len(tapped.records))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    LOG.warning("of the parent")
    assert tapped.texts() == ["of the parent"]


def test_what_its_taker_raises_is_counted_and_ends_nothing() -> None:
    def fail(_record: TailedRecord) -> None:
        raise ValueError

    tap = LogTap(fail, "worker")
    tap.attach(logging.WARNING)
    try:
        LOG.warning("goes on")
    finally:
        tap.detach()
    assert tap.lost == 1
