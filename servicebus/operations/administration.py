"""The two ways to administer a broker: its management API, and ``rabbitmqctl`` on its machine."""

from __future__ import annotations

import json
import math
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from servicebus.configuration import BrokerHost, Configuration, Secret
from servicebus.errors import ConnectFailed, TransportError
from servicebus.operations.doctor.management import ManagementApi, path_of
from servicebus.operations.session import open_session
from servicebus.transport.interface import ExchangeKind
from servicebus.transport.steps import declare_exchange
from servicebus.wire.printable import printable

__all__ = ["CtlAdministration", "ManagementAdministration"]

_CTL_S = 60.0
_SHOWN = 300


class ManagementAdministration:
    """By the management API, as a user who is an administrator."""

    def __init__(self, api: ManagementApi):
        self._api = api

    def __repr__(self) -> str:
        return f"<ManagementAdministration {self._api!r}>"

    @property
    def version(self) -> str:
        return str(self._api.get("/api/overview").get("rabbitmq_version", ""))

    def has_virtual_host(self, name: str) -> bool:
        return self._api.find(path_of("vhosts", name)) is not None

    def add_virtual_host(self, name: str) -> None:
        self._api.put(path_of("vhosts", name), {})  # the broker gives its maker all rights in it

    def has_user(self, name: str) -> bool:
        return self._api.find(path_of("users", name)) is not None

    def add_user(self, name: str, password: Secret) -> None:
        self._api.put(path_of("users", name), {"password": password.reveal(), "tags": ""})

    def permissions(self, virtual_host: str, user: str) -> Mapping[str, str]:
        return self._api.find(path_of("permissions", virtual_host, user)) or {}

    def set_permissions(self, virtual_host: str, user: str, rights: Mapping[str, str]) -> None:
        self._api.put(path_of("permissions", virtual_host, user), dict(rights))

    def has_exchange(self, virtual_host: str, name: str) -> bool:
        return self._api.find(path_of("exchanges", virtual_host, name)) is not None

    def add_exchange(self, virtual_host: str, name: str, kind: str) -> None:
        self._api.put(path_of("exchanges", virtual_host, name), {"type": kind, "durable": True})

    def policy(self, virtual_host: str, name: str) -> Mapping[str, Any] | None:
        found: Mapping[str, Any] | None = self._api.find(path_of("policies", virtual_host, name))
        return found

    def set_policy(self, virtual_host: str, name: str, policy: Mapping[str, Any]) -> None:
        self._api.put(path_of("policies", virtual_host, name), policy)


class CtlAdministration:
    """By ``rabbitmqctl``; exchanges, which it does not declare, by AMQP as the user of the bus.

    Args:
        command: the program and what stands before its arguments: ``sudo rabbitmqctl``.
    """

    def __init__(self, host: BrokerHost, config: Configuration, command: str):
        self._host, self._config = host, config
        self._command = shlex.split(command)

    def __repr__(self) -> str:
        return f"<CtlAdministration of {self._host.name}>"

    @property
    def version(self) -> str:
        return self._run("version").strip()

    def has_virtual_host(self, name: str) -> bool:
        return any(each.get("name") == name for each in self._list("list_vhosts"))

    def add_virtual_host(self, name: str) -> None:
        self._run("add_vhost", name)

    def has_user(self, name: str) -> bool:
        return any(each.get("user") == name for each in self._list("list_users"))

    def add_user(self, name: str, password: Secret) -> None:
        # On stdin: other users of the machine see the arguments of a program.
        self._run("add_user", name, stdin=password.reveal() + "\n")

    def permissions(self, virtual_host: str, user: str) -> Mapping[str, str]:
        if not self.has_virtual_host(virtual_host):
            return {}
        listed = self._list("list_permissions", "-p", virtual_host)
        return next((each for each in listed if each.get("user") == user), {})

    def set_permissions(self, virtual_host: str, user: str, rights: Mapping[str, str]) -> None:
        patterns = (rights[each] for each in ("configure", "write", "read"))
        self._run("set_permissions", "-p", virtual_host, user, *patterns)

    def has_exchange(self, virtual_host: str, name: str) -> bool:
        if not self.has_virtual_host(virtual_host):
            return False
        return any(each.get("name") == name for each in self._list("list_exchanges", "-p", virtual_host, "name"))

    def add_exchange(self, virtual_host: str, name: str, kind: str) -> None:
        kinds: dict[str, ExchangeKind] = {"direct": "direct", "topic": "topic"}
        with open_session(self._host, self._config, purpose="setup") as session, session.channel() as channel:
            try:
                channel.run(declare_exchange(name, kind=kinds[kind]), f"the declaration of exchange {name}")
            except TransportError as error:
                if error.reply_code != 403:
                    raise  # else it is a Sender's, and the first agent declares it

    def consumer_timeout_s(self) -> float:
        """After how long the broker takes back what is not acked; infinite if it never does."""
        found = re.search(r"\{ok,\s*(\d+)\}", self._run("eval", "application:get_env(rabbit, consumer_timeout)."))
        return int(found[1]) / 1000 if found else math.inf

    def policy(self, virtual_host: str, name: str) -> Mapping[str, Any] | None:
        listed = self._list("list_policies", "-p", virtual_host) if self.has_virtual_host(virtual_host) else []
        for each in listed:
            if each.get("name") == name:
                definition = each.get("definition")
                return {**each, "definition": json.loads(definition) if isinstance(definition, str) else definition}
        return None

    def set_policy(self, virtual_host: str, name: str, policy: Mapping[str, Any]) -> None:
        definition = json.dumps(policy["definition"])
        how = ("-p", virtual_host, "--apply-to", policy["apply-to"], "--priority", str(policy["priority"]))
        self._run("set_policy", *how, name, policy["pattern"], definition)

    def _list(self, *arguments: str) -> Sequence[Mapping[str, Any]]:
        text = self._run(*arguments, "--formatter", "json")
        try:
            found = json.loads(text or "[]")
        except ValueError:
            found = None
        if not isinstance(found, list):
            raise ConnectFailed(self._host.name, f"rabbitmqctl {arguments[0]} answers something else than JSON")
        return found

    def _run(self, *arguments: str, stdin: str = "") -> str:
        # From RabbitMQ 3.12 on it reads the password of "add_user NAME" alone: with any option it waits without an end.
        command = [*self._command, *([] if stdin else ["--quiet"]), *arguments]
        try:
            done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=_CTL_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            reason = getattr(error, "strerror", None) or f"no answer within {_CTL_S:g} s"
            raise ConnectFailed(self._host.name, f"{self._command[0]} cannot be run: {reason}") from None
        if done.returncode:
            said = printable(" ".join((done.stderr or done.stdout).split())[:_SHOWN])
            raise ConnectFailed(self._host.name, f"rabbitmqctl {arguments[0]} failed: {said}")
        return done.stdout
