"""The bridge of the rig, a process of its own: ``python -m tests.chaos.bridge_program ORDERS``.

ORDERS is a file of JSON: ``configuration`` (of servicebus, with ``bridges``), ``history`` (folder), ``plant``. It is
``servicebus bridge``, and tells the history of each message that goes to the target, and that the target has confirmed.
It says ``ready`` when it consumes.
"""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import replace
from pathlib import Path

from servicebus.cli.bridge import run_bridges
from servicebus.configuration import Configuration
from servicebus.operations.bridge import Bridge
from servicebus.transport.confirmed_channel import ConfirmedChannel, Publish
from tests.chaos.history import History
from tests.chaos.plants import plant


def tell(history: History) -> None:
    """At the channel, whatever the bridge believes."""
    publish, consuming = ConfirmedChannel.publish, Bridge._consuming

    def publish_and_tell(channel: ConfirmedChannel, outgoing: Publish) -> None:
        op = json.loads(outgoing.body)["op"]

        def answered(refused: str) -> None:
            if not refused:
                history.moved(op)
            outgoing.on_answered(refused)

        history.moving(op)
        publish(channel, replace(outgoing, on_answered=answered))

    def consuming_and_tell(self: Bridge) -> None:
        consuming(self)
        sys.stdout.write("ready\n")
        sys.stdout.flush()

    ConfirmedChannel.publish = publish_and_tell  # type: ignore[assignment, method-assign]
    Bridge._consuming = consuming_and_tell  # type: ignore[method-assign]


def main(path: str) -> int:
    orders = json.loads(Path(path).read_text())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if orders["plant"]:
        plant(orders["plant"])
    history = History(orders["history"], "bridge")
    tell(history)
    code = run_bridges(Configuration(orders["configuration"]))
    history.ended()
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
