"""Programs under gevent and eventlet: they work, or get one clear error at the first use."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable

import pytest

from servicebus.configuration import Configuration
from servicebus.errors import ConfigurationError
from servicebus.service import ServiceBus
from servicebus.transport.green import refuse_green_threads
from servicebus.transport.loop import EventLoop

CONFIG = Configuration({"hosts": ["127.0.0.1:1"], "node_name": "NODE-01", "secret_token": "secret token"})
Patch = Callable[..., None]


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> Patch:
    """Have the standard library look as if one of the two had patched these modules."""

    def patch(module: str, question: str, *names: str) -> None:
        made = types.ModuleType(module)
        setattr(made, question, lambda name: name in names)
        monkeypatch.setitem(sys.modules, module, made)

    return patch


GEVENT = ("gevent.monkey", "is_module_patched")
EVENTLET = ("eventlet.patcher", "is_monkey_patched")


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ((*EVENTLET, "select", "socket", "thread", "time"), "eventlet.monkey_patch"),
        ((*EVENTLET, "socket"), "eventlet.monkey_patch"),
        ((*GEVENT, "select", "socket", "time"), "gevent has patched select and socket but not threading"),
        ((*GEVENT, "socket"), "gevent has patched socket but not threading"),
    ],
)
def test_what_would_hang_is_refused_at_the_first_use(patched: Patch, how: tuple[str, ...], text: str) -> None:
    patched(*how)
    uses: list[Callable[[], object]] = [refuse_green_threads, EventLoop, ServiceBus(CONFIG).run]
    for use in uses:
        with pytest.raises(ConfigurationError, match=text):
            use()


@pytest.mark.parametrize("how", [(*GEVENT, "select", "socket", "threading"), GEVENT, EVENTLET, (*EVENTLET, "os")])
def test_what_works_is_not(patched: Patch, how: tuple[str, ...]) -> None:
    patched(*how)
    refuse_green_threads()
