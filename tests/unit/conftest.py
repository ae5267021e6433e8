"""A fixture of several unit tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from virtual_bus import VirtualBus, virtual_bus


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualBus]:
    """A Sender and brokers in memory, in virtual time; a test file may have a ``bus`` of its own."""
    with virtual_bus(monkeypatch) as bus:
        yield bus
