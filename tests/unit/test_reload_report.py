"""What a master tells of a HUP, and that a configuration which cannot be used changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest

from servicebus.configuration import Configuration
from servicebus.configuration.reloading import SettingChange
from servicebus.errors import ConfigurationError
from servicebus.runtime.reloading import Reloading, ReloadReport

CONFIG = Configuration({"hosts": ["mq-a"], "node_name": "NODE-01", "secret_token": "a secret of the test"})


def raising(error: BaseException) -> Callable[..., Any]:
    def call(*_: Any) -> Any:
        raise error

    return call


@pytest.mark.parametrize(
    ("error", "told"),
    [(ConfigurationError("hosts is empty", key="hosts"), "hosts is empty"), (ZeroDivisionError("1/0"), "ZeroDivision")],
)
@pytest.mark.parametrize("place", ["read_again", "take"])
def test_what_cannot_be_used_changes_nothing(place: str, error: Exception, told: str) -> None:
    listeners = Mock()
    how: dict[str, Any] = {"read_again": None, "take": None, place: raising(error)}
    reloading = Reloading(CONFIG, listeners, **how)
    reloading._reload()
    assert (reloading.report.state, reloading.reloads) == ("refused", 1) and told in reloading.report.error
    assert not reloading.is_reloading and reloading._config is CONFIG and not listeners.reload.called


def test_what_changed_is_told() -> None:
    report = ReloadReport(2, "running", 0.0, changed=[SettingChange("prefetch", "256, was 512")])
    report.ended("done")
    document = json.loads(json.dumps(report.to_json()))
    assert (document["count"], document["state"]) == (2, "done") and document["seconds"] > 0
    assert document["changed"] == [{"key": "prefetch", "what": "256, was 512"}] and document["needs_restart"] == []
