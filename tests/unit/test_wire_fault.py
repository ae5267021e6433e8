from __future__ import annotations

import pytest

from servicebus.errors import (
    CallInterrupted,
    CallRefused,
    CallTimeout,
    RemoteError,
    ServiceBusy,
    UnknownService,
)
from servicebus.wire.envelope import Reply
from servicebus.wire.fault import RESERVED, Fault, error_from_fault, fault_from_exception
from servicebus.wire.xmlcodec import decode_reply, encode_reply


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def test_an_exception_becomes_its_class_its_text_and_no_trace() -> None:
    assert fault_from_exception(raised(ValueError("no number")), with_trace=False) == Fault("ValueError", "no number")


def test_a_trace_goes_along_where_the_agent_allows_it() -> None:
    fault = fault_from_exception(raised(ValueError("no number")), with_trace=True)
    assert fault.trace is not None
    assert fault.trace.startswith("Traceback")
    assert fault.trace.endswith("ValueError: no number\n")


def test_a_long_text_is_cut_to_4_kib_and_a_long_trace_keeps_its_end() -> None:
    fault = fault_from_exception(raised(ValueError("\u65e5" * 30_000)), with_trace=True)
    assert len(fault.text.encode()) <= 4096
    assert fault.text.endswith("\u65e5\u2026")
    assert fault.trace is not None
    assert len(fault.trace.encode()) <= 16 * 1024
    assert fault.trace.startswith("\u2026\u65e5")


def test_an_exception_whose_text_cannot_be_made_is_reported_all_the_same() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert fault_from_exception(Mute(), with_trace=False) == Fault("Mute", "(its text could not be made: RuntimeError)")


@pytest.mark.parametrize("word", sorted(RESERVED))
def test_no_service_can_speak_with_the_words_of_the_node(word: str) -> None:
    impostor = type(word, (Exception,), {"__module__": "their.module"})
    fault = fault_from_exception(impostor("x"), with_trace=False)
    assert fault.type == f"their.module.{word}"
    assert isinstance(error_from_fault(fault, "N.c.s"), RemoteError)


def test_what_xml_cannot_hold_is_replaced_before_it_is_signed() -> None:
    fault = Fault("Odd Name\n", "a\x00b\ud800c\ufffe", "\x1b[31m")
    assert fault == Fault("Odd?Name?", "a\ufffdb\ufffdc\ufffd", "\ufffd[31m")
    reply = Reply("0123456789abcdef-1", "", "fault", b"", fault)
    assert decode_reply(encode_reply(reply), 10_000).fault == fault


def test_white_space_of_text_and_trace_survives() -> None:
    fault = Fault("E", " a\r\n\tb\rc ", "\n x \n")
    assert decode_reply(encode_reply(Reply("0123456789abcdef-1", "", "fault", b"", fault)), 10_000).fault == fault


def test_a_fault_has_always_a_type_and_a_retry_hint_that_can_be_written() -> None:
    assert Fault("", "x").type == "?"
    assert Fault("busy", "x", retry_after_ms=-5).retry_after_ms == 0
    assert Fault("busy", "x", retry_after_ms=10**30).retry_after_ms == 24 * 3600 * 1000


def test_an_empty_trace_is_no_trace() -> None:
    assert Fault("E", "x", "") == Fault("E", "x", None)


def test_busy_tells_the_caller_when_to_come_back() -> None:
    error = error_from_fault(Fault("busy", "full", retry_after_ms=50), "N.c.s")
    assert isinstance(error, ServiceBusy)
    assert error.retry_after_s == 0.05
    assert error.address == "N.c.s"
    assert str(error) == "N.c.s: full"


def test_a_stopping_node_is_busy_for_its_callers() -> None:
    error = error_from_fault(Fault("stopping", "bye"), "N.c.s")
    assert isinstance(error, ServiceBusy)
    assert error.retry_after_s is None


def test_a_refusal_is_taken_apart_into_reason_and_detail() -> None:
    error = error_from_fault(Fault("refused", "stale: the clocks are 90 s apart: fix it"), "N.c.s")
    assert isinstance(error, CallRefused)
    assert (error.reason, error.detail) == ("stale", "the clocks are 90 s apart: fix it")


def test_the_other_words_of_the_node_become_their_errors() -> None:
    assert isinstance(error_from_fault(Fault("unknown-service", "c.s"), "N.c.s"), UnknownService)
    interrupted = error_from_fault(Fault("interrupted", "the worker died"), "N.c.s")
    assert isinstance(interrupted, CallInterrupted)
    assert interrupted.reason == "the worker died"
    expired = error_from_fault(Fault("expired", "0.2 s too late"), "N.c.s", waited_s=1.5)
    assert isinstance(expired, CallTimeout)
    assert expired.waited_s == 1.5
    assert "0.2 s too late" in str(expired)


def test_everything_else_is_the_service_s_own_error() -> None:
    error = error_from_fault(Fault("ValueError", "no number", "Traceback"), "N.c.s")
    assert isinstance(error, RemoteError)
    assert (error.type, error.message, error.trace) == ("ValueError", "no number", "Traceback")
