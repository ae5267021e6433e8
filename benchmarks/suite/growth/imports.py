"""How long an import takes in a fresh interpreter, and on whose account. The reading of ``-X importtime`` is pure."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable

_LINE = re.compile(r"import time:\s+(\d+) \|\s+(\d+) \|\s*(\S+)\s*$")
_TIMED = """
import time
began, used = time.perf_counter(), time.process_time()
import {module}
print((time.perf_counter() - began) * 1000, (time.process_time() - used) * 1000)
"""


def import_ms(module: str, python: str = sys.executable) -> tuple[float, float]:
    """Milliseconds on the clock and of the CPU, in an interpreter that has imported only what every one does."""
    done = subprocess.run([python, "-c", _TIMED.format(module=module)], capture_output=True, text=True, check=True)
    clock, cpu = done.stdout.split()
    return float(clock), float(cpu)


def dearest(module: str, count: int = 5, python: str = sys.executable) -> list[tuple[str, float]]:
    """The packages that take most of it, each without what it imports of others: name and milliseconds."""
    idle = _told(python, "pass")
    told = _told(python, f"import {module}")
    return dearest_packages(set(told) - set(idle), told, count)


def dearest_packages(modules: Iterable[str], own_us: dict[str, int], count: int) -> list[tuple[str, float]]:
    """Top-level packages of *modules*, dearest first."""
    sums: Counter[str] = Counter()
    for name in modules:
        sums[name.partition(".")[0]] += own_us[name]
    return [(name, us / 1000) for name, us in sums.most_common(count)]


def own_us(text: str) -> dict[str, int]:
    """Microseconds by module, without what it imports, as ``-X importtime`` tells them."""
    return {match[3]: int(match[1]) for line in text.splitlines() if (match := _LINE.match(line))}


def _told(python: str, code: str) -> dict[str, int]:
    done = subprocess.run([python, "-X", "importtime", "-c", code], capture_output=True, text=True, check=True)
    return own_us(done.stderr)
