"""README's first minutes, and the ten of docs/, block by block, as a reader does them: files, commands, brokers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sybil import Document
from sybil.parsers.rest.lexers import DirectiveLexer
from waiting import wait_until

from servicebus.testing.persistent import PersistentBrokers

README = Path(__file__).parents[2] / "README.rst"


def blocks_of(page: Path) -> dict[str, str]:
    return {
        region.lexemes["options"].get("name", "install"): str(region.lexemes["source"])
        for region in DirectiveLexer("code-block")(Document.parse(str(page)))
    }


BLOCKS = blocks_of(README)
MORE = blocks_of(README.parent / "docs" / "ten-minutes.rst")


class Reader:
    """Has a shell in a checkout, and there a virtual environment in which servicebus is installed."""

    def __init__(self, folder: Path, environment: Path = Path(sys.prefix)):
        self.checkout, self.folder = folder / "servicebus", folder / "calc"
        self.checkout.mkdir()
        (self.checkout / "pyproject.toml").symlink_to(README.with_name("pyproject.toml"))  # pytest looks for it
        self.environment = {
            **os.environ,
            "XDG_RUNTIME_DIR": str(folder),
            "STATE_DIRECTORY": str(folder / "state"),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # a reader has none but pytest's own
        }
        (self.checkout / ".venv").symlink_to(environment)
        self._said_before = ""

    def bash(self, block: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["bash", "-ec", self._said_before + block], cwd=self.checkout, env=self.environment,
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        self._said_before += "".join(re.findall(r"^(?:export |\. |cd ).*\n", block, re.MULTILINE))
        return done

    def in_another_terminal(self, block: str) -> subprocess.Popen[str]:
        command = ["bash", "-ec", f"{self._said_before}exec {block}"]
        with (self.folder / "terminal").open("w") as terminal:
            return subprocess.Popen(command, cwd=self.checkout, env=self.environment, stdout=terminal, text=True)


@pytest.fixture
def reader_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], Reader]]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    yield lambda environment: Reader(tmp_path, environment)
    PersistentBrokers().down()


@pytest.fixture
def reader(reader_with: Callable[[Path], Reader]) -> Reader:
    return reader_with(Path(sys.prefix))


@pytest.fixture
def environment_of_the_wheel(tmp_path: Path) -> Path:
    """What README's first command makes, of the wheel in place of the checkout."""
    source, wheels, environment = tmp_path / "source", tmp_path / "wheels", tmp_path / "environment"
    # A copy: what a build leaves behind is not left here.
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.rst", "LICENSE"):
        shutil.copy(README.with_name(name), source)
    for name in ("servicebus", "logging_service"):
        shutil.copytree(README.with_name(name), source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", wheels, source], check=True)
    shutil.rmtree(source)
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    (wheel,) = wheels.iterdir()
    subprocess.run([*pip, "--python", environment, "install", f"{wheel}[typed]", "pytest"], check=True)
    return environment


def start_brokers(reader: Reader) -> None:
    up = reader.bash(BLOCKS["up"])
    assert up.returncode == 0, up.stderr
    ports = re.findall(r"@127\.0\.0\.1:(\d+)", up.stdout)
    # Those of the page, unless they are taken.
    (reader.folder / "bus.yaml").write_text(BLOCKS["bus.yaml"].replace("5701", ports[0]).replace("5702", ports[1]))


@contextmanager
def agent(reader: Reader, block: str) -> Iterator[None]:
    running = reader.in_another_terminal(block)
    try:
        wait_until(lambda: (reader.folder / "terminal").read_text().count("serves") == 2, 60)
        yield
    finally:
        running.terminate()
        assert running.wait(60) == 0


def test_the_first_minutes(reader: Reader) -> None:
    assert set(BLOCKS) == {
        "install", "folder", "calc.py", "test_calc.py", "test", "up", "bus.yaml", "agent", "caller.py", "call", "bad"
    }  # fmt: skip
    take_sixty_seconds(reader)
    start_brokers(reader)
    with agent(reader, BLOCKS["agent"]):
        called = reader.bash(BLOCKS["call"])
        assert called.returncode == 0, called.stderr
        assert called.stdout.splitlines()[:3] == ["3", "killed a", "(1, 3)"]
        bad = reader.bash(BLOCKS["bad"])
        assert bad.returncode == 6 and ": a: Input should be a valid integer, " in bad.stderr


def take_sixty_seconds(reader: Reader) -> None:
    reader.bash(BLOCKS["folder"])
    for name in (name for name in BLOCKS if "." in name):
        (reader.folder / name).write_text(BLOCKS[name])
    tested = reader.bash(BLOCKS["test"])
    assert "1 passed" in tested.stdout, tested.stdout + tested.stderr


def test_the_ten_minutes(reader: Reader) -> None:
    reader.bash(BLOCKS["folder"])
    take_ten_minutes(reader)


@pytest.mark.timeout(600)
def test_the_wheel_alone_does_the_ten_minutes(
    reader_with: Callable[[Path], Reader], environment_of_the_wheel: Path
) -> None:
    reader = reader_with(environment_of_the_wheel)
    found = reader.bash(". .venv/bin/activate\npython -c 'import servicebus; print(servicebus.__file__)'\n")
    assert found.stdout.startswith(f"{environment_of_the_wheel}/lib/"), found.stdout + found.stderr
    take_sixty_seconds(reader)
    take_ten_minutes(reader)


def take_ten_minutes(reader: Reader) -> None:
    assert set(MORE) == {
        "shop.py", "shop", "send", "dead", "requeue", "shipped", "order", "orders", "look", "down"
    }  # fmt: skip
    (reader.folder / "shop.py").write_text(MORE["shop.py"])
    start_brokers(reader)
    reader.bash("export SERVICEBUS_CONFIG=bus.yaml\n")  # as in the block that the page has from README
    with agent(reader, MORE["shop"]):
        assert reader.bash(MORE["send"]).stdout == "confirmed\n"
        wait_until(lambda: "shop.ship" in reader.bash(MORE["dead"]).stdout, 60)
        sent_back = reader.bash(MORE["requeue"])
        assert sent_back.returncode == 0, sent_back.stderr
        wait_until(lambda: reader.bash(MORE["shipped"]).stdout == "s-1\n", 60)
        assert reader.bash(MORE["order"]).stdout == '"thank you"\n'
        wait_until(lambda: reader.bash(MORE["orders"]).stdout == "2 s-1\n", 60)
        seen = reader.bash(MORE["look"])
        assert "NODE-01" in seen.stdout and "Takes an order." in seen.stdout, seen.stdout + seen.stderr
        assert "nothing is wrong; 2 of 2 brokers reached, 1 node" in seen.stdout, seen.stdout + seen.stderr
    assert reader.bash(MORE["down"]).returncode == 0
