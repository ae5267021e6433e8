"""Metrics of a Sender for Prometheus. Needs prometheus-client: ``pip install servicebus-failover[metrics]``.

An agent answers ``/metrics`` by itself: docs/metrics.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from servicebus.aio import AsyncSender
from servicebus.client.meter import SenderMeter
from servicebus.observability.collector import client_families
from servicebus.observability.reports import Entry, log_records_lost, summed
from servicebus.sender import Sender

if TYPE_CHECKING:
    from prometheus_client.core import Metric

__all__ = ["SenderCollector"]


class SenderCollector:
    """What Senders do, as metrics: ``prometheus_client.REGISTRY.register(SenderCollector(sender))``.

    It counts what they are asked from now on; before, and without a collector, nothing is counted or paid. Make one for
    all Senders of a process: a registry takes each metric once. ``collect()`` is for any thread, and waits for nothing.

    Args:
        senders: what they count is summed.
    """

    def __init__(self, *senders: Sender | AsyncSender):
        plain = (sender if isinstance(sender, Sender) else sender._sender for sender in senders)
        self._meters = [SenderMeter(sender) for sender in plain]

    def __repr__(self) -> str:
        return f"<SenderCollector {self._meters}>"

    def collect(self) -> Iterator[Metric]:
        entries = [entry for meter in self._meters for entry in meter.entries()]
        entries.append(Entry("process", "", {"log_records_lost": log_records_lost()}, {}))
        return client_families(summed(entries).values())
