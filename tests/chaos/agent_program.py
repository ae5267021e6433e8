"""An agent of the rig, a process of its own: ``python -m tests.chaos.agent_program ORDERS``.

ORDERS is a file of JSON: ``configuration`` (of servicebus), ``history`` (folder), ``clock`` (file), ``plant`` (name or
null), ``poison``, ``wiretap`` (path of a socket), ``nodes``, ``pipes``. On HUP the configuration is read from it again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import random
import socket
import sys
from pathlib import Path
from typing import Any

from servicebus.configuration import Configuration
from servicebus.protocol.v2 import ProtocolV2
from servicebus.runtime.job import Job, PendingDelivery
from servicebus.runtime.publisher import Publisher
from servicebus.service import ServiceBus
from servicebus.wire.envelope import Kind
from tests.chaos.clock import use_clock
from tests.chaos.history import History
from tests.chaos.plants import plant
from tests.chaos.services import add_services

_TAPPED_SHARE = 0.01
_TAPPED_SLOW_SHARE = 0.2


def main(path: str) -> int:
    orders = json.loads(Path(path).read_text())
    use_clock(Path(orders["clock"]))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s")
    # A traceback for each failure on purpose would be most of what the log server gets.
    logging.getLogger("servicebus.runtime.execution").setLevel(logging.ERROR)
    if orders["plant"]:
        plant(orders["plant"])
    configuration = Configuration(orders["configuration"])
    tap_wire(orders["wiretap"], configuration.node_name)
    history = History(orders["history"], "worker", configuration.node_name)
    bus = ServiceBus(configuration)
    how = {"poison": orders["poison"], "pipes": orders["pipes"], "hosts": [host.name for host in configuration.hosts]}
    add_services(bus, history, configuration.node_name, orders["nodes"], **how)
    bus.set_reload(lambda: Configuration(json.loads(Path(path).read_text())["configuration"]))
    bus.set_on_exit_hook(history.ended)
    return bus.run()


def tap_wire(path: str, node: str) -> None:
    """Give the stranger a part of the calls that come in, most of them slow ones, and of the replies that go out."""
    read, reply = ProtocolV2.decode_request, Publisher.reply
    tap = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    tap.setblocking(False)

    def tell(share: float, head: str, body: bytes) -> None:
        if random.random() < share:
            with contextlib.suppress(OSError):
                tap.sendto(f"{head}\n".encode() + body, path)

    def read_and_tell(self: ProtocolV2, delivery: Any) -> Any:
        incoming = read(self, delivery)
        if incoming.kind is Kind.CALL and incoming.reply_to:
            share = _TAPPED_SLOW_SHARE if incoming.service in ("slow", "idem") else _TAPPED_SHARE
            tell(share, f"asked {node} {delivery.correlation_id} {incoming.reply_to}", delivery.body)
        return incoming

    def reply_and_tell(self: Publisher, pending: PendingDelivery, body: bytes, job: Job | None = None) -> None:
        tell(_TAPPED_SHARE, f"answered {node} {pending.delivery.correlation_id}", body)
        reply(self, pending, body, job)

    ProtocolV2.decode_request = read_and_tell  # type: ignore[method-assign]
    Publisher.reply = reply_and_tell  # type: ignore[method-assign]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
