"""Whether this is still the process that something was made in, without asking the kernel."""

from __future__ import annotations

import os

count = 0
"""How many forks lie between the first process and this one."""


def _count() -> None:
    global count
    count += 1


os.register_at_fork(after_in_child=_count)
