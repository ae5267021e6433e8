"""How much a process grows by a Sender, step by step. Its order is JSON in the first argument; prints JSON.

{"config": {...}, "address": "NODE.math.add"}
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

STEPS = ("ssl", "pika", "servicebus.configuration", "servicebus.sender")
"""In the order in which they are imported here; each brings what it needs, as far as that is not there yet.

Nothing is imported here that the last one would not bring anyway.
"""


def kib() -> dict[str, int]:
    """Resident memory: all pages, and our part of each."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    found = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return {"rss": found["Rss"], "pss": found["Pss"]}


def main() -> None:
    order = json.loads(sys.argv[1])
    for name in order["has"]:
        __import__(name)
    before = kib()
    steps = []

    def step(name: str) -> None:
        steps.append([name, kib()])

    for name in STEPS:
        __import__(name)
        step(f"import {name}")
    from servicebus.configuration import Configuration
    from servicebus.sender import Sender

    with Sender(Configuration(order["config"])) as sender:
        answers = [sender.call(order["address"], [1, 2], timeout=60.0)[1]]
        step("connected, one call")
        answers += [sender.call(order["address"], [1, 2], timeout=60.0)[1] for _ in range(1000)]
        step("a thousand calls")
    print(json.dumps({"before": before, "steps": steps, "wrong": sum(answer != 3 for answer in answers)}))


if __name__ == "__main__":
    main()
