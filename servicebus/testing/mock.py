"""MockNode: the services of a contract, without the code of its node."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from servicebus._durations import to_seconds
from servicebus.contracts import EventContract, NodeContract
from servicebus.errors import ContractError
from servicebus.testing.mock_service import MockService
from servicebus.wire.envelope import CALL, MESSAGE, Kind

__all__ = ["MockNode", "mock_of"]


_MOST_THREADS = 16


@dataclass(frozen=True)
class MockDefinition:
    """A service of a mock, as ``ServiceBus.include()`` takes those of a group."""

    service: MockService

    @property
    def kind(self) -> Kind:
        return CALL if self.service.described.kind in ("call", "stream") else MESSAGE

    @property
    def subscription(self) -> dict[str, Any]:
        """The events that it takes, as ``ServiceBus.add_event_service()`` knows them."""
        events = self.service.described.events
        return {"events": events} if events else {}

    @property
    def category(self) -> str:
        return self.service.described.category

    @property
    def name(self) -> str:
        return self.service.described.name

    @property
    def options(self) -> dict[str, Any]:
        """Those that decide how many run at a time, and when a message is tried again."""
        known = self.service.described.options
        threads = known.get("threads") or min(known.get("tasks") or 1, _MOST_THREADS)
        found = {"threads": threads, **{name: known.get(name) for name in ("retry", "idempotent", "resumable")}}
        return {name: value for name, value in found.items() if value is not None}

    def make(self) -> MockService:
        """What an agent runs."""
        return self.service


class MockNode:
    """Serves what a contract describes: ``servicebus.testing.bus(mock)``, made by ``mock_of()``.

    Params that the schemas refuse are answered InvalidParams, as the node would. Every other call gets a reply that its
    schema accepts: an example, a default, or a value that is made from it; every message is taken. Its methods are for
    any thread, before and while it serves.
    """

    def __init__(self, contract: NodeContract, latency: float = 0.0):
        self._contract = contract
        latency = to_seconds("latency", latency)
        self._services = [MockService(each, latency) for each in contract]

    def __repr__(self) -> str:
        return f"<MockNode {self.node or 'without a name'} with {len(self._services)} services>"

    @property
    def published(self) -> tuple[EventContract, ...]:
        """The events that the contract says the node publishes. The mock says so, too, and publishes none."""
        return self._contract.publishes

    def __iter__(self) -> Iterator[MockDefinition]:
        return map(MockDefinition, self._services)

    @property
    def node(self) -> str:
        """The name of the node that it stands for; "" if that is not known."""
        return self._contract.node

    def contract(self) -> NodeContract:
        """What it was made from."""
        return self._contract

    def reply(self, service: str, result: Any) -> None:
        """Answer calls of *service* (``category.name``) with *result* from now on; of a stream it is the list of items.

        Raises:
            ContractError: there is no such call, or its schema does not accept the result.
        """
        for each in self._found(service, "call", "stream"):
            each.reply(result)

    def fail(self, service: str, error: str, fields: Any = None) -> None:
        """Have *service* (``category.name``) raise *error* from now on.

        Args:
            error: the name of an error that the service declares, or of an exception of Python.
            fields: of a declared error: an object, or an array for ``args``; made from its schema if None.

        Raises:
            ContractError: there is no such service or error, or its schema does not accept the fields.
        """
        for each in self._found(service):
            each.fail(error, fields)

    def reset(self) -> None:
        """Forget what ``reply()`` and ``fail()`` were told."""
        for each in self._services:
            each.reset()

    def problems(self) -> dict[str, str]:
        """Why no reply can be made, by service: these calls raise ContractError, unless ``reply()`` gives one."""
        return {each.described.key: each.problem for each in self._services if each.problem and not each.is_told}

    def _found(self, key: str, *kinds: str) -> list[MockService]:
        """Of these kinds or all; not earlier versions, whose schemas are others."""
        found = [
            each
            for each in self._services
            if each.described.key == key
            and each.described.kind in (kinds or (each.described.kind,))
            and not each.former
        ]
        if not found:
            known = ", ".join(dict.fromkeys(each.described.key for each in self._services)) or "none"
            raise ContractError(f"the contract has no {kinds[0] if kinds else 'service'} {key}; it has: {known}")
        return found


def mock_of(source: Any, *, latency: float = 0.0) -> MockNode:
    """A mock of a node, without its code.

    Args:
        source: a NodeContract, what has ``contract()`` (a group, a ServiceBus), or the path of a file that
            ``servicebus describe NODE --json`` wrote.
        latency: seconds that each call and message takes.

    Raises:
        ContractError: the file is no description, or has a schema that is none.
        OSError: the file cannot be read.
        ImportError: jsonschema is not installed (``pip install servicebus-failover[mock]``).
    """
    return MockNode(_contract_of(source), latency)


def _contract_of(source: Any) -> NodeContract:
    if isinstance(source, NodeContract):
        return source
    if isinstance(source, (str, PathLike)):
        try:
            return NodeContract.from_json(json.loads(Path(source).read_bytes()))
        except (ValueError, ContractError) as error:
            raise ContractError(f"{source}: {error}") from error
    contract: NodeContract = source.contract()
    return contract
