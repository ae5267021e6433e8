"""``servicebus broker``: brokers that outlive the command, as real processes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from servicebus.errors import ServiceBusError
from servicebus.testing.persistent import PersistentBrokers, runtime_folder
from servicebus.testing.processes import is_alive, marked_processes


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A runtime folder of the test's own; what a failed test left running is ended."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    yield tmp_path / "servicebus"
    PersistentBrokers().down()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from servicebus.cli.main import main; main()", "broker", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def run_json(*arguments: str) -> Any:
    done = run(*arguments, "--json")
    return json.loads(done.stdout or done.stderr)


def test_up_status_kill_up_down(runtime: Path) -> None:
    """The whole life of persistent brokers as a user sees it, in one test because each start takes seconds."""
    assert run("status").returncode == 4
    done = run("up", "--count", "1")
    assert done.returncode == 0, done.stderr
    assert "amqp://guest:guest@127.0.0.1:" in done.stdout
    assert "servicebus broker down" in done.stdout

    (first,) = run_json("status")["brokers"]
    assert first["state"] == "running"
    assert is_alive(first["pid"])

    assert run_json("kill", "a")["brokers"][0]["state"] == "down"
    assert not is_alive(first["pid"])
    unknown = run("kill", "c")
    assert unknown.returncode == 2 and "no broker 'c'; there are: a" in unknown.stderr
    assert run_json("status")["brokers"][0]["state"] == "down"
    assert run("status").returncode == 1

    again, second = run_json("up", "--count", "2")["brokers"]
    assert (again["name"], again["port"]) == ("a", first["port"])
    assert again["pid"] != first["pid"]
    assert second["name"] == "b"
    assert [broker["pid"] for broker in run_json("up")["brokers"]] == [again["pid"], second["pid"]]

    elsewhere = run("up", "--dir", str(runtime / "elsewhere"))
    assert elsewhere.returncode == 1
    assert "servicebus broker down" in elsewhere.stderr

    assert run("down").returncode == 0
    assert marked_processes(runtime) == []
    assert not (runtime / "brokers").exists()
    assert run("status").returncode == 4
    assert run("down").returncode == 0


def test_data_in_a_folder_of_ones_own_stay(runtime: Path, tmp_path: Path) -> None:
    folder = tmp_path / "my brokers"
    assert run("up", "--count", "1", "--dir", str(folder)).returncode == 0
    assert run("down").returncode == 0
    assert marked_processes(folder) == []
    assert (folder / "a" / "data").is_dir()


def test_a_broker_that_does_not_come_up_says_why_and_nothing_is_left(runtime: Path) -> None:
    folder = runtime.parent / "data"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "rabbitmq.conf").write_text("no.such.setting = 1\n")
    done = run("up", "--count", "2", "--dir", str(folder))
    assert done.returncode == 1
    assert "no.such.setting" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("servicebus: broker a did not come up")
    assert marked_processes(folder) == []
    assert run("status").returncode == 4


def test_a_runtime_folder_that_others_may_write_into_is_refused(runtime: Path) -> None:
    """In /tmp somebody else may have made it first."""
    runtime.mkdir()
    runtime.chmod(0o777)
    with pytest.raises(ServiceBusError, match="belongs to another user or is open to others"):
        runtime_folder()
    runtime.chmod(0o700)
    assert runtime_folder() == runtime
