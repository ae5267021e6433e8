"""Green threads: what gevent and eventlet put in place of threads and sockets, as far as this package cannot work."""

from __future__ import annotations

import sys
from typing import Any

from servicebus.errors import ConfigurationError

__all__ = ["refuse_green_threads"]


def refuse_green_threads() -> None:
    """Raise ConfigurationError if the program has patched the standard library in a way that ends in a hang.

    ``gevent.monkey.patch_all()`` is none: there our threads are greenlets, and wait as such. Asks only modules that the
    program has imported.
    """
    eventlet: Any = sys.modules.get("eventlet.patcher")
    if eventlet is not None and any(map(eventlet.is_monkey_patched, ("select", "socket", "thread"))):
        raise ConfigurationError(
            "eventlet.monkey_patch() has taken select.poll() and threads away, without which servicebus cannot wait;"
            " use threads, or gevent.monkey.patch_all(), or talk to the bus from a process without eventlet"
        )
    gevent: Any = sys.modules.get("gevent.monkey")
    if gevent is not None and not gevent.is_module_patched("threading"):
        patched = [name for name in ("select", "socket") if gevent.is_module_patched(name)]
        if patched:
            raise ConfigurationError(
                f"gevent has patched {' and '.join(patched)} but not threading, and servicebus waits in threads;"
                " call gevent.monkey.patch_all() without thread=False, before all other imports, or patch nothing"
            )
