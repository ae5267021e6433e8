"""Setup: has ``setup()`` of a service succeed in each of its threads before that thread takes a request."""

from __future__ import annotations

import threading

from servicebus.policy.backoff import Backoff
from servicebus.runtime.leaving import Home
from servicebus.runtime.registration import Service, takes
from servicebus.transport.loggers import get_logger
from servicebus.wire.printable import describe

LOG = get_logger(__name__)

_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0
_SHOWN = 300


class Setup:
    """Of one service, for all of its threads."""

    def __init__(self, service: Service, home: Home):
        self.problem = ""
        """What ``setup()`` raised last, while no thread of the service is ready. Read by any thread."""
        self._service = service
        self._what = f"setup() of service {service.key}"
        self._home = home
        self._ready: set[int] = set()
        self._is_stopping = threading.Event()

    def __repr__(self) -> str:
        return f"<Setup of {self._service.key}: {self.problem or 'ready'}>"

    def attempt(self) -> bool:
        """Call ``setup()`` in this thread; False if it raised, whatever that was."""
        try:
            setup = getattr(self._service.instance, "setup", None)
            if callable(setup) and takes(setup, ()):  # else it is the own business of a service of py-servicebus 2.x
                setup()
        except BaseException as error:
            self.failed(error)
            return False
        self.succeeded()
        return True

    def failed(self, error: BaseException) -> None:
        """``setup()`` has raised *error* in this thread."""
        self._home.end_child(self._what, error)
        if not self._ready:
            self.problem = f"{self._what} failed: {describe(error)[:_SHOWN]}"
        LOG.error("%s failed; until it succeeds, its thread takes no request", self._what, exc_info=error)

    def succeeded(self) -> None:
        """This thread is ready."""
        self._home.end_child(self._what)
        self._ready.add(threading.get_ident())
        self.problem = ""

    def pauses(self) -> Backoff:
        """How long a thread waits before each further attempt."""
        return Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)

    def wait(self, seconds: float) -> bool:
        """Wait for the next attempt; False: the service is to stop."""
        return not self._is_stopping.wait(seconds)

    def died(self, thread: threading.Thread) -> None:
        """A thread of the service has died; the one in its place begins by ``setup()``."""
        self._ready.discard(thread.ident or 0)

    def stop(self) -> None:
        """Try no more."""
        self._is_stopping.set()
