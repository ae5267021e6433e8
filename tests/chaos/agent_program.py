"""An agent of the rig, a process of its own: ``python -m tests.chaos.agent_program ORDERS``.

ORDERS is a file of JSON: ``configuration`` (of servicebus), ``history`` (folder), ``clock`` (file), ``plant`` (name or
null), ``poison``.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

from servicebus.configuration import Configuration
from servicebus.service import ServiceBus
from tests.chaos.clock import use_clock
from tests.chaos.history import History
from tests.chaos.plants import plant
from tests.chaos.services import add_services


def main(path: str) -> int:
    orders = json.loads(Path(path).read_text())
    use_clock(Path(orders["clock"]))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s")
    # A traceback for each failure on purpose would be most of what the log server gets.
    logging.getLogger("servicebus.runtime.execution").setLevel(logging.ERROR)
    if orders["plant"]:
        plant(orders["plant"])
    configuration = Configuration(orders["configuration"])
    history = History(orders["history"], "worker", configuration.node_name)
    bus = ServiceBus(configuration)
    add_services(bus, history, poison=orders["poison"])
    bus.set_on_exit_hook(history.ended)
    return bus.run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
