"""HeldProtocol: how the worker that has a singleton service reads what others of its node have passed on to it."""

from __future__ import annotations

from servicebus.configuration import Configuration
from servicebus.policy.clocks import SteadyClock
from servicebus.protocol.interface import PublishReply
from servicebus.protocol.v2 import ProtocolV2
from servicebus.wire.signing import Keyring

__all__ = ["HeldProtocol"]


class HeldProtocol(ProtocolV2):
    """The same as those of the node's own queues, whose answers go over the broker that the request came from.

    Args:
        clock: the worker's.
        answer: publishes a reply there.
    """

    def __init__(self, config: Configuration, keyring: Keyring, clock: SteadyClock, answer: PublishReply):
        super().__init__(config, keyring)
        self.clock = clock
        self.answer = answer
