"""One private RabbitMQ node: a real ``rabbitmq-server`` that shares nothing with any other on the machine.

Everything it has lies in one folder: data, logs, configuration, Erlang cookie, and ``node.json`` with its ports. Its
``epmd`` (Erlang's name server) is its own as well, on its own port, and everything listens on loopback only. So two
brokers may even have equal names, and the system's broker and its epmd are never touched.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from servicebus._durations import to_seconds
from servicebus.errors import LifecycleError, ServiceBusError
from servicebus.testing.erlang import RESET, ErlangShell
from servicebus.testing.layout import Family, NodeFolder
from servicebus.testing.ports import LOOPBACK
from servicebus.testing.processes import end_marked, is_alive, is_frozen, listeners, wait_dead
from servicebus.testing.program import find_broker_program, find_epmd

__all__ = ["Broker", "BrokerStartFailed"]

START_TIMEOUT_S = 90.0
"""A start takes about 3 s on a free core; many at once on a loaded machine take long."""

_PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"


class BrokerStartFailed(ServiceBusError):
    """Raised when a private broker did not come up; the text ends with the tail of its log."""

    def __init__(self, name: str, reason: str, log_tail: str):
        super().__init__(f"broker {name} did not come up: {reason}\n{log_tail or '(it wrote no log)'}")
        self.name = name
        self.reason = reason
        self.log_tail = log_tail


class Broker:
    """A private broker, on loopback unless another address is asked for.

    Its port and its data stay the same over kill and start. Every method may be called from any thread, one at a time;
    each returns when the thing is done.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        rabbitmq_conf: str = "",
        host: str = LOOPBACK,
        family: Family | None = None,
        wanted_port: int | None = None,
        plugins: Sequence[str] = (),
    ):
        """A broker whose things lie in *folder*: that of an earlier one if there are any, else made by `launch`.

        Args:
            rabbitmq_conf: lines for its ``rabbitmq.conf``.
            host: the IPv4 address of this machine, or of a network namespace, that it listens on. Elsewhere than on
                loopback it lets guest in only with ``loopback_users = none``.
            family: for a member of a cluster; see `cluster`.
            wanted_port: listen there, if that port is free when the folder is new.
            plugins: of RabbitMQ, enabled: ``rabbitmq_management`` for example, whose port stands in *rabbitmq_conf*.
        """
        self.name = name
        self.host = host
        self._folder = NodeFolder(folder, f"servicebus-{name}@localhost", host, family, wanted_port)
        self._rabbitmq_conf, self._plugins = rabbitmq_conf, plugins
        self._children: list[subprocess.Popen[bytes]] = []
        self._shell: ErlangShell | None = None
        self._asking = threading.Lock()

    def __repr__(self) -> str:
        return f"<Broker {self.name} {self.host}:{self.port} pid {self.pid} {self.state}>"

    @property
    def folder(self) -> Path:
        return self._folder.path

    @property
    def node_name(self) -> str:
        """What Erlang calls it."""
        return self._folder.node_name

    @property
    def port(self) -> int:
        return self._folder.port

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@{self.host}:{self.port}/"

    @property
    def pid(self) -> int:
        """The pid of the Erlang machine (``beam.smp``), the last one if it is down; 0 if it never ran."""
        return self._folder.pid

    @property
    def state(self) -> str:
        """``running``, ``frozen`` or ``down``."""
        if not self.is_running:
            return "down"
        return "frozen" if is_frozen(self.pid) else "running"

    @property
    def is_running(self) -> bool:
        """Whether its process exists (it may be frozen, or still on its way up)."""
        return self.pid != 0 and is_alive(self.pid)

    @property
    def log_path(self) -> Path:
        return self._folder.log_path

    def start(self) -> None:
        """Start it, or start it again, on the same port with the same data; return when it answers.

        Raises:
            BrokerProgramMissing: RabbitMQ is not installed.
            BrokerStartFailed: it ended or did not answer within 90 s; the text has the tail of its log.
            LifecycleError: it runs.
        """
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """The first half of `start`: start the process and do not wait, so that several start at the same time."""
        if self.is_running:
            raise LifecycleError(f"broker {self.name} is {self.state}", "start")
        script, epmd = find_broker_program(), find_epmd()
        self._end_leftovers()
        self._folder.prepare(script, self._rabbitmq_conf, self._plugins)
        if self._folder.family is None:
            epmd_command = [str(epmd), "-port", str(self._folder.epmd_port), "-address", LOOPBACK]
            self._spawn(epmd_command, "epmd.out", self._folder.environment())
        self._folder.save_pid(self._spawn([str(script)], "start.out", self._folder.server_environment()).pid)

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """The second half of `start`: wait until it answers a protocol header.

        Raises:
            BrokerStartFailed: it ended, or did not answer within *timeout_s*.
        """
        deadline = time.monotonic() + to_seconds("timeout_s", timeout_s)
        while not self.answers():
            if not self.is_running:
                raise self._start_failed("its process ended")
            if time.monotonic() > deadline:
                raise self._start_failed(f"no answer on port {self.port} within {timeout_s:g} s")
            time.sleep(0.02)

    def answers(self, timeout_s: float = 1.0) -> bool:
        """Whether it opens an AMQP connection: it is up, not frozen and not blocked in its start.

        What another program answers on its port does not count.
        """
        timeout_s = to_seconds("timeout_s", timeout_s, zero=False)
        try:
            with socket.create_connection((self.host, self.port), timeout_s) as sock:
                # Only now: to look through its descriptors takes milliseconds, and while it starts nothing listens.
                if self.port not in {port for _, port in listeners(self.pid)}:
                    return False
                sock.settimeout(timeout_s)
                sock.sendall(_PROTOCOL_HEADER)
                return bool(sock.recv(8))
        except OSError:
            return False

    def stop(self, timeout_s: float = 30.0) -> None:
        """Stop it cleanly, as an operator would: it closes its connections, and what is durable is on disk."""
        timeout_s = to_seconds("timeout_s", timeout_s)
        if self.is_running:
            self.thaw()
            os.kill(self.pid, signal.SIGTERM)
            wait_dead(self.pid, timeout_s)
        self._end_leftovers()

    def kill(self) -> None:
        """SIGKILL, as the out-of-memory killer would; return when it is dead. Frozen ones die too."""
        if self.is_running:
            os.kill(self.pid, signal.SIGKILL)
            wait_dead(self.pid, 10.0)
        for child in self._children:
            child.poll()

    def freeze(self) -> None:
        """SIGSTOP: connections stay open, new ones are accepted by the kernel, and nothing is ever answered."""
        self._must_run("freeze")
        os.kill(self.pid, signal.SIGSTOP)
        while self.state == "running":  # its threads stop one after the other
            time.sleep(0.001)

    def thaw(self) -> None:
        """SIGCONT: go on as if nothing had happened. Does nothing to one that is not frozen."""
        self._must_run("thaw")
        os.kill(self.pid, signal.SIGCONT)

    def rabbitmqctl(self, *arguments: str, timeout_s: float = 60.0) -> str:
        """What ``rabbitmqctl ARGUMENTS`` prints on this broker.

        Raises:
            ServiceBusError: it failed; the text has what it said.
        """
        timeout_s = to_seconds("timeout_s", timeout_s)
        script = find_broker_program().with_name("rabbitmqctl")
        done = subprocess.run(
            [str(script), "--quiet", *arguments], env=self._folder.environment(), capture_output=True, text=True,
            timeout=timeout_s, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if done.returncode:
            said = (done.stderr + done.stdout).strip()
            raise ServiceBusError(f"broker {self.name}: rabbitmqctl {' '.join(arguments)} failed: {said}")
        return done.stdout

    def evaluate(self, expressions: str) -> str:
        """The value of Erlang *expressions* on this broker, as Erlang prints it; takes about a millisecond.

        For any thread; empty if the broker was killed meanwhile.
        """
        self._must_run("evaluate")
        with self._asking:
            shell = self._shell
            if shell is None:
                shell = self._shell = ErlangShell(self._folder.node_name, self._folder.environment())
            return shell.evaluate(expressions)

    def heal(self) -> None:
        """Make it as new, whatever was done to it: running, not frozen, no queue, exchange, policy or added user.

        Connections that are still open are closed by the broker.

        Raises:
            BrokerStartFailed: it was down and did not come up again.
            ServiceBusError: it does not let itself be reset.
        """
        if not self.is_running:
            self.start()
        self.thaw()
        answer = self.evaluate(RESET)
        if answer != "ok":
            raise ServiceBusError(f"broker {self.name} could not be reset: {answer}\n{self._folder.log_tail()}")

    def close(self) -> None:
        """End it at once and everything that belongs to it. The folder stays."""
        self.kill()
        self._end_leftovers()

    def detach(self) -> None:
        """Let it live on when this process ends; `Broker` with the same folder finds it again."""
        for child in self._children:
            child.returncode = 0  # else Popen complains that it runs when it is collected
        self._children.clear()

    def _spawn(self, command: list[str], output: str, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        with (self.folder / output).open("wb") as sink:
            # A session of its own: Ctrl-C in a terminal is for the program, not for its brokers.
            child = subprocess.Popen(
                command, env=environment, cwd=self.folder, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=sink, stderr=sink,
            )  # fmt: skip
        self._children.append(child)
        return child

    def _end_leftovers(self) -> None:
        """End epmd, the shell, and what a dead broker left behind; reap those that are our children."""
        if self._shell is not None:
            self._shell.close()
            self._shell = None
        end_marked(self.folder)
        for child in self._children:
            child.wait()
        self._children.clear()

    def _must_run(self, event: str) -> None:
        if not self.is_running:
            raise LifecycleError(f"broker {self.name} is down", event)

    def _start_failed(self, reason: str) -> BrokerStartFailed:
        failure = BrokerStartFailed(self.name, reason, self._folder.log_tail())
        self.close()
        return failure
