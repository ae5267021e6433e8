"""What the machine of fixtures/bus_machine.py does to a bus in memory, done on RabbitMQ, too, and compared.

``BUS_MACHINE_EXAMPLES=20`` for more of it: one takes seconds, because brokers and agents are killed and started.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from bus_machine import BusMachine, Player
from bus_worlds import RealWorld, real_world
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from servicebus.testing import Broker

SETTINGS = settings(
    max_examples=int(os.environ.get("BUS_MACHINE_EXAMPLES", "2")),
    stateful_step_count=10,
    deadline=None,
    derandomize="BUS_MACHINE_EXAMPLES" not in os.environ,
    phases=[Phase.generate],  # to make a failure smaller takes an hour here
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.broker
@pytest.mark.timeout(900)
def test_what_a_machine_does_ends_on_rabbitmq_as_it_does_in_memory(brokers: list[Broker], tmp_path: Path) -> None:
    with real_world(brokers, tmp_path) as world:

        class Comparing(BusMachine):
            def teardown(self) -> None:
                super().teardown()
                assert outcomes_on(world, self) == self.player.outcomes, self.steps

        run_state_machine_as_test(Comparing, settings=SETTINGS)


def outcomes_on(world: RealWorld, machine: BusMachine) -> list[str]:
    """How what *machine* waited for ends on RabbitMQ; all that must hold in memory is looked at here, too."""
    player = Player(world.begin())
    try:
        for step in machine.steps:
            player.play(step)
        player.end()
    finally:
        world.end()
    return player.outcomes
