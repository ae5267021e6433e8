"""Commands that README and docs show and no test runs: each has its reason, and exists, with its options."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from functools import cache
from importlib.metadata import metadata
from pathlib import Path

import pytest
from page_blocks import PAGES, ROOT, Command, CommandBlock, command_blocks
from page_cases import BY_STEPS, CASES, NOT_PRINTED, NOT_RUN, WORLDS, why_not_run
from page_world import unlike

BLOCKS = [block for page in PAGES for block in command_blocks(page)]
SHOWN = [(block.page.name, command) for block in BLOCKS for command in block.commands]
NOT_RUN_HERE = sorted({command.text for page, command in SHOWN if page not in BY_STEPS and why_not_run(command.text)})
MODULES = {"bin/chaos": "tests.chaos", "bin/bench": "benchmarks.suite"}
_PIP = re.compile(r"servicebus-failover\[([\w,]+)\]")


def options(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text))


@cache
def help_of(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *arguments, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def script_of(path: str) -> str:
    """A program of ours, with the tests' own options."""
    assert (ROOT / path).stat().st_mode & 0o111
    return (ROOT / path).read_text() + (ROOT / "tests/conftest.py").read_text()


def check_ours(words: list[str]) -> None:
    """A program or module of this folder, which knows the options."""
    program, *arguments = words
    if program == "python":
        program, *arguments = arguments[1:]
    module = MODULES.get(program, program)
    wanted = {each for each in arguments if each.startswith("--")}
    if program == module and "/" in program:
        assert wanted <= options(script_of(program)), words
        return
    command = [each for each in arguments[:1] if program == "bin/bench" and not each.startswith("-")]
    assert wanted <= options(help_of(module, *command)), words


def check_of_others(text: str) -> None:
    """What it names of ours exists: extras, units, files."""
    for extras in _PIP.findall(text):
        assert set(extras.split(",")) <= set(metadata("servicebus-failover").get_all("Provides-Extra") or []), text
    units = {path.name.partition(".")[0] for path in (ROOT / "packaging/systemd").iterdir()}
    for unit in re.findall(r"servicebus-(?:agent@|logd)", text):
        assert unit in units, text
    for path in re.findall(r"(?<=\s)packaging/[\w/]+", text):
        assert (ROOT / path).exists(), text


@pytest.mark.parametrize("text", NOT_RUN_HERE, ids=lambda text: text.split("\n")[0][:60])
def test_what_is_not_run_exists(text: str) -> None:
    words = shlex.split(text, comments=True)
    if words[0].startswith(("bin/", "tests/")) or words[:2] == ["python", "-m"]:
        check_ours(words)
    else:
        check_of_others(text)


@pytest.mark.parametrize(
    "text", ["bin/docs --extrenal", "python -m benchmarks.idle --jsno", "bin/bench calls --rouds 7"]
)
def test_an_option_that_does_not_exist_is_found(text: str) -> None:
    with pytest.raises(AssertionError):
        check_ours(shlex.split(text))


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_shell_can_read_it(block: CommandBlock) -> None:
    script = "\n".join(command.text for command in block.commands)
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_tables_name_nothing_that_is_gone() -> None:
    texts = [command.text for _, command in SHOWN]
    assert not [start for start in NOT_RUN if not any(text.startswith(start) for text in texts)]
    assert not [
        (page, start) for page, start in CASES if not any(page == at and c.text.startswith(start) for at, c in SHOWN)
    ]
    assert {*WORLDS, *BY_STEPS} <= {page for page, _ in SHOWN}
    assert set(NOT_PRINTED) <= {line.strip() for _, command in SHOWN for line in command.shown}


def test_blocks_of_commands_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.rst"
    page.write_text(
        "Do::\n\n    bin/test    # all\n    bin/test unit\n\n"
        "Not a command::\n\n    mq-a:5672\n\n"
        "* ::\n\n    $ servicebus call \\\n        N.a.b\n    3\n    4\n    # id\n    0\n\n"
        ".. code-block:: bash\n   :name: one\n\n   true\n\n.. code-block:: python\n\n   true\n"
    )
    assert [block.commands for block in command_blocks(page)] == [
        [Command("bin/test    # all"), Command("bin/test unit")],
        [Command("servicebus call \\\n    N.a.b", ["3", "4"]), Command("id", ["0"])],
        [Command("true")],
    ]
    assert [block.line for block in command_blocks(page)] == [3, 12, 22]


def test_a_line_is_like_another_but_for_numbers_and_what_is_left_out() -> None:
    printed = "mq-a: 3 of 5 matched\n127.0.0.1:5701: said so, at 12:00:01, after 2m ago, and more\n"
    assert unlike(["mq-a:5672: 8214 of 8214 matched", "mq-b:1: said so, at 1:02:03, after 3h ..."], printed) == []
    assert unlike(["mq-a: 3 of 5 matched, and more", "127.0.0.1: said"], printed) != []
