"""The commands of docs/ run, page by page, as a reader types them, and print what the page shows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from doctor_plants import PlantedBroker
from page_blocks import PAGES, Command, command_blocks
from page_cases import BY_STEPS, NOT_PRINTED, WORLDS, case_of, why_not_run
from page_world import PageWorld, page_brokers, unlike

pytestmark = pytest.mark.timeout(300)


def commands_of(page: Path) -> list[Command]:
    """Those that are run."""
    return [each for block in command_blocks(page) for each in block.commands if why_not_run(each.text) is None]


TO_RUN = [page for page in PAGES if page.name not in BY_STEPS and commands_of(page)]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[PlantedBroker]]:
    with page_brokers(tmp_path_factory.mktemp("brokers")) as planted:
        yield planted


def test_there_are_pages_with_commands() -> None:
    assert len(TO_RUN) > 10 and {page.name for page in TO_RUN} >= WORLDS.keys()


@pytest.mark.parametrize("page", TO_RUN, ids=lambda page: page.stem)
def test_the_commands_of_a_page_run(page: Path, planted: list[PlantedBroker], tmp_path: Path) -> None:
    with ExitStack() as ending:
        world = PageWorld(tmp_path, planted, ending)
        if page.name in WORLDS:
            WORLDS[page.name](world)
        for command in commands_of(page):
            printed = world.run(command, case_of(page.name, command.text))
            missing = [line for line in unlike(command.shown, printed) if line.strip() not in NOT_PRINTED]
            assert not missing, f"{command.text} did not print\n" + "\n".join([*missing, "but", printed])
