"""Asking whether a node is there, and what it has: by pings that threads and tasks can wait for."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import TYPE_CHECKING, Any

from servicebus.errors import UnknownService
from servicebus.wire.address import Address, node_name, plain
from servicebus.wire.envelope import CALL, MESSAGE

if TYPE_CHECKING:
    from servicebus.contracts import NodeContract

_SILENCE = TimeoutError("no answer")
_PER_ANSWER = 6
"""So many pings are sent in the time that there is."""
_MARGIN_S = 0.25
"""A ping that nothing answers ends by itself at its deadline, with an error that says what was tried."""


_Futures = Collection["Future[Any]"]
Pinging = Generator[tuple[_Futures, float], _Futures, "list[BaseException | None]"]
"""Yields futures and how many seconds to wait until one has ended; is sent those that have. Returns the outcomes."""


def ask_each(asks: list[Callable[[float], Future[Any]]], timeout_s: float) -> list[BaseException | None]:
    """As ``pinging()``; this thread waits."""
    steps = pinging(asks, timeout_s)
    try:
        futures, pause_s = next(steps)
        while True:
            futures, pause_s = steps.send(wait(futures, pause_s, FIRST_COMPLETED).done)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


def pinging(asks: list[Callable[[float], Future[Any]]], timeout_s: float) -> Pinging:
    """What became of each of *asks*: None if it led to an answer within *timeout_s*, else why not.

    Each is asked several times: of several agents with one name a frozen one may get the first ping. The caller waits,
    a thread or a task, and ends it early by ``close()``.

    Args:
        asks: send a ping that is waited for as long as they are told, in seconds.
    """
    deadline = time.monotonic() + timeout_s
    asked: dict[Future[Any], int] = {}
    found: dict[int, BaseException | None] = {}

    def hear(ended: Collection[Future[Any]]) -> None:
        """An answer counts more than an error."""
        for future in ended:
            number, error = asked.pop(future), future.exception()
            if found.get(number, _SILENCE) is not None:
                found[number] = error

    def is_open() -> bool:
        return any(found.get(number, _SILENCE) is not None for number in range(len(asks)))

    try:
        while (left_s := deadline - time.monotonic()) > 0 and is_open():
            for number, ask in enumerate(asks):
                if found.get(number, _SILENCE) is not None:
                    asked[ask(left_s)] = number
            # What failed at once is asked again with the others, not sooner.
            until = min(time.monotonic() + timeout_s / _PER_ANSWER, deadline)
            while asked and is_open() and (pause_s := until - time.monotonic()) > 0:
                hear((yield asked, pause_s))
            if not asked:
                break
        until = time.monotonic() + _MARGIN_S
        while asked and len(found) < len(asks) and (pause_s := until - time.monotonic()) > 0:
            hear((yield asked, pause_s))
    finally:
        for future in asked:
            future.cancel()
    return [found.get(number, _SILENCE) for number in range(len(asks))]


def ping_address(node: str) -> Address:
    """Where a ping of *node* goes. Raises AddressError."""
    return Address(node_name(node), "servicebus", "ping")


def offers_question(target: str, is_call: bool) -> tuple[Address, list[str]]:
    """Where to ask whether a node has the service *target*, and with which params. Raises AddressError."""
    address = Address.parse(target)
    kind = CALL if is_call else MESSAGE
    return Address(address.node, "servicebus", "offers"), [kind.value, f"{address.category}.{address.name}"]


def description_question(target: str) -> tuple[Address, list[str] | None]:
    """Where to ask what *target* offers, a node or one of its services, and with which params. Raises AddressError."""
    if "." not in plain(target):
        return Address(ping_address(target).node, "servicebus", "describe"), None
    address = Address.parse(target)
    return Address(address.node, "servicebus", "describe"), [f"{address.category}.{address.name}"]


def read_description(target: str, value: Any) -> NodeContract:
    """The answer to that question. Raises ContractError, or UnknownService: the node has none of that name."""
    from servicebus.contracts import NodeContract  # late: few Senders ask

    contract = NodeContract.from_json(value)
    if "." in target and not contract.services:
        raise UnknownService(target)
    return contract
