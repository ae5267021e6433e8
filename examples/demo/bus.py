"""Everything that the demo starts: two private brokers, and an agent that starts the log server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from examples.demo.services import NOTES_VARIABLE
from servicebus.configuration import Configuration
from servicebus.errors import ServiceBusError
from servicebus.sender import Sender
from servicebus.testing import Broker, brokers
from servicebus.testing.persistent import PersistentBrokers
from servicebus.testing.processes import MARK

ROOT = Path(__file__).resolve().parents[2]
NODE = "NODE-01"
FAILBACK_AFTER_S = 3.0
"""30 s by default; too long to watch."""

_START_TIMEOUT_S = 30.0


@dataclass
class Bus:
    """The running bus, and where its traces are."""

    a: Broker
    b: Broker
    agent: Agent
    folder: Path
    config: Configuration
    log_port: int
    variables: dict[str, str]
    """What to export for programs that shall talk to this bus."""

    @property
    def log_path(self) -> Path:
        return self.folder / "servicebus.log"

    @property
    def notes_path(self) -> Path:
        return self.folder / "notes"

    @property
    def status_socket(self) -> Path:
        return self.folder / "agent.sock"


class Agent:
    """``servicebus run conf/agent.yaml`` as a process."""

    def __init__(self, folder: Path, variables: Mapping[str, str]):
        self._output = folder / "agent.out"
        with self._output.open("wb") as sink:
            self.process = subprocess.Popen(
                [str(Path(sys.executable).with_name("servicebus")), "run", "conf/agent.yaml"],
                cwd=ROOT, env=os.environ | variables, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink,
                # Ctrl-C is for the demo, which then stops its agent in the right order.
                start_new_session=True,
            )  # fmt: skip

    def wait_ready(self, sender: Sender) -> None:
        """Wait until it consumes on both brokers.

        Raises:
            ServiceBusError: it ended or did not get there; the text has what it printed.
        """
        deadline = time.monotonic() + _START_TIMEOUT_S
        while sender.ping_all(NODE, 1.0) != (2, 2):
            if self.process.poll() is not None:
                raise ServiceBusError(f"the agent ended with {self.process.returncode}:\n{self._tail()}")
            if time.monotonic() > deadline:
                raise ServiceBusError(f"the agent does not answer on both brokers:\n{self._tail()}")
            time.sleep(0.1)

    def stop(self) -> int:
        """TERM, and the exit code: 0 if it finished its work. Killed if it does not end within 40 s."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(40.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def _tail(self) -> str:
        return "\n".join(self._output.read_text(errors="replace").splitlines()[-25:])


@contextmanager
def running_bus(*, keep: bool) -> Iterator[Bus]:
    """Brokers, log server and agent, all ready. They end on the way out, unless *keep* and nothing went wrong."""
    with ExitStack() as stack:
        if keep:
            a, b = stack.enter_context(_persistent_brokers())
        else:
            a, b = stack.enter_context(brokers(count=2))
        folder = a.folder.parent / "demo" if not keep else Path(tempfile.mkdtemp(prefix="servicebus-demo-"))
        folder.mkdir(exist_ok=True)
        bus = _start(a, b, folder)
        try:
            with Sender(bus.config) as sender:
                bus.agent.wait_ready(sender)
            yield bus
        except BaseException:
            bus.agent.stop()
            raise
        if not keep:
            bus.agent.stop()


@contextmanager
def _persistent_brokers() -> Iterator[list[Broker]]:
    """Brokers that stay after the demo and that ``servicebus broker`` knows; ended only if something goes wrong."""
    persistent = PersistentBrokers()
    if persistent.known():
        raise ServiceBusError("private brokers are up already; end them first: .venv/bin/servicebus broker down")
    try:
        yield persistent.up(2)
    except BaseException:
        persistent.down()
        raise


def _start(a: Broker, b: Broker, folder: Path) -> Bus:
    log_port = _free_udp_port()
    variables = {
        "SERVICEBUS_BROKER_A": f"{a.host}:{a.port}",
        "SERVICEBUS_BROKER_B": f"{b.host}:{b.port}",
        "SERVICEBUS_SECRET": os.urandom(24).hex(),
        "SERVICEBUS_LOG_FILE": str(folder / "servicebus.log"),
        "SERVICEBUS_LOG_PORT": str(log_port),
        "SERVICEBUS_STATUS_SOCKET": str(folder / "agent.sock"),
        # Where the agent keeps its journal: not among those of real agents of this machine.
        "STATE_DIRECTORY": str(folder),
    }
    os.environ.update(variables)
    agent = Agent(folder, {
        NOTES_VARIABLE: str(folder / "notes"),
        # If the demo itself is killed, the guard of its brokers ends every process with this mark.
        MARK: str(folder),
    })  # fmt: skip
    sample = ROOT / "conf" / "sender.yaml"
    text = f"{sample.read_text()}\nfailback_after: {FAILBACK_AFTER_S}\n"
    return Bus(a, b, agent, folder, Configuration.parse(text, str(sample), os.environ), log_port, variables)


def _free_udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
