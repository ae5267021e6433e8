"""What in a program or configuration of py-servicebus 2.x stands in the way of running it with this package. Pure."""

from __future__ import annotations

import ast
import ipaddress
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from servicebus.configuration.keys import ALL_KEYS, FORMER_KEYS
from servicebus.configuration.values import Secret
from servicebus.configuration.weakness import weak_secrets

__all__ = ["Setting", "TakeoverObstacle", "in_program", "in_settings"]


class TakeoverObstacle(NamedTuple):
    """Something that is different here, and what to do about it."""

    code: str
    is_blocking: bool
    """It does not work as it is; else it works otherwise."""
    where: str
    what: str
    todo: str


class Setting(NamedTuple):
    """A key as it is written."""

    where: str
    value: Any
    """UNKNOWN if it is not written out."""


UNKNOWN = object()
_GONE_MODULES = {
    "command": "it ran texts in a shell: use subprocess.run([...])",
    "message": "it is private: use Sender and ServiceBus",
    "parser": "it is private: use Sender and ServiceBus",
    "pika": "use the package pika itself",
    "receiver": "it is private: use ServiceBus",
    "watcher": "it is private: agents watch their brokers by themselves",
}
_GONE_NAMES = {
    "create_receiver": "use ServiceBus",
    "create_sender": "use Sender(configuration), which finds a broker that works by itself",
    "create_senders": "use Sender(configuration), one for all brokers",
}
_ERROR_TEXTS = {
    "Cannot Find RPC Service": "UnknownService",
    "Token not valid": "CallRefused",
    "Cannot Connect to Message Queue": "NoBrokerAvailable",
    "Cannot connect to": "NoBrokerAvailable or NodeUnavailable",
    "Target not validate": "AddressError",
    "Timeout": "CallTimeout",
}


def in_program(text: str, path: str) -> tuple[list[TakeoverObstacle], dict[str, Setting] | None]:
    """What stands in the way in the program *text*, and the keys of its ``Configuration({...})``, if it has one."""
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        todo = "make it Python 3 first: 2to3 does most of it"
        return [
            TakeoverObstacle("no-python-3", True, f"{path}:{error.lineno}", f"it is no Python 3: {error.msg}", todo)
        ], None
    found, settings = list(_of_results(tree, path)), None
    for node in ast.walk(tree):
        found += list(_in_node(node, path))
        if isinstance(node, ast.Call) and _name_of(node.func) == "Configuration" and node.args:
            settings = _settings_of(node.args[0], path) or settings
    return sorted(found, key=lambda each: int(each.where.rpartition(":")[2])), settings


def _name_of(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _in_node(node: ast.AST, path: str) -> Iterator[TakeoverObstacle]:
    where = f"{path}:{getattr(node, 'lineno', 0)}"
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        names = [each.name for each in node.names]
        package = getattr(node, "module", None)
        for name in [f"{package}.{each}" for each in names] + [package or ""] if package else names:
            first, _, rest = name.partition(".")
            gone = rest.partition(".")[0]
            if first == "servicebus" and gone in _GONE_MODULES and (not package or name == package or rest == gone):
                yield TakeoverObstacle(
                    "gone", True, where, f"there is no module servicebus.{gone}", _GONE_MODULES[gone]
                )
    elif isinstance(node, ast.Attribute) and node.attr in _GONE_NAMES:
        yield TakeoverObstacle("gone", True, where, f"there is no {node.attr}()", _GONE_NAMES[node.attr])
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        for begin, error in _ERROR_TEXTS.items():
            if node.value.startswith(begin):
                todo = f"catch servicebus.errors.{error}"
                yield TakeoverObstacle("error-text", True, where, f"{begin!r} is no result or text any more", todo)


def _of_results(tree: ast.AST, path: str) -> Iterator[TakeoverObstacle]:
    """One for all calls of the program."""
    lines = sorted(
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "call"
    )
    if lines:
        more = f", and in lines {', '.join(map(str, lines[1:]))}" if lines[1:] else ""
        what = f"call() returns (1, 3), a number and a value, where 2.19 gave two texts: here{more}"
        todo = "look at what is done with it; str() of a part gives what 2.19 gave"
        yield TakeoverObstacle("values", False, f"{path}:{lines[0]}", what, todo)


def _settings_of(given: ast.expr, path: str) -> dict[str, Setting] | None:
    if not isinstance(given, ast.Dict):
        return None
    found = {}
    for key, value in zip(given.keys, given.values, strict=True):
        if isinstance(key, ast.Constant):
            try:
                written = ast.literal_eval(value)
            except ValueError:  # a variable, an expression
                written = UNKNOWN
            found[str(key.value)] = Setting(f"{path}:{key.lineno}", written)
    return found


def in_settings(settings: Mapping[str, Setting], path: str) -> list[TakeoverObstacle]:
    """What stands in the way in the keys of a configuration."""
    found = [
        TakeoverObstacle(
            "unknown-key", True, each.where, f"there is no key {name!r}", "remove it, or see docs/configuration"
        )
        for name, each in settings.items()
        if name not in ALL_KEYS and name not in FORMER_KEYS
    ]
    return [*found, *_of_compat(settings, path), *_of_values(settings, path)]


def _of_compat(settings: Mapping[str, Setting], path: str) -> Iterator[TakeoverObstacle]:
    compat = settings.get("compat")
    if compat is None or compat.value in (False, "false", "no", "off"):
        what = "it serves no Senders of 2.x, and reaches no agents of 2.x"
        yield TakeoverObstacle(
            "no-compat", True, path if compat is None else compat.where, what, "say compat: true while any is left"
        )
        if (exchange := settings.get("exchange_name")) is not None:
            todo = "call it compat_exchange_name, and leave exchange_name out"
            yield TakeoverObstacle(
                "exchange-name", True, exchange.where, "exchange_name is that of version 2 here", todo
            )


def _of_values(settings: Mapping[str, Setting], path: str) -> Iterator[TakeoverObstacle]:
    node = settings.get("node_name")
    if node is None:
        what = "without node_name the node is the host name up to its first dot; 2.19 takes all of it"
        yield TakeoverObstacle("node-name", False, path, what, "write node_name, for an agent")
    elif isinstance(node.value, str) and "." in node.value:
        todo = "give it a name without one, beside the old agent; no address could name the old one either"
        yield TakeoverObstacle("node-name", True, node.where, f"node_name {node.value!r} has a dot", todo)
    tls = settings.get("use_ssl")
    if tls is not None and tls.value in (True, "true", "yes", "on") and "tls" not in settings:
        what = "certificates are verified; 2.19 takes any"
        yield TakeoverObstacle(
            "tls", False, tls.where, what, "name the authority by tls: {ca: FILE}, unless the system knows it"
        )
    secret = settings.get("secret_token")
    if secret is not None and isinstance(secret.value, str):
        for text in weak_secrets("secret_token", [Secret(secret.value)]):
            yield TakeoverObstacle("weak-secret", False, secret.where, text, "change it when no process of 2.x is left")
    hosts = settings.get("hosts")
    user = settings.get("user")
    if hosts is not None and isinstance(hosts.value, list) and user is None and not all(map(_is_local, hosts.value)):
        todo = "write user and password"
        yield TakeoverObstacle(
            "guest",
            False,
            hosts.where,
            "without user it is guest, whom RabbitMQ lets in from its own machine alone",
            todo,
        )


def _is_local(host: Any) -> bool:
    try:
        return ipaddress.ip_address(str(host)).is_loopback
    except ValueError:
        return str(host).partition(":")[0] in ("localhost", "127.0.0.1")
