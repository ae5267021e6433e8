"""What an agent says at its start of subscriptions that no service has any more."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from servicebus.cli.main import servicebus
from servicebus.configuration import Configuration
from servicebus.runtime.known_subscriptions import forget_subscription, known_subscriptions, note_subscriptions


def config(tmp_path: Path, **settings: Any) -> Configuration:
    given = {"hosts": ["127.0.0.1:1"], "node_name": "N", "secret_token": "a secret of the test"}
    return Configuration({**given, "journal": str(tmp_path / "journal"), **settings})


def test_a_former_subscription_is_named_with_its_queue_at_each_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert note_subscriptions(config(tmp_path), ["a.b", "c.d"]) == []
    assert not caplog.records
    for _ in range(2):
        assert note_subscriptions(config(tmp_path), ["c.d", "e.f"]) == ["a.b"]
    assert len(caplog.records) == 2 and "N.events.a.b" in caplog.text and "c.d" not in caplog.text
    assert known_subscriptions(config(tmp_path)) == {"a.b", "c.d", "e.f"}


def test_one_that_was_dropped_is_not_named_again(tmp_path: Path) -> None:
    note_subscriptions(config(tmp_path), ["a.b"])
    forget_subscription(config(tmp_path), "a.b")
    forget_subscription(config(tmp_path), "never.was")
    assert note_subscriptions(config(tmp_path), []) == []


def test_a_node_that_keeps_nothing_on_disk_knows_none(tmp_path: Path) -> None:
    kept_nowhere = config(tmp_path, journal="memory")
    assert note_subscriptions(kept_nowhere, ["a.b"]) == [] and known_subscriptions(kept_nowhere) == frozenset()
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_said_and_keeps_no_agent_from_its_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert note_subscriptions(config(tmp_path, journal=str(tmp_path / "no" / "journal")), ["a.b"]) == []
    assert "cannot be noted" in caplog.text


def test_the_command_says_that_none_is_known(tmp_path: Path) -> None:
    path = tmp_path / "sender.yaml"
    path.write_text(
        f"hosts: ['127.0.0.1:1']\nnode_name: N\nsecret_token: a secret of the test\njournal: {tmp_path}/j\n"
    )
    done = CliRunner().invoke(servicebus, ["events", "list", "-c", str(path)])
    assert done.exit_code == 0 and "name one" in done.output
