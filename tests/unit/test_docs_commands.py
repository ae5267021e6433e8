"""The commands of README and docs exist, with the options that they are shown with, and configurations are read."""

from __future__ import annotations

import ast
import base64
import hashlib
import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from servicebus.cli.main import servicebus
from servicebus.configuration import Configuration
from servicebus.configuration.keys import ALL_KEYS

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.rst")), *sorted((ROOT / "docs").rglob("*.rst"))]
LABELS = ("servicebus key id", "servicebus encryption key id")
"""What signatures and keys are made with; no commands."""
END = re.compile(r"\s(\||>|&&|;|<).*")
YAML = re.compile(r"^( *)\.\. code-block:: yaml\n(?: +:.*\n)*\n((?:\1 +.*\n|\n)+)", re.MULTILINE)


def shown() -> Iterator[tuple[str, str]]:
    """Each command of a block or a literal, with its page."""
    for page in PAGES:
        text = page.read_text()
        found = re.findall(r"^ +(?:\$ )?(servicebus [a-z-].*)$", text, re.MULTILINE)
        found += [" ".join(each.split()) for each in re.findall(r"``(servicebus [a-z-][^`]*)``", text)]
        found = [each for each in found if each not in LABELS]
        yield from ((page.name, command) for command in dict.fromkeys(found))


def options_of(command: click.Command) -> set[str]:
    return {
        name for each in command.params if isinstance(each, click.Option) for name in (*each.opts, *each.secondary_opts)
    }


def faults_of(line: str) -> list[str]:
    """What of a command does not exist."""
    words = shlex.split(END.sub("", line.split("  #")[0].removesuffix("\\")).replace("'", '"').replace("...", ""))[1:]
    command: click.Command = servicebus
    known, context = options_of(command) | {"--help", "-h"}, click.Context(servicebus)
    faults = []
    for word in words:
        if word == "--":
            break
        if word.startswith("-") and not re.fullmatch(r"-?\d*", word):
            name = word.partition("=")[0]
            if name not in known and not (name[1] != "-" and name[:2] in known):
                faults.append(f"no option {name}")
        elif isinstance(command, click.Group):
            word = word.rstrip(",:;").partition("|")[0]
            if (further := command.get_command(context, word)) is None:
                return [*faults, f"no command {word}"]
            command = further
            known |= options_of(command)
    return faults


COMMANDS = list(shown())


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 100


@pytest.mark.parametrize(
    "line", ["servicebus clal NODE-01.math.add", "servicebus call --timout 5", "servicebus dead lst"]
)
def test_what_does_not_exist_is_found(line: str) -> None:
    assert faults_of(line)


@pytest.mark.parametrize("page", sorted({page for page, _ in COMMANDS}))
def test_the_commands_of_a_page_exist(page: str) -> None:
    faults = {line: faults for where, line in COMMANDS if where == page and (faults := faults_of(line))}
    assert not faults


PYTHON = re.compile(r"^( *)\.\. (?:invisible-)?code-block:: python\n(?: +:.*\n)*\n((?:\1 +.*\n|\n)+)", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_python_of_a_page_is_python_also_where_it_is_not_run(page: Path) -> None:
    for _, block in PYTHON.findall(page.read_text()):
        compile(textwrap.dedent(block), str(page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)


BLOCKS = [(page.name, textwrap.dedent(block)) for page in PAGES for _, block in YAML.findall(page.read_text())]


class Loader(yaml.SafeLoader):
    """With our tag, and whatever others have."""


Loader.add_multi_constructor("!", lambda loader, suffix, node: "of a file")


@pytest.mark.parametrize(("page", "text"), BLOCKS, ids=[page for page, _ in BLOCKS])
def test_a_block_of_yaml_is_a_configuration_that_is_read(page: str, text: str) -> None:
    """Where it is one of ours; one of Prometheus or Kubernetes is YAML at least."""
    (document, *_) = yaml.load_all(text, Loader)
    if not isinstance(document, dict) or not document.keys() <= set(ALL_KEYS):
        return
    given: dict[str, Any] = {"hosts": ["mq-a"], "secret_token": "a secret of the pages"}
    lines = "".join(f"{key}: {value}\n" for key, value in given.items() if key not in document)
    environment = dict.fromkeys(re.findall(r"\$\{(\w+)", text), "x")
    Configuration.parse(lines + text, environment=environment, read_file=written_to)


def written_to(path: str) -> str:
    """What a file of a page might hold: each another."""
    if "management" in path:
        return "https://mq-b:15671"
    return base64.urlsafe_b64encode(hashlib.sha256(path.encode()).digest()).decode()
