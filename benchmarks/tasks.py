"""Services of the benchmarks that are ``async def`` functions: in a file of their own, since they load pydantic."""

from __future__ import annotations

import asyncio

from benchmarks.agent import SLEEPERS
from benchmarks.services import Note
from servicebus.typed import Services

group = Services("task")
note = Note()


@group.rpc(tasks=SLEEPERS)
async def patient(label: str) -> None:
    """As ``Patient``: until its caller has given up, which is its CancelledError."""
    note("started", label)
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        note("cancelled", label)
        raise
