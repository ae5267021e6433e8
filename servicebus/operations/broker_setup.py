"""What a broker needs before the bus can use it: virtual host, user, rights, exchanges; and the steps that make it.

Each step adds what is missing. A right that a user has stays, a user that is there keeps its password, and done twice
it does nothing the second time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from servicebus.configuration import BrokerHost, Configuration, Secret
from servicebus.operations.doctor.amqp_facts import exchange_types
from servicebus.operations.doctor.rights import RIGHTS, NeededRights, needed_rights
from servicebus.policy.broker_versions import has_delivery_limit, read_version

__all__ = ["Administration", "SetupStep", "setup_steps"]

_POLICY = "servicebus"
_NOTHING = ("", "^$")


class Administration(Protocol):
    """What an administrator does to a broker. Each method raises ConnectFailed."""

    @property
    def version(self) -> str:
        """Of RabbitMQ; empty if it is not known."""

    def has_virtual_host(self, name: str) -> bool: ...
    def add_virtual_host(self, name: str) -> None: ...
    def has_user(self, name: str) -> bool: ...
    def add_user(self, name: str, password: Secret) -> None: ...
    def permissions(self, virtual_host: str, user: str) -> Mapping[str, str]: ...
    def set_permissions(self, virtual_host: str, user: str, rights: Mapping[str, str]) -> None: ...
    def has_exchange(self, virtual_host: str, name: str) -> bool: ...
    def add_exchange(self, virtual_host: str, name: str, kind: str) -> None: ...
    def policy(self, virtual_host: str, name: str) -> Mapping[str, Any] | None: ...
    def set_policy(self, virtual_host: str, name: str, policy: Mapping[str, Any]) -> None: ...


class SetupStep(NamedTuple):
    """One thing that the broker needs."""

    what: str
    """As an order."""
    is_needed: bool
    """False: it is done already."""
    do: Callable[[], None]


def setup_steps(
    admin: Administration, host: BrokerHost, config: Configuration, nodes: Sequence[str], *, has_events: bool
) -> Iterator[SetupStep]:
    """What the agents of *nodes* need there; a Sender if there are none. A step is done before the next one is made."""
    vhost, user = host.virtual_host, host.user
    yield SetupStep(
        f"add virtual host {vhost}", not admin.has_virtual_host(vhost), lambda: admin.add_virtual_host(vhost)
    )
    yield SetupStep(
        f"add user {user}, with the password of the file",
        not admin.has_user(user),
        lambda: admin.add_user(user, host.password),
    )
    needed = needed_rights(config.exchange_name, nodes, has_events=has_events)
    yield _rights_step(admin, host, needed)
    for name, kind in exchange_types(config).items():
        yield SetupStep(
            f"declare exchange {name} ({kind}, durable)",
            not admin.has_exchange(vhost, name),
            lambda name=name, kind=kind: admin.add_exchange(vhost, name, kind),  # type: ignore[misc]
        )
    if nodes and config.message_queue_type == "quorum" and has_delivery_limit(read_version(admin.version)):
        yield _policy_step(admin, vhost, nodes)


def _rights_step(admin: Administration, host: BrokerHost, needed: NeededRights) -> SetupStep:
    found = admin.permissions(host.virtual_host, host.user)
    given = {right: found.get(right, "") for right in RIGHTS}
    lacking = needed.lacking(given)
    rights = {right: _with(given[right], needed.patterns[right], right in lacking) for right in RIGHTS}
    shown = " ".join(f"{right} '{rights[right]}'" for right in RIGHTS)
    # A Sender needs no right to configure or read; without any it has no permissions at all.
    is_needed = bool(lacking) or not found
    return SetupStep(
        f"let user {host.user} {shown}",
        is_needed,
        lambda: admin.set_permissions(host.virtual_host, host.user, rights),
    )


def _with(given: str, needed: str, is_lacking: bool) -> str:
    """A pattern for all that *given* fits, and *needed* if that is lacking."""
    if given in _NOTHING:
        return needed
    return f"{given}|{needed}" if is_lacking else given


def _policy_step(admin: Administration, virtual_host: str, nodes: Sequence[str]) -> SetupStep:
    pattern = f"^({'|'.join(nodes)})[.](messages|dead|events)"
    policy = {"pattern": pattern, "definition": {"delivery-limit": -1}, "apply-to": "queues", "priority": 0}
    found = admin.policy(virtual_host, _POLICY)
    is_there = found is not None and all(found.get(key) == value for key, value in policy.items())
    return SetupStep(
        f"set policy {_POLICY}: no delivery limit for '{pattern}'",
        not is_there,
        lambda: admin.set_policy(virtual_host, _POLICY, policy),
    )
