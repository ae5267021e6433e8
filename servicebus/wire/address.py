"""Addresses ``NODE.category.name`` and the names of a node's queues.

A part is 1 to 100 printable characters without a dot or white space. The whole address fits into 240 bytes of UTF-8,
because AMQP ends names at 255 and the longest queue name puts ``messages.`` in front of the service
(docs/wire-format, "Topology").
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from servicebus.errors import AddressError
from servicebus.wire.printable import counted

__all__ = [
    "DISCOVERY_KEY",
    "EVERY_NODE",
    "NOBODY_KEY",
    "Address",
    "cancel_key",
    "check_node_name",
    "control_queue",
    "dead_queue",
    "delay_queue",
    "drained_mark",
    "messages_queue",
    "name_problem",
    "node_name",
    "plain",
    "rpc_queue",
    "singleton_queue",
]

ADDRESS = "an address NODE.category.name"
MAX_PART_CHARS = 100
MAX_ADDRESS_BYTES = 240
EVERY_NODE = "*"
"""What a request names in place of a node if all of them are to answer it."""
DISCOVERY_KEY = f"{EVERY_NODE}.discover"
"""The routing key of such requests: each worker of each node gets each of them."""
NOBODY_KEY = f"{EVERY_NODE}.nobody"
"""The routing key of what comes back at once: no queue is bound with it."""
# NODE.messages.delay.<seconds> needs up to 24 bytes behind the node's name.
MAX_NODE_BYTES = 220


@dataclass(frozen=True, slots=True)
class Address:
    """One service of one node. ``str()`` of it is ``NODE.category.name``."""

    node: str
    category: str
    name: str

    def __post_init__(self) -> None:
        text = str(self)
        check_node_name(self.node)
        for label, part in (("category", self.category), ("name", self.name)):
            problem = name_problem(part)
            if problem:
                raise AddressError(text, f"the {label} {problem}")
        if len(text.encode()) > MAX_ADDRESS_BYTES:
            raise AddressError(text, f"it is longer than {MAX_ADDRESS_BYTES} bytes")

    @classmethod
    def parse(cls, text: str) -> Address:
        """The address that *text* names.

        Raises:
            AddressError: *text* has not exactly two dots, or a part is empty, too long, or holds a character that no
                name may hold.
        """
        return parsed(text if type(text) is str else plain(text))

    def __str__(self) -> str:
        return f"{self.node}.{self.category}.{self.name}"

    @property
    def service(self) -> str:
        """``category.name``."""
        return f"{self.category}.{self.name}"


@lru_cache(maxsize=1024)  # a program calls few addresses, over and over
def parsed(text: str) -> Address:
    """As ``Address.parse()``, of a str that is no instance of a caller's class."""
    parts = text.split(".")
    if len(parts) != 3:
        raise AddressError(text, f"it has {counted(len(parts) - 1, 'dot')}, not two")
    return Address(*parts)


def plain(text: str, wanted: str = ADDRESS) -> str:
    """*text* as a str and nothing more: methods of a caller's class must not run in our threads.

    Raises:
        AddressError: it is none, where *wanted* was to be named.
    """
    if not isinstance(text, str):
        raise AddressError(text, "it has to be a text", wanted)
    return str.__str__(text)


def name_problem(part: str) -> str:
    """Why *part* cannot be the name of a node, category or service; empty if it can."""
    if not isinstance(part, str):
        return f"is of type {type(part).__name__}, not a text"
    if not part:
        return "is empty"
    if len(part) > MAX_PART_CHARS:
        return f"is longer than {MAX_PART_CHARS} characters"
    if "." in part:
        return "holds a dot"
    # isprintable() is false for control characters, lone surrogates and every white space but the plain space.
    if " " in part or not part.isprintable():
        return "holds white space or an unprintable character"
    return ""


def check_node_name(text: str) -> None:
    """Accept *text* as the name of a node, or raise ``AddressError``."""
    problem = name_problem(text)
    if not problem and text == "amq":
        problem = "is reserved: RabbitMQ refuses queues whose name begins with 'amq.'"
    if not problem and len(text.encode()) > MAX_NODE_BYTES:
        problem = f"is longer than {MAX_NODE_BYTES} bytes"
    if problem:
        raise AddressError(text, f"the node name {problem}")


def node_name(text: str) -> str:
    """*text* as a str and nothing more. Raises AddressError: no node can have that name."""
    text = plain(text)
    check_node_name(text)
    return text


@lru_cache(maxsize=1024)  # asked for every request
def rpc_queue(node: str) -> str:
    """The queue that calls to *node* wait in."""
    return f"{node}.rpc"


@lru_cache(maxsize=1024)
def control_queue(node: str) -> str:
    """The queue of pings and operator's commands to *node*."""
    return f"{node}.control"


def cancel_key(node: str) -> str:
    """The routing key of cancellations: each worker of *node* gets each of them."""
    return f"{node}.cancel"


@lru_cache(maxsize=1024)
def messages_queue(node: str) -> str:
    """The durable queue of one-way messages to *node*."""
    return f"{node}.messages"


def singleton_queue(node: str, service: str, *, is_call: bool) -> str:
    """The queue of requests for singleton *service*, ``category.name``, which the worker that runs it takes."""
    return f"{node}.rpc.for.{service}" if is_call else f"{node}.messages.for.{service}"


def delay_queue(node: str, seconds: int) -> str:
    """The queue where a message to *node* waits *seconds* before it is tried again."""
    return f"{node}.messages.delay.{seconds}"


def dead_queue(node: str) -> str:
    """The queue of *node*'s dead letters."""
    return f"{node}.dead"


def is_stored(queue: str) -> bool:
    """Whether a queue of that name stores messages: a node's messages, events, delayed ones or dead letters."""
    return ".messages" in queue or ".events." in queue or queue.endswith(".dead")


def drained_mark(exchange: str) -> str:
    """The queue whose presence says that the broker is taken out of service for all peers on *exchange*."""
    return f"{exchange}.drained"
