"""``servicebus bridge``: move messages from one broker to another, without code."""

from __future__ import annotations

import select
import signal
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from servicebus.cli.exit_codes import ExitCode
from servicebus.cli.options import config_source
from servicebus.cli.run import log_to_stderr
from servicebus.configuration import Configuration
from servicebus.errors import ConfigurationError
from servicebus.runtime.signals import SignalPipe
from servicebus.transport.loggers import get_logger

if TYPE_CHECKING:
    from servicebus.operations.bridge import Bridge

_DRAIN_S = 10.0
_CLOSE_S = 2.0
_POLL_S = 0.02
_TELL_EVERY_S = 60.0

LOG = get_logger(__name__)


@click.command()
@config_source(is_argument=True, read=Configuration.load)
@click.pass_context
def bridge(ctx: click.Context, configuration: Configuration) -> None:
    """Run the bridges that FILE describes under bridges:, until a signal stops it.

    A message is acknowledged at its source when its target has confirmed it. TERM and INT let what is
    under way be finished.
    """
    if not configuration.bridges:
        raise ConfigurationError("names no bridges, so there is nothing to run", path=configuration.path, key="bridges")
    log_to_stderr(configuration)
    ctx.exit(run_bridges(configuration))


def run_bridges(configuration: Configuration) -> int:
    """Until TERM or INT; returns the exit code. In the main thread."""
    from servicebus.operations.bridge import Bridge
    from servicebus.transport.loop import EventLoop

    signals = SignalPipe((signal.SIGTERM, signal.SIGINT))
    loop = EventLoop("bridge")
    bridges = [Bridge(loop, configuration, entry) for entry in configuration.bridges]
    thread = threading.Thread(target=loop.run, name=loop.name, daemon=True)
    thread.start()
    for each in bridges:
        loop.post(each.start)
    told_at = time.monotonic()
    while not select.select([signals], [], [], 1.0)[0]:
        if time.monotonic() - told_at >= _TELL_EVERY_S:
            told_at = time.monotonic()
            _tell(bridges)
    is_clean = _end(loop, bridges)
    thread.join(_CLOSE_S)
    _tell(bridges)
    signals.close()
    return int(ExitCode.OK if is_clean else ExitCode.FAILED)


def _end(loop: Any, bridges: list[Bridge]) -> bool:
    """Whether all that was under way was finished."""
    for each in bridges:
        loop.post(each.stop)
    is_clean = _wait(lambda: all(not each.unsettled for each in bridges), _DRAIN_S)
    for each in bridges:
        loop.post(each.close)
    _wait(lambda: all(each.is_gone for each in bridges), _CLOSE_S)
    loop.stop()
    return is_clean


def _wait(condition: Callable[[], bool], limit_s: float) -> bool:
    give_up_at = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() >= give_up_at:
            return False
        time.sleep(_POLL_S)
    return True


def _tell(bridges: list[Bridge]) -> None:
    for each in bridges:
        LOG.info("%s: %s", each, each.summary())
