"""serve(): the console as a server, until a signal stops it."""

from __future__ import annotations

import logging
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

try:
    import uvicorn

    from servicebus.web.app import Console, make_app
except ImportError as error:
    raise ImportError(
        "the console needs Starlette, uvicorn and Jinja2: pip install servicebus-failover[web]"
    ) from error

from servicebus.configuration import Configuration
from servicebus.fleet.view import Change, FleetView
from servicebus.fleet.watch import FleetWatch
from servicebus.sender import Sender
from servicebus.web.access import Access
from servicebus.web.charts import NodeRates
from servicebus.web.dead_jobs import DeadCounts, DeadLetterJobs
from servicebus.web.drill import DrillJobs
from servicebus.web.history import ConsoleHistory
from servicebus.web.what import IdSearches

__all__ = ["ConsoleAddress", "serve"]

_MOST_CLIENTS = 200


class ConsoleAddress(NamedTuple):
    """Where to listen, and by which certificate."""

    host: str
    port: int
    certificate: Path | None = None
    key: Path | None = None


def serve(
    config: Configuration,
    access: Access,
    address: ConsoleAddress,
    history_path: Path,
    *,
    is_secure: bool,
    on_open: Callable[[str], None],
) -> None:
    """Serve until INT or TERM.

    Args:
        history_path: of the file for the timeline; made if there is none.
        is_secure: browsers see it over HTTPS.
        on_open: told its URL once it listens.

    Raises:
        OSError: it cannot listen there.
        sqlite3.Error: the history cannot be opened.
    """
    with ExitStack() as stack:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        listener = stack.enter_context(socket.create_server((address.host, address.port), family=family))
        sender = stack.enter_context(Sender(config))
        history = stack.enter_context(closing(ConsoleHistory(history_path)))
        console = _console(config, sender, history)
        stack.callback(console.watch.stop)
        console.watch.start()
        stack.callback(console.drills.close)
        server = uvicorn.Server(_settings(make_app(console, access, is_secure=is_secure), address))

        def stop(_signum: int, _frame: object) -> None:
            server.should_exit = True

        # From here on, for uvicorn has handlers of its own only once it runs. It sends itself again what stopped it.
        for each in (signal.SIGINT, signal.SIGTERM):
            stack.callback(signal.signal, each, signal.signal(each, stop))
        scheme = "http" if address.certificate is None else "https"
        shown = f"[{address.host}]" if ":" in address.host else address.host
        on_open(f"{scheme}://{shown}:{listener.getsockname()[1]}/")
        server.run(sockets=[listener])


def _console(config: Configuration, sender: Sender, history: ConsoleHistory) -> Console:
    """Its parts; the watch is yet to be started."""
    rates, jobs = NodeRates(), DeadLetterJobs(config)

    def saw(view: FleetView, changes: list[Change]) -> None:
        history.add(changes, view)
        rates.saw(view, time.time())

    watch = FleetWatch(sender, history.restored([host.name for host in config.hosts], time.time()), saw)
    searches = IdSearches(config, sender, jobs)
    drills, counts = DrillJobs(config), DeadCounts(config)
    return Console(watch, sender, lambda: Sender(config), jobs, counts, searches, rates, history, drills)


def _settings(app: Any, address: ConsoleAddress) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=None,
        log_level=logging.WARNING,
        access_log=False,
        proxy_headers=False,  # or anybody could say to come from a trusted proxy
        server_header=False,
        ws="none",
        lifespan="off",
        limit_concurrency=_MOST_CLIENTS,
        timeout_graceful_shutdown=3,
        ssl_certfile=address.certificate,
        ssl_keyfile=address.key,
    )
