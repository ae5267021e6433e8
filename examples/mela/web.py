"""HTTP in front of the same queues: FastAPI, which publishes documents and calls a service.

::

    pip install servicebus-failover fastapi uvicorn
    SERVICEBUS_CONFIG=examples/mela/application.yaml uvicorn --app-dir examples/mela web:app
    curl 'http://127.0.0.1:8000/greet?name=Mela'
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from programs import Document

from servicebus.aio import AsyncSender


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    async with AsyncSender(os.environ["SERVICEBUS_CONFIG"]) as sender:
        yield {"sender": sender}


app = FastAPI(lifespan=lifespan)


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/documents")
async def add(document: Document, request: Request) -> dict[str, str]:
    """Confirmed: a queue of the broker has it."""
    broker = await request.state.sender.publisher_to("documents", "document.web").publish(document)
    return {"stored_by": broker}


@app.get("/greet")
async def greet(name: str, request: Request) -> dict[str, str]:
    answer = await request.state.sender.request("", "greetings", name, timeout=10)
    return {"answer": answer.text}
