"""frame_of(): where a thread is, with the collector at rest."""

from __future__ import annotations

import gc
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import servicebus
from servicebus.transport.stacks import frame_of


def test_it_says_where_a_thread_is() -> None:
    frame = frame_of(threading.get_ident())
    assert frame is not None and "frame_of" in frame.f_code.co_name
    assert frame_of(None) is None


@pytest.mark.parametrize("is_collecting", [True, False])
def test_the_collector_rests_meanwhile_and_is_as_before(monkeypatch: pytest.MonkeyPatch, is_collecting: bool) -> None:
    seen: list[bool] = []

    def look() -> dict[int, Any]:
        seen.append(gc.isenabled())
        return {}

    monkeypatch.setattr(sys, "_current_frames", look)
    before = gc.isenabled()
    try:
        (gc.enable if is_collecting else gc.disable)()
        assert frame_of(1) is None
        assert seen == [False] and gc.isenabled() is is_collecting
    finally:
        (gc.enable if before else gc.disable)()


def test_nothing_else_asks_for_frames() -> None:
    root = Path(servicebus.__file__).parent
    found = [path.name for path in root.rglob("*.py") if "_current_frames" in path.read_text()]
    assert found == ["stacks.py"]
