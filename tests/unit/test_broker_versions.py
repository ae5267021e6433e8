"""What a broker's version means: only what an operator should change, where it matters, once."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from servicebus.configuration import Configuration
from servicebus.policy.broker_versions import Version, read_version, warnings_for
from servicebus.runtime.broker_notes import BrokerNotes


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("3.10.8", (3, 10, 8)),
        ("4.0.5", (4, 0, 5)),
        ("4.3.0-rc.1", (4, 3, 0)),
        ("4.1", (4, 1, 0)),
        ("", None),
        ("unknown", None),
        ("9" * 5000, None),
    ],
)
def test_versions_are_read(text: str, version: Version | None) -> None:
    assert read_version(text) == version


@pytest.mark.parametrize(
    ("version", "queue_type", "told"),
    [
        ((3, 10, 8), "classic", []),
        ((3, 11, 28), "quorum", []),
        ((3, 12, 0), "classic", ["net_ticktime"]),
        ((4, 0, 5), "quorum", ["net_ticktime"]),
        ((4, 0, 5), "classic", ["net_ticktime", "mirrored"]),
        ((4, 1, 4), "quorum", ["net_ticktime"]),
        ((4, 1, 5), "quorum", []),
        ((4, 3, 6), "classic", ["mirrored"]),
    ],
)
def test_a_cluster_is_warned_of_what_its_version_does(version: Version, queue_type: str, told: list[str]) -> None:
    found = warnings_for(version, is_cluster=True, queue_type=queue_type)
    assert len(found) == len(told)
    assert all(word in text for word, text in zip(told, found, strict=True))
    assert warnings_for(version, is_cluster=False, queue_type=queue_type) == []


def notes(**host: Any) -> BrokerNotes:
    config = Configuration({"hosts": [host], "secret_token": "a secret of the test", "queue_type": "quorum"})
    return BrokerNotes(config.hosts[0], config)


def test_each_version_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    told = notes(name="mq", members=["a", "b", "c"])
    for version in ("4.0.5", "4.0.5", "4.3.6", "nonsense", "4.0.5", "4.0.6"):
        told.tell(version)
    assert [line.partition(": it ")[0] for line in caplog.messages] == ["mq: RabbitMQ 4.0.5", "mq: RabbitMQ 4.0.6"]
    assert {record.levelname for record in caplog.records} == {"WARNING"}


def test_a_single_broker_has_nothing_to_be_told_of(caplog: pytest.LogCaptureFixture) -> None:
    notes(host="mq-a").tell("4.0.5")
    assert caplog.messages == []
