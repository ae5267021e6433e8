"""Discovering: what a Sender asks nodes of themselves, one or all at once, and what it calls at all of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, NamedTuple

from servicebus._context import GivenContext
from servicebus._durations import to_seconds
from servicebus.client.discovery import Discovery
from servicebus.client.found import Discovered, Gathered, NodeInfo, ServiceInfo
from servicebus.client.future import CallFuture
from servicebus.client.gathering import Gathering
from servicebus.client.pinging import description_question, offers_question, read_description
from servicebus.client.session import SessionOwner
from servicebus.client.tails import LogTail
from servicebus.errors import NoBrokerAvailable
from servicebus.protocol.discovery import Answer, Question, ask_for
from servicebus.protocol.tail import tail_of
from servicebus.services import context_text
from servicebus.wire.address import Address, node_name
from servicebus.wire.jsontext import encode_params

if TYPE_CHECKING:
    from servicebus.contracts import NodeContract

__all__ = [
    "Discovering",
    "Heard",
    "Survey",
    "begin_tail",
    "end_tail",
    "gathered",
    "nodes_of",
    "services_of",
    "survey",
    "survey_ids",
    "tail_logs",
]

_SECONDS = 2.0
"""For what is asked of all nodes before a gather."""
_QUIET_S = 0.05


class Discovering(SessionOwner):
    """Base of Sender. For any thread."""

    if TYPE_CHECKING:

        def call_async(self, target: str, params: Any = None, timeout: float | None = None) -> Future[Any]: ...
        def _parse(self, target: str, timeout: float | None) -> tuple[Address, float]: ...
        def _make_question(self, address: Address, params: Any, timeout: float) -> tuple[Any, Any]: ...

    def offers(self, target: str, *, is_call: bool = True, timeout: float = 3) -> bool:
        """Ask the agent of a node whether it has the service *target*, ``NODE.category.name``. Nothing is run.

        Args:
            is_call: an RPC service is meant; else a message service.
            timeout: seconds.

        Raises:
            ServiceBusError: as ``call()``; no agent of the node answered.
        """
        session, request = self._make_question(*offers_question(target, is_call), timeout)
        return bool(session.engine.ask(request)[1])

    def describe(self, target: str, timeout: float = 10) -> NodeContract:
        """Ask the agent of a node what it offers: its services, their schemas and docstrings. Nothing is run.

        Args:
            target: ``NODE``, or ``NODE.category.name`` for that service alone.
            timeout: seconds.

        Raises:
            ServiceBusError: as ``call()``; no agent of the node answered.
            UnknownService: the node has no such service.
            ContractError: what it answers is no description that this version can read.
        """
        session, request = self._make_question(*description_question(target), timeout)
        return read_description(target, session.engine.ask(request)[1])

    def nodes(self, pattern: str = "*", timeout: float = 2, *, quiet: float = 0.25) -> Discovered[NodeInfo]:
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
        return nodes_of(_heard(self._discover(ask_for(pattern), timeout, quiet)))

    def services(self, pattern: str = "*", timeout: float = 2, *, quiet: float = 0.25) -> Discovered[ServiceInfo]:
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
        return services_of(_heard(self._discover(ask_for(pattern, lists_services=True), timeout, quiet)))

    def gather(
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
        gathering = self._gather(self.call_async, target, params, timeout, nodes, quiet, at_once, context)
        return gathered(gathering, _ended(gathering.future))

    # -- inside, for AsyncSender, too ----------------------------------------------------------------------------------

    def _discover(
        self, question: Question, timeout: float, quiet: float, on_node: Callable[[Answer, str], None] | None = None
    ) -> Discovery:
        timeout_s, quiet_s = to_seconds("timeout", timeout), to_seconds("quiet", quiet)
        session, discovery = self._current(), Discovery(question, timeout_s, quiet_s, on_node)
        session.engine.discoveries.ask(discovery, session.await_end)
        return discovery

    def _gather(
        self,
        call: Callable[..., Future[Any]],
        target: str,
        params: Any,
        timeout: float | None,
        nodes: Iterable[str] | None,
        quiet: float | None,
        at_once: int,
        context: GivenContext = None,
    ) -> Gathering:
        """Begin it; *call* is a ``call_async()``."""
        address, timeout_s = self._parse(target, timeout)
        quiet_s = _QUIET_S if quiet is None else to_seconds("quiet", quiet)
        if type(at_once) is not int or at_once < 1:
            raise ValueError(f"at_once must be a number of calls, 1 or more, not {at_once!r}")
        if isinstance(nodes, str):
            raise ValueError(f"nodes is a list of names; write [{nodes!r}]")
        encode_params(params)  # what cannot be sent is refused before anything is
        context_text(context)
        question = ask_for(address.node, f"{address.category}.{address.name}")
        session = self._current()

        def call_node(target: str, left_s: float) -> Future[Any]:
            return call(target, params, left_s, context=context)

        gathering = Gathering(address, timeout_s, at_once, call_node, copy_context())
        gathering.future.on_wait = session.await_end
        if nodes is not None:
            names = [name for name in map(node_name, nodes) if question.is_for(name)]
            gathering.begin(session.engine.discoveries, names)
            return gathering
        limit_s = min(timeout_s, _SECONDS)
        discovery = Discovery(
            question, limit_s, quiet_s, gathering.heard, lambda: gathering.is_calling, trusts_known=quiet is None
        )
        gathering.look_for_nodes(session.engine.discoveries, discovery, session.await_end)
        return gathering


class Heard(NamedTuple):
    """One answer: that of one worker."""

    at: float
    """The Unix time at which it came."""
    answer: Answer
    broker: str
    """The name of the one over which it came."""


class Survey(NamedTuple):
    """What operators' commands ask all nodes at once."""

    nodes: Discovered[NodeInfo]
    services: Discovered[ServiceInfo]
    heard: list[Heard]
    """Each answer, one for each worker that gave one."""
    asked_at: float
    """The Unix time at which it began."""


def survey(
    sender: Discovering,
    timeout: float,
    quiet: float,
    *,
    pattern: str = "*",
    lists_services: bool = True,
    asks_load: bool = False,
) -> Survey:
    """Nodes, their services, clocks, versions and keys, by one request. Raises AddressError, NoBrokerAvailable."""
    heard: list[Heard] = []
    question = ask_for(pattern, lists_services=lists_services, asks_about=True, asks_load=asks_load)
    asked_at = time.time()

    def hear(answer: Answer, broker: str) -> None:
        heard.append(Heard(time.time(), answer, broker))

    discovery = _heard(sender._discover(question, timeout, quiet, hear))
    return Survey(nodes_of(discovery), services_of(discovery), heard, asked_at)


def survey_ids(
    sender: Discovering, ids: Sequence[str], named: Iterable[str], timeout: float, quiet: float
) -> tuple[Discovered[NodeInfo], list[Answer]]:
    """What all nodes know of *ids*: the nodes, and each answer. Nodes that are *named* are waited for.

    Raises NoBrokerAvailable.
    """
    heard: list[Answer] = []
    missing, session = set(named), sender._current()

    def hear(answer: Answer, _broker: str) -> None:
        heard.append(answer)
        if answer.node in missing:
            missing.discard(answer.node)
            session.engine.discoveries.look(discovery)

    question = ask_for("*", ids=ids)
    discovery = Discovery(question, to_seconds("timeout", timeout), quiet, hear, lambda: bool(missing))
    session.engine.discoveries.ask(discovery, session.await_end)
    return nodes_of(_heard(discovery)), heard


@contextmanager
def tail_logs(
    sender: Discovering, nodes: str, level: int = 0, *, service: str = "", request: str = ""
) -> Iterator[LogTail]:
    """The log records of the nodes of a pattern, as they come, until the context is left. As ``begin_tail()``."""
    tail = begin_tail(sender, nodes, level, service=service, request=request)
    try:
        yield tail
    finally:
        end_tail(sender, tail)


def begin_tail(sender: Discovering, nodes: str, level: int = 0, *, service: str = "", request: str = "") -> LogTail:
    """Ask for log records. It ends by ``end_tail()``, with the Sender, or when nothing is taken for half a minute.

    Args:
        nodes, level, service, request: as in TailQuestion.

    Raises:
        AddressError: no node has a name like *nodes*.
    """
    tail = LogTail(tail_of(os.urandom(8).hex(), nodes, level, service, request))
    sender._current().engine.discoveries.tails.begin(tail)
    return tail


def end_tail(sender: Discovering, tail: LogTail) -> None:
    """Ask for no more of it."""
    sender._current().engine.discoveries.tails.end(tail)


def nodes_of(discovery: Discovery) -> Discovered[NodeInfo]:
    """What it has found, now that it has ended. Raises NoBrokerAvailable."""
    _must_have_asked(discovery)
    hosts = [asked.link.host.name for asked in discovery.asked]
    found = (
        NodeInfo(name, tuple(host for host in hosts if host in brokers))
        for name, brokers in sorted(discovery.nodes.items())
    )
    return Discovered(found, discovery.problems)


def services_of(discovery: Discovery) -> Discovered[ServiceInfo]:
    """What it has found, now that it has ended. Raises NoBrokerAvailable."""
    _must_have_asked(discovery)
    found = sorted((name, kind, tuple(sorted(nodes))) for (kind, name), nodes in discovery.services.items())
    return Discovered((ServiceInfo(*each) for each in found), discovery.problems)


def gathered(gathering: Gathering, found: Gathered) -> Gathered:
    """What it has gathered, now that it has ended. Raises NoBrokerAvailable."""
    if gathering.discovery is not None:
        _must_have_asked(gathering.discovery)
    return found


def _must_have_asked(discovery: Discovery) -> None:
    problems = discovery.problems
    if not discovery.nodes and len(problems) == len(discovery.asked):
        cause = next((asked.link.failure for asked in discovery.asked if asked.link.failure is not None), None)
        raise NoBrokerAvailable(discovery.question.nodes, [*problems.items()], "no node was found") from cause


def _heard(discovery: Discovery) -> Discovery:
    """It, when it has ended."""
    _ended(discovery.future)
    return discovery


def _ended(future: CallFuture) -> Any:
    try:
        return future.result()
    except BaseException:
        future.cancel()  # if the caller was interrupted
        raise
