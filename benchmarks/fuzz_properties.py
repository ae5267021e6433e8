"""Feed AMQP header frames that a stranger may have written to the reader, and watch time and memory.

    .venv/bin/python -m benchmarks.fuzz_properties [COUNT] [SEED]

Each input is a well-made header frame with random changes (bytes, pieces repeated or cut off, lengths, flags). The
reader must read or refuse it: any other exception ends the run with the input. What is read must be writable again.
"""

from __future__ import annotations

import random
import resource
import struct
import sys
import time
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

from servicebus.transport.frames import read_properties
from servicebus.transport.tables import Unreadable, write_short, write_table

COUNT = 10_000_000
_PERIOD = 1_000_000

_TABLES: list[dict[str, Any]] = [
    {"x-death": [{"count": 3, "reason": "rejected", "queue": "q", "time": datetime(2026, 1, 1, tzinfo=timezone.utc)}]},
    {"x-servicebus-attempts": 2, "x-servicebus-due": 1795900000000, "text": "é" * 20, "nothing": None},
    {"deep": [[[[[[1]]]]]], "yes": True, "number": 0.5, "price": Decimal("12.50"), "raw": b"\xff" * 30},
    {str(number): number for number in range(40)},
    {},
]
_LENGTHS = [struct.pack(">I", value) for value in (0, 1, 127, 65535, 2**31 - 1, 2**32 - 1)]


def seeds() -> list[bytes]:
    """Flags and properties, as others write them."""
    texts = write_short("0123456789abcdef-17") + write_short("amq.rabbitmq.reply-to.g1h2")
    return [
        struct.pack(">H", flags) + table + texts + write_short("60000") + write_short("message id")
        for flags, table in [(0x0780, b""), *((0x2780, write_table(table)) for table in _TABLES)]
    ]


def changed(raw: bytes, chance: random.Random) -> bytes:
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        at, how = chance.randrange(len(raw)), chance.randrange(6)
        if how == 0:
            raw = raw[:at] + chance.randbytes(1) + raw[at + 1 :]
        elif how == 1:
            raw = raw[:at] + chance.choice(_LENGTHS) + raw[at + 4 :]
        elif how == 2:
            raw = raw[: at + 2]
        elif how == 3:
            end = at + chance.randrange(40)
            raw = raw[:end] + raw[at:end] * chance.choice((1, 2, 50)) + raw[end:]
        elif how == 4:
            raw = raw[:at] + chance.choice((b"A", b"F", b"T", b"D", b"S", b"\x05deepA")) + raw[at:]
        else:
            raw = chance.randbytes(2) + raw[2:]
        raw = raw[:65536]
    return raw


def check(raw: bytes) -> bool:
    """Whether *raw* was read; False if it was refused. Anything else is a fault."""
    try:
        *_, headers = read_properties(raw, 2, len(raw), int.from_bytes(raw[:2], "big"))
    except Unreadable:
        return False
    if headers:
        write_table(headers)
    return True


def main(count: int = COUNT, seed: int = 1) -> None:
    chance, good = random.Random(seed), seeds()
    read, slowest_s, began = 0, 0.0, time.monotonic()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(1, count + 1):
        raw = changed(chance.choice(good), chance)
        at = time.thread_time()
        try:
            read += check(raw)
        except BaseException:
            print(f"input {number} of seed {seed}: {raw.hex()}")
            raise
        slowest_s = max(slowest_s, time.thread_time() - at)
        if number % _PERIOD == 0 or number == count:
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
            print(
                f"{number:,} inputs, {read:,} read, {number - read:,} refused, "
                f"slowest {slowest_s * 1000:.1f} ms of CPU, memory +{grown:,} KiB, {time.monotonic() - began:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
