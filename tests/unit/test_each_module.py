"""Every module of client/, runtime/ and transport/ is imported by a unit test, by itself or by what it defines."""

from __future__ import annotations

import ast
import importlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PACKAGES = ("client", "runtime", "transport")

OF_OTHER_TESTS = {
    "servicebus.client.engine": "test_engine, by way of the Sender",
    "servicebus.runtime.delayed_messages": "test_worker_connections, by way of the worker",
    "servicebus.runtime.journal.redis_journal": "test_journal_redis, with a Redis",
    "servicebus.runtime.journal.redis_scripts": "test_journal_redis, with a Redis",
    "servicebus.runtime.redis_locks": "test_redis_locks, with a Redis",
    "servicebus.runtime.journal.log_reader": "test_journal_segments, by way of the Log that reads so",
    "servicebus.runtime.legacy_queue": "test_legacy_queue, by way of the worker",
    "servicebus.runtime.worker": "test_worker_connections",
    "servicebus.runtime.text_execution": "test_typed_services",
    "servicebus.transport.base_channel": "test_channel",
    "servicebus.transport.loglink": "test_log_channel, tests/process",
    "servicebus.transport.logpump": "test_log_channel, tests/process",
    "servicebus.transport.memory_channel": "tests/contract",
    "servicebus.transport.memory_connection": "tests/contract",
    "servicebus.transport.services": "test_loop, tests/contract with RabbitMQ",
}
"""Modules that are reached through others, and by which tests. It may only shrink."""


def modules() -> set[str]:
    paths = (path for package in PACKAGES for path in (ROOT / "servicebus" / package).rglob("*.py"))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths}


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("servicebus."):
            assert node.module is not None
            yield node.module
            module = importlib.import_module(node.module)
            for alias in node.names:
                yield f"{node.module}.{alias.name}"
                yield getattr(getattr(module, alias.name, None), "__module__", None) or ""


def test_each_has_a_unit_test() -> None:
    found = {name for path in HERE.glob("test_*.py") for name in imported(path)}
    assert sorted(modules() - found) == sorted(OF_OTHER_TESTS)


def test_no_two_files_of_tests_have_one_name() -> None:
    """pytest imports them by their names alone, and stops at the second."""
    files = Counter(path.name for path in HERE.parent.glob("*/test_*.py"))
    assert [name for name, count in files.items() if count > 1] == []
