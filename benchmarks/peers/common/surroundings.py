"""Where the brokers are and how much is asked for: what the suite says in the environment."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HOSTS = [
    (host, int(port))
    for host, _, port in (each.partition(":") for each in os.environ.get("PEER_HOSTS", "127.0.0.1:5672").split(","))
]
"""Two or more where failing over is measured."""
HOST, PORT = HOSTS[0]
USER = PASSWORD = "guest"
SECRET = "secret token"
LIMIT_S = 10.0 if len(HOSTS) > 1 else None
"""How long a call may take where brokers die under it; elsewhere whatever the peer does by default."""
WIDTH = int(os.environ.get("PEER_WIDTH", "64"))
"""So many calls are kept in flight."""
NODES = int(os.environ.get("PEER_NODES", "1"))
"""So many servers get each message: above one where events are measured."""
NUMBER = int(os.environ.get("PEER_NUMBER", "0"))
"""Which of them this is, from 0."""
FOLDER = Path(os.environ.get("PEER_FOLDER", "."))
"""A fresh one; the current directory is one within it."""


def url(scheme: str = "amqp", vhost: str = "/") -> str:
    """Of the first host."""
    return urls(scheme, vhost)[0]


def urls(scheme: str = "amqp", vhost: str = "/") -> list[str]:
    """Of every host."""
    return [f"{scheme}://{USER}:{PASSWORD}@{host}:{port}/{vhost}" for host, port in HOSTS]


def variant(default: str = "") -> str:
    """The word after the role on the command line: which way of using the peer to measure."""
    return sys.argv[2] if len(sys.argv) > 2 else default
