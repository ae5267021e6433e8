"""Reading what ``-X importtime`` prints."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.suite.growth.imports import dearest_packages, own_us

TOLD = """\
import time: self [us] | cumulative | imported package
import time:       120 |        120 |   _io
import time:       300 |       1420 | pika
import time:      1000 |       1000 |   pika.spec
import time:       700 |        700 |     lxml.etree
something that a module printed
"""


def test_each_module_has_its_own_microseconds() -> None:
    assert own_us(TOLD) == {"_io": 120, "pika": 300, "pika.spec": 1000, "lxml.etree": 700}


def test_a_package_has_those_of_its_modules() -> None:
    told = own_us(TOLD)

    assert dearest_packages(set(told) - {"_io"}, told, 2) == [("pika", 1.3), ("lxml", 0.7)]
