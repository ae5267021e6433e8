"""``servicebus doctor`` on a real broker: plants are named, a healthy bus has no finding, and --fix mends."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agents import Agent
from click.testing import CliRunner, Result
from doctor_plants import (
    LARGEST,
    LEAST,
    NODE,
    OTHER_SECRET,
    PASSWORD,
    SECRET,
    PlantedBroker,
    Plants,
    make_certificates,
    plant_connections,
    plant_exchanges,
    plant_policies,
    plant_queues,
    plant_rights,
)
from waiting import wait_until

import servicebus
from servicebus.cli.main import servicebus as program
from servicebus.operations.doctor.finding import KINDS
from servicebus.testing import brokers
from servicebus.testing.erlang import LIFT_ALARM
from servicebus.testing.ports import free_ports

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlantedBroker]:
    folder = tmp_path_factory.mktemp("doctor")
    make_certificates(folder)
    api_port, tls_port = free_ports(2)
    lines = [
        f"management.tcp.port = {api_port}", "management.tcp.ip = 127.0.0.1", f"max_message_size = {LARGEST}",
        f"listeners.ssl.1 = 127.0.0.1:{tls_port}", f"ssl_options.cacertfile = {folder}/ca.pem",
        f"ssl_options.certfile = {folder}/server.pem", f"ssl_options.keyfile = {folder}/server.key",
    ]  # fmt: skip
    with brokers(1, rabbitmq_conf="\n".join(lines), plugins=["rabbitmq_management"]) as (broker,):
        yield PlantedBroker(broker, api_port, tls_port, folder)


@pytest.fixture(scope="module")
def fleet(world: PlantedBroker) -> Iterator[list[dict[str, Any]]]:
    """Hosts ``bus-a``, ``bus-b`` and ``solo``: NODE-01 serves over the first two, NODE-02 over the last."""
    hosts = [world.virtual_host(name, LEAST) for name in ("bus-a", "bus-b", "solo")]
    agents = []
    try:
        for name, own in ((NODE, hosts[:2]), ("NODE-02", hosts[2:])):
            (world.folder / name).mkdir()
            agents.append(Agent(world.folder / name, own, node_name=name, secret_token=SECRET))
        for agent in agents:
            agent.wait_consuming(timeout_s=60)
        yield hosts
    finally:
        for agent in agents:
            agent.close()


def doctor(path: str, *arguments: str) -> tuple[Result, dict[str, Any]]:
    done = CliRunner().invoke(program, ["doctor", "-c", path, "--json", "--timeout", "10", *arguments])
    assert PASSWORD not in done.output and SECRET not in done.output and "guest:guest" not in done.output
    return done, json.loads(done.stdout)


def codes(said: dict[str, Any], host: str | None = None) -> set[str]:
    return {each["code"] for each in said["findings"] if host in (None, each["host"])}


def test_nothing_is_wrong_with_a_healthy_bus(world: PlantedBroker, fleet: list[dict[str, Any]]) -> None:
    done, said = doctor(world.write("healthy.yaml", fleet[:2]))
    assert (done.exit_code, said["findings"]) == (0, []), done.output
    assert said["nodes"] == [NODE]
    assert {each["what"] for each in said["unchecked"]} == {"consumer_timeout"}, json.dumps(said["unchecked"])
    path = world.write("sender.yaml", fleet, node_name=None)
    done, said = doctor(path)
    assert codes(said) == {"node-not-there"}, "NODE-01 and NODE-02 have no broker in common"
    text = CliRunner().invoke(program, ["doctor", "-c", path]).stdout
    assert "NODE-02 answers over solo, and not over bus-a [node-not-there]" in text
    assert "3 of 3 brokers reached, 2 nodes" in text


def test_what_is_planted_is_named_with_its_fix(world: PlantedBroker, fleet: list[dict[str, Any]]) -> None:
    plants: Plants = {}
    for plant in (plant_connections, plant_rights, plant_exchanges, plant_queues, plant_policies):
        plants |= plant(world)
    everything = [*fleet[:2], *(host for host, _ in plants.values())]
    settings = {"max_envelope_bytes": 2 * LARGEST, "secret_token": [SECRET, "short"]}
    done, said = doctor(world.write("planted.yaml", everything, **settings))
    assert done.exit_code == 1
    for name, (_, wanted) in plants.items():
        assert set(wanted) <= codes(said, name), (name, [each for each in said["findings"] if each["host"] == name])
    between = {"weak-secret", "keys-differ", "queue-types-differ", "policies-differ", "rights-differ"}
    assert between | {"message-size", "node-not-there"} <= codes(said), between - codes(said)
    assert all({each["what"], each["cause"], each["fix"]} & {"", None} == set() for each in said["findings"])
    assert codes(said) <= set(KINDS)
    kinds = {code for _, wanted in plants.values() for code in wanted} | between | {"message-size", "node-not-there"}
    assert len(kinds) >= 42, len(kinds)


def test_fix_declares_and_binds_what_is_missing(world: PlantedBroker, fleet: list[dict[str, Any]]) -> None:
    mended = {"exchange-missing", "queue-missing", "binding-missing"}
    hosts = [world.virtual_host(name, LEAST) for name in ("gone", "torn")]

    def tear(channel: Any) -> None:
        channel.exchange_declare("servicebus", "direct", durable=True)
        channel.queue_declare(f"{NODE}.messages", durable=True)

    world.channel("torn", tear)
    path = world.write("broken.yaml", [*fleet[:1], *hosts])
    before, said = doctor(path, "--fix", "--dry-run")
    assert before.exit_code == 1 and mended <= codes(said)
    assert {each["code"] for each in said["mended"]} == mended and not any(each["done"] for each in said["mended"])
    done, said = doctor(path, "--fix")
    assert done.exit_code == 1, "that NODE-01 is not there is for an operator"
    assert said["mended"] and all(each["done"] for each in said["mended"])
    assert codes(said) == {"node-not-there"}, said["findings"]
    assert doctor(path, "--fix")[1]["mended"] == []


def test_what_would_still_answer_without_a_broker(world: PlantedBroker, fleet: list[dict[str, Any]]) -> None:
    path = world.write("forecast.yaml", fleet, node_name=None)
    done, said = doctor(path, "--if-lost", "bus-a")
    assert done.exit_code == 0, done.output
    assert {"name": NODE, "left": ["bus-b"]} in said["nodes"]
    done, said = doctor(path, "--if-lost", "solo")
    assert done.exit_code == 1
    assert {"name": "NODE-02", "left": []} in said["nodes"]
    (add,) = (each for each in said["services"] if each["name"] == "math.add")
    assert (add["left"], add["lost"]) == ([NODE], ["NODE-02"])
    text = CliRunner().invoke(program, ["doctor", "-c", path, "--if-lost", "solo"]).stdout
    assert "NODE-02 IS LOST: it answers over solo alone" in text


def test_a_node_with_another_secret_is_told(world: PlantedBroker, fleet: list[dict[str, Any]]) -> None:
    done, said = doctor(world.write("stranger.yaml", fleet[:1], secret_token=OTHER_SECRET))
    assert (done.exit_code, codes(said)) == (1, {"secret-differs"}), done.output


def test_what_differs_between_nodes_is_named(world: PlantedBroker) -> None:
    host, agents = world.virtual_host("mixed", LEAST), []
    other = world.folder / "other-version"
    shutil.copytree(Path(servicebus.__file__).parent, other / "servicebus")
    begin = other / "servicebus" / "__init__.py"
    text = begin.read_text()
    begin.write_text(text.replace(f'__version__ = "{servicebus.__version__}"', '__version__ = "9.9.9"'))
    assert begin.read_text() != text
    (world.folder / "usual-version").mkdir()
    key = base64.urlsafe_b64encode(bytes(32)).decode()
    try:
        agents.append(Agent(world.folder / "usual-version", [host], node_name=NODE, secret_token=SECRET))
        agents.append(Agent(other, [host], node_name="NODE-02", secret_token=SECRET, encryption={"keys": [key]}))
        for agent in agents:
            agent.wait_consuming(timeout_s=60)
        done, said = doctor(world.write("mixed.yaml", [host]))
        assert done.exit_code == 1 and {"versions-differ", "encryption-differs"} <= codes(said), done.output
        (versions,) = (each["what"] for each in said["findings"] if each["code"] == "versions-differ")
        assert versions == f"versions of servicebus: {servicebus.__version__} on NODE-01; 9.9.9 on NODE-02"
    finally:
        for agent in agents:
            agent.close()


def test_who_is_not_there_is_named(world: PlantedBroker, fleet: list[dict[str, Any]]) -> None:
    done, said = doctor(world.write("absent.yaml", fleet[:1], node_name="NODE-09"))
    assert done.exit_code == 1 and "node-missing" in codes(said), done.output
    broker = world.broker
    members = [f"{broker.host}:{broker.port}", f"{broker.host}:1"]
    host = {key: value for key, value in fleet[0].items() if key not in ("host", "port")} | {"members": members}
    done, said = doctor(world.write("members.yaml", [host]))
    assert done.exit_code == 1 and "member-unreachable" in codes(said), done.output


def test_setup_makes_a_broker_ready_and_then_does_nothing(world: PlantedBroker, fleet: list[dict[str, Any]]) -> None:
    path = world.write("setup.yaml", [*fleet[:1], world.host("made")])

    def setup(*arguments: str) -> dict[str, Any]:
        nodes = ["--node", NODE, "--node", "NODE-02", "--host", "made"]
        done = CliRunner().invoke(program, ["setup", "-c", path, "--json", *nodes, *arguments])
        assert done.exit_code == 0 and PASSWORD not in done.output and "guest:guest" not in done.output, done.output
        steps = [each for each in json.loads(done.stdout)["steps"] if each["needed"]]
        return {each["what"].split()[1]: each["done"] for each in steps}

    planned = dict.fromkeys(("virtual", "user", "exchange"), False)
    assert setup("--dry-run") == planned
    assert codes(doctor(path)[1], "made") == {"credentials"}, "it did nothing"
    assert setup() == dict.fromkeys(planned, True)
    assert setup() == {}
    assert codes(doctor(path)[1]) == {"node-not-there"}, "it can be used"


def test_limits_and_alarms_of_the_broker_are_named(world: PlantedBroker, fleet: list[dict[str, Any]]) -> None:
    broker, path = world.broker, world.write("limits.yaml", fleet[:1])
    usual = [
        broker.evaluate(f"{{ok, N}} = application:get_env(rabbit, {key}), N.") for key in ("channel_max", "frame_max")
    ]
    try:
        broker.evaluate("application:set_env(rabbit, channel_max, 8), application:set_env(rabbit, frame_max, 4096).")
        done, said = doctor(path)
        assert (done.exit_code, codes(said)) == (1, {"few-channels", "small-frames"}), done.output
    finally:
        for key, value in zip(("channel_max", "frame_max"), usual, strict=True):
            broker.evaluate(f"application:set_env(rabbit, {key}, {value}).")
    try:
        broker.evaluate("vm_memory_monitor:set_vm_memory_high_watermark(0.0001).")
        wait_until(lambda: "memory" in broker.evaluate("rabbit_alarm:get_alarms()."), 30, "an alarm")
        done, said = doctor(path, "--timeout", "1")
        assert (done.exit_code, "alarm" in codes(said)) == (1, True), done.output
        without_api = [{key: value for key, value in fleet[0].items() if key != "management"}]
        done, said = doctor(world.write("alarm.yaml", without_api), "--timeout", "1")
        assert "alarm" in codes(said), done.output
        assert "permissions" in said["unchecked"][0]["what"]
    finally:
        broker.evaluate(LIFT_ALARM)


def test_no_broker_at_all_has_a_status_of_its_own(world: PlantedBroker) -> None:
    done, said = doctor(world.write("dead.yaml", [{"host": "127.0.0.1", "port": 1}]))
    assert (done.exit_code, codes(said)) == (4, {"unreachable"})
