"""Only sleeps, and tells the history when it woke up late: then the machine gave nobody a processor.

``python -m tests.chaos.stall_program ORDERS``, where ORDERS is a file of JSON: ``history`` (folder). It stops when its
standard input ends.
"""

from __future__ import annotations

import json
import select
import sys
import time
from pathlib import Path

from tests.chaos.history import History

_NAP_S = 0.02
_LATE_S = 0.05


def main(path: str) -> None:
    history = History(json.loads(Path(path).read_text())["history"], "rig", "stall")
    while True:
        before = time.monotonic()
        if select.select([sys.stdin], [], [], _NAP_S)[0]:
            break
        late_s = time.monotonic() - before - _NAP_S
        if late_s > _LATE_S:
            history.stall(late_s)
    history.ended()


if __name__ == "__main__":
    main(sys.argv[1])
