"""A node for measurements. Its order is JSON in the first argument; imports nothing but servicebus, of any revision.

{"config": {...}, "calls": {"math.add": "Add"}, "messages": {"audit.count": "Count"}}
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from typing import Any

from servicebus.configuration import Configuration
from servicebus.service import ServiceBus


class Add:
    """The sum of a list of numbers."""

    def on_call(self, request: Any, response: Any) -> None:
        response.send(sum(request.get_params()))


class Size:
    """The length of a text."""

    def on_call(self, request: Any, response: Any) -> None:
        response.send(len(request.get_params()))


class Count:
    """Takes messages, and does nothing with them; answers how many there were in this process."""

    handled = 0

    def on_message(self, request: Any) -> None:
        Count.handled += 1

    def on_call(self, request: Any, response: Any) -> None:
        response.send(Count.handled)


class Hold:
    """Never comes back from the first message that it gets."""

    def on_message(self, request: Any) -> None:
        threading.Event().wait()


KINDS = {kind.__name__: kind for kind in (Add, Size, Count, Hold)}


def main() -> None:
    order = json.loads(sys.argv[1])
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    bus = ServiceBus(Configuration(order["config"]))
    for name, kind in order["calls"].items():
        category, _, own = name.partition(".")
        bus.add_rpc_service(category, own, KINDS[kind]())
    for name, kind in order["messages"].items():
        category, _, own = name.partition(".")
        bus.add_message_service(category, own, KINDS[kind]())
    bus.run_services()


if __name__ == "__main__":
    main()
