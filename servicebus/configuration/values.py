"""The values that a configuration is made of. All are frozen; none shows a secret in its repr."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from servicebus._secret import Secret as Secret
from servicebus.errors import ConfigurationError

if TYPE_CHECKING:
    import ssl


def host_and_port(host: str, port: int) -> str:
    """As one writes it: an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """How one broker is trusted over TLS; paths of PEM files, ``None`` where nothing was said."""

    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    verify: bool = True
    server_name: str | None = None
    """The name to expect in the broker's certificate, where it is not the host that is connected to."""


@dataclass(frozen=True, slots=True)
class BrokerHost:
    """One broker, with everything that is needed to connect to it."""

    name: str
    """For logs and errors: ``host:port``, with ``/vhost`` behind where that is not ``/``; of a cluster what the
    configuration calls it. Never holds credentials."""
    host: str
    port: int
    user: str = "guest"
    password: Secret = field(default_factory=lambda: Secret("guest"))
    virtual_host: str = "/"
    use_ssl: bool = False
    tls: TlsSettings = TlsSettings()
    members: tuple[tuple[str, int], ...] = ()
    """Host and port of every member, if this is a RabbitMQ cluster; ``host`` and ``port`` are those of one of them."""
    fernet_keys: tuple[Secret, ...] = ()
    """With which other programs encrypt fields of the messages that they publish there."""
    management: Secret | None = None
    """The URL of its management API, for operators' commands; a secret, because it may hold a password."""

    @property
    def address(self) -> str:
        """``host:port``; of a cluster that of the member that is dialled."""
        return host_and_port(self.host, self.port)

    @property
    def place(self) -> str:
        """For logs and errors, where it is to be known which member is meant: ``name`` with the member behind."""
        return f"{self.name} ({self.address})" if self.members else self.name

    def member(self, turn: int) -> BrokerHost:
        """The same, to be dialled at another of its members, counted round and round; itself if there is but one."""
        if not self.members:
            return self
        host, port = self.members[turn % len(self.members)]
        return replace(self, host=host, port=port)

    @property
    def server_name(self) -> str:
        """The name to send (SNI) and to expect in the certificate."""
        return self.tls.server_name or self.host

    def ssl_context(self) -> ssl.SSLContext | None:
        """A new TLS context, or ``None`` for a plain connection. Reads the PEM files.

        Raises:
            ConfigurationError: a PEM file is missing, unreadable, encrypted, or the key does not fit its certificate.
        """
        return _ssl_context(self) if self.use_ssl else None


def _ssl_context(host: BrokerHost) -> ssl.SSLContext:
    import ssl  # here, since most processes never need it and it costs 10 ms to load

    tls = host.tls
    try:
        context = ssl.create_default_context(cafile=tls.ca)
    except (OSError, ValueError) as error:
        raise _unusable(host, "tls.ca", tls.ca, error) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # Debian 12's own Python would leave it to OpenSSL's settings
    if not tls.verify:
        context.check_hostname = False  # before verify_mode: the ssl module refuses the other order
        context.verify_mode = ssl.CERT_NONE
    if tls.certificate is not None:
        try:
            # The empty password keeps OpenSSL from asking for one on the terminal, which would hang an agent.
            context.load_cert_chain(tls.certificate, tls.key, password="")
        except (OSError, ValueError) as error:
            raise _unusable(host, "tls.certificate and tls.key", f"{tls.certificate} with {tls.key}", error) from error
    return context


def _unusable(host: BrokerHost, key: str, what: str | None, error: Exception) -> ConfigurationError:
    reason = getattr(error, "strerror", None) or str(error)
    return ConfigurationError(f"host {host.name}: {key} cannot be used ({what}): {reason}", key=key)


@dataclass(frozen=True, slots=True)
class CallerEntry:
    """A caller with keys of its own, and what it may do; the patterns are those of docs/callers.rst."""

    name: str
    keys: tuple[Secret, ...]
    """All verify."""
    allow: tuple[str, ...] = ()
    """Addresses that it may call and send messages to."""
    deny: tuple[str, ...] = ()
    """Those of them that it may not."""
    publish: tuple[str, ...] = ()
    """Events that it may publish."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """The plain keys: the first signs, all verify."""
        return tuple(key.reveal() for key in self.keys)


@dataclass(frozen=True, slots=True)
class EncryptionSettings:
    """What is encrypted, and with what; the patterns are those of docs/callers.rst."""

    keys: tuple[Secret, ...]
    """The first encrypts, all decrypt."""
    services: tuple[str, ...] = ("*",)
    """Addresses: what goes there is encrypted."""
    events: tuple[str, ...] = ("#",)
    required: bool = True
    """A node refuses what should be encrypted, and is not."""
    compress: Literal["", "zlib", "zstd"] = ""
    """What is encrypted is compressed with this before."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """The plain keys."""
        return tuple(key.reveal() for key in self.keys)


@dataclass(frozen=True, slots=True)
class ServiceEntry:
    """One line of ``services:``; the agent imports what ``target`` names."""

    kind: Literal["rpc", "message", "consume", ""]
    """"" for a group, which knows its kinds, category and names."""
    category: str
    name: str
    target: str
    """``package.module:name``, or the name of an entry point."""
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Keyword arguments for ``add_rpc_service()`` and so on; only those that were given."""
    line: int | None = field(default=None, compare=False)
    """Where it stands in the file."""
    form: Literal["target", "function", "group", "entry_point"] = "target"
    """The key that names it: a class (``target``), a typed function, or a group of them."""


@dataclass(frozen=True, slots=True)
class MetricsSettings:
    """Where an agent answers ``/metrics``, and whether it lives and is ready."""

    host: str = "127.0.0.1"
    port: int = 9464


@dataclass(frozen=True, slots=True)
class LoggingSettings:
    """Where log records go, and how the log server keeps them."""

    configured: bool = False
    """Whether there was a ``logging:`` section at all; without one no process sends records to a log server."""
    start_server: bool = False
    """Whether the agent starts the log server (key ``server``)."""
    host: str = "127.0.0.1"
    port: int = 5500
    file: str | None = None
    level: str = "INFO"
    rotate_when: Literal["midnight"] | None = "midnight"
    """``None`` when the file is rotated by size."""
    rotate_max_bytes: int | None = None
    """``None`` when the file is rotated by time."""
    keep: int = 15
    """How many rotated files stay."""
    secrets: tuple[Secret, ...] = ()
    """Sign and verify the records: the first signs, all verify. Empty: records are not signed."""
    request_ids: bool = False
    """Whether each record ends with the ids of the request, the caller and the trace that it belongs to."""

    @property
    def level_number(self) -> int:
        """The level as the logging module counts."""
        number = logging.getLevelName(self.level)
        return number if isinstance(number, int) else logging.INFO
