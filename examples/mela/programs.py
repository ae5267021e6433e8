"""What ``application.yaml`` runs: plain functions; nothing of the bus but the types that they ask for."""

from __future__ import annotations

from datetime import datetime, timezone

from pydantic import BaseModel, Field

from servicebus import Reject, Requeue
from servicebus.plain import AsyncPlainPublisher, PlainMessage


class Document(BaseModel):
    text: str
    url: str
    date: datetime = Field(default_factory=lambda: datetime.now(timezone.utc))


class Sentiment(BaseModel):
    url: str
    is_good: bool


async def sentiment(document: Document) -> Sentiment | None:
    """What it returns is published, then the document is acknowledged; None publishes nothing."""
    if not document.text:
        return None
    return Sentiment(url=document.url, is_good="bad" not in document.text)


async def report(
    found: Sentiment, message: PlainMessage, reports: AsyncPlainPublisher, alerts: AsyncPlainPublisher
) -> None:
    """Two publishers beside each other, by their names; and the three ways not to acknowledge."""
    if found.url.startswith("spam:"):
        raise Reject("spam is not reported")  # to the dead letters, at once
    if message.headers.get("maintenance") and not message.redelivered:
        raise Requeue("later")  # again in a second
    if not found.url:
        raise ValueError("a sentiment about nothing")  # again by the retry schedule, then to the dead letters
    await (reports if found.is_good else alerts).publish(found)


def store(body: bytes, message: PlainMessage) -> None:
    print(message.routing_key, body.decode(), flush=True)


def greet(name: str) -> str:
    """Called with ``reply_to`` and ``correlation_id``, by any client: the body is the text, and so is the answer."""
    return f"hello, {name}"
