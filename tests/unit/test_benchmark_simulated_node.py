"""The simulated node of the benchmarks answers what real senders ask of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from benchmarks.gather import SimulatedNode


def test_a_simulated_node_is_asked_for_ids_that_were_not_answered() -> None:
    """As a Sender does whose call takes long: on a busy machine."""
    node = SimulatedNode("SIM-1", ["127.0.0.1:5672"])
    asked = cast(Any, SimpleNamespace(raw_params=b'["0123456789abcdef-1"]', caller=""))
    assert node.control._who_i_am(asked)["node"] == "SIM-1"
