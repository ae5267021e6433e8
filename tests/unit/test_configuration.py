"""Configuration from a dict: the keys of py-servicebus 2.x, types, ranges, and what a mistake says."""

import copy
import json
import pickle
import socket
from pathlib import Path
from typing import Any

import pytest

from servicebus.aio import AsyncSender
from servicebus.configuration import Configuration, MissingKey, Secret
from servicebus.configuration.keys import ALL_KEYS, KEYS
from servicebus.errors import ConfigurationError
from servicebus.sender import Sender
from servicebus.service import ServiceBus

LEAST = {"hosts": ["mq-a"], "secret_token": "secret token"}


def refusal(**values: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        Configuration({**LEAST, **values})
    return str(caught.value)


def test_the_dict_of_py_servicebus_2_works_unchanged() -> None:
    config = Configuration(
        {
            "hosts": ["mq-a", "mq-b"],
            "port": "5673",
            "ssl_port": 5671,
            "use_ssl": False,
            "user": "admin",
            "password": "123456",
            "node_name": "NODE-01",
            "secret_token": "secret token",
            "exchange_name": "py-servicebus",
            "socket_timeout": 5,
            "heartbeat_interval": 60,
        }
    )
    assert [host.name for host in config.hosts] == ["mq-a:5673", "mq-b:5673"]
    assert (config.port, config.ssl_port, config.get_port()) == (5673, 5671, 5673)
    assert config.queue_name() == config.node_name == "NODE-01"
    assert config.user == config.hosts[0].user == "admin"
    assert config.hosts[1].password.reveal() == "123456"
    assert config.secrets == ("secret token",)
    assert (config.socket_timeout, config.heartbeat_interval) == (5.0, 60)
    assert config.exchange_name == "py-servicebus"


def test_what_is_not_given_has_the_documented_default() -> None:
    config = Configuration(LEAST)
    wanted = {
        "exchange_name": "servicebus",
        "socket_timeout": 5.0,
        "heartbeat_interval": 5,
        "prefetch": 512,
        "workers_per_host": 1,
        "queue_len": None,
        "drain_timeout": 30.0,
        "call_timeout": 300.0,
        "send_timeout": 30.0,
        "token_max_age": 86400.0,
        "clock_skew": 60.0,
        "failback_after": 30.0,
        "path_wait": 3.0,
        "connect_stagger": 0.25,
        "path_ping_after": 0.3,
        "path_ping_timeout": 1.7,
        "outbox_max_messages": 100_000,
        "outbox_max_bytes": 256 * 1024 * 1024,
        "watcher_interval": 2.0,
        "watcher_timeout": 4.0,
        "fast_path": True,
        "max_envelope_bytes": 8 * 1024 * 1024,
        "message_queue_type": "classic",
        "fault_traces": False,
        "retry_schedule": (1.0, 5.0, 30.0, 120.0, 600.0),
        "journal": None,
        "reply_keep": 3600.0,
        "journal_max_entries": 250_000,
        "journal_max_answer_bytes": 64 * 1024 * 1024,
        "compat": False,
        "compat_nodes": None,
        "compat_exchange_name": "py-servicebus",
        "compat_reply": "str",
        "compat_result": "text",
        "compat_time_zone": None,
        "compat_in_band_errors": True,
        "status_socket": None,
        "services": (),
        "user": None,
        "password": None,
        "virtual_host": "/",
        "use_ssl": False,
        "port": 5672,
        "ssl_port": 5671,
        "path": None,
        "warnings": (),
    }
    assert {name: getattr(config, name) for name in wanted} == wanted
    assert (config.hosts[0].user, config.hosts[0].password.reveal()) == ("guest", "guest")


@pytest.mark.parametrize("given", [[1, 5], (1.0, 5.0), "1, 5", "[1, 5]"])
def test_a_schedule_is_a_list_of_seconds_or_a_text_with_commas(given: Any) -> None:
    assert Configuration({**LEAST, "retry_schedule": given}).retry_schedule == (1.0, 5.0)
    assert Configuration({**LEAST, "retry_schedule": []}).retry_schedule == ()


@pytest.mark.parametrize("given", [5, [0], ["soon"], [-1], {"a": 1}])
def test_a_schedule_of_anything_else_is_refused(given: Any) -> None:
    assert "retry_schedule must be" in refusal(retry_schedule=given)


@pytest.mark.parametrize(
    ("former", "name", "value"),
    [("retry_ladder", "retry_schedule", (2.0,)), ("fast_lane", "fast_path", False), ("away_grace", "path_wait", 2.0)],
)
def test_a_former_name_of_a_key_is_read_with_a_warning_that_names_the_new_one(
    former: str, name: str, value: Any
) -> None:
    text = json.dumps({**LEAST, former: value})
    for config in (Configuration({**LEAST, former: value}), Configuration.parse(text)):
        assert getattr(config, name) == value
        (warning,) = config.warnings
        assert former in warning and name in warning
    assert f"{former} is the former name of {name}" in refusal(**{former: value, name: value})
    assert f"{former} must be" in refusal(**{former: [[]]})


def test_the_url_of_a_journal_is_a_secret() -> None:
    config = Configuration({**LEAST, "journal": "redis://user:hidden@mq-a/0"})
    assert "hidden" not in repr(vars(config))
    assert config.journal == Secret("redis://user:hidden@mq-a/0")


def test_every_attribute_that_is_declared_is_filled_and_no_other() -> None:
    assert set(vars(Configuration(LEAST))) == set(Configuration.__annotations__)


def test_the_default_of_every_key_passes_its_own_check() -> None:
    """A default that a user could not write himself would be a key that cannot be set back."""
    for name, key in KEYS.items():
        assert key.default is None or key.check(key.default) == key.default, name
        assert key.default is None or key.check(str(key.default)) == key.default, name


def test_the_node_is_named_like_the_machine_up_to_the_first_dot(monkeypatch: pytest.MonkeyPatch) -> None:
    """2.x took a full domain name, which no address NODE.category.name can hold."""
    monkeypatch.setattr(socket, "gethostname", lambda: "web-1.example.org")
    assert Configuration(LEAST).node_name == "web-1"
    monkeypatch.setattr(socket, "gethostname", lambda: "")
    assert "node_name is missing" in refusal()


@pytest.mark.parametrize("name", ["hosts", "secret_token"])
@pytest.mark.parametrize("kind", [KeyError, ConfigurationError])
def test_a_missing_required_key_is_a_keyerror_as_in_2_and_a_configurationerror(
    name: str, kind: type[Exception]
) -> None:
    with pytest.raises(kind) as caught:
        Configuration({key: value for key, value in LEAST.items() if key != name})
    again = pickle.loads(pickle.dumps(caught.value))
    for error in (caught.value, again):
        assert isinstance(error, MissingKey)
        assert (str(error), error.key) == (f"the key '{name}' is missing", name)


def test_none_counts_as_not_given() -> None:
    assert Configuration({**LEAST, "prefetch": None, "tls": None, "services": None}).prefetch == 512
    with pytest.raises(MissingKey):
        Configuration({**LEAST, "secret_token": None})


def test_an_unknown_key_is_named_with_the_nearest_known_one() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Configuration({**LEAST, "prefech": 3})
    assert str(caught.value) == "unknown key 'prefech'; did you mean 'prefetch'?"
    assert (caught.value.key, caught.value.path, caught.value.line) == ("prefech", None, None)


def test_an_unknown_key_that_begins_a_known_one_is_named_with_it() -> None:
    assert refusal(secret="x") == "unknown key 'secret'; did you mean 'secret_token'?"
    assert refusal(node="x") == "unknown key 'node'; did you mean 'node_name'?"
    assert refusal(path_ping=1) == "unknown key 'path_ping'; did you mean 'path_ping_after' or 'path_ping_timeout'?"


@pytest.mark.parametrize("given", [{"hosts": ["a"]}, 5672, None])
@pytest.mark.parametrize("taker", [Sender, AsyncSender, ServiceBus])
def test_what_is_no_configuration_yet_is_refused_with_how_to_make_one(taker: Any, given: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        taker(given)
    how = 'write Configuration({...}), or the path of a file: "sender.yaml"'
    assert str(caught.value) == f"needs a Configuration, not {type(given).__name__}; {how}"


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("taker", [Sender, AsyncSender, ServiceBus])
def test_a_path_is_as_good_as_the_configuration_in_the_file(taker: Any, kind: Any, tmp_path: Path) -> None:
    (tmp_path / "bus.yaml").write_text('{hosts: ["[::1]:5999"], secret_token: "0123456789abcdef", node_name: THIS}')
    found = taker(kind(tmp_path / "bus.yaml"))
    assert ("THIS" if taker is ServiceBus else "[::1]:5999") in repr(found)
    with pytest.raises(ConfigurationError, match=r"missing\.yaml"):
        taker(kind(tmp_path / "missing.yaml"))


def test_an_unknown_key_that_resembles_none_lists_what_is_known() -> None:
    text = refusal(xyzzy=1)
    assert text.startswith("unknown key 'xyzzy'; known keys: ")
    assert all(key in text for key in ALL_KEYS)


def test_an_unknown_key_inside_a_section_says_which_section() -> None:
    assert refusal(tls={"certifcate": "x"}) == "unknown key 'certifcate' in tls; did you mean 'certificate'?"
    assert refusal(hosts=[{"host": "a", "prt": 1}]) == "unknown key 'prt' in hosts[0]; did you mean 'port'?"
    assert refusal(logging={"rotate": {"wen": 1}}).startswith("unknown key 'wen' in logging.rotate")


def test_a_key_that_is_no_text_is_unknown_like_any_other() -> None:
    values: dict[Any, Any] = {**LEAST, 5672: "port"}
    with pytest.raises(ConfigurationError, match="unknown key '5672'"):
        Configuration(values)


@pytest.mark.parametrize("values", ["hosts", None, 3, [("hosts", ["a"])]])
def test_anything_but_a_mapping_is_refused(values: Any) -> None:
    with pytest.raises(ConfigurationError, match="must be a mapping"):
        Configuration(values)


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("prefetch", 0, "prefetch must be a whole number from 1 to 65535, not 0"),
        ("prefetch", 65536, "prefetch must be a whole number from 1 to 65535, not 65536"),
        ("prefetch", 1.5, "prefetch must be a whole number from 1 to 65535, not 1.5"),
        ("prefetch", float("nan"), "prefetch must be a whole number from 1 to 65535, not nan"),
        ("prefetch", 10**400, "prefetch must be a whole number from 1 to 65535"),
        ("prefetch", True, "prefetch must be a whole number from 1 to 65535"),
        ("prefetch", "many", "prefetch must be a whole number from 1 to 65535"),
        ("port", -1, "port must be a whole number from 1 to 65535, not -1"),
        ("call_timeout", 0, "call_timeout must be a number of seconds above 0, at most a year, not 0"),
        ("call_timeout", float("inf"), "call_timeout must be a number of seconds above 0, at most a year, not inf"),
        ("call_timeout", 10**400, "call_timeout must be a number of seconds above 0, at most a year"),
        ("clock_skew", -1, "clock_skew must be a number of seconds from 0, at most a year, not -1"),
        ("clock_skew", [1], "clock_skew must be a number of seconds from 0, at most a year"),
        ("use_ssl", "maybe", "use_ssl must be true or false"),
        ("use_ssl", 2, "use_ssl must be true or false"),
        ("compat", [], "compat must be true or false"),
        ("compat_nodes", ["NODE-01", "a.b"], "compat_nodes must be"),
        ("compat_result", "json", "compat_result must be one of text, value"),
        ("compat_time_zone", "Mars/Olympus", "compat_time_zone must be a time zone of this machine"),
        ("compat_time_zone", "../../etc/passwd", "compat_time_zone must be a time zone of this machine"),
        ("compat_time_zone", "America", "compat_time_zone must be a time zone of this machine"),
        ("user", "", "user must be a text, not empty and without control characters"),
        ("user", True, "user must be a text"),
        ("user", b"admin", "user must be a text"),
        ("user", "\ud800", "user must be a text that UTF-8 can carry"),
        ("password", "a\0b", "password must be a text, not empty and without NUL"),
        ("secret_token", "", "secret_token must be a text, not empty and without NUL"),
        ("secret_token", [], "secret_token must hold at least one secret"),
        ("secret_token", ["a", None], "secret_token must be a text"),
        ("exchange_name", "x" * 256, "exchange_name must have at most 255 bytes"),
        ("node_name", "a.b", "node_name must be 1 to 100 printable characters without dot and space"),
        ("node_name", "a b", "node_name must be 1 to 100 printable characters without dot and space"),
        ("node_name", "n" * 101, "node_name must be 1 to 100 printable characters without dot and space"),
        ("queue_type", "quorun", "queue_type must be one of classic, quorum; did you mean quorum?"),
        ("compat_reply", "xml", "compat_reply must be one of str, json"),
        ("status_socket", "/" + "x" * 107, "status_socket must have at most 107 bytes"),
        ("hosts", "mq-a", "hosts must be a list"),
        ("hosts", [], "hosts must hold at least one broker"),
        ("services", {"a": 1}, "services must be a list"),
        ("logging", [], "logging must be a mapping"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_its_key_and_what_it_must_be(key: str, value: Any, text: str) -> None:
    assert refusal(**{key: value}).startswith(text)


@pytest.mark.parametrize(
    ("given", "meant"),
    [(True, True), ("yes", True), ("ON", True), (1, True), ("false", False), ("No", False), (0, False)],
)
def test_a_flag_is_read_by_its_meaning(given: Any, meant: bool) -> None:
    """In 2.x ``use_ssl: "false"`` was true, because a text that is not empty is."""
    assert Configuration({**LEAST, "use_ssl": given}).use_ssl is meant


def test_a_number_is_accepted_as_password() -> None:
    assert Configuration({**LEAST, "password": 123456}).password == Secret("123456")


def test_the_first_of_several_secrets_comes_first() -> None:
    assert Configuration({**LEAST, "secret_token": ["new", "old"]}).secrets == ("new", "old")


def test_a_configuration_is_never_changed() -> None:
    config = Configuration(LEAST)
    with pytest.raises(AttributeError, match="prefetch"):
        config.prefetch = 1
    with pytest.raises(AttributeError, match="prefetch"):
        del config.prefetch
    assert config.prefetch == 512


def test_a_change_of_the_dict_afterwards_changes_nothing() -> None:
    hosts = ["mq-a"]
    config = Configuration({"hosts": hosts, "secret_token": "s"})
    hosts.append("mq-b")
    assert len(config.hosts) == 1


def test_the_same_configuration_is_had_for_another_node() -> None:
    config = Configuration({**LEAST, "node_name": "A"})
    other = config.with_node_name("B")
    assert (config.node_name, other.node_name, other.queue_name()) == ("A", "B", "B")
    assert other.hosts == config.hosts
    with pytest.raises(ConfigurationError, match="node_name must be"):
        config.with_node_name("a.b")


def test_a_configuration_survives_copying_and_pickling() -> None:
    """A program with the spawn start method hands its configuration to its children this way."""
    config = Configuration({**LEAST, "services": [SERVICE]})
    for other in (copy.copy(config), copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert vars(other) == vars(config)


SERVICE = {"kind": "rpc", "category": "math", "name": "add", "target": "examples.demo.services:AddService"}


def test_services_are_read_with_their_options() -> None:
    config = Configuration({**LEAST, "services": [{**SERVICE, "threads": "4"}, {**SERVICE, "kind": "message"}]})
    first, second = config.services
    assert (first.kind, first.category, first.name) == ("rpc", "math", "add")
    assert (first.target, first.options) == ("examples.demo.services:AddService", {"threads": 4})
    assert (second.kind, second.options) == ("message", {})


def test_a_service_is_given_what_its_kind_knows() -> None:
    rpc = {**SERVICE, "idempotent": "yes", "lock": 0}
    message = {**SERVICE, "kind": "message", "retry": "1, 5", "concurrency": "node"}
    first, second = Configuration({**LEAST, "services": [rpc, message]}).services
    assert first.options == {"idempotent": True, "lock": "0"}
    assert second.options == {"retry": (1.0, 5.0), "concurrency": "node"}
    assert Configuration({**LEAST, "services": [{**message, "retry": []}]}).services[0].options["retry"] == ()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"kind": "rcp"}, "services[0].kind must be one of rpc, message, consume; did you mean rpc?"),
        ({"kind": None}, "the key 'services[0].kind' is missing"),
        (
            {"target": "examples.demo.services"},
            "services[0].target must be an import path such as package.module:Class",
        ),
        ({"target": "examples/demo:Add"}, "services[0].target must be an import path such as package.module:Class"),
        ({"category": "a.b"}, "services[0].category must be 1 to 100 printable characters without dot and space"),
        ({"threads": 0}, "services[0].threads must be a whole number from 1 to 1024, not 0"),
        ({"thread": 2}, "unknown key 'thread' in services[0]; did you mean 'threads'?"),
        ({"retry": [1]}, "services[0].retry is for a service of kind message; this one is of kind rpc"),
        (
            {"kind": "message", "idempotent": True},
            "services[0].idempotent is for a service of kind rpc; this one is of kind message",
        ),
        (
            {"lock": "account", "concurrency": "node"},
            "services[0] takes one of lock, concurrency and singleton, not two",
        ),
        (
            {"concurrency": "node", "singleton": True},
            "services[0] takes one of lock, concurrency and singleton, not two",
        ),
        ({"singleton": "often"}, "services[0].singleton must be true or false"),
        ({"concurrency": "nodes"}, "services[0].concurrency must be one of node; did you mean node?"),
    ],
)
def test_a_service_entry_that_cannot_be_is_named_by_its_place(change: dict[str, Any], text: str) -> None:
    assert refusal(services=[{**SERVICE, **change}]) == text


def test_the_same_service_twice_is_refused() -> None:
    assert refusal(services=[SERVICE, SERVICE]) == "services[1] is rpc service math.add a second time"


def test_without_a_logging_section_no_process_sends_records() -> None:
    settings = Configuration(LEAST).logging
    assert (settings.configured, settings.start_server) == (False, False)


def test_logging_has_its_defaults_and_the_secret_of_the_bus() -> None:
    settings = Configuration({**LEAST, "logging": {}}).logging
    assert settings.configured
    assert (settings.host, settings.port, settings.file, settings.level) == ("127.0.0.1", 5500, None, "INFO")
    assert (settings.rotate_when, settings.rotate_max_bytes, settings.keep) == ("midnight", None, 15)
    assert settings.secrets == (Secret("secret token"),)


def test_logging_is_read() -> None:
    section = {
        "server": True,
        "file": "x.log",
        "level": "debug",
        "rotate": {"max_bytes": 5000},
        "keep": 0,
        "secret": "s",
    }
    settings = Configuration({**LEAST, "logging": section}).logging
    assert (settings.start_server, settings.file, settings.level, settings.level_number) == (True, "x.log", "DEBUG", 10)
    assert (settings.rotate_when, settings.rotate_max_bytes, settings.keep) == (None, 5000, 0)
    assert settings.secrets == (Secret("s"),)


@pytest.mark.parametrize(
    ("section", "text"),
    [
        ({"server": True}, "logging.server is true, so logging.file must say which file to write"),
        (
            {"rotate": {"when": "midnight", "max_bytes": 5000}},
            "logging.rotate takes one of when and max_bytes, not both",
        ),
        ({"rotate": {"when": "noon"}}, "logging.rotate.when must be one of midnight"),
        ({"level": "IFNO"}, "logging.level must be one of DEBUG, INFO, WARNING, ERROR, CRITICAL; did you mean INFO?"),
    ],
)
def test_a_logging_section_that_cannot_be_is_refused(section: dict[str, Any], text: str) -> None:
    assert refusal(logging=section).startswith(text)


def test_secrets_are_compared_by_what_they_hold() -> None:
    assert Secret("ä") == Secret("ä") != Secret("b")
    assert Secret("a") != "a"
    assert hash(Secret("a")) == hash(Secret("a"))


def test_the_exchanges_of_both_versions_cannot_be_one() -> None:
    """They have other attributes: the broker would refuse whoever declares it second."""
    values = {"hosts": ["a"], "secret_token": "s", "node_name": "N", "exchange_name": "py-servicebus"}
    Configuration(values)
    with pytest.raises(ConfigurationError, match="compat_exchange_name and exchange_name must differ"):
        Configuration({**values, "compat": True})
