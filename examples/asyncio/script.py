"""Calls a service a thousand times at once, sends what came of it, and pings its node.

With two brokers and an agent that has ``math.add`` and ``audit.record`` (README, "The first bus in ten minutes")::

    SERVICEBUS_CONFIG=conf/sender.yaml python examples/asyncio/script.py NODE-01
"""

from __future__ import annotations

import asyncio
import os
import sys

from servicebus.aio import AsyncSender
from servicebus.configuration import Configuration
from servicebus.errors import ServiceBusError


async def main(node: str) -> None:
    async with AsyncSender(Configuration.load(os.environ["SERVICEBUS_CONFIG"])) as sender:
        answered, connected = await sender.ping_all(node)
        print(f"{node} answers over {answered} of {connected} brokers")
        calls = (sender.call(f"{node}.math.add", [number, number], timeout=10) for number in range(1000))
        total = sum(result for _, result in await asyncio.gather(*calls))
        receipt = await sender.send(f"{node}.audit.record", {"total": total})
        print(f"{total}, told by message {receipt} over {receipt.confirmed_by}")


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1]))
    except ServiceBusError as error:
        sys.exit(f"{type(error).__name__}: {error}")
