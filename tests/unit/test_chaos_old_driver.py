"""The load of py-servicebus 2.19 is that of ours, though its interpreter cannot import ours."""

from __future__ import annotations

import ast

import histories  # noqa: F401  (tests/ on the path)
import pytest

from tests.chaos import services
from tests.chaos.old_system import CHAOS


@pytest.mark.parametrize("name", ["CALLS", "MESSAGES"])
def test_its_services_are_asked_as_often_as_ours(name: str) -> None:
    module = ast.parse((CHAOS / "old_driver.py").read_text())
    (value,) = (
        node.value
        for node in module.body
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == [name]
    )
    assert ast.literal_eval(value) == getattr(services, name)
