"""PEM files that cannot be used: no broker is needed to find out."""

from __future__ import annotations

import pytest

from servicebus.configuration import Configuration
from servicebus.errors import NoBrokerAvailable
from servicebus.sender import Sender


def test_a_sender_whose_ca_file_is_missing_says_so_and_does_not_wait_for_its_deadline() -> None:
    """The error came up in the I/O thread's callback, where nobody waits for it."""
    config = Configuration(
        {
            "hosts": ["amqps://guest:guest@127.0.0.1:1/"],
            "tls": {"ca": "/nowhere/ca.pem"},
            "secret_token": "s",
            "path_wait": 0.3,
        }
    )
    with Sender(config) as sender, pytest.raises(NoBrokerAvailable, match=r"tls\.ca .*/nowhere/ca\.pem"):
        sender.call("NODE-01.math.add", [1, 2], timeout=30)
