#!/usr/bin/env python3
"""Dead letters that go back in growing batches to a service that fails again at one in a thousand.

One private broker, one agent. A service that is down makes 100,000 messages dead letters. Then it is up, and fails at
each thousandth: ``servicebus dead requeue --growing`` must stop, say why, and leave the rest where they are. It is run
again three times, then the service is mended, and the command takes all that is left::

    python -m benchmarks.trials.requeue                   # 100,000 letters
    python -m benchmarks.trials.requeue --letters 10000   # a glance at it
    python -m benchmarks.trials.requeue --plant           # one letter is dropped on the way: it must be found

After each run each letter must either have been executed, once, or be dead. Exit status 1 if that does not hold.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from benchmarks.agent import NODE, ROOT, Agent, place, sender_configuration
from benchmarks.figures import Figure, report
from benchmarks.services import condition_file, fails_again
from benchmarks.waiting import counted, until
from servicebus.sender import Sender
from servicebus.testing import Broker, brokers

TARGET = f"{NODE}.ledger.fragile"
STOPS = 3
AT_ONCE = 500
SETTLED_S = 1800.0
COMMAND_S = 7200.0
_DEPTH = (
    'case rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"{queue}">>)) of '
    "{{ok, Q}} -> proplists:get_value(messages, rabbit_amqqueue:info(Q, [messages])); _ -> 0 end."
)


class DeadLettersOfNode:
    """The dead letters of one node on *broker*."""

    def __init__(self, broker: Broker, agent: Agent, count: int):
        self.count = count
        self.lost: list[float] = []
        self.twice: list[float] = []
        """Of each run."""
        self.wrong: list[str] = []
        """What a run should have done and has not."""
        self._broker, self._agent = broker, agent

    def make(self) -> None:
        """Send as many messages while their service is down, and wait until all of them are dead."""
        self.condition("down")
        with Sender(sender_configuration([place(self._broker)])) as sender:
            for first in counted(f"messages, {AT_ONCE} each", -(-self.count // AT_ONCE)):
                numbers = range((first - 1) * AT_ONCE, min(first * AT_ONCE, self.count))
                for sent in [sender.send_async(TARGET, number, timeout=SETTLED_S) for number in numbers]:
                    sent.result(SETTLED_S)
        until(lambda: self.dead == self.count, "all messages are dead letters", SETTLED_S)

    def condition(self, name: str) -> None:
        condition_file(str(self._agent.ledger_path)).write_text(name)

    @property
    def dead(self) -> int:
        return self._depth(f"{NODE}.dead")

    def requeue(self, *which: str, stops: bool) -> None:
        """Run the command; look at what it says, and at what has become of all letters."""
        began, before = time.monotonic(), self._entered()
        ended = self._dead("requeue", *which, "--growing", "--json")
        said = json.loads(ended.stdout)
        self._look()
        new = self._entered() - before
        failed = sum(count for name, count in new.items() if name.startswith("failed-"))
        batches, why, took_s = said["batches"], said["stopped"], time.monotonic() - began
        print(f"{sum(batches)} in batches of {batches}, {took_s:.0f} s: {why or 'all'}", file=sys.stderr, flush=True)
        named = int(why.split()[0]) if why[:1].isdigit() else 0
        is_right = ended.returncode == 10 and 1 <= named <= failed if stops else ended.returncode == 0 and not failed
        if not is_right or bool(why) != stops or (stops and "ValueError: no such customer" not in why):
            self.wrong.append(f"{which}: status {ended.returncode}, {failed} failed, it said {why!r}")

    def _look(self) -> None:
        """Count what is neither executed nor dead, and what was executed twice, once all have been through."""

        def done() -> dict[str, int]:
            return {name: count for name, count in self._entered().items() if name.startswith("done-")}

        with suppress(TimeoutError):
            until(lambda: len(done()) + self.dead == self.count, "each is executed or dead", SETTLED_S)
        found = done()
        self.lost.append(abs(self.count - len(found) - self.dead))
        self.twice.append(sum(count > 1 for count in found.values()))

    def drop_one(self) -> None:
        self._dead("drop", "--all", "--limit", "1", "--yes")

    def _dead(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "servicebus", "dead", *arguments, "-c", str(self._agent.path)],
            cwd=ROOT, capture_output=True, text=True, timeout=COMMAND_S, check=False,
        )  # fmt: skip

    def _entered(self) -> Counter[str]:
        path = self._agent.ledger_path
        return Counter(path.read_text().split()) if path.exists() else Counter()

    def _depth(self, queue: str) -> int:
        return int(self._broker.evaluate(_DEPTH.format(queue=queue)))


def trial(letters: DeadLettersOfNode, *, is_planted: bool) -> list[Figure]:
    began = time.monotonic()
    letters.make()
    made_s = time.monotonic() - began
    letters.condition("ill")
    for _ in range(STOPS):
        letters.requeue("--reason", "ConnectionError", stops=True)
    if is_planted:
        letters.drop_one()
    letters.condition("well")
    letters.requeue("--all", stops=False)
    if letters.dead:
        letters.wrong.append(f"{letters.dead} are dead at the end")
    for wrong in letters.wrong:
        print(wrong, file=sys.stderr)
    return [
        Figure("dead letters", unit="", samples=[letters.count]),
        Figure("of which fail again", unit="", samples=[sum(map(fails_again, range(letters.count)))]),
        Figure("runs that stopped", unit="", samples=[STOPS]),
        Figure("neither executed nor dead, after each run", max_limit=0, unit="", samples=letters.lost),
        Figure("executed twice, after each run", max_limit=0, unit="", samples=letters.twice),
        Figure("runs that did not do what they should", max_limit=0, unit="", samples=[len(letters.wrong)]),
        Figure("making them dead", samples=[made_s]),
        Figure("all of it", samples=[time.monotonic() - began]),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--letters", type=int, default=100_000)
    parser.add_argument("--plant", action="store_true", help="one letter is dropped on the way")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    if options.letters < 1000 * (2 * STOPS + 1):
        parser.error(f"each run needs a letter that fails again: at least {1000 * (2 * STOPS + 1)} letters")
    more: list[dict[str, Any]] = [
        {"kind": "message", "category": "ledger", "name": "fragile", "target": "benchmarks.services:Fragile"}
    ]
    with ExitStack() as stack:
        (broker,) = stack.enter_context(brokers(count=1))
        agent = stack.enter_context(Agent(broker.folder, [place(broker)], more=more, retry_schedule=[]))
        figures = trial(DeadLettersOfNode(broker, agent, options.letters), is_planted=options.plant)
    return report("Dead letters go back in growing batches", figures, options.json)


if __name__ == "__main__":
    sys.exit(main())
