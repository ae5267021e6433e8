"""Away from the preferred broker, and back."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack

from benchmarks.agent import Agent, place, sender_configuration
from benchmarks.figures import Figure
from benchmarks.traffic import Traffic
from benchmarks.trials import CLOSE_ALL, PAUSE_S, SENDERS
from benchmarks.waiting import counted, until
from servicebus.sender import Sender
from servicebus.testing import Broker, FaultProxy, Mode

FAILBACK_AFTER_S = 0.2


def failback(brokers: list[Broker], count: int) -> list[Figure]:
    """The preferred broker is lost and found in turn in four ways; the traffic must leave it, and come back."""
    preferred, other = brokers
    left = Figure("traffic on the other broker")
    returned = Figure("traffic back on the preferred one")
    with ExitStack() as stack:
        agent = stack.enter_context(Agent(other.folder, [place(broker) for broker in brokers]))
        proxy = stack.enter_context(FaultProxy(preferred.port))
        hosts = [f"{proxy.host}:{proxy.port}", place(other)]
        sender = stack.enter_context(Sender(sender_configuration(hosts, failback_after=FAILBACK_AFTER_S)))
        traffic = Traffic([sender] * SENDERS, PAUSE_S)
        with traffic.running():
            wait_for_calls(sender, 0, 0)
            for number in counted("fail-backs", count):
                before = calls_over(sender, 1)
                way, undo = lose(preferred, proxy, number)
                try:
                    left.samples.append(wait_for_calls(sender, 1, before))
                    undo()
                    back_s = until(lambda: is_preferred(sender), "the first broker preferred again")
                    returned.samples.append(back_s + wait_for_calls(sender, 0, calls_over(sender, 0)))
                except TimeoutError as error:
                    print(f"fail-back {number}, {way}: {sender.status()}, {agent.workers()}", file=sys.stderr)
                    raise SystemExit(str(error)) from error
        return [left, returned, *traffic.figures(agent.ledger_path)]


def lose(broker: Broker, proxy: FaultProxy, number: int) -> tuple[str, Callable[[], None]]:
    """Take the way to *broker* away; returns how, and how it is given back."""
    if number % 50 and number % 3 == 0:
        broker.evaluate(CLOSE_ALL)  # of the agent's worker too; both may come back as soon as they like
        return "closed", lambda: None
    mode = Mode.DROP if number % 50 == 0 else Mode.REFUSE if number % 3 == 1 else Mode.RESET
    proxy.set_mode(mode)
    return mode.value, proxy.heal


def wait_for_calls(sender: Sender, host: int, before: int) -> float:
    return until(lambda: calls_over(sender, host) > before, f"calls over host {host + 1}")


def calls_over(sender: Sender, host: int) -> int:
    return int(sender.status()["hosts"][host]["calls"])


def is_preferred(sender: Sender) -> bool:
    return bool(sender.status()["hosts"][0]["preferred"])
