"""What strangers, brokers and services say is printable wherever it is shown: in states, errors and on the screen."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from servicebus.cli.broker import broker
from servicebus.cli.group import Failure
from servicebus.cli.main import Lines
from servicebus.client.link import Link
from servicebus.client.nodes import Path
from servicebus.client.pending import PendingRequests
from servicebus.client.request import PendingRequest
from servicebus.client.request_errors import defect, out_of_paths, out_of_time
from servicebus.client.scheduler import RequestScheduler
from servicebus.client.watch import PathWatch, Pinger
from servicebus.configuration import Configuration
from servicebus.errors import ConnectFailed, ConnectionLost, EnvelopeError, ServiceBusy, TransportError
from servicebus.operations.publications import Publication, Publications
from servicebus.policy.connection import ConnectionState
from servicebus.policy.liveness import PingClock
from servicebus.policy.size_limit import SizeLimit
from servicebus.runtime.publisher import Publisher
from servicebus.testing import BrokerStartFailed
from servicebus.transport.failurelog import FailureLog
from servicebus.transport.failures import connect_failure
from servicebus.transport.interface import Returned
from servicebus.wire.address import Address
from servicebus.wire.diagnosis import why_misshapen
from servicebus.wire.envelope import Kind
from servicebus.wire.fault import BUSY, EXPIRED, INTERRUPTED, REFUSED, Fault, error_from_fault

CONFIG = Configuration({"hosts": ["mq-a"], "node_name": "NODE-01", "secret_token": "a secret of the test"})
HOST = CONFIG.hosts[0]
HOSTILE = "words\x1b[2J\x9b1A\u202e\u2028\r\n2026-01-01 ERROR forged"
SHOWN = "words\\x1b[2J\\x9b1A\\u202e\\u2028\\r\\n2026-01-01 ERROR forged"
nobody: Any = SimpleNamespace(link_down=lambda *_: None, replied=lambda *_: None)
version: Any = SimpleNamespace(exchange=None)


class Connection:
    """One that ends."""

    host = HOST

    def abort(self, reason: str) -> None:
        pass


def request() -> PendingRequest:
    return PendingRequest(1, "x-1", Address.parse("N.test.it"), Kind.CALL, b"", timeout_s=0.0)


def ended(tell: Callable[[Link, Any], None]) -> Link:
    """A link that is lost as *tell* says."""
    loop: Any = SimpleNamespace(call_later=lambda *_: None)
    link = Link(loop, HOST, CONFIG, [version], nobody, nobody)
    connection: Any = Connection()
    link.connections.state, link.connections.connections = ConnectionState.UP, (connection,)
    tell(link, connection)
    return link


def never_opened() -> str:
    return ended(lambda link, mine: link.connections.connection_failed(mine, ConnectFailed("mq-a", HOSTILE))).describe()


def lost() -> str:
    return ended(
        lambda link, mine: link.connections.connection_lost(mine, ConnectionLost("mq-a", HOSTILE, sent=True))
    ).last_error


def channel_lost() -> str:
    link = ended(lambda link, _: link.channels_broken(TransportError(HOSTILE)))
    return str(out_of_paths(request(), [link]))


def doubted() -> str:
    asked = request()
    asked.doubted("mq-a", EnvelopeError("malformed", HOSTILE))
    return str(out_of_time(asked, [], 0.0))


def pong_not_believed() -> str:
    told: list[str] = []
    events: Any = SimpleNamespace(path_dead=lambda _path, why: told.append(why))
    link: Any = SimpleNamespace(newest=version, bytes_received=7)
    path = Path(link, "N", PingClock(0.5, 1.5, 0.0))
    path.doubt = EnvelopeError("malformed", HOSTILE)
    path.clock.pinged(0.0)
    PathWatch(CONFIG, Pinger(CONFIG), events, events)._check(path, lambda _node: False, 9.0)
    return told[0]


def busy() -> str:
    asked = request()
    path: Any = SimpleNamespace(link=None, protocol=None, shift_ms=0)
    asked.travels(path, 0.0)
    asked.not_run()
    scheduler: Any = SimpleNamespace(_pending=PendingRequests(), _pause=lambda *_: None, busy=0)
    RequestScheduler.pause(scheduler, asked, ServiceBusy("N.test.it", 1.0, HOSTILE))
    return str(out_of_time(asked, [], 0.0))


def queue_gone() -> str:
    told: list[str] = []
    returned = Returned("", HOSTILE, None, None, b"", "NO_ROUTE")
    connection: Any = SimpleNamespace(open_channel=lambda *_, **told: told["on_returned"](returned))
    broken: Any = lambda error: told.append(str(error))  # noqa: E731
    Publisher(CONFIG, "mq-a", Counter(), FailureLog("io"), SizeLimit(), broken).open(connection, lambda: None)
    return told[0]


def not_stored(reason: str) -> str:
    publications: Any = SimpleNamespace(_host_name="mq-a")
    return str(Publications._not_stored(publications, Publication(nobody, "", "q", b"", None), reason))


def tag_of_a_stranger() -> str:
    return str(why_misshapen(b"<" + HOSTILE.partition("\r")[0].encode() + b">", "event"))


class Unspeakable(Exception):
    """Cannot be told."""

    def __str__(self) -> str:
        raise SystemExit(HOSTILE)


ERRORS: dict[str, Callable[[], object]] = {
    "a connection that never opened": never_opened,
    "a lost connection": lost,
    "a lost channel": channel_lost,
    "a reply that is not believed": doubted,
    "a pong that is not believed": pong_not_believed,
    "a defect": lambda: defect(request(), ValueError(HOSTILE)),
    "a service that is busy": busy,
    "a queue that is gone": queue_gone,
    "a letter that came back": lambda: not_stored(HOSTILE),
    "an odd failure of a handshake": lambda: connect_failure(HOST, RuntimeError(HOSTILE), 1.0, 1.0),
    "a tag of a stranger": tag_of_a_stranger,
    "a failure on the screen": lambda: Failure("X", HOSTILE, 1, as_json=False)._line(),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("told", ERRORS.values(), ids=ERRORS)
def test_an_error_that_quotes_is_one_line_of_printable_text(told: Callable[[], object]) -> None:
    text = str(told())
    assert text.isprintable()
    assert SHOWN[:20] in text


@pytest.mark.parametrize("type", ["ValueError", BUSY, EXPIRED, INTERRUPTED, REFUSED])
def test_what_a_service_raised_is_shown_escaped_and_kept_as_it_is(type: str) -> None:
    """As several lines, if it has them: they are no log."""
    error = error_from_fault(Fault(type, "two\nlines " + HOSTILE), "N.test.it")
    assert str(error).replace("\n", "").isprintable()
    assert "[2J\\x9b1A\\u202e\\u2028\\r" in str(error)  # XML has no word for ESC itself
    if type == "ValueError":
        assert vars(error)["message"] == "two\nlines " + HOSTILE.replace("\x1b", "\ufffd")


def test_a_defect_whose_error_cannot_be_told_is_told_all_the_same() -> None:
    assert "Unspeakable: (its text could not be made: SystemExit)" in str(defect(request(), Unspeakable()))


def test_a_log_line_on_the_screen_cannot_be_forged_by_a_traceback() -> None:
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        record = logging.LogRecord("a", logging.ERROR, "", 1, "failed: %s", (HOSTILE,), sys.exc_info())
    text = Lines("%(levelname)s %(message)s").format(record)
    first, *others = text.split("\n")
    assert first.startswith("ERROR failed: words\\x1b[2J\\x9b1A\\u202e\\u2028")
    assert all(line.isprintable() and line.startswith("    ") for line in others)
    assert any(line.strip().startswith("ValueError: words") for line in others)


def test_the_log_of_a_private_broker_is_shown_escaped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise BrokerStartFailed("mq", "it ended", HOSTILE)

    monkeypatch.setattr("servicebus.testing.persistent.PersistentBrokers.up", fail)
    with pytest.raises(Failure):
        broker.main(["up"], standalone_mode=False)
    shown = capsys.readouterr().err
    assert "words\\x1b[2J\\x9b1A\\u202e\\u2028" in shown
    assert all(line.isprintable() for line in shown.split("\n"))
