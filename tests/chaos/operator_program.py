"""An operator of the rig: ``dead requeue`` of a node on one host, ``python -m tests.chaos.operator_program ORDERS``.

ORDERS is a file of JSON: ``configuration`` (of servicebus, with the node's name), ``host``, ``history`` (folder),
``plant``. It looks first, tells the history which operations may run again, and sends back what it has seen: the
letters of the node's workers, and what a stranger has put beside them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from servicebus._plain import plain_key
from servicebus.configuration import Configuration
from servicebus.operations.dead_letter import RequeueStatus
from servicebus.operations.dead_letters import BrokerReport, DeadLetters, Found
from servicebus.operations.filters import Filter
from tests.chaos.history import History
from tests.chaos.plants import plant

_MOST = 500
"""Letters at a time: what is sent back is tried again with all of its attempts, beside the load."""


def requeue(configuration: Configuration, host: str, history: History) -> BrokerReport:
    """Send back what stands there now."""
    node = configuration.node_name
    letters = DeadLetters(configuration, node, [each for each in configuration.hosts if each.name == host])
    seen: set[str] = set()

    def see(found: Found) -> bool:
        seen.add(found.dead_letter.id)
        if found.status is RequeueStatus.GOOD:
            letter = found.dead_letter
            service = letter.subscription.removeprefix(plain_key(""))
            subscriber = f"{node}.{service}" if letter.event or letter.is_plain else ""
            history.requeued(json.loads(letter.params)["op"], subscriber)
        return len(seen) < _MOST

    (looked,) = letters.look(Filter(), see)
    if looked.error is not None or not seen:
        return looked
    (report,) = letters.requeue(Filter(ids=frozenset(seen)))
    return report


def main(path: str) -> None:
    orders = json.loads(Path(path).read_text())
    if orders["plant"]:
        plant(orders["plant"])
    configuration = Configuration(orders["configuration"])
    history = History(orders["history"], "operator", configuration.node_name)
    report = requeue(configuration, orders["host"], history)
    history.ended()
    stays = ", ".join(f"{count} {why}" for why, count in report.stays.items())
    text = f"unreachable: {report.error}" if report.error is not None else f"{report.done} sent back; stays: {stays}"
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
