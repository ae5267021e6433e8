"""Fixtures for the tests against the real py-servicebus 2.19."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from agents import Agent
    from old219 import OldAgent, OldSender

    from servicebus.testing import Broker


@pytest.fixture(scope="session")
def old_python() -> Path:
    from old219 import make_environment

    return make_environment()


@pytest.fixture
def old_agent(old_python: Path, tmp_path: Path) -> Iterator[Callable[..., OldAgent]]:
    """Start agents of 2.19: ``old_agent(broker, TZ="...", **configuration)``."""
    from old219 import OldAgent

    with ExitStack() as stack:
        yield _starter(stack, OldAgent, "old_agent.py", old_python, tmp_path)


@pytest.fixture
def old_sender(old_python: Path, tmp_path: Path) -> Iterator[Callable[..., OldSender]]:
    """Start Senders of 2.19: ``old_sender(broker, smart_route=False, **configuration)``."""
    from old219 import OldSender

    with ExitStack() as stack:
        yield _starter(stack, OldSender, "old_sender.py", old_python, tmp_path)


@pytest.fixture
def new_agent(start_agent: Callable[..., Agent]) -> Callable[..., Agent]:
    """Start agents of ours with ``compat`` and the services of old_services, and wait until they consume."""
    from old219 import SERVICES

    def start(*brokers: Broker, **settings: Any) -> Agent:
        return start_agent(brokers, **{"compat": True, "services": SERVICES, **settings}).wait_consuming()

    return start


def _starter(stack: ExitStack, kind: type[Any], program: str, python: Path, folder: Path) -> Callable[..., Any]:
    count = 0

    def start(broker: Broker, TZ: str | None = None, **values: Any) -> Any:  # noqa: N803 - the variable's own name
        nonlocal count
        count += 1
        own = folder / f"{kind.__name__}-{count}"
        started = kind(python, own, program, broker, {"TZ": TZ} if TZ else {}, **values)
        stack.callback(started.close)
        return started

    return start
