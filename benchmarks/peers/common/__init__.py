"""What every peer shares. Standard library only: each peer runs in a virtual environment of its own.

A peer is a file beside this package that passes `main` a function, which serves until it is ended, and a subclass of
`Client` or `AsyncClient`. Its service adds the first two of the params (`add`), its handler of messages calls
`handled`. How it is run, and which queue shows that it serves, stands in ``benchmarks/suite/peers.py``; what it is
built of in ``requirements/NAME.txt``.
"""

from common.clients import AsyncClient, Client
from common.counter import handled
from common.flight import check, in_threads, in_window
from common.load import add
from common.program import event_loop, main
from common.surroundings import (
    FOLDER,
    HOST,
    HOSTS,
    LIMIT_S,
    NUMBER,
    PASSWORD,
    PORT,
    SECRET,
    USER,
    WIDTH,
    url,
    urls,
    variant,
)

__all__ = [
    "FOLDER",
    "HOST",
    "HOSTS",
    "LIMIT_S",
    "NUMBER",
    "PASSWORD",
    "PORT",
    "SECRET",
    "USER",
    "WIDTH",
    "AsyncClient",
    "Client",
    "add",
    "check",
    "event_loop",
    "handled",
    "in_threads",
    "in_window",
    "main",
    "url",
    "urls",
    "variant",
]
