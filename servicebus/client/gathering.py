"""Gathering: one call at each node that a discovery finds, so many at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextlib import suppress
from contextvars import Context

from servicebus.client.discovery import Discoveries, Discovery
from servicebus.client.found import Gathered
from servicebus.client.future import MARGIN_S, CallFuture
from servicebus.errors import CallInterrupted, CallTimeout, NodeUnavailable, TransportError
from servicebus.protocol.discovery import Answer
from servicebus.transport import forks
from servicebus.wire.address import Address

_UNANSWERED = (CallTimeout, CallInterrupted, NodeUnavailable, TransportError)

Call = Callable[[str, float], "Future[tuple[int, object]]"]
"""Calls the service at an address, with a limit in seconds."""


class Gathering:
    """Made by the caller's thread, then the engine's.

    Args:
        address: whose node is a pattern.
        context: in which the calls are made: that of the caller, for what middleware finds in it.
    """

    def __init__(self, address: Address, timeout_s: float, at_once: int, call: Call, context: Context):
        self.address = address
        self._call, self._context, self._at_once = call, context, at_once
        self._started_at = time.monotonic()
        self.deadline = self._started_at + timeout_s
        self.discovery: Discovery | None = None
        """By which the nodes are found; None if they are given."""
        self._has_all = False
        """No more nodes will be found."""
        self._waiting: dict[str, None] = {}
        self._running: dict[str, Future[tuple[int, object]]] = {}
        self._lacking: dict[str, None] = {}
        self._is_beginning = False
        self._found = Gathered({}, {}, {}, (), {})
        self._forks = forks.count
        self._discoveries: Discoveries | None = None
        self.future = CallFuture()
        """Of what is gathered."""
        self.future.is_overdue = self.is_overdue

    def __repr__(self) -> str:
        return f"<Gathering {self.address} waiting={len(self._waiting)} running={len(self._running)}>"

    def begin(self, discoveries: Discoveries, nodes: Iterable[str]) -> None:
        """Call *nodes*. For any thread."""

        def call_them() -> None:
            self._has_all = True
            self._add(nodes)

        self.future.on_cancel = lambda _: discoveries.post(self._end)
        discoveries.post(call_them)

    def look_for_nodes(
        self, discoveries: Discoveries, discovery: Discovery, session_await: Callable[[Callable[[], bool]], None]
    ) -> None:
        """Call each node that *discovery* finds, which is begun here. For any thread."""

        def end() -> None:
            self._end()
            discoveries.end(discovery)

        self._discoveries, self.discovery = discoveries, discovery
        self.future.on_cancel = lambda _: discoveries.post(end)
        discovery.future.add_done_callback(self._has_found_all)
        discoveries.ask(discovery, session_await)

    # -- what the discovery tells --------------------------------------------------------------------------------------

    def heard(self, answer: Answer, _broker: str) -> None:
        """A node has answered, over one broker or another; of several agents of one node some may be older."""
        if answer.has_service:
            self._lacking.pop(answer.node, None)
            self._add([answer.node])
        elif not self._is_known(answer.node):
            self._lacking[answer.node] = None

    def _has_found_all(self, discovered: Future[None]) -> None:
        if not discovered.cancelled() and (error := discovered.exception()) is not None:
            with suppress(InvalidStateError):
                self.future.set_exception(error)
        self._has_all = True
        self._go_on()

    @property
    def is_calling(self) -> bool:
        return bool(self._running)

    def is_overdue(self) -> bool:
        """Whether the threads that end the calls have missed one; if so it ends here. For any thread."""
        is_ours = self._forks == forks.notice()
        if is_ours and time.monotonic() < self.deadline + MARGIN_S:
            return False
        self._end()
        return True

    # -- inside --------------------------------------------------------------------------------------------------------

    def _end(self) -> None:
        """With what there is. What is under way is cancelled."""
        running, self._running = self._running, {}
        for node in (*running, *self._waiting):
            self._found.unanswered[node] = CallTimeout(self._target(node), time.monotonic() - self._started_at)
        self._waiting.clear()
        found, discovery = self._found, self.discovery
        problems = {} if discovery is None else discovery.problems
        lacking = tuple(sorted(self._lacking))
        with suppress(InvalidStateError):  # it has ended, or its caller has cancelled it
            self.future.set_result(Gathered(found.results, found.errors, found.unanswered, lacking, problems))
        for future in running.values():
            future.cancel()

    def _is_known(self, node: str) -> bool:
        found = self._found
        return any(
            node in each for each in (self._waiting, self._running, found.results, found.errors, found.unanswered)
        )

    def _add(self, nodes: Iterable[str]) -> None:
        self._waiting.update((node, None) for node in nodes if not self._is_known(node))
        self._go_on()

    def _target(self, node: str) -> str:
        return f"{node}.{self.address.category}.{self.address.name}"

    def _go_on(self) -> None:
        """Begin what there is room for; calls that end meanwhile come here, too, and leave it to the first."""
        if self._is_beginning or self.future.done():
            return
        self._is_beginning = True
        try:
            while self._waiting and len(self._running) < self._at_once:
                node = next(iter(self._waiting))
                del self._waiting[node]
                self._begin(node)
        finally:
            self._is_beginning = False
        if self._has_all and not self._waiting and not self._running:
            self._end()

    def _begin(self, node: str) -> None:
        left_s = self.deadline - time.monotonic()
        if left_s <= 0:
            self._found.unanswered[node] = CallTimeout(self._target(node), time.monotonic() - self._started_at)
            return
        try:
            future = self._context.run(self._call, self._target(node), left_s)
        except Exception as error:  # it costs this node, and not the others
            self._failed(node, error)
            return
        self._running[node] = future
        future.add_done_callback(lambda future: self._ended(node, future))

    def _ended(self, node: str, future: Future[tuple[int, object]]) -> None:
        if self._running.pop(node, None) is None:
            return  # it has been given up
        error = CancelledError() if future.cancelled() else future.exception()
        if error is None:
            self._found.results[node] = future.result()[1]
        else:
            self._failed(node, error)
        self._go_on()
        if not self._running and self.discovery is not None and self._discoveries is not None:
            self._discoveries.look(self.discovery)

    def _failed(self, node: str, error: BaseException) -> None:
        kind = self._found.unanswered if isinstance(error, _UNANSWERED) else self._found.errors
        kind[node] = error
