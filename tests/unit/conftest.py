"""A fixture of several unit tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from virtual_bus import VirtualBus, virtual_bus

from servicebus.wire import fault


@pytest.fixture(autouse=True)
def _errors_of_one_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups of several tests have the same names; the errors that one declares are not those of another."""
    monkeypatch.setattr(fault, "_declared", dict(fault._declared))


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualBus]:
    """A Sender and brokers in memory, in virtual time; a test file may have a ``bus`` of its own."""
    with virtual_bus(monkeypatch) as bus:
        yield bus
