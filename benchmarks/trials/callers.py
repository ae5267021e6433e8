#!/usr/bin/env python3
"""Calls of four callers with different rights, while their keys are changed, and one of them is taken back at the end.

Two private brokers, one agent. Each caller asks four services at random, in two threads. Meanwhile one key after the
other is changed as docs/callers.rst says: the agent gets the new one as well (HUP), the program has it alone, the agent
drops the old one (HUP). What may pass is written down here by hand, not asked of the rules::

    python -m benchmarks.trials.callers                  # 10,000 calls
    python -m benchmarks.trials.callers --plant          # the agent allows one thing too much: it must be found

Exit status 1 if a call was refused that should pass, passed that should be refused, or ended otherwise.
"""

from __future__ import annotations

import argparse
import random
import secrets
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from benchmarks.agent import NODE, Agent, place, sender_configuration
from benchmarks.trials.rolling import replace_workers
from benchmarks.waiting import until
from servicebus.errors import CallRefused, PermissionDenied
from servicebus.sender import Sender
from servicebus.testing import brokers

RULES: dict[str, dict[str, Any]] = {
    "shop": {"allow": ["*.math.*", f"{NODE}.audit.read"]},
    "audit": {"allow": ["*.audit.*"]},
    "boss": {"allow": "*", "deny": "*.admin.*"},
    "root": {"allow": [f"{NODE}.*.*"]},
}
RIGHTS = {
    "shop": {"math.add", "audit.read"},
    "audit": {"audit.read", "audit.clear"},
    "boss": {"math.add", "audit.read", "audit.clear"},
    "root": {"math.add", "audit.read", "audit.clear", "admin.drop"},
}
TARGETS = sorted(RIGHTS["root"])
THREADS = 2
_MORE = [
    {"kind": "rpc", "category": category, "name": name, "target": "benchmarks.services:Add"}
    for category, name in (("audit", "read"), ("audit", "clear"), ("admin", "drop"))
]


class AgentOfCallers(Agent):
    """An agent whose callers change while it runs."""

    keys: dict[str, list[str]]

    def configure(self, keys: dict[str, list[str]], *, is_planted: bool) -> None:
        """Write its file. *is_planted* allows one caller too much."""
        callers = {name: {**RULES[name], "key": own} for name, own in keys.items()}
        if is_planted:
            callers["audit"] = {**callers["audit"], "allow": ["*.audit.*", "*.math.*"]}
        given = yaml.safe_load(self.path.read_text())
        self.path.write_text(yaml.safe_dump({**given, "callers": callers}))

    def reload(self, keys: dict[str, list[str]], *, is_planted: bool) -> None:
        self.configure(keys, is_planted=is_planted)
        replace_workers(self)


class Caller:
    """One caller: its Sender, which is replaced, and the threads that use it."""

    def __init__(self, name: str, hosts: list[str]):
        self.name, self.key = name, secrets.token_urlsafe(24)
        self.counts: Counter[str] = Counter()
        self._hosts = hosts
        self._calls = [0] * THREADS
        self.sender = self._make()

    def _make(self) -> Sender:
        return Sender(sender_configuration(self._hosts, caller=self.name, secret_token=self.key))

    def change_key(self, key: str) -> None:
        """As a program that is started again with another key."""
        former, self.key = self.sender, key
        self.sender = self._make()
        before = list(self._calls)
        until(lambda: all(now > then + 1 for now, then in zip(self._calls, before, strict=True)), "calls go on")
        former.close()

    def ask(self, number: int, is_over: threading.Event) -> None:
        """Ask until *is_over*, and count what came of it."""
        dice = random.Random(f"{self.name} {number}")
        while not is_over.is_set():
            target = dice.choice(TARGETS)
            should = "pass" if target in RIGHTS[self.name] else "be refused"
            self.counts[f"should {should}: {self._outcome(target)}"] += 1
            self._calls[number] += 1

    def _outcome(self, target: str) -> str:
        try:
            result = self.sender.call(f"{NODE}.{target}", [1, 2], 30)[1]
        except PermissionDenied as error:
            return "refused" if error.caller == self.name else f"refused as {error.caller!r}"
        except Exception as error:  # whatever it is, it should not be
            print(f"{self.name} {target}: {type(error).__name__}: {error}", file=sys.stderr)
            return type(error).__name__
        return "passed" if result == 3 else "another result"


@contextmanager
def asking(callers: list[Caller]) -> Iterator[None]:
    """All of them ask meanwhile."""
    is_over = threading.Event()
    threads = [
        threading.Thread(target=caller.ask, args=(number, is_over)) for caller in callers for number in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def trial(agent: AgentOfCallers, callers: list[Caller], calls: int, *, is_planted: bool) -> int:
    """Change keys until so many *calls* were made; returns how often."""
    changes = 0
    while sum(sum(caller.counts.values()) for caller in callers) < calls or changes < len(callers):
        caller = callers[changes % len(callers)]
        keys, key = {each.name: [each.key] for each in callers}, secrets.token_urlsafe(24)
        agent.reload({**keys, caller.name: [caller.key, key]}, is_planted=is_planted)
        caller.change_key(key)
        agent.reload({**keys, caller.name: [key]}, is_planted=is_planted)
        changes += 1
    return changes


def revoke(agent: AgentOfCallers, callers: list[Caller]) -> str:
    """Take the key of the last one back; what then becomes of a call of each."""
    *others, gone = callers
    agent.reload({each.name: [each.key] for each in others}, is_planted=False)
    said = [f"{each.name} {each._outcome('audit.read')}" for each in others]
    try:
        gone.sender.call(f"{NODE}.audit.read", [1, 2], 30)
    except CallRefused as error:
        return ", ".join([*said, f"{gone.name} refused ({error.reason})"])
    except Exception as error:  # its Sender had answers before: to it the node may be silent
        return ", ".join([*said, f"{gone.name} {type(error).__name__}"])
    return ", ".join([*said, f"{gone.name} passed"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--plant", action="store_true", help="the agent allows one caller too much")
    options = parser.parse_args()
    with ExitStack() as stack:
        nodes = stack.enter_context(brokers(count=2))
        hosts = [place(broker) for broker in nodes]
        callers = [Caller(name, hosts[:: (-1) ** number]) for number, name in enumerate(RULES)]
        agent = AgentOfCallers(Path(nodes[0].folder), hosts, more=_MORE)
        agent.configure({caller.name: [caller.key] for caller in callers}, is_planted=options.plant)
        stack.enter_context(agent)
        began = time.monotonic()
        with asking(callers):
            changes = trial(agent, callers, options.calls, is_planted=options.plant)
        took_s = time.monotonic() - began
        revoked = revoke(agent, callers)
        for caller in callers:
            caller.sender.close()
    total: Counter[str] = sum((caller.counts for caller in callers), Counter())
    print(f"{total.total()} calls of {len(callers)} callers in {took_s:.0f} s, while {changes} keys were changed")
    for caller in callers:
        print(f"  {caller.name:<6} {', '.join(f'{what} {count}' for what, count in sorted(caller.counts.items()))}")
    print(f"then the key of {callers[-1].name} was taken back: {revoked}")
    good = total["should pass: passed"] + total["should be refused: refused"]
    wrong = total.total() - good
    print(f"not as it should be: {wrong}")
    is_revoked = revoked.count(" passed") == len(callers) - 1 and not revoked.endswith(" passed")
    return int(bool(wrong) or total.total() < options.calls or not is_revoked)


if __name__ == "__main__":
    sys.exit(main())
