"""Ends private brokers when the process that started them dies without doing so (``kill -9``, out of memory).

Run as a program of its own: ``python -m servicebus.testing.guard PARENT_PID FOLDER keep|remove``. It holds no pipe to
its parent, because a pipe would also be held by every child that the parent forks; it waits for the parent's death.
"""

from __future__ import annotations

import os
import select
import shutil
import sys
import time
from pathlib import Path

from servicebus.testing.processes import end_marked, is_alive

__all__ = ["wait_for_end_of"]


def wait_for_end_of(pid: int) -> None:
    """Return when the process is dead."""
    try:
        handle = os.pidfd_open(pid)
    except (AttributeError, OSError):  # older kernel, or a sandbox that forbids it
        while is_alive(pid):
            time.sleep(0.2)
        return
    poller = select.poll()
    poller.register(handle, select.POLLIN)
    poller.poll()


def main() -> None:
    parent, folder, data = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    wait_for_end_of(parent)
    end_marked(folder)
    if data == "remove":
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
