"""A real agent that is told to read its file again, under load: what changes, what is refused, what is taken back."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from agents import Agent
from envelopes import SECRET
from scraped import Scraped
from waiting import wait_until

from servicebus.errors import CallTimeout
from servicebus.sender import Sender
from servicebus.testing import Broker, BrokerPool
from servicebus.testing.ports import free_ports

pytestmark = pytest.mark.broker

MakeSender = Callable[..., Sender]
StartAgent = Callable[..., Agent]
NEW_SECRET = "another secret, of tests only"
SHOP_KEY = "the key of the shop, of tests only"


def reload(agent: Agent, *arguments: str) -> tuple[int, dict[str, Any]]:
    """``servicebus reload``: its exit status, and what it prints."""
    chosen = arguments or (str(agent.folder / "agent.yaml"),)
    program = [sys.executable, "-m", "servicebus", "reload", "--json", *chosen]
    ended = subprocess.run(program, capture_output=True, timeout=120, text=True, cwd=agent.folder, check=False)
    return ended.returncode, json.loads(ended.stdout or ended.stderr.splitlines()[-1])


def by_socket(agent: Agent) -> tuple[int, dict[str, Any]]:
    return reload(agent, "--socket", agent.settings["status_socket"])


def keys(report: dict[str, Any], name: str = "changed") -> set[str]:
    return {each["key"] for each in report[name]}


def attempts(worker: dict[str, Any]) -> int:
    """Of messages, that failed."""
    return int(worker.get("counters", {}).get("failed", 0))


def address(broker: Broker) -> str:
    return f"{broker.host}:{broker.port}"


class Load:
    """Calls without a pause, from several threads of one Sender."""

    def __init__(self, sender: Sender, threads: int = 4):
        self.sender = sender
        self.calls = 0
        self.errors: list[BaseException] = []
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        count = 0
        while not self._is_over.is_set():
            count += 1
            try:
                assert self.sender.call("NODE-01.math.add", [count, 1])[1] == count + 1
            except Exception as error:
                self.errors.append(error)
            self.calls += 1

    def go_on_for(self, calls: int) -> None:
        """Return when it has made so many more."""
        before = self.calls
        wait_until(lambda: self.calls >= before + calls, 60, lambda: f"{calls} more calls; {self.errors}")

    def end(self) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(60)


@pytest.fixture
def loads() -> Iterator[Callable[[Sender], Load]]:
    with ExitStack() as stack:

        def start(sender: Sender) -> Load:
            load = Load(sender)
            stack.callback(load.end)
            return load

        yield start


@pytest.mark.brokers(count=3)
def test_keys_hosts_callers_log_level_retries_and_limits_change_without_a_failed_call(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender, loads: Callable[[Sender], Load]
) -> None:
    first, second, third = map(address, brokers)
    port = free_ports(1)[0]
    logging = {"server": True, "port": port, "file": "all.log", "level": "INFO"}
    agent = start_agent(brokers[:2], logging=logging).wait_consuming()
    everywhere = {"hosts": [first, second, third], "logging": None}
    with_old = loads(make_sender(agent.configuration(**everywhere)))
    with_old.go_on_for(200)
    before = set(agent.worker_pids())

    agent.write_configuration(
        hosts=[first, second, third],
        secret_token=[SECRET, NEW_SECRET],
        callers={"shop": {"key": SHOP_KEY, "allow": "*.math.*"}},
        logging={**logging, "level": "DEBUG"},
        retry_schedule=[0.1],
        prefetch=64,
        queue_len=16,
        max_envelope_bytes=4096,
    )
    status, report = reload(agent)
    assert (status, report["state"], report["failed"], report["needs_restart"]) == (0, "done", [], []), report
    assert keys(report) == {
        *("hosts", "secret_token", "callers", "logging", "retry_schedule", "prefetch", "queue_len"),
        "max_envelope_bytes",
    }
    assert SECRET not in json.dumps(report) and NEW_SECRET not in json.dumps(report)
    with_old.go_on_for(200)
    agent.wait_consuming()
    assert len(agent.workers()) == 3 and not before & set(agent.worker_pids())

    # Each of them holds now.
    with_new = loads(make_sender(agent.configuration(**everywhere, secret_token=NEW_SECRET, callers=None)))
    shop = make_sender(agent.configuration(**everywhere, secret_token=SHOP_KEY, caller="shop", callers=None))
    assert shop.call("NODE-01.math.add", [1, 2])[1] == 3
    large = make_sender(agent.configuration(**everywhere, callers=None, max_envelope_bytes=1 << 20))
    with pytest.raises(CallTimeout):
        large.call("NODE-01.test.echo", "x" * 8192, timeout=2)
    large.send("NODE-01.audit.record", "boom")
    wait_until(lambda: sum(map(attempts, agent.workers())) == 2, 30, lambda: f"a second attempt: {agent.workers()}")
    agent.wait_log("worker", "started, pid")  # at DEBUG
    with_new.go_on_for(200)
    with_old.end()

    agent.write_configuration(hosts=[second, third], secret_token=NEW_SECRET)
    status, report = reload(agent)
    assert (status, keys(report)) == (0, {"hosts", "secret_token", "logging"}), report
    assert {each["key"]: each["what"] for each in report["changed"]}["hosts"] == f"{first} removed"
    with_new.go_on_for(200)
    with_new.end()
    assert [worker["host"] for worker in agent.workers()] == [second, third]
    assert (with_old.errors, with_new.errors) == ([], [])
    assert not agent.log_lines("was killed by signal")
    assert agent.stop() == 0


@pytest.mark.brokers(count=1)
def test_what_needs_a_restart_is_said_and_stays_as_it_was(brokers: list[Broker], start_agent: StartAgent) -> None:
    agent = start_agent(brokers).wait_consuming()
    agent.write_configuration(node_name="NODE-02", journal=str(agent.folder / "other"), services=[], prefetch=100)
    for changed in ({"prefetch"}, set()):
        status, report = by_socket(agent)
        assert (status, keys(report), keys(report, "needs_restart")) == (
            10, changed, {"node_name", "journal", "services"}
        ), report  # fmt: skip
    assert agent.status()["node"] == "NODE-01"
    agent.wait_log("the former values hold until the agent is started again: node_name, journal, services")


# -- what cannot be used ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory, broker_pool: BrokerPool) -> Iterator[Agent]:
    """An agent that no file of these tests changes; it runs on beside the agents of NODE-01 that come after it."""
    agent = Agent(tmp_path_factory.mktemp("steady"), broker_pool.heal(1), node_name="STEADY")
    try:
        yield agent.wait_consuming(timeout_s=60.0)
    finally:
        agent.close()


INVALID: dict[str, tuple[str | bytes | dict[str, Any] | None, str]] = {
    "no file": (None, "cannot be read"),
    "not UTF-8": (b"hosts: [\xff]", "not UTF-8"),
    "empty": ("", "is empty"),
    "no YAML": ("hosts: [mq-a", "not valid YAML"),
    "no mapping": ("- hosts", "must be a mapping"),
    "a key twice": ("hosts: [mq-a]\nhosts: [mq-b]\nsecret_token: x\n", "a second time"),
    "an unknown key": ({"prefech": 3}, "did you mean 'prefetch'"),
    "a value that cannot be": ({"prefetch": 0}, "prefetch"),
    "no secret": ({"secret_token": None}, "secret_token"),
    "no host": ({"hosts": []}, "hosts"),
    "a host twice": ({"hosts": ["mq-a:1", "mq-a:1"]}, "hosts"),
    "a variable that is not set": ({"user": "${NOT_SET_IN_ANY_TEST}"}, "NOT_SET_IN_ANY_TEST"),
    "a secret file that is gone": ("hosts: [mq-a]\nsecret_token: !file gone\n", "gone"),
    "an authority that is gone": ({"tls": {"ca": "gone.pem"}}, "tls.ca"),
    "a certificate without a key": ({"tls": {"certificate": "own.pem"}}, "needs both certificate and key"),
    "a journal that is a folder": ({"journal": "."}, "is a folder"),
    "a log file that is a folder": ({"logging": {"server": True, "port": 9, "file": "."}}, "log"),
    "a log server nobody knows": ({"logging": {"host": "no-such-host.invalid"}}, "cannot be resolved"),
    "an encryption key that signs": ({"encryption": {"keys": SECRET}}, "encryption"),
    "a caller with the secret of the bus": ({"callers": {"shop": {"key": SECRET}}}, "callers"),
    "a publisher at a broker that is none": ({"publishers": {"p": {"host": "mq-z"}}}, "publishers"),
}  # fmt: skip


@pytest.mark.parametrize("kind", INVALID)
def test_a_file_that_cannot_be_used_changes_nothing_and_says_so(kind: str, steady: Agent) -> None:
    given, reason = INVALID[kind]
    pids, before = steady.worker_pids(), steady.status()["reload"]["count"]
    _write(steady.folder / "agent.yaml", given, steady.settings)
    status, report = by_socket(steady)
    assert (status, report["state"], report["changed"]) == (3, "refused", []), report
    assert reason in report["error"]
    assert steady.status()["reload"] == {**steady.status()["reload"], "state": "refused", "error": report["error"]}
    assert steady.status()["reload"]["count"] == before + 1
    assert steady.log_lines("HUP: the configuration stays as it was", reason)
    assert steady.worker_pids() == pids
    assert steady.worker()["state"] == "consuming"
    assert SECRET not in json.dumps(report)


def _write(path: Path, given: str | bytes | dict[str, Any] | None, settings: dict[str, Any]) -> None:
    path.unlink(missing_ok=True)
    if isinstance(given, bytes):
        path.write_bytes(given)
    elif isinstance(given, str):
        path.write_text(given)
    elif given is not None:
        path.write_text(json.dumps({key: value for key, value in {**settings, **given}.items() if value is not None}))


def test_the_command_itself_refuses_such_a_file_and_does_not_disturb_the_agent(steady: Agent) -> None:
    before = steady.status()["reload"]["count"]
    _write(steady.folder / "agent.yaml", {"prefetch": 0}, steady.settings)
    status, error = reload(steady)
    assert (status, error["error"]) == (3, "ConfigurationError")
    assert steady.status()["reload"]["count"] == before


def test_the_file_in_order_again_is_taken(steady: Agent) -> None:
    steady.write_configuration()
    assert reload(steady)[0] == 0


# -- what turns out not to serve -------------------------------------------------------------------------------------


def refused_by(broker: Broker) -> dict[str, Any]:
    return {"host": broker.host, "port": broker.port, "user": "nobody", "password": "wrong", "name": address(broker)}


@pytest.mark.brokers(count=2)
def test_a_password_that_the_broker_refuses_is_taken_back(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender, loads: Callable[[Sender], Load]
) -> None:
    """Else the same would happen on one broker after the other, until the node is away."""
    agent = start_agent(brokers).wait_consuming()
    load = loads(make_sender(agent.configuration()))
    untouched = agent.worker(1)["pid"]
    agent.write_configuration(hosts=list(map(refused_by, brokers)))
    status, report = by_socket(agent)
    assert (status, report["state"]) == (1, "taken-back"), report
    assert address(brokers[0]) in report["error"] and "refused" in report["error"].lower(), report
    agent.wait_consuming()
    assert agent.worker(1)["pid"] == untouched
    load.go_on_for(200)
    load.end()
    assert load.errors == []


@pytest.mark.brokers(count=1)
def test_a_move_to_a_broker_that_is_not_there_is_taken_back(brokers: list[Broker], start_agent: StartAgent) -> None:
    agent = start_agent(brokers).wait_consuming()
    pid = agent.worker()["pid"]
    agent.write_configuration(hosts=[f"127.0.0.1:{free_ports(1)[0]}"])
    status, report = by_socket(agent)
    assert (status, report["state"]) == (1, "taken-back"), report
    assert "no worker consumes but that of" in report["error"]
    assert [worker["pid"] for worker in agent.workers()] == [pid]


@pytest.mark.brokers(count=1)
def test_a_new_broker_that_is_down_is_said_and_the_rest_holds(brokers: list[Broker], start_agent: StartAgent) -> None:
    agent = start_agent(brokers).wait_consuming()
    down = f"127.0.0.1:{free_ports(1)[0]}"
    agent.write_configuration(hosts=[address(brokers[0]), down], prefetch=100)
    status, report = reload(agent)
    assert (status, report["state"], keys(report)) == (1, "done", {"hosts", "prefetch"}), report
    (failed,) = report["failed"]
    assert down in failed


# -- what the master does itself -------------------------------------------------------------------------------------


def page(port: int, path: str = "/livez") -> tuple[int, str]:
    """Status 0 if nothing listens there."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except urllib.error.URLError:
        return 0, ""


@pytest.mark.brokers(count=1)
def test_the_http_server_starts_moves_and_stops(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    agent = start_agent(brokers).wait_consuming()
    sender = make_sender(agent.configuration())
    ports: Sequence[int] = free_ports(2)
    agent.write_configuration(metrics={"port": ports[0]})
    assert reload(agent)[0] == 0
    assert page(ports[0]) == (200, "live\n")
    sender.call("NODE-01.math.add", [1, 2])

    def calls(port: int) -> float:
        return sum(Scraped(page(port, "/metrics")[1]).values("requests_total", service="math.add", outcome="ok"))

    def who() -> str:
        answered = sender.call("NODE-01.test.whoami")[1]
        return f"{answered} answers, of {agent.worker_pids()}\n{page(ports[0], '/metrics')[1]}"

    wait_until(lambda: calls(ports[0]) == 1, 30, who)
    agent.write_configuration(metrics={"port": ports[1]})
    assert reload(agent)[0] == 0
    assert (page(ports[0])[0], page(ports[1])[0]) == (0, 200)
    assert calls(ports[1]) == 1, "counts do not fall"
    agent.write_configuration(metrics=None)
    assert reload(agent)[0] == 0
    assert page(ports[1])[0] == 0


@pytest.mark.brokers(count=1)
def test_a_port_that_is_taken_is_said(brokers: list[Broker], start_agent: StartAgent) -> None:
    agent = start_agent(brokers).wait_consuming()
    with socket.create_server(("127.0.0.1", 0)) as other:
        agent.write_configuration(metrics={"port": other.getsockname()[1]})
        status, report = reload(agent)
    assert (status, report["state"]) == (1, "done")
    assert "no metrics on" in report["failed"][0]


@pytest.mark.brokers(count=1)
def test_a_program_that_names_its_file_has_it_read_again(brokers: list[Broker], start_agent: StartAgent) -> None:
    agent = start_agent(brokers, mode="by-path").wait_consuming()
    agent.write_configuration(prefetch=100)
    status, report = reload(agent)
    assert (status, keys(report)) == (0, {"prefetch"}), report
