"""``servicebus mock`` serves a contract on a real broker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from envelopes import SECRET
from typed_functions import group
from waiting import wait_until

from servicebus.configuration import Configuration
from servicebus.contracts import NodeContract
from servicebus.errors import InvalidParams, RemoteError
from servicebus.sender import Sender
from servicebus.testing import Broker

pytestmark = pytest.mark.brokers(count=1)


@pytest.fixture
def configuration(brokers: list[Broker], tmp_path: Path) -> Configuration:
    """Of the mock and its callers; ``dev.yaml`` in the current folder."""
    hosts = [f"{broker.host}:{broker.port}" for broker in brokers]
    values = {"hosts": hosts, "secret_token": SECRET, "journal": str(tmp_path / "journal")}
    (tmp_path / "dev.yaml").write_text(json.dumps(values))
    return Configuration(values)


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """The mock of a node that is described in a file; its code cannot be imported there."""
    (tmp_path / "shop.json").write_text(json.dumps(NodeContract(group.contract().services, "NODE-05").to_json()))
    program = [sys.executable, "-c", "from servicebus.cli.main import main; main()", "mock"]
    return [*program, "shop.json", "-c", "dev.yaml", "--fail", "shop.double=KeyError"]


@pytest.fixture
def mock(configuration: Configuration, command: list[str], tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("NODE-05 serves shop.double"), (tmp_path / "log").read_text()
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_a_mock_serves_callers_of_the_node(
    mock: subprocess.Popen[str],
    command: list[str],
    configuration: Configuration,
    make_sender: Callable[[Configuration], Sender],
    tmp_path: Path,
) -> None:
    sender = make_sender(configuration)
    assert sender.describe("NODE-05").services == group.contract().services
    assert isinstance(sender.call("NODE-05.shop.price", {"sku": "s-1", "count": 2})[1], float)
    with pytest.raises(InvalidParams) as refused:
        sender.call("NODE-05.shop.price", {"sku": "s-1", "count": 0})
    assert [each.place for each in refused.value.errors] == [("count",)]
    with pytest.raises(RemoteError) as failed:
        sender.call("NODE-05.shop.double", {"n": 2})
    assert failed.value.type == "KeyError"
    sender.send("NODE-05.shop.restocked", {"sku": "s-1"})

    second = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 2
    assert "NODE-05 runs already" in second.stderr

    os.kill(mock.pid, signal.SIGTERM)
    assert wait_until(lambda: mock.poll() is not None, 60, "the end of the mock")
    assert mock.returncode == 0
