"""ControlRequests: answers pings and other control requests whatever the services do, and hears what the worker's own
queue brings: its echo, cancellations, and what is asked of all nodes."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from servicebus.configuration import Configuration
from servicebus.errors import EnvelopeError, JournalUnavailable
from servicebus.protocol.control_requests import MOST_ASKED
from servicebus.protocol.discovery import DISCOVER, STREAM, Answer, Question, read_question
from servicebus.protocol.interface import Incoming, RequestRefused, wrong_queue
from servicebus.protocol.tail import TAIL, read_tail_question
from servicebus.protocol.v2 import ProtocolV2
from servicebus.runtime.dispatcher import Dispatcher
from servicebus.runtime.id_lookup import IdLookup
from servicebus.runtime.log_tails import LogTails
from servicebus.runtime.recent_ids import RecentIds
from servicebus.runtime.registration import is_former, name_of_key, stream_key
from servicebus.runtime.streams import ENDING, NodeStreams
from servicebus.transport.interface import Delivery
from servicebus.wire.address import EVERY_NODE
from servicebus.wire.encryption import key_id_of
from servicebus.wire.envelope import Kind, callers_id
from servicebus.wire.fault import REFUSED, Fault
from servicebus.wire.signing import Keyring
from servicebus.wire.streams import CREDIT, read_credit
from servicebus.wire.xmlcodec import decode_json

_ECHO_DOMAIN = b"servicebus/2 echo"
_PROVED_LONGER_S = 2.0
"""The watcher sends an echo every ``watcher_interval``, and gives the connections up after ``watcher_timeout``."""
_DISCOVERIES = 1024
"""So many are remembered, as long as they are good for: some seconds, and the clock skew."""

MayKnow = Callable[[str, Sequence[str]], bool]
"""Whether a caller is told of a service, by its ``category.name`` and the patterns of its events."""
Describe = Callable[[str, "MayKnow | None"], bytes]
"""The description of the node as JSON: of a service ``category.name``, or of all for "", as a caller may know it."""


class ControlRequests:
    """Belongs to the I/O thread; ``echoed_at`` and ``proved_for_s()`` are for others, too."""

    def __init__(
        self,
        config: Configuration,
        keyring: Keyring,
        protocol: ProtocolV2,
        dispatcher: Dispatcher,
        describe: Describe | None = None,
    ):
        self.protocol = protocol
        self.echoed_at = 0.0
        self._proved_at: float | None = None
        """When the last echo came over these connections; ``echoed_at`` may also stand for one that is excused."""
        self._proof_s = config.watcher_interval + config.watcher_timeout + _PROVED_LONGER_S
        self._made_at = time.time()
        self.is_leaving = False
        """The broker is being drained: callers shall go elsewhere."""
        self.calls_made_at: float | None = None
        """``time.monotonic()`` of when we made the node's queue of calls; None if others had made it already."""
        self._config = config
        self._keyring = keyring
        self._dispatcher = dispatcher
        self._describe = describe
        self._id_lookup = IdLookup(config, dispatcher)
        self._echo_queue = ""
        self._own_queue = ProtocolV2(config, keyring, also=(EVERY_NODE,))
        """In what comes in the worker's own queue all nodes may be asked."""
        self.load: Callable[[], dict[str, Any]] | None = None
        """What the worker says of its services to operators who ask for it."""
        self.streams: NodeStreams | None = None
        """Of a worker that has services which answer streams."""
        self.tails: LogTails | None = None
        """None where no log records are sent."""
        self._discoveries = RecentIds(_DISCOVERIES)
        """Those that were answered."""

    def connected(self, echo_queue: str, now: float) -> None:
        self._echo_queue = echo_queue
        self.echoed_at, self._proved_at = now, None

    def proved_for_s(self, now: float) -> float:
        """For how many seconds more the last echo proves that deliveries come; 0 if it does not."""
        proved_at = self._proved_at
        return 0.0 if proved_at is None else max(0.0, proved_at + self._proof_s - now)

    def answer(self, delivery: Delivery) -> tuple[bytes, str] | None:
        """The reply to a control request and where it goes; None if it is not answered."""
        try:
            incoming = self._read(delivery, self.protocol)
        except RequestRefused as refused:
            reply = refused.reply_in(Kind.CONTROL)
            return None if reply is None else (reply, refused.reply_to)
        if incoming.key == "servicebus.offers":
            return self.protocol.encode_result(incoming, self._offers(incoming)), incoming.reply_to
        if incoming.key == "servicebus.describe" and self._describe is not None:
            return self._described(incoming, self._describe), incoming.reply_to
        if incoming.key != "servicebus.ping":
            self._dispatcher.counters["refused.unknown-service"] += 1
            return self.protocol.encode_fault(incoming, Fault("unknown-service", incoming.key)), incoming.reply_to
        self._dispatcher.counters["pings"] += 1
        return self.protocol.encode_result(incoming, self._who_i_am(incoming)), incoming.reply_to

    def _read(self, delivery: Delivery, protocol: ProtocolV2) -> Incoming:
        try:
            incoming = protocol.decode_request(delivery)
            if incoming.kind is not Kind.CONTROL:
                raise wrong_queue(incoming, Kind.CONTROL)
        except RequestRefused as refused:
            self._dispatcher.refusals.refused(Kind.CONTROL, refused.error)
            raise
        return incoming

    def _offers(self, incoming: Incoming) -> bool:
        """Whether this node has a service, for its caller: the params are ``[kind, "category.name"]``."""
        with suppress(EnvelopeError, ValueError, TypeError):
            kind, name = decode_json(incoming.raw_params)
            services = self._dispatcher.services
            is_there = (Kind(kind), name) in services or (Kind(kind), stream_key(name)) in services
            return is_there and self.protocol.may_know(incoming.caller, name)
        return False

    def _described(self, incoming: Incoming, describe: Describe) -> bytes:
        """The params are null, or ``["category.name"]``."""
        key = ""
        try:
            params = decode_json(incoming.raw_params)
            if params is not None:
                (key,) = map(str, params)
            may_know = partial(self.protocol.may_know, incoming.caller) if incoming.caller else None
            return self.protocol.encode_text(incoming, describe(key, may_know))
        except (EnvelopeError, ValueError, TypeError) as error:
            return self.protocol.encode_fault(incoming, Fault(REFUSED, str(error)))

    def echo_body(self) -> bytes:
        return self._keyring.sign_bytes(_ECHO_DOMAIN, self._echo_queue.encode()).encode()

    def hear(self, delivery: Delivery) -> tuple[bytes, str] | None:
        """Of the worker's own queue: its echo, a cancellation, or what all nodes are asked. Only the last is answered:
        the reply and where it goes."""
        # Only our own echo counts: a stranger who finds the queue must not keep a dead worker looking alive.
        if delivery.body == self.echo_body():
            self.echoed_at = self._proved_at = time.monotonic()
            return None
        with suppress(RequestRefused):
            incoming = self._read(delivery, self._own_queue)
            if incoming.key == f"servicebus.{CREDIT}":
                self._credit(incoming)
            elif incoming.key == "servicebus.cancel":
                self._cancel(incoming)
            elif incoming.key == f"servicebus.{DISCOVER}":
                return self._discovered(incoming)
            elif incoming.key == f"servicebus.{TAIL}":
                return self._tailed(incoming, delivery)
            else:
                text = f"a request for {incoming.key} where cancellations come"
                self._dispatcher.refusals.refused(Kind.CONTROL, EnvelopeError("wrong-queue", text))
        return None

    def _discovered(self, incoming: Incoming) -> tuple[bytes, str] | None:
        """The answer of this node, if it is asked, and takes calls here.

        Each request is answered once: played again, it would have all nodes answer for the price of one publish.
        """
        try:
            self._must_be_new(incoming)
            question = read_question(incoming.raw_params)
            # What it knows of ids it says until its end.
            takes_calls = not (self._dispatcher.is_stopping or self.is_leaving)
            if not (takes_calls or question.ids) or not question.is_for(self._config.node_name):
                return None
            self._dispatcher.counters["discoveries"] += 1
            services = self._dispatcher.services
            may_know = partial(self.protocol.may_know, incoming.caller)
            has_service = (Kind.CALL, question.service) in services and may_know(question.service)
            offered = (_listed(kind, key) for kind, key in services if not is_former(key))
            listed = sorted(each for each in offered if may_know(each[1]))
            about = self._about(question) if question.asks_about and not incoming.caller else None
            known, problem = self._known(question, incoming.caller)
            answer = Answer(self._config.node_name, has_service, tuple(listed), about, known, problem)
            return self._own_queue.encode_result(incoming, answer.to_json(question)), incoming.reply_to
        except EnvelopeError as error:
            self._dispatcher.refusals.refused(Kind.CONTROL, error)
            return None

    def _must_be_new(self, incoming: Incoming) -> None:
        """Raises EnvelopeError: it was answered."""
        if incoming.id in self._discoveries:
            raise EnvelopeError("replayed", f"the request {incoming.id} to all nodes was answered")
        self._discoveries.add(incoming.id)

    def _tailed(self, incoming: Incoming, delivery: Delivery) -> tuple[bytes, str] | None:
        """Send log records, or say why not; nothing if another node is asked."""
        try:
            self._must_be_new(incoming)
            question = read_tail_question(incoming.raw_params)
            if self.tails is None or not question.is_for(self._config.node_name):
                return None
            fault = self._own_queue.log_denial(incoming) or self.tails.ask(question, incoming, delivery)
        except EnvelopeError as error:
            self._dispatcher.refusals.refused(Kind.CONTROL, error)
            return None
        return None if fault is None else (self._own_queue.encode_fault(incoming, fault), incoming.reply_to)

    def _known(self, question: Question, caller: str) -> tuple[dict[str, Any], str]:
        """What this node knows of the ids that are asked for, and why it cannot say that."""
        try:
            return (self._id_lookup.known(question.ids, caller) if question.ids else {}), ""
        except JournalUnavailable as error:
            return {}, str(error)

    def _about(self, question: Question) -> dict[str, Any]:
        """What an operator compares between nodes. No secret: each token begins with the id of its key."""
        encryption = self._config.encryption
        load = {} if self.load is None or not question.asks_load else {"load": self.load()}
        return {
            "time": round(time.time(), 3),
            "version": sys.modules["servicebus"].__version__,  # to import it would close a circle
            "keys": list(self._keyring.key_ids),
            "encryption": [] if encryption is None else [key_id_of(each) for each in encryption.secrets],
            "worker": {
                "machine": socket.gethostname(),
                "pid": os.getpid(),
                "since": round(self._made_at, 3),
                "counters": dict(self._dispatcher.counters),
            },
            **load,
        }

    def _cancel(self, incoming: Incoming) -> None:
        """A caller has given up. All workers are told: one of them runs its call, or gets it yet.

        A caller with a key of its own can name but its own calls.
        """
        with suppress(EnvelopeError):
            params = decode_json(incoming.raw_params)
            if isinstance(params, list) and len(params) == 1 and isinstance(params[0], str):
                self._dispatcher.cancel(callers_id(params[0], incoming.caller) if incoming.caller else params[0])

    def _credit(self, incoming: Incoming) -> None:
        """A caller lets its stream go on; with a key of its own its own streams alone."""
        with suppress(EnvelopeError):
            credit = read_credit(incoming.raw_params)
            if incoming.caller:
                credit = credit._replace(id=callers_id(credit.id, incoming.caller))
            if self.streams is not None:
                self.streams.credited(credit)

    def refuse_calls(self, is_leaving: bool) -> None:
        """Say in pongs whether new calls are taken; if not, streams go elsewhere at once."""
        self.is_leaving = is_leaving
        if is_leaving and self.streams is not None:
            self.streams.interrupt_all(ENDING)

    def end_tails(self) -> None:
        """The worker ends: readers of its log get what waits for them."""
        if self.tails is not None:
            self.tails.end()

    def own_queue(self) -> str:
        """The name of the worker's own queue."""
        return self._echo_queue

    def _who_i_am(self, incoming: Incoming) -> dict[str, Any]:
        """The params are null, or the ids of calls that the Sender has no answer to."""
        says: dict[str, Any] = {
            "node": self._config.node_name,
            "worker": os.getpid(),
            "stopping": self._dispatcher.is_stopping or self.is_leaving,
        }
        if self.calls_made_at is not None:
            # Calls that were sent before went into a queue that is gone: only their senders know of them.
            says["queue_age"] = round(time.monotonic() - self.calls_made_at, 3)
        with suppress(EnvelopeError, ValueError, TypeError, JournalUnavailable):  # alive is what it is asked for first
            asked = (decode_json(incoming.raw_params) or [])[:MOST_ASKED]
            if incoming.caller:  # of its own calls alone
                known = {callers_id(str(id), incoming.caller): id for id in asked}
                answered = [known[id] for id in self._dispatcher.answered(list(known))]
            else:
                answered = self._dispatcher.answered(asked)
            if answered:
                says["answered"] = answered
        return says


def _listed(kind: Kind, key: str) -> tuple[str, str]:
    """Kind and ``category.name`` of a service, as a discovery tells them."""
    name, is_stream = name_of_key(key)
    return (STREAM if is_stream else kind.value), name
