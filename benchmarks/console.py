#!/usr/bin/env python3
"""How long does each page of ``servicebus web`` take with a large fleet and many dead letters?

Three private brokers, 200 nodes with 20 services each, 100,000 dead letters of one node, and a console as it is
always run. The nodes are simulated on the wire: one process for each broker answers what the console asks over it,
with a queue, a signature and a report of load for each node, as a worker does. The dead letters are in queues of
the brokers::

    python -m benchmarks.console
    python -m benchmarks.console --nodes 20 --letters 1000 --rounds 5    # a glance at it

The pages are asked for one after the other, in rounds, while the console watches the fleet, and then while it looks at
all dead letters. ``client`` is from the request to the last byte, ``server`` what the console says of itself
(``Server-Timing``). The goal is a median of 300 ms for every page. It ends by itself, with exit status 1 if a goal is
missed. The machine runs the brokers, all nodes, the console and the client.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urlencode

from benchmarks.console_fleet import node_names, nodes_on, service_names, write_dead_letters
from benchmarks.figures import Figure, report
from benchmarks.suite.growth.nodes import common, host
from benchmarks.suite.machine import settle
from benchmarks.waiting import until
from servicebus.testing import Broker, brokers

GOAL_S = 0.3
_READY_S = 600.0
_TOKEN = re.compile(r'name="form_token" value="([0-9a-f]+)"')


class Answer(NamedTuple):
    """One page, and how long it took."""

    status: int
    text: str
    client_s: float
    server_s: float


class ConsoleClient:
    """Asks the console on *port* over one connection, as a browser without scripts does."""

    def __init__(self, port: int):
        self._port = port
        self._connection = HTTPConnection("127.0.0.1", port, timeout=60)
        self._cookie = self._token = ""
        first = self._ask("GET", "/", None, {})
        found = _TOKEN.search(first.text)
        assert found is not None, first.text
        self._token = found[1]

    def get(self, path: str) -> Answer:
        """A page; of one that renews itself, what is asked again and again, if *path* begins with ``~``."""
        headers = {"HX-Request": "true"} if path.startswith("~") else {}
        answer = self._ask("GET", path.lstrip("~"), None, headers)
        if answer.status not in (200, 204):
            raise SystemExit(f"{path}: {answer.status} {answer.text[-400:]}")
        return answer

    def post(self, path: str, **form: str) -> None:
        headers = {
            "Content-Type": "application/x-www-form-urlencoded",
            "Origin": f"http://127.0.0.1:{self._port}",
        }
        answer = self._ask("POST", path, urlencode({**form, "form_token": self._token}), headers)
        if answer.status not in (200, 303):
            raise SystemExit(f"{path}: {answer.status} {answer.text[-400:]}")

    def _ask(self, method: str, path: str, body: str | None, headers: dict[str, str]) -> Answer:
        began = time.perf_counter()
        self._connection.request(method, path, body, {**headers, "Cookie": self._cookie})
        answer = self._connection.getresponse()
        text = answer.read().decode()
        took_s = time.perf_counter() - began
        if answer.headers["Set-Cookie"]:
            self._cookie = answer.headers["Set-Cookie"].partition(";")[0]
        timing = re.search(r"dur=([\d.]+)", answer.headers["Server-Timing"] or "")
        return Answer(answer.status, text, took_s, float(timing[1]) / 1000 if timing else 0.0)


@contextmanager
def console_on(hosts: Sequence[str], folder: Path) -> Iterator[ConsoleClient]:
    """``servicebus web`` in a process of its own."""
    file = folder / "console.json"
    file.write_text(json.dumps(common(hosts)))
    told = ["-c", str(file), "--role", "operate", "--port", "0", "--history", str(folder / "history")]
    program = [sys.executable, "-m", "servicebus", "web", *told]
    with (folder / "console.log").open("w+") as log, subprocess.Popen(program, stdout=log, stderr=log) as process:
        try:
            says = re.compile(r"the console is on http://127\.0\.0\.1:(\d+)/")
            until(lambda: says.search(Path(log.name).read_text()) is not None, "the console listens", _READY_S)
            found = says.search(Path(log.name).read_text())
            assert found is not None
            yield ConsoleClient(int(found[1]))
        finally:
            process.terminate()


def look_at_dead_letters(client: ConsoleClient, node: str) -> None:
    client.post("/dead/look", node=node)


def is_looking(client: ConsoleClient, node: str) -> bool:
    return "Running: look" in client.get(f"/dead/{node}").text


def pages_of(node: str, service: str, broker: str, id: str) -> list[str]:
    """Each page, the largest of its kind; with ``~`` what a page asks for that renews itself."""
    lost = quote(broker)
    return [
        "/",
        "~/",
        "/services",
        "~/services",
        f"/node/{node}",
        f"~/node/{node}",
        f"~/node/{node}/rates",
        f"~/node/{node}/log",
        f"/service/{node}/{service}",
        "/dead",
        f"/dead/{node}",
        f"/dead/{node}/{id}",
        f"/what/{id}",
        "/timeline",
        "~/timeline/failovers",
        f"/forecast?lost={lost}",
        f"/drill?broker={lost}",
    ]


class PageTimes:
    """Of each page, as two figures."""

    def __init__(self, pages: Sequence[str], when: str):
        self._pages = pages
        self.client = {page: Figure(f"{page} {when}client", median_limit=GOAL_S) for page in pages}
        self.server = {page: Figure(f"{page} {when}server") for page in pages}

    def round(self, client: ConsoleClient) -> None:
        for page in self._pages:
            answer = client.get(page)
            self.client[page].samples.append(answer.client_s)
            self.server[page].samples.append(answer.server_s)

    @property
    def figures(self) -> list[Figure]:
        return [each for page in self._pages for each in (self.client[page], self.server[page])]


def measure(client: ConsoleClient, pages: Sequence[str], node: str, rounds: int, wait_limit_s: float) -> list[Figure]:
    quiet, looking = PageTimes(pages, ""), PageTimes(pages, "during a look, ")
    for _ in range(rounds):
        settle(wait_limit_s)
        quiet.round(client)
    look_at_dead_letters(client, node)
    while is_looking(client, node):
        looking.round(client)
    return [*quiet.figures, *(each for each in looking.figures if each.samples)]


def prepare(client: ConsoleClient, options: argparse.Namespace) -> Figure:
    """Until the console knows the whole fleet, its load and the dead letters; how long the look at these took."""
    node, wanted = node_names(1)[0], f"{options.nodes} of {options.nodes} nodes answer over all their brokers"
    until(lambda: wanted in client.get("/").text, "all nodes are seen over all brokers", _READY_S)
    _tell("all nodes are seen")
    until(lambda: "ms" in client.get("/services").text, "the load of services is known", _READY_S)
    began = time.monotonic()
    look_at_dead_letters(client, node)
    until(lambda: not is_looking(client, node), "all dead letters were looked at", _READY_S)
    looked_s = time.monotonic() - began
    _tell("all dead letters were looked at")
    until(lambda: f"{options.letters} dead letters" in client.get("/dead").text, "they are counted", _READY_S)
    return Figure("the look at all dead letters", samples=[looked_s])


def trial(three: Sequence[Broker], folder: Path, options: argparse.Namespace) -> list[Figure]:
    node = node_names(1)[0]
    services = service_names(node, options.services)
    ids = write_dead_letters(three, node, services, options.letters)
    _tell(f"{len(ids)} dead letters are written")
    with nodes_on(three, options.nodes, options.services), console_on([host(each) for each in three], folder) as client:
        looked = prepare(client, options)
        client.post("/what", id=ids[0])
        until(lambda: "dead-lettered" in client.get(f"/what/{ids[0]}").text, "the search has found it", _READY_S)
        pages = pages_of(node, services[0], host(three[0]), ids[0])
        return [looked, *measure(client, pages, node, options.rounds, options.wait)]


def _tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    number = partial(parser.add_argument, type=int)
    number("--nodes", default=200)
    number("--services", default=20, help="of each node")
    number("--letters", default=100_000)
    number("--rounds", default=20)
    parser.add_argument("--wait", type=float, default=5.0, help="seconds to wait for a quiet machine before each")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="console-")))
        three = stack.enter_context(brokers(count=3))
        figures = trial(three, folder, options)
    return report("Pages of the console", figures, options.json)


if __name__ == "__main__":
    sys.exit(main())
