"""The samples in conf/ and the reference in docs/ stay true."""

import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from servicebus.configuration import Configuration, load_logging
from servicebus.configuration.callers import CALLER_KEYS
from servicebus.configuration.encryption import ENCRYPTION_KEYS
from servicebus.configuration.hosts import HOST_KEYS, TLS_KEYS
from servicebus.configuration.keys import ALL_KEYS, KEYS
from servicebus.configuration.parts import LOGGING_KEYS, METRICS_KEYS, ROTATE_KEYS, SERVICE_KEYS

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
REFERENCE = ROOT / "docs" / "configuration.rst"
COMMENTED_KEY = re.compile(r"^#((?: {2,})?[a-z_]+:)", re.MULTILINE)


def uncommented(name: str) -> str:
    """The sample with every commented key switched on: prose is "# Text", a key "#key:" or "#  key:"."""
    return COMMENTED_KEY.sub(r"\1", (CONF / name).read_text())


@pytest.mark.parametrize("name", ["agent.yaml", "sender.yaml"])
def test_the_sample_loads_as_it_is(name: str) -> None:
    config = Configuration.load(CONF / name, environment={})
    assert [host.name for host in config.hosts] == ["127.0.0.1:5672", "127.0.0.1:5673"]
    assert config.warnings == ()


def test_the_agent_sample_serves_the_demo() -> None:
    environment = {
        "SERVICEBUS_BROKER_A": "amqp://guest:guest@127.0.0.1:40001",
        "SERVICEBUS_BROKER_B": "127.0.0.1:40002",
        "SERVICEBUS_SECRET": "of the demo",
        "SERVICEBUS_STATUS_SOCKET": "/run/demo.sock",
        "SERVICEBUS_LOG_FILE": "/tmp/demo.log",
        "SERVICEBUS_LOG_PORT": "40003",
    }
    config = Configuration.load(CONF / "agent.yaml", environment=environment)
    assert [host.port for host in config.hosts] == [40001, 40002]
    assert (config.node_name, config.secrets, config.status_socket) == ("NODE-01", ("of the demo",), "/run/demo.sock")
    assert [(s.kind, f"{s.category}.{s.name}", s.target) for s in config.services] == [
        ("rpc", "math.add", "examples.demo.services:AddService"),
        ("rpc", "machine.facts", "examples.demo.services:FactsService"),
        ("message", "audit.note", "examples.demo.services:NoteService"),
    ]
    assert (config.logging.start_server, config.logging.file, config.logging.port) == (True, "/tmp/demo.log", 40003)


@pytest.mark.parametrize("name", ["agent.yaml", "sender.yaml"])
def test_every_commented_key_of_a_sample_stands_with_its_default(name: str) -> None:
    """Switching all of them on changes nothing, so each is a key that exists and holds what the sample says."""
    text = uncommented(name)
    assert len(re.findall(r"^[a-z]", text, re.MULTILINE)) > len(re.findall(r"^[a-z]", (CONF / name).read_text(), re.M))
    plain = vars(Configuration.load(CONF / name, environment={}))
    switched_on = vars(Configuration.parse(text, str(CONF / name), folder=str(CONF)))
    assert {key: value for key, value in switched_on.items() if value != plain[key]} == (
        {} if name == "agent.yaml" else {"logging": switched_on["logging"]}
    )


def test_the_agent_sample_shows_every_key_there_is() -> None:
    text = uncommented("agent.yaml")
    for key in ALL_KEYS:
        assert re.search(rf"^{key}:", text, re.MULTILINE), key
    for key in (*TLS_KEYS, *LOGGING_KEYS):
        assert re.search(rf"^  {key}:", text, re.MULTILINE), key
    for key in (*HOST_KEYS, *SERVICE_KEYS, *ROTATE_KEYS, *CALLER_KEYS, *ENCRYPTION_KEYS, *METRICS_KEYS):
        assert re.search(rf"\b{key}:", text), key


def test_the_log_server_sample_loads() -> None:
    settings = load_logging(CONF / "logserver.yaml", environment={})
    assert (settings.host, settings.port, settings.file) == ("127.0.0.1", 5500, str(CONF / "servicebus.log"))
    assert len(settings.secrets) == 1
    path = CONF / "logserver.yaml"
    switched_on = Configuration.parse("hosts: [a]\n" + uncommented(path.name), folder=str(CONF)).logging
    assert switched_on == settings


def rows(heading: str) -> dict[str, str]:
    """The first and second cell of each row of the reference's table under a heading."""
    text = REFERENCE.read_text()
    body = text.split(f"\n{heading}\n", 1)[1].split("\n\n.. list-table::", 1)[1]
    body = re.split(r"\n\n\S", body, maxsplit=1)[0]
    return dict(re.findall(r"^   \* - ``(\w+)``\n     - (.*)$", body, re.MULTILINE))


@pytest.mark.parametrize(
    ("heading", "keys"),
    [
        ("A host", HOST_KEYS),
        ("``tls``", TLS_KEYS),
        ("``services``", SERVICE_KEYS),
        ("``callers``", CALLER_KEYS),
        ("``encryption``", ENCRYPTION_KEYS),
        ("``metrics``", METRICS_KEYS),
        ("``logging``", LOGGING_KEYS),
        ("``logging.rotate``", ROTATE_KEYS),
    ],
)
def test_the_reference_lists_every_key_of_a_section(heading: str, keys: Iterable[str]) -> None:
    assert set(rows(heading)) == set(keys)


def test_the_reference_lists_every_key_with_its_default() -> None:
    listed = {}
    for heading in (
        "Who and where",
        "Brokers",
        "Connections",
        "The agent",
        "The Sender",
        "What is accepted",
        "py-servicebus 2.x",
    ):
        listed.update(rows(heading))
    assert set(listed) == set(ALL_KEYS)
    for name, key in KEYS.items():
        if key.default is None:
            assert "``" not in listed[name] or "machine" in listed[name], name
        else:
            shown = (
                {True: "true", False: "false"}.get(key.default, key.default)
                if isinstance(key.default, bool)
                else key.default
            )
            assert listed[name] == f"``{shown}``", name
