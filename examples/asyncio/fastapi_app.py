"""HTTP in front of the bus: FastAPI, one AsyncSender for the process, the bus's errors as HTTP's.

::

    pip install servicebus-failover fastapi uvicorn uvloop
    SERVICEBUS_CONFIG=conf/sender.yaml uvicorn --app-dir examples/asyncio fastapi_app:app
    curl 'http://127.0.0.1:8000/sum?a=1&b=2'
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse

from servicebus.aio import AsyncSender
from servicebus.configuration import Configuration
from servicebus.errors import CallTimeout, NoBrokerAvailable, NodeUnavailable, ServiceBusError, ServiceBusy

NODE = os.environ.get("NODE", "NODE-01")
STATUS: dict[type[ServiceBusError], int] = {
    NoBrokerAvailable: 503,
    NodeUnavailable: 503,
    ServiceBusy: 503,
    CallTimeout: 504,
}
"""Every other error is 502: the service raised, or it is unknown whether it ran."""


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    async with AsyncSender(Configuration.load(os.environ["SERVICEBUS_CONFIG"])) as sender:
        yield {"sender": sender}


def get_sender(request: Request) -> AsyncSender:
    sender: AsyncSender = request.state.sender
    return sender


Bus = Annotated[AsyncSender, Depends(get_sender)]
app = FastAPI(lifespan=lifespan)


@app.exception_handler(ServiceBusError)
async def bus_error(_request: Request, error: ServiceBusError) -> JSONResponse:
    """The class only: the text of an error names hosts."""
    headers = {"Retry-After": "1"} if isinstance(error, ServiceBusy) else None
    return JSONResponse({"error": type(error).__name__}, STATUS.get(type(error), 502), headers)


@app.get("/sum")
async def add(a: int, b: int, bus: Bus) -> dict[str, int]:
    _, total = await bus.call(f"{NODE}.math.add", [a, b], timeout=5)
    return {"sum": total}


@app.post("/records", status_code=202)
async def record(what: str, bus: Bus) -> dict[str, int]:
    """Answers when a broker has the message on its disk."""
    return {"id": await bus.send(f"{NODE}.audit.record", what)}


@app.get("/health")
async def health(bus: Bus) -> JSONResponse:
    is_there = await bus.ping(NODE, timeout=1)
    return JSONResponse({"node": NODE, "answers": is_there}, 200 if is_there else 503)
