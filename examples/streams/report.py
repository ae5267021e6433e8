"""A report that is read while it is made: rows of a database, in the order of their keys, over whichever broker works.

It begins behind the last row that its caller has read, so it goes on when a broker or the agent is stopped meanwhile::

    python examples/streams/report.py                  # on brokers in memory, one of which is killed on the way
    python examples/streams/report.py serve bus.yaml   # as an agent
    servicebus stream NODE-01.report.orders '{"year": 2026}' -c bus.yaml
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing

from pydantic import BaseModel

import servicebus.testing
from servicebus import ServiceBus, Services
from servicebus.services import Request

ROWS = 20_000
report = Services("report")


class Order(BaseModel):
    id: int
    total: float


def database() -> sqlite3.Connection:
    """Of the program; here one that is made on the spot."""
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, year INTEGER, total REAL)")
    rows = ((number, 2026, number / 4) for number in range(ROWS))
    connection.executemany("INSERT INTO orders VALUES (?, ?, ?)", rows)
    return connection


@report.rpc(resumable=True, threads=4)
def orders(year: int, request: Request) -> Iterator[Order]:
    """All orders of a year, by their number."""
    with closing(database()) as connection:
        query = "SELECT id, total FROM orders WHERE year = ? ORDER BY id LIMIT -1 OFFSET ?"
        for id, total in connection.execute(query, [year, request.position]):
            yield Order(id=id, total=total)


def main() -> None:
    with servicebus.testing.bus(report, brokers=2, node="NODE-01") as bus:
        total = 0.0
        client = bus.sender.client("NODE-01", report)
        for number, order in enumerate(client.stream(orders, 2026)):
            assert order.id == number, "no gap and no double"
            total += order.total
            if number == ROWS // 2:
                bus.brokers[0].kill()
                print(f"{bus.brokers[0].name} is killed at order {order.id}")
        print(f"{number + 1} orders, {total:.2f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        agent = ServiceBus(sys.argv[2])
        agent.include(report)
        agent.run_services()
    else:
        main()
