"""A few hundred of what ``python -m tests.hostile`` sends by the million."""

from __future__ import annotations

import pytest

from tests.hostile import run

pytestmark = pytest.mark.on_request


def test_nothing_of_a_stranger_is_executed_or_believed() -> None:
    report = run(count=900, per_s=300.0, peace_s=0.5, seed=7)
    assert report["found"] == []
    assert set(report["sent"].values()) == {100}
    assert report["calls"] > 0
    assert report["refused"]["refused.signature"] > 0
    assert report["refused"]["refused.wrong-queue"] > 0
    assert report["refused"]["refused.replayed"] > 0
    assert report["refused"]["refused.permission-denied"] > 0
