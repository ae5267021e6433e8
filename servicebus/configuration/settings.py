"""Configuration: the settings of agents, senders and the command line."""

from __future__ import annotations

import copy
import os
import socket
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NoReturn

from servicebus._plain import PlainTarget
from servicebus.configuration import checks
from servicebus.configuration.bridges import BridgeEntry, read_bridges
from servicebus.configuration.callers import read_caller, read_callers
from servicebus.configuration.encryption import read_encryption
from servicebus.configuration.files import folder_of, read_configuration_file, read_text, read_values
from servicebus.configuration.hosts import Defaults, read_connections, read_hosts, read_tls
from servicebus.configuration.keys import ALL_KEYS, FORMER_KEYS, KEYS
from servicebus.configuration.parts import read_journal, read_logging, read_metrics, read_services
from servicebus.configuration.publishers import read_publishers
from servicebus.configuration.section import Section, Where
from servicebus.configuration.values import (
    BrokerHost,
    CallerEntry,
    EncryptionSettings,
    LoggingSettings,
    MetricsSettings,
    Secret,
    ServiceEntry,
    TlsSettings,
)
from servicebus.configuration.weakness import weak_secrets
from servicebus.errors import ConfigurationError

_NO_ENVIRONMENT: Mapping[str, str] = MappingProxyType({})


class Configuration:
    """All settings, checked; never changed after construction, so threads and forks may share it.

    Args:
        values: the keys of docs/configuration.rst; ``hosts`` and ``secret_token`` are required.

    Raises:
        ConfigurationError: a key is unknown, missing (MissingKey, a KeyError too) or has a value that cannot be.
    """

    hosts: tuple[BrokerHost, ...]
    connections: tuple[BrokerHost, ...]
    """Other brokers, for queues and publishers of other programs' kind."""
    publishers: Mapping[str, PlainTarget]
    """What services publish to in the form of other programs, by name."""
    bridges: tuple[BridgeEntry, ...]
    secret_token: tuple[Secret, ...]
    caller: str | None
    """As which caller Senders sign; None for the bus itself."""
    callers: Mapping[str, CallerEntry]
    """By their names."""
    encryption: EncryptionSettings | None
    node_name: str
    names_node: bool
    """``node_name`` was given, and is not this machine's host name."""
    exchange_name: str
    message_queue_type: Literal["classic", "quorum"]
    priorities: bool
    port: int
    ssl_port: int
    use_ssl: bool
    user: str | None
    password: Secret | None
    virtual_host: str
    tls: TlsSettings
    socket_timeout: float
    heartbeat_interval: int
    connect_stagger: float
    watcher_interval: float
    watcher_timeout: float
    fast_path: bool
    prefetch: int
    workers_per_host: int
    queue_len: int | None
    drain_timeout: float
    fault_traces: bool
    middleware: tuple[str, ...]
    """Import paths."""
    retry_schedule: tuple[float, ...]
    journal: Secret | None
    """Where it is kept; a secret, because the URL of a server may hold a password."""
    reply_keep: float
    journal_max_entries: int
    journal_max_answer_bytes: int
    call_timeout: float
    send_timeout: float
    failback_after: float
    path_wait: float
    path_ping_after: float
    path_ping_timeout: float
    outbox_max_messages: int
    outbox_max_bytes: int
    token_max_age: float
    clock_skew: float
    max_envelope_bytes: int
    compat: bool
    compat_nodes: tuple[str, ...] | None
    """Those that may be spoken to in version 1; None for each that was never heard in version 2."""
    compat_exchange_name: str
    compat_reply: Literal["str", "json"]
    compat_result: Literal["text", "value"]
    compat_time_zone: str | None
    compat_in_band_errors: bool
    status_socket: str | None
    metrics: MetricsSettings | None
    traces: float
    """Which part of the requests that are in no trace begins one."""
    services: tuple[ServiceEntry, ...]
    logging: LoggingSettings
    path: str | None
    """The file that it was read from; None for a dict."""
    former_keys: Mapping[str, str]
    """Keys that were given by their former names: the name of each, and its former one."""

    def __init__(self, values: Mapping[str, Any]):
        self._fill(values, Where(home=_home()))

    @classmethod
    def parse(
        cls,
        text: str,
        path: str | None = None,
        environment: Mapping[str, str] = _NO_ENVIRONMENT,
        read_file: Callable[[str], str] | None = None,
        folder: str = "",
    ) -> Configuration:
        """The configuration in a YAML text. Pure: reads no file and no environment but through its arguments.

        Args:
            path: for errors.
            environment: where ``${NAME}`` is looked up, and ``HOME`` for ``~/`` in paths.
            read_file: returns the text of a path, for ``!file``; without it ``!file`` is an error.
            folder: where relative paths are meant from; empty leaves them to the current folder.
        """
        from servicebus.configuration.yaml_text import read_yaml  # yaml is for those who have a file

        values, where = read_yaml(text, path, folder, environment, read_file, environment.get("HOME"))
        configuration = cls.__new__(cls)
        configuration._fill(values, where)
        return configuration

    @classmethod
    def load(cls, path: str | os.PathLike[str], environment: Mapping[str, str] | None = None) -> Configuration:
        """The configuration in a YAML file; *environment* is the process's own unless given.

        Raises:
            ConfigurationError: also when the file cannot be read.
        """
        environment = os.environ if environment is None else environment
        return cls.parse(read_configuration_file(path), os.fspath(path), environment, read_text, folder_of(path))

    @property
    def secrets(self) -> tuple[str, ...]:
        """The plain secrets: the first signs, all verify."""
        return tuple(secret.reveal() for secret in self.secret_token)

    @property
    def sender_secrets(self) -> tuple[str, ...]:
        """What Senders sign with: ``secrets``, or the keys of ``caller`` where ``callers`` has them."""
        entry = self.callers.get(self.caller or "")
        return self.secrets if entry is None else entry.secrets

    @property
    def caller_secrets(self) -> dict[str, tuple[str, ...]]:
        """The plain keys of all callers, by their names."""
        return {name: entry.secrets for name, entry in self.callers.items()}

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the starting program has to log at WARNING, each a full sentence."""
        renamed = tuple(
            f"the configuration key {former} is now called {name}; the former name is still read"
            for name, former in self.former_keys.items()
        )
        return renamed + tuple(
            f"{host.name}: the broker's TLS certificate is not verified (tls.verify is false):"
            " an attacker in between can read and change everything"
            for host in self.hosts
            if host.use_ssl and not host.tls.verify
        )

    @property
    def secret_warnings(self) -> tuple[str, ...]:
        """What agents and Senders log beside ``warnings`` when they start: secrets that do not protect."""
        log_secrets = self.logging.secrets if self.logging.secrets != self.secret_token else ()
        weak = weak_secrets("secret_token", self.secret_token) + weak_secrets("logging.secret", log_secrets)
        weak += weak_secrets("encryption.keys", self.encryption.keys if self.encryption is not None else ())
        return weak + tuple(
            text for name, entry in self.callers.items() for text in weak_secrets(f"callers.{name}.key", entry.keys)
        )

    def get_port(self) -> int:
        """As in 2.x: the port of hosts that name none."""
        return self.ssl_port if self.use_ssl else self.port

    def queue_name(self) -> str:
        """As in 2.x: the node's name."""
        return self.node_name

    def with_node_name(self, node_name: str) -> Configuration:
        """The same configuration for another node. Raises ConfigurationError if that is no name."""
        section = Section({"node_name": node_name}, ("node_name",), Where(self.path))
        return self.replaced(node_name=section.require("node_name", checks.name), names_node=True)

    def with_publishers(self, publishers: Mapping[str, PlainTarget]) -> Configuration:
        """The same configuration, with *publishers* beside its own."""
        return self.replaced(publishers={**self.publishers, **publishers})

    def replaced(self, **changed: Any) -> Configuration:
        """The same configuration with other values of these attributes, which are not checked."""
        other = copy.copy(self)
        other.__dict__.update(changed)
        return other

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a Configuration is never changed; make another one (tried to set {name})")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a Configuration is never changed (tried to delete {name})")

    def __repr__(self) -> str:
        hosts = ", ".join(host.name for host in self.hosts)
        return f"<Configuration node {self.node_name}, hosts {hosts}>"

    def _fill(self, values: object, where: Where) -> None:
        section = Section(values, ALL_KEYS, where, former=FORMER_KEYS)
        own = self.__dict__  # __setattr__ refuses
        own["path"] = where.path
        own["former_keys"] = {}
        for name, key in KEYS.items():
            given = name
            if key.former is not None and key.former in section:
                if name in section:
                    where.fail((key.former,), f"{key.former} is the former name of {name}; give one of them")
                given = own["former_keys"][name] = key.former
            own[key.attribute or name] = section.take(given, key.check, key.default)
        if self.compat and self.compat_exchange_name == self.exchange_name:
            # Its attributes differ: whichever side comes second would be refused by the broker (406).
            where.fail(("compat_exchange_name",), "compat_exchange_name and exchange_name must differ")
        is_bridge = "bridges" in section and "hosts" not in section
        own["secret_token"] = () if is_bridge else section.require("secret_token", checks.secrets)
        own["callers"] = read_callers(section, self.secret_token)
        own["caller"] = read_caller(section, self.callers)
        signing = (key for entry in self.callers.values() for key in entry.keys)
        own["encryption"] = read_encryption(section, (*self.secret_token, *signing))
        own["node_name"] = _read_node_name(section)
        own["names_node"] = "node_name" in section
        own["status_socket"] = _read_status_socket(section)
        own["metrics"] = read_metrics(section)
        own["journal"] = read_journal(section)
        own["tls"] = (tls := read_tls(section)) or TlsSettings()
        # A tls: section switches TLS on; use_ssl: false still overrides it.
        own["use_ssl"] = section.take("use_ssl", checks.flag, tls is not None)
        if not is_bridge:
            section.require("hosts", lambda hosts: hosts)
        own["hosts"] = () if is_bridge else read_hosts(section, self._host_defaults())
        own["connections"] = read_connections(section, self._host_defaults(), self.hosts)
        own["publishers"] = read_publishers(section, self.hosts + self.connections)
        own["bridges"] = read_bridges(section, self.hosts + self.connections)
        own["services"] = read_services(section)
        own["logging"] = read_logging(section, self.secret_token)

    def _host_defaults(self) -> Defaults:
        return Defaults(
            port=self.port,
            ssl_port=self.ssl_port,
            use_ssl=self.use_ssl,
            user=self.user or "guest",
            password=self.password or Secret("guest"),
            virtual_host=self.virtual_host,
            tls=self.tls,
        )


def as_configuration(given: Configuration | str | os.PathLike[str]) -> Configuration:
    """*given*, or what the YAML file of that path says.

    Raises:
        ConfigurationError: it is neither, a dict for example; or as Configuration.load.
    """
    if isinstance(given, (str, os.PathLike)):
        return Configuration.load(given)
    if not hasattr(given, "secrets"):
        how = 'write Configuration({...}), or the path of a file: "sender.yaml"'
        raise ConfigurationError(f"needs a Configuration, not {type(given).__name__}; {how}")
    return given


def load_logging(path: str | os.PathLike[str], environment: Mapping[str, str] | None = None) -> LoggingSettings:
    """The ``logging:`` section of a YAML file, for a log server that runs alone: needs neither hosts nor secret_token.

    Other keys may stand in the file, so that it can be the agent's own; their names are checked, their values are not.

    Raises:
        ConfigurationError: as Configuration.load.
    """
    values, where = read_values(path, os.environ if environment is None else environment)
    section = Section(values, ALL_KEYS, where, former=FORMER_KEYS)
    return read_logging(section, section.take("secret_token", checks.secrets, ()))


def _read_node_name(section: Section) -> str:
    if "node_name" in section:
        return section.checked("node_name", checks.name)
    # A full domain name has dots, and could not stand in an address NODE.category.name.
    own = socket.gethostname().partition(".")[0]
    try:
        return checks.name(own)
    except checks.Unacceptable:
        section.where.fail(("node_name",), "node_name is missing, and this machine's host name cannot stand in for it")


def _read_status_socket(section: Section) -> str | None:
    found = section.path("status_socket", checks.text)
    return None if found is None else section.check(("status_socket",), found, checks.socket_path)


def _home() -> str | None:
    found = os.path.expanduser("~")  # noqa: PTH111 Path.home() raises where there is none
    return None if found.startswith("~") else found
