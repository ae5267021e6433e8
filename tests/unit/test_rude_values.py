"""Objects of a program whose methods raise, end or block: what is given to a Sender, or raised by a service."""

from __future__ import annotations

import io
import logging
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from test_service_threads import Bench, fault_of, job
from waiting import wait_until

from servicebus.cli.services import _load
from servicebus.configuration import Configuration, ServiceEntry
from servicebus.errors import EnvelopeError
from servicebus.runtime.job import JobResult
from servicebus.runtime.leaving import Home
from servicebus.runtime.setup import Setup
from servicebus.sender import Sender
from servicebus.transport.loggers import get_logger
from servicebus.wire.address import Address
from servicebus.wire.jsontext import encode_json

ENDS = [SystemExit, KeyboardInterrupt, RecursionError, ValueError]
CONFIG = Configuration({"hosts": ["mq-a"], "node_name": "NODE-01", "secret_token": "a secret of the test"})


_is_rude = threading.Event()
"""Not for long: pytest asks them, too, when a test fails."""


def raised_by(action: Callable[[], Any]) -> str:
    """Class and text of what *action* raises, with rude objects being what they are."""
    _is_rude.set()
    try:
        action()
    except BaseException as error:
        _is_rude.clear()
        return f"{type(error).__name__}: {error}"
    finally:
        _is_rude.clear()
    return ""


def rude(base: type, error: type[BaseException]) -> Any:
    """A class that raises *error* wherever it is asked for a text."""

    def never(*_: Any) -> Any:
        if _is_rude.is_set():
            raise error("of the program's")
        return "rude"

    methods = ("__str__", "__repr__", "__format__", "__reduce__", "__reduce_ex__")
    return type("Rude", (base,), {**dict.fromkeys(methods, never), "__hash__": base.__hash__})


# -- given to a Sender -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", ENDS)
@pytest.mark.parametrize(
    "make",
    [
        lambda rude: {rude(str)("key"): object()},
        lambda rude: {rude(int)(7): {"in": object()}},
        lambda rude: {rude(float)(7): object()},
        lambda rude: [rude(float)("nan")],
        lambda rude: [rude(object)()],
        lambda rude: {rude(tuple)(): 1},
        lambda rude: {10**5000: object()},
        lambda rude: [rude(type)("Odd", (), {"__module__": rude(object)()})()],
    ],
)
def test_params_that_cannot_be_said_are_told_without_asking_them(
    make: Callable[[Any], Any], error: type[BaseException]
) -> None:
    params = make(lambda base: rude(base, error))
    assert raised_by(lambda: encode_json(params)).startswith("EnvelopeError: unencodable: JSON has no word for ")


def test_params_that_deny_their_class_are_told_all_the_same() -> None:
    class NoClass:
        @property  # type: ignore[misc]
        def __class__(self) -> Any:
            raise SystemExit

    with pytest.raises(EnvelopeError, match=r"no word for .*NoClass at value"):
        encode_json([NoClass()])


@pytest.mark.parametrize("error", ENDS)
def test_an_address_is_what_its_characters_say(error: type[BaseException]) -> None:
    """Nothing of the program's class goes on from there: to other threads, or into a memory of addresses."""
    class_of_theirs = rude(str, error)
    texts = [class_of_theirs("NODE-01.math.add")]
    gone = weakref.ref(texts[0])
    assert raised_by(lambda: Address.parse(texts[0])) == ""
    assert Address.parse(texts[0]) == Address("NODE-01", "math", "add")
    texts.clear()
    assert gone() is None
    assert "'no address' is not an address" in raised_by(lambda: Address.parse(class_of_theirs("no address")))
    with Sender(CONFIG) as sender:
        assert "'a.b' is not an address" in raised_by(lambda: sender.ping(class_of_theirs("a.b")))


# -- raised by a service -----------------------------------------------------------------------------------------------


@contextmanager
def shared_handler() -> Iterator[io.StringIO]:
    """A handler that all threads share, as a program has it on its root logger."""
    stream = io.StringIO()
    handler, package = logging.StreamHandler(stream), logging.getLogger("servicebus")
    package.addHandler(handler)
    try:
        yield stream
    finally:
        package.removeHandler(handler)


def test_an_error_that_blocks_when_described_stops_nobody_else_who_logs() -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Blocks(Exception):
        def __str__(self) -> str:
            begun.set()
            go_on.wait(60)
            return "at last"

    def fails(_request: Any) -> Any:
        raise Blocks

    bench = Bench(fails)
    with shared_handler() as stream:
        other = threading.Thread(target=get_logger("servicebus.tests.rude").warning, args=("another thread's",))
        try:
            bench.thread.put(job())
            assert begun.wait(60)
            other.start()
            wait_until(lambda: "another thread's" in stream.getvalue())
        finally:
            go_on.set()
        other.join()
        wait_until(lambda: len(bench.outcomes) == 1)
        assert "Blocks: at last" in stream.getvalue()
    assert fault_of(bench.outcomes[0]).text == "at last"
    bench.close()


def test_an_error_whose_traceback_cannot_be_made_is_logged_all_the_same() -> None:
    class Notes(Exception):
        @property
        def __notes__(self) -> Any:
            raise SystemExit

    with shared_handler() as stream:
        try:
            raise Notes
        except Notes as error:
            get_logger("servicebus.tests.rude").warning("it failed", exc_info=error)
    assert "it failed\n" in stream.getvalue()
    assert "Notes" in stream.getvalue()


@pytest.mark.parametrize("error", ENDS)
def test_what_is_discarded_ends_nothing(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "servicebus")  # pytest would keep the errors with their records
    told: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda about: told.append(about.exc_type))

    class Dies:
        def __del__(self) -> None:
            raise error

    class Fails(Exception):
        __del__ = Dies.__del__

    def action(request: Any) -> Any:
        mine = Dies()
        if request.params == "fails":
            raise Fails(mine)
        return 7

    bench = Bench(action)
    outcomes = [bench.outcome(job(params=params)) for params in ("fails", "works", "fails", "works")]
    assert [outcome.result for outcome in outcomes] == [JobResult.FAILED, JobResult.DONE] * 2
    assert fault_of(outcomes[0]).type == "Fails"
    wait_until(lambda: len(told) == 6)
    assert set(told) == {error}
    bench.close()
    assert bench.thread.mend() == 0


def test_what_blocks_when_discarded_holds_up_its_own_service_only() -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Blocks:
        def __del__(self) -> None:
            begun.set()
            go_on.wait(60)

    def action(_request: Any) -> Any:
        mine = Blocks()
        return None if mine is None else 7

    slow, other = Bench(action), Bench(lambda _request: 8)
    slow.thread.put(job())
    assert begun.wait(60)
    assert other.outcome(job()).result is JobResult.DONE
    assert not slow.outcomes
    go_on.set()
    wait_until(lambda: len(slow.outcomes) == 1)
    assert slow.outcomes[0].result is JobResult.DONE
    slow.close()
    other.close()


@pytest.mark.parametrize("error", ENDS)
def test_a_service_that_raises_where_it_is_asked_for_its_setup_is_not_ready(error: type[BaseException]) -> None:
    bench = Bench(lambda _request: 7)
    kind = type(bench.thread.service.instance)

    def never(_self: Any) -> Any:
        raise error

    bench.close()
    bench.thread.service.instance.__class__ = type("Rude", (kind,), {"setup": property(never)})
    setup = Setup(bench.thread.service, Home())
    assert not setup.attempt()
    assert "setup() of service" in setup.problem
    bench.thread.service.instance.__class__ = type("Rude", (kind,), {"teardown": property(never)})
    bench.thread._tear_down()


@pytest.mark.parametrize("error", ENDS)
def test_a_class_that_fails_without_words_is_named_by_the_command_line(error: type[BaseException]) -> None:
    failure = rude(Exception, error)
    sys.modules["rude_services"] = module = type(sys)("rude_services")

    def make() -> Any:
        raise failure

    vars(module)["Make"] = make
    try:
        told = raised_by(lambda: list(_load(ServiceEntry("rpc", "a", "b", "rude_services:Make"))))
    finally:
        del sys.modules["rude_services"]
    assert "Rude: (its text could not be made: " in told
