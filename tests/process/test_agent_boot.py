"""How an agent starts: with brokers down, with brokers that refuse it, and with a configuration that cannot be."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from agents import Agent
from probe import Probe
from waiting import wait_until

from servicebus.configuration import BrokerHost, Configuration
from servicebus.errors import ConfigurationError
from servicebus.runtime.master import Master
from servicebus.sender import Sender
from servicebus.testing import Broker

StartAgent = Callable[..., Agent]
MakeSender = Callable[[Configuration], Sender]


@pytest.mark.brokers(count=2)
def test_it_starts_with_all_brokers_down_and_serves_each_as_it_appears(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    for broker in brokers:
        broker.kill()
    agent = start_agent(brokers)
    for broker in brokers:
        agent.wait_log(f"{broker.host}:{broker.port}", "connection refused")
    wait_until(lambda: [worker["state"] for worker in agent.workers()] == ["backoff"] * 2)
    assert not agent.status()["healthy"]
    for index in (1, 0):
        brokers[index].start()
        agent.wait_consuming([index], timeout_s=60)
        only = agent.configuration(hosts=[f"{brokers[index].host}:{brokers[index].port}"])
        assert make_sender(only).call("NODE-01.math.add", [1, 2])[1] == 3
    assert [worker["restarts"] for worker in agent.workers()] == [0, 0]


def refused_line(agent: Agent, broker: Broker, *words: str) -> str:
    """The one line that tells of a broker that refuses, after the other host has come up."""
    agent.wait_consuming([1])
    line = agent.wait_log(f"{broker.host}:{broker.port}", *words)
    assert "trying again, the other hosts are served" in line
    assert "ERROR" in line
    # Several attempts later it is still one line: an operator's log is no drum.
    wait_until(lambda: agent.worker()["attempts"] >= 4, what=lambda: f"attempts of {agent.worker()}\n{agent.log()}")
    errors = [line for line in agent.log_lines(f"{broker.host}:{broker.port}") if "ERROR" in line or "WARNING" in line]
    assert len(errors) == 1, errors
    assert "Traceback" not in agent.log()
    assert agent.worker()["restarts"] == 0
    return line


@pytest.mark.brokers(count=2)
class TestBrokersThatRefuse:
    def test_bad_credentials_name_the_broker_and_the_user_and_never_the_password(
        self, brokers: list[Broker], start_agent: StartAgent
    ) -> None:
        bad = f"amqp://guest:not-the-passw0rd@{brokers[0].host}:{brokers[0].port}/"
        agent = start_agent([bad, brokers[1]])
        line = refused_line(agent, brokers[0], "refused the credentials")
        assert "'guest'" in line
        assert "passw0rd" not in agent.log()

    def test_a_virtual_host_that_is_not_there_is_named(self, brokers: list[Broker], start_agent: StartAgent) -> None:
        elsewhere = f"amqp://guest:guest@{brokers[0].host}:{brokers[0].port}/nowhere"
        agent = start_agent([elsewhere, brokers[1]])
        refused_line(agent, brokers[0], "refused virtual host 'nowhere' to user 'guest'")

    def test_a_queue_that_somebody_declared_otherwise_is_named_and_calls_are_served(
        self, brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
    ) -> None:
        """406. When the operator has moved or deleted it, the agent takes it by itself."""
        probe = Probe(brokers[0])
        probe.declare("NODE-01.messages", durable=True, arguments={"x-message-ttl": 1000})
        agent = start_agent(brokers).wait_consuming()
        place = f"{brokers[0].host}:{brokers[0].port}"
        line = agent.wait_log(place, "406", "'x-message-ttl'", "'NODE-01.messages'")
        assert f"move its messages with: servicebus migrate-queue {place}" in line
        assert make_sender(agent.configuration()).ping_all("NODE-01") == (2, 2)
        only = make_sender(agent.configuration(hosts=[place]))
        assert only.call("NODE-01.math.add", [1, 2])[1] == 3
        assert not agent.worker()["healthy"]
        probe.delete("NODE-01.messages")
        wait_until(lambda: agent.worker()["healthy"], 20, agent.log)
        only.send("NODE-01.audit.record", "after")
        wait_until(lambda: "after" in agent.noted("recorded"), 20, agent.log)
        assert len(agent.log_lines(place, "406")) == 1, agent.log()

    def test_a_missing_right_is_named_with_what_it_was_for(
        self, brokers: list[Broker], start_agent: StartAgent
    ) -> None:
        """403: the user may log in and answer, but not declare this node's queues."""
        brokers[0].rabbitmqctl("add_user", "narrow", "narrow")
        brokers[0].rabbitmqctl("set_permissions", "narrow", "^other", "^amq.default$", "^other")
        narrow = f"amqp://narrow:narrow@{brokers[0].host}:{brokers[0].port}/"
        agent = start_agent([narrow, brokers[1]])
        line = refused_line(agent, brokers[0], "refused user 'narrow' a right", "'servicebus'")
        assert "grant it with rabbitmqctl set_permissions" in line

    def test_a_tls_file_that_is_not_there_is_named(self, brokers: list[Broker], start_agent: StartAgent) -> None:
        """It may come: certificates are renewed by others."""
        tls = {"host": brokers[0].host, "port": brokers[0].port, "use_ssl": True, "tls": {"ca": "/nowhere/ca.pem"}}
        agent = start_agent([tls, brokers[1]])
        refused_line(agent, brokers[0], "tls.ca", "/nowhere/ca.pem")


SERVICES_OF = "hosts: [mq-a]\nsecret_token: s\nservices:\n- {kind: rpc, category: a, name: b, target:"


class TestBadConfigurations:
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("hosts: [mq-a]\n", ["secret_token"]),
            ("hosts: [mq-a]\nsecret_token: s\nprefetc: 5\n", ["agent.yaml:3", "prefetc", "prefetch"]),
            (f"{SERVICES_OF} 'no.such:Thing'}}\n", ["services[0].target", "no.such"]),
            (f"{SERVICES_OF} 'json:dumps'}}\n", ["services[0].target", "json:dumps"]),
            ("hosts: [\n", ["agent.yaml"]),
        ],
        ids=["missing key", "unknown key", "no such module", "no service", "no YAML"],
    )
    def test_it_ends_with_code_3_and_one_line(self, start_agent: StartAgent, text: str, words: list[str]) -> None:
        class Bad(Agent):
            def write_configuration(self, **_changed: object) -> None:
                (self.folder / "agent.yaml").write_text(text)

        agent = start_agent(["mq-a"], make=Bad)
        assert agent.wait() == 3
        lines = agent.log().strip().splitlines()
        assert len(lines) == 1, lines
        assert all(word in lines[0] for word in words), lines

    def test_a_status_socket_that_cannot_be_made_is_no_reason_not_to_serve(
        self, start_agent: StartAgent, tmp_path: Path
    ) -> None:
        agent = start_agent(["127.0.0.1:1"], status_socket=str(tmp_path / "no" / "such" / "folder"))
        agent.wait_log("no status socket at")
        agent.wait_log("connection refused")
        assert agent.stop() == 0


BESIDE_OR_NOT = """
import sys
from servicebus.configuration import Configuration
from servicebus.errors import ConfigurationError
from servicebus.service import ServiceBus

more, join = eval(sys.argv[1]), sys.argv[2] == "True"
bus = ServiceBus(Configuration({"hosts": ["127.0.0.1:1"], "node_name": "N", "secret_token": "of a test alone", **more}))
try:
    bus.run_services(join=join)
except ConfigurationError as error:
    print("raised", error)
"""


@pytest.mark.parametrize("join", [True, False])
@pytest.mark.parametrize(
    ("what", "settings"),
    [
        ("journal", {"journal": "FOLDER"}),
        ("log file", {"logging": {"server": True, "file": "FILE/bus.log", "port": 1}}),
    ],
)
def test_what_can_never_be_served_raises_in_the_program(
    tmp_path: Path, what: str, settings: dict[str, object], join: bool
) -> None:
    """Beside a program as well: it was a traceback on stderr, of a process that the program knows nothing of."""
    (tmp_path / "file").write_text("no folder")
    more = repr(settings).replace("FILE", str(tmp_path / "file")).replace("FOLDER", str(tmp_path))
    command = [sys.executable, "-c", BESIDE_OR_NOT, more, str(join)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert done.stdout.startswith("raised "), done.stdout
    assert what in done.stdout


class TestWorkersThatCannotStart:
    """Exit code 3: what is wrong with the configuration would be wrong in the next worker too."""

    def test_they_are_not_started_again_and_the_agent_ends(self, capfd: pytest.CaptureFixture[str]) -> None:
        config = Configuration({"hosts": ["127.0.0.1:1", "127.0.0.1:2"], "node_name": "N", "secret_token": "s"})

        def run_worker(host: BrokerHost, heartbeat_fd: int, parent_death_fd: int) -> int:
            os.write(1, f"tried {host.name}\n".encode())
            raise ConfigurationError("the log server's host cannot be resolved", key="logging.host")

        def be_master() -> None:
            os._exit(Master(config, run_worker, lambda: None).run())

        process = multiprocessing.get_context("fork").Process(target=be_master)
        process.start()
        process.join(10)
        assert process.exitcode == 3
        assert sorted(capfd.readouterr().out.split("\n"))[1:] == ["tried 127.0.0.1:1", "tried 127.0.0.1:2"]

    def test_a_second_agent_leaves_the_first_its_status_socket(self, start_agent: StartAgent, tmp_path: Path) -> None:
        path = str(tmp_path / "status.sock")
        first = start_agent(["127.0.0.1:1"], status_socket=path)
        pid = wait_until(first.status)["pid"]
        second = start_agent(["127.0.0.1:1"], status_socket=path)
        second.wait_log("another agent answers at")
        assert first.status()["pid"] == pid
