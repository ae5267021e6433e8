"""AsyncDiscovering: what an AsyncSender asks all nodes at once, and what it calls at all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from servicebus._async_plain import AsyncPlainSending
from servicebus._context import GivenContext
from servicebus._discovering import Discovering, gathered, nodes_of, services_of
from servicebus.client.discovery import Discovery
from servicebus.client.found import Discovered, Gathered, NodeInfo, ServiceInfo
from servicebus.protocol.discovery import Question, ask_for

__all__ = ["AsyncDiscovering"]


class AsyncDiscovering(AsyncPlainSending):
    """Base of AsyncSender."""

    _sender: Discovering
    _steps: tuple[Any, ...]

    if TYPE_CHECKING:

        @property
        def _has_outbox(self) -> bool: ...
        async def _open(self) -> None: ...
        async def call(self, target: str, params: Any = None, *what: Any, **how: Any) -> tuple[int, Any]: ...

    async def nodes(self, pattern: str = "*", timeout: float = 2, *, quiet: float = 0.25) -> Discovered[NodeInfo]:
        """Which nodes there are: those whose agents answer, over any broker. One request for all of them.

        Args:
            pattern: of the names of nodes, as in ``fnmatch``: ``*``, ``?``, ``[ab]``; case matters.
            timeout: seconds for all of it, connecting included.
            quiet: it ends sooner once no further node has answered for so many seconds over any broker, and for as long
                as the last one took. A node that is slower is not found.

        Returns:
            Each node once, with the brokers that reach it, and the brokers over which no nodes could be asked.

        Raises:
            AddressError: no node has such a name.
            NoBrokerAvailable: no broker could be used.
        """
        return nodes_of(await self._heard(ask_for(pattern), timeout, quiet))

    async def services(self, pattern: str = "*", timeout: float = 2, *, quiet: float = 0.25) -> Discovered[ServiceInfo]:
        """Which services there are, and which nodes have them. The rest as of ``nodes()``.

        Args:
            pattern: of the names of nodes, not of services.
            timeout: seconds for all of it, connecting included.
            quiet: seconds, as of ``nodes()``.

        Returns:
            Each service once, sorted by its name.

        Raises:
            AddressError: no node has such a name.
            NoBrokerAvailable: no broker could be used.
        """
        return services_of(await self._heard(ask_for(pattern, lists_services=True), timeout, quiet))

    async def gather(
        self,
        target: str,
        params: Any = None,
        timeout: float | None = None,
        *,
        nodes: Iterable[str] | None = None,
        quiet: float | None = None,
        at_once: int = 1000,
        context: GivenContext = None,
    ) -> Gathered:
        """Call one service at all nodes of a pattern, each as by ``call()``, as soon as they are found.

        Args:
            target: ``NODE.category.name``, where NODE is a pattern as of ``nodes()``.
            params: anything JSON can say; the same for all.
            timeout: seconds for all of it, ``call_timeout`` (300) by default.
            nodes: call those of these names that fit NODE, and look for no others. So those that are down are in the
                answer, too.
            quiet: seconds, as of ``nodes()``; by default 0.05, or less once all have answered that did the last time.
                Nodes are looked for as long as calls are under way, but for 2 s at most.
            at_once: how many calls are under way at a time.
            context: of each call, as of ``call()``.

        Returns:
            Results, errors, and who did not answer, by the names of nodes.

        Raises:
            AddressError, EnvelopeError: nothing was sent.
            NoBrokerAvailable: no broker could be used.
            ValueError: *at_once* is no number of calls.
        """
        loop = asyncio.get_running_loop()

        def call(*what: Any, **how: Any) -> Future[Any]:
            """In the thread that reads the answers."""
            return asyncio.run_coroutine_threadsafe(self.call(*what, **how), loop)

        if self._has_outbox:
            await self._open()
        ask = call if self._steps else self._sender.call_async  # around the former stands our middleware
        gathering = self._sender._gather(ask, target, params, timeout, nodes, quiet, at_once, context)
        return gathered(gathering, await asyncio.wrap_future(gathering.future))

    async def _heard(self, question: Question, timeout: float, quiet: float) -> Discovery:
        """A discovery that has ended."""
        if self._has_outbox:
            await self._open()
        discovery = self._sender._discover(question, timeout, quiet)
        await asyncio.wrap_future(discovery.future)
        return discovery
