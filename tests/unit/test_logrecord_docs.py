"""docs/logging.rst shows an exchange to the byte; whoever writes a client in another language tests against it."""

from __future__ import annotations

import textwrap
from pathlib import Path

from servicebus.wire.logrecord import Datagram, DatagramKind, Record, decode_batch, decode_datagram, encode_datagram
from servicebus.wire.signing import Keyring

KEYS = Keyring(["secret token"])
DOCS = Path(__file__).parents[2] / "docs" / "logging.rst"


def exchange() -> list[bytes]:
    block = DOCS.read_text(encoding="utf-8").split(".. code-block:: text\n\n")[1].split("\n\nWhy it is made")[0]
    return [datagram.encode() for datagram in textwrap.dedent(block).strip("\n").split("\n\n")]


def test_the_documented_exchange_is_true_to_the_byte() -> None:
    decoded = [decode_datagram(raw, KEYS) for raw in exchange()]
    assert [datagram.kind for datagram in decoded] == [
        DatagramKind.HELLO,
        DatagramKind.WELCOME,
        DatagramKind.RECORDS,
        DatagramKind.ACK,
    ]
    assert [encode_datagram(datagram, KEYS) for datagram in decoded] == exchange()
    session = b"fedcba9876543210-1"
    assert decoded[2] == Datagram(DatagramKind.RECORDS, b"0123456789abcdef", session, 1, 0, decoded[2].body)
    assert decode_batch(decoded[2].body) == (1, [Record(1700000000.25, 20, "INFO", "app", "MainThread", "hello")])


def test_the_documentation_names_every_kind_of_datagram() -> None:
    text = DOCS.read_text(encoding="utf-8")
    assert [kind.value for kind in DatagramKind if f"``{kind.value}``" not in text] == []
