"""The ids of requests in log records, by Python's logging and by structlog."""

from __future__ import annotations

import logging
import logging.config
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from spans import Spans, context_of, provide

import servicebus.testing
from servicebus.configuration import Configuration
from servicebus.log_fields import FIELDS, FieldsFormatter, RequestFields, add_fields, request_fields
from servicebus.logging_service import connect_root_logger
from servicebus.services import MessageService, Request, RpcService
from servicebus.transport.udp import DatagramHandler

LOG = logging.getLogger("program")


class Tell(RpcService):
    def handle(self, request: Request) -> Any:
        LOG.warning("first\nsecond")
        return request_fields()


class Fail(MessageService):
    def handle(self, request: Request) -> None:
        raise ValueError("wrong")


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.addFilter(RequestFields())
        self.setFormatter(FieldsFormatter())
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def handler() -> Iterator[Lines]:
    handler = Lines()
    logging.getLogger().addHandler(handler)
    yield handler
    logging.getLogger().removeHandler(handler)


def test_a_record_of_a_service_has_the_ids_of_its_request(handler: Lines) -> None:
    provide()
    with servicebus.testing.bus({"log.tell": Tell()}, traces=True) as bus:
        told = bus.sender.call("NODE-01.log.tell")[1]
        (entry,) = bus.history.only("executed")
    span = context_of(Spans().all[-1])
    assert told["request_id"] == entry.id and told["trace_id"] == f"{span.trace_id:032x}"
    ids = f"request_id={entry.id} trace_id={told['trace_id']} span_id={told['span_id']}"
    assert f"first [{ids}]\nsecond" in handler.lines


def test_the_trace_is_known_without_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("servicebus.log_fields._API", "none")
    trace_id, span_id = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    with servicebus.testing.bus({"log.tell": Tell()}) as bus:
        given = {"traceparent": f"00-{trace_id}-{span_id}-01"}
        told = bus.sender.call("NODE-01.log.tell", context=given)[1]
    assert (told["trace_id"], told["span_id"]) == (trace_id, span_id)


def test_the_line_of_a_failed_message_has_its_id(handler: Lines) -> None:
    with servicebus.testing.bus({"log.fail": Fail()}, retry_schedule=[]) as bus:
        bus.sender.send("NODE-01.log.fail", 1)
        (entry,) = bus.history.only("sent")
    (line,) = [line for line in handler.lines if "service log.fail failed" in line]
    assert f"[request_id={entry.id}]" in line.splitlines()[0]


def test_outside_of_a_service_they_are_empty(handler: Lines) -> None:
    assert request_fields() == dict.fromkeys(FIELDS, "")
    LOG.warning("alone")
    assert handler.lines == ["alone"]


def test_what_a_record_has_already_stays(handler: Lines) -> None:
    LOG.warning("own", extra={"request_id": "mine"})
    assert handler.lines == ["own [request_id=mine]"]


def test_it_is_named_in_a_configuration_of_logging() -> None:
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "filters": {"ids": {"()": "servicebus.log_fields.RequestFields"}},
            "handlers": {"out": {"class": "logging.NullHandler", "filters": ["ids"]}},
            "loggers": {"of.test": {"handlers": ["out"]}},
        }
    )
    (handler,) = logging.getLogger("of.test").handlers
    assert isinstance(handler.filters[0], RequestFields)


def test_structlog_gets_them_by_a_processor() -> None:
    class Log(RpcService):
        def handle(self, request: Request) -> Any:
            with structlog.testing.capture_logs(processors=[add_fields]) as entries:
                structlog.get_logger().info("asked", caller="mine")
            return entries

    with servicebus.testing.bus({"log.it": Log()}) as bus:
        (entry,) = bus.sender.call("NODE-01.log.it")[1]
        (executed,) = bus.history.only("executed")
    assert entry == {"event": "asked", "log_level": "info", "caller": "mine", "request_id": executed.id}


def test_the_handler_of_an_agent_writes_them_if_it_is_told_to() -> None:
    values = {"hosts": ["a"], "secret_token": "s", "logging": {"request_ids": True, "port": 1}}
    handler = connect_root_logger(Configuration(values).logging)
    assert isinstance(handler, DatagramHandler)
    try:
        assert isinstance(handler.formatter, FieldsFormatter)
        assert isinstance(handler.filters[0], RequestFields)
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
