"""What a hypothesis machine does to a bus in memory; ``BUS_MACHINE_EXAMPLES=1000`` for more of it."""

from __future__ import annotations

import os

from bus_machine import BusMachine
from hypothesis import settings

TestBusMachine = BusMachine.TestCase
TestBusMachine.settings = settings(
    max_examples=int(os.environ.get("BUS_MACHINE_EXAMPLES", "25")), stateful_step_count=15, deadline=None
)
