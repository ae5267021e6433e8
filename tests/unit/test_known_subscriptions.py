"""What an agent says at its start of subscriptions that no service has any more."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from virtual_worker import Note

from servicebus.cli.main import servicebus
from servicebus.configuration import Configuration
from servicebus.runtime.event_queues import queues_of
from servicebus.runtime.known_subscriptions import (
    KnownSubscription,
    forget_subscription,
    known_subscriptions,
    note_subscriptions,
)
from servicebus.runtime.service_thread import Service
from servicebus.wire.envelope import Kind
from servicebus.wire.events import EventQueue


def config(tmp_path: Path, **settings: Any) -> Configuration:
    given = {"hosts": ["127.0.0.1:1"], "node_name": "N", "secret_token": "a secret of the test"}
    return Configuration({**given, "journal": str(tmp_path / "journal"), **settings})


def test_a_former_subscription_is_named_with_its_queue_at_each_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert note_subscriptions(config(tmp_path), {"a.b": ["x"], "c.d": ["x"]}) == []
    assert not caplog.records
    for _ in range(2):
        assert note_subscriptions(config(tmp_path), {"c.d": ["x"], "e.f": ["x"]}) == ["a.b"]
    assert len(caplog.records) == 2 and "N.events.a.b" in caplog.text and "c.d" not in caplog.text
    assert known_subscriptions(config(tmp_path)).keys() == {"a.b", "c.d", "e.f"}


def test_patterns_that_a_service_does_not_name_any_more_are_kept_as_former_ones(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    node = config(tmp_path)
    for patterns in (["a.*", "b"], ["b", "c"], ["c", "a.*"], ["c", "a.*"]):
        note_subscriptions(node, {"shop.note": patterns})
    assert known_subscriptions(node) == {"shop.note": KnownSubscription(("c", "a.*"), ("b",))}
    assert [record.getMessage() for record in caplog.records] == [
        f"shop.note subscribes no more to {each}: its queue is unbound on each broker" for each in ("a.*", "b")
    ]


def test_a_worker_unbinds_what_was_noted_as_former_and_is_not_named(tmp_path: Path) -> None:
    node = config(tmp_path)
    for patterns in (["a", "b"], ["c"]):
        note_subscriptions(node, {"shop.note": patterns, "shop.other": ["x"]})
    service = Service(Kind.MESSAGE, "shop", "note", Note(), events=("b", "c"))
    assert queues_of(node, [service]) == [EventQueue("shop.note", "N.events.shop.note", ("b", "c"), ["a"])]
    assert queues_of(node, [Service(Kind.MESSAGE, "shop", "new", Note(), events=("b",))])[0].former == ()


@pytest.mark.parametrize("text", ["", "shop.note\n", "[]", '{"shop.note": 5}', '{"shop.note": {}}', "\udcff"])
def test_notes_that_cannot_be_read_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "journal.subscriptions").write_bytes(text.encode(errors="surrogateescape"))
    assert known_subscriptions(config(tmp_path)) == {}
    note_subscriptions(config(tmp_path), {"a.b": ["x"]})
    assert known_subscriptions(config(tmp_path)) == {"a.b": KnownSubscription(("x",))}


def test_one_that_was_dropped_is_not_named_again(tmp_path: Path) -> None:
    note_subscriptions(config(tmp_path), {"a.b": ["x"]})
    forget_subscription(config(tmp_path), "a.b")
    forget_subscription(config(tmp_path), "never.was")
    assert note_subscriptions(config(tmp_path), {}) == []


def test_a_node_that_keeps_nothing_on_disk_knows_none(tmp_path: Path) -> None:
    kept_nowhere = config(tmp_path, journal="memory")
    assert note_subscriptions(kept_nowhere, {"a.b": ["x"]}) == [] and known_subscriptions(kept_nowhere) == {}
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_said_and_keeps_no_agent_from_its_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert note_subscriptions(config(tmp_path, journal=str(tmp_path / "no" / "journal")), {"a.b": ["x"]}) == []
    assert "cannot be noted" in caplog.text


def test_the_command_says_that_none_is_known(tmp_path: Path) -> None:
    path = tmp_path / "sender.yaml"
    path.write_text(
        f"hosts: ['127.0.0.1:1']\nnode_name: N\nsecret_token: a secret of the test\njournal: {tmp_path}/j\n"
    )
    done = CliRunner().invoke(servicebus, ["events", "list", "-c", str(path)])
    assert done.exit_code == 0 and "name one" in done.output
