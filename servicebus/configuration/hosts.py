"""The forms in which a broker may be written, and the BrokerHost that each becomes.

``host``, ``host:port``, ``[::1]:5672``, ``amqp://`` and ``amqps://user:password@host:port/vhost``, or a mapping with
the keys of ``HOST_KEYS``: of one broker (``host``), or of a cluster (``members``), which is one broker to us. What a
form leaves out comes from the keys of the whole configuration.

The URL is taken apart by hand: urllib.parse quotes the URL, password included, in some of its errors.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from servicebus.configuration import checks
from servicebus.configuration.checks import Unacceptable
from servicebus.configuration.section import Place, Section, show
from servicebus.configuration.values import BrokerHost, Secret, TlsSettings, host_and_port

HOST_KEYS = (
    *("name", "host", "members", "port", "user", "password", "virtual_host", "use_ssl", "tls", "fernet_key"),
    "management",
)
TLS_KEYS = ("ca", "certificate", "key", "verify", "server_name")

_port = checks.whole(1, 65535)
_HOST = re.compile(r"[^\W_]([\w.-]{0,251}[\w.])?")
_FORMS = "write host, host:port, [IPv6]:port or amqps://user:password@host:port/vhost"


@dataclass(frozen=True)
class Defaults:
    """What holds for every host that says nothing else."""

    port: int
    ssl_port: int
    use_ssl: bool
    user: str
    password: Secret
    virtual_host: str
    tls: TlsSettings


@dataclass(frozen=True)
class _Written:
    """What one form said; None for what it left out."""

    host: str
    port: int | None = None
    user: str | None = None
    password: Secret | None = None
    virtual_host: str | None = None
    use_ssl: bool | None = None
    tls: TlsSettings | None = None
    name: str | None = None
    members: tuple[tuple[str, int | None], ...] = ()
    fernet_keys: tuple[Secret, ...] = ()
    management: Secret | None = None


def read_connections(section: Section, defaults: Defaults, hosts: tuple[BrokerHost, ...]) -> tuple[BrokerHost, ...]:
    """The brokers of the key ``connections``, which are none of the bus's *hosts*."""
    found = _read_each(section, "connections", defaults)
    for at, host in found:
        if host.name in {each.name for each in hosts}:
            section.where.fail(at, f"{show(at)} is {host.name}, which is one of hosts already")
    return tuple(host for _, host in found)


def read_hosts(section: Section, defaults: Defaults) -> tuple[BrokerHost, ...]:
    """All brokers of the key ``hosts``, in order of preference."""
    hosts = tuple(host for _, host in _read_each(section, "hosts", defaults))
    if not hosts:
        section.where.fail((*section.at, "hosts"), "hosts must hold at least one broker")
    return hosts


def _read_each(section: Section, key: str, defaults: Defaults) -> list[tuple[Place, BrokerHost]]:
    hosts: dict[str, tuple[Place, BrokerHost]] = {}
    for at, value in section.items(key):
        host = _resolve(_read_host(section, at, value, defaults.tls), defaults)
        if host.name in hosts:
            section.where.fail(at, f"{show(at)} is {host.name}, which stands in the list already")
        hosts[host.name] = at, host
    return list(hosts.values())


def _read_host(section: Section, at: Place, value: Any, tls: TlsSettings) -> _Written:
    if isinstance(value, Mapping):
        return _from_mapping(Section(value, HOST_KEYS, section.where, at), tls)
    return section.check(at, value, _from_text)


def _from_mapping(section: Section, tls: TlsSettings) -> _Written:
    own_tls = read_tls(section, tls)
    members = tuple(section.check(at, value, _member) for at, value in section.items("members"))
    if members and "host" in section:
        section.where.fail((*section.at, "host"), f"{show(section.at)} has both host and members; write one of them")
    if len(set(members)) < len(members):
        section.where.fail((*section.at, "members"), f"{show((*section.at, 'members'))} names one of them twice")
    return _Written(
        host=members[0][0] if members else section.require("host", _host_alone),
        name=section.take("name", checks.short_name, None),
        members=members,
        port=section.take("port", _port, None),
        user=section.take("user", checks.text, None),
        password=section.take("password", checks.secret, None),
        virtual_host=section.take("virtual_host", checks.short_name, None),
        use_ssl=section.take("use_ssl", checks.flag, None if own_tls is None else True),
        tls=own_tls,
        fernet_keys=section.take("fernet_key", _fernet_keys, ()),
        management=section.take("management", management_url, None),
    )


def _fernet_keys(value: Any) -> tuple[Secret, ...]:
    found = checks.secrets(value)
    for each in found:
        try:
            is_key = len(base64.urlsafe_b64decode(each.reveal().encode())) == 32
        except ValueError:
            is_key = False
        if not is_key:
            raise Unacceptable("must be 32 bytes in URL-safe base64, as Fernet.generate_key() makes it")
    return found


def management_url(value: Any) -> Secret:
    """The URL of a management API; a secret, because it may hold a password. Raises Unacceptable."""
    url = checks.secret(value)
    scheme, _, rest = url.reveal().partition("://")
    _, _, place = rest.partition("/")[0].rpartition("@")
    if scheme.lower() not in ("http", "https") or not place or "?" in rest or "#" in rest:
        raise Unacceptable("must be http:// or https://, then [user:password@]host[:port] of the management API")
    _host_and_port(place)
    return url


def read_tls(section: Section, base: TlsSettings | None = None) -> TlsSettings | None:
    """The mapping ``tls``, or None; each key that it leaves out is as in *base*."""
    given = section.section("tls", TLS_KEYS)
    if given is None:
        return None
    base = base or TlsSettings()
    found = TlsSettings(
        ca=given.path("ca", checks.text) or base.ca,
        certificate=given.path("certificate", checks.text) or base.certificate,
        key=given.path("key", checks.text) or base.key,
        verify=given.take("verify", checks.flag, base.verify),
        server_name=given.take("server_name", checks.text, base.server_name),
    )
    if (found.certificate is None) != (found.key is None):
        given.where.fail(given.at, f"{show(given.at)} needs both certificate and key, or neither")
    return found


def _from_text(value: Any) -> _Written:
    text = checks.text(value)
    if "://" in text:
        return _from_url(text)
    if "@" in text or "/" in text:
        raise Unacceptable(f"is not understood; {_FORMS}")
    return _Written(*_host_and_port(text))


def _from_url(text: str) -> _Written:
    scheme, _, rest = text.partition("://")
    if scheme.lower() not in ("amqp", "amqps"):
        raise Unacceptable("must begin with amqp:// or amqps://")
    authority, _, virtual_host = rest.partition("/")
    credentials, _, place = authority.rpartition("@")
    if "?" in rest or "#" in rest or "@" in virtual_host or "/" in virtual_host:
        raise Unacceptable("has one of / ? # @ where a URL cannot; in user, password and vhost write %2F %3F %23 %40")
    user, colon, password = (_unquote(part) for part in credentials.partition(":"))
    host, port = _host_and_port(place)
    return _Written(
        host=host,
        port=port,
        user=checks.text(user) if user else None,
        password=checks.secret(password) if colon else None,
        virtual_host=checks.short_name(_unquote(virtual_host)) if virtual_host else None,
        use_ssl=scheme.lower() == "amqps",
    )


def _unquote(part: str) -> str:
    try:
        return unquote(part, errors="strict")
    except UnicodeDecodeError:
        raise Unacceptable("has a %-escape that is not UTF-8") from None


def _member(value: Any) -> tuple[str, int | None]:
    text = checks.text(value)
    if "://" in text or "@" in text or "/" in text:
        raise Unacceptable("must be host, host:port or [IPv6]:port; user, password and the rest stand beside members")
    return _host_and_port(text)


def _host_and_port(text: str) -> tuple[str, int | None]:
    if text.startswith("["):
        literal, bracket, tail = text[1:].partition("]")
        if not bracket or (tail and not tail.startswith(":")):
            raise Unacceptable(f"is not understood; {_FORMS}")
        return _ipv6(literal), _port_of(tail[1:]) if tail else None
    if text.count(":") > 1:
        raise Unacceptable("looks like IPv6, which stands in brackets: [::1] or [::1]:5672")
    host, colon, port = text.partition(":")
    return _host_name(host), _port_of(port) if colon else None


def _port_of(text: str) -> int:
    try:
        return _port(text)
    except Unacceptable as problem:
        raise Unacceptable(f"has a port that {problem}") from None


def _host_alone(value: Any) -> str:
    text = checks.text(value)
    if "://" in text or "@" in text:
        raise Unacceptable("must be a host name or address alone; a URL stands in the list by itself")
    return _ipv6(text.strip("[]")) if ":" in text else _host_name(text)


def _ipv6(text: str) -> str:
    try:
        return str(ipaddress.IPv6Address(text))
    except ValueError:
        raise Unacceptable("has brackets or colons, but is no IPv6 address; " + _FORMS) from None


def _host_name(text: str) -> str:
    if text.isdecimal():
        raise Unacceptable("is a number, not a host; write mq-a:5672 for example")
    if not _HOST.fullmatch(text):
        raise Unacceptable(f"has no host name in it; {_FORMS}")
    return text


def _resolve(written: _Written, defaults: Defaults) -> BrokerHost:
    use_ssl = defaults.use_ssl if written.use_ssl is None else written.use_ssl
    port = written.port or (defaults.ssl_port if use_ssl else defaults.port)
    virtual_host = written.virtual_host or defaults.virtual_host
    members = tuple((host, own_port or port) for host, own_port in written.members)
    places = members or ((written.host, port),)
    place = ",".join(host_and_port(*each) for each in places)
    return BrokerHost(
        name=written.name or (place if virtual_host == "/" else f"{place}/{virtual_host}"),
        host=places[0][0],
        port=places[0][1],
        members=members,
        user=written.user or defaults.user,
        password=written.password or defaults.password,
        virtual_host=virtual_host,
        use_ssl=use_ssl,
        tls=written.tls or defaults.tls,
        fernet_keys=written.fernet_keys,
        management=written.management,
    )
