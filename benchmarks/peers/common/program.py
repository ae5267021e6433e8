"""The program that every peer's file is: ``FILE server|client [VARIANT]``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

from common.clients import AsyncClient, Client
from common.phases import Phases

_loop: asyncio.AbstractEventLoop | None = None


def main(server: Callable[[], object], client: Callable[[], Client | AsyncClient]) -> None:
    """Does what the command line says."""
    role = sys.argv[1] if len(sys.argv) > 1 else ""
    if role == "server":
        server()
    elif role == "client":
        sys.stdout = sys.stderr  # what libraries print must not mix with the protocol
        made = client()
        do = event_loop().run_until_complete if isinstance(made, AsyncClient) else lambda result: result
        Phases(made, do).run()
    else:
        raise SystemExit("FILE server|client [VARIANT]")


def event_loop() -> asyncio.AbstractEventLoop:
    """This process's event loop, made when first asked for."""
    global _loop
    if _loop is None:
        _loop = asyncio.new_event_loop()
        asyncio.set_event_loop(_loop)
    return _loop
