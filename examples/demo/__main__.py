"""The program behind ``bin/demo``."""

from __future__ import annotations

import shlex
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

import click
from rich.console import Console

from examples.demo.bus import FAILBACK_AFTER_S, NODE, ROOT, Bus, running_bus
from examples.demo.progress import Progress
from examples.demo.report import Moments, Report
from examples.demo.traffic import Traffic
from servicebus.cli.output import said_while_waiting
from servicebus.errors import ServiceBusError
from servicebus.logging_service import LoggingService
from servicebus.sender import Sender

RETURN_TIMEOUT_S = 30.0
REST_TIMEOUT_S = 20.0


@click.command()
@click.option("--keep", is_flag=True, help="Leave the bus up afterwards, and say what to try next.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=1),
    default=4.0,
    show_default=True,
    help="How long each of three phases lasts.",
)
def main(keep: bool, seconds: float) -> None:
    """Two brokers, an agent, traffic; broker A is killed and comes back. Exit status 0 only if nothing failed."""
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
    console = Console()
    try:
        with Progress(console) as progress:
            progress.step("starting two private RabbitMQ brokers, the log server and the agent NODE-01")
            with ExitStack() as stack:
                with said_while_waiting("brokers and agent to come up; on a busy machine that takes a minute or two"):
                    bus = stack.enter_context(running_bus(keep=keep))
                report = show(bus, progress, seconds)
            report = replace(report, agent_exit_code=bus.agent.process.poll())
        console.print(report.rendered())
    except ServiceBusError as error:
        console.print(f"the demo could not go on: {error}", style="bold red", markup=False)
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("stopped; everything that was started has ended")
        sys.exit(130)
    if keep:
        console.print(what_next(bus), highlight=False, markup=False, soft_wrap=True)
    sys.exit(1 if report.failures() else 0)


def show(bus: Bus, progress: Progress, seconds: float) -> Report:
    """Run the traffic through the death and the return of broker A, and count what came of it."""
    LoggingService.init_logging(bus.log_port, secret=bus.config.secrets, process_name="demo")
    with Sender(bus.config) as sender, Traffic(sender) as traffic:
        progress.watch(sender, traffic.record, lambda: [bus.a.state, bus.b.state])
        started = time.monotonic()
        progress.step(f"calls to {NODE}.math.add and {NODE}.machine.facts, messages to {NODE}.audit.note")
        time.sleep(seconds)
        progress.step(f"kill -9 {bus.a.pid}: broker A dies in the middle of the traffic")
        killed = time.monotonic()
        bus.a.kill()
        time.sleep(seconds)
        progress.step("starting broker A again")
        restarted = time.monotonic()
        with said_while_waiting("broker A"):
            bus.a.start()
        up = time.monotonic()
        progress.step(f"broker A is up; it gets the traffic back once it has been healthy for {FAILBACK_AFTER_S:g} s")
        returned = wait_for_return(sender)
        time.sleep(seconds)
        ended = time.monotonic()
        traffic.stop()
    progress.step("waiting until every message is handled, and stopping")
    wait_until(lambda: len(handled_notes(bus)) >= len(traffic.record.sent), REST_TIMEOUT_S)
    log = LoggingService.statistics(bus.log_port, bus.config.secrets)
    moments = Moments(started, killed, restarted, up, returned, ended)
    return Report(traffic.record, moments, handled_notes(bus), log, bus.log_path.read_text())


def wait_for_return(sender: Sender) -> float | None:
    """When the first broker answers calls again; ``None`` if it does not within half a minute."""
    before = sender.status()["hosts"][0]["calls"]
    has_returned = wait_until(lambda: sender.status()["hosts"][0]["calls"] > before + 10, RETURN_TIMEOUT_S)
    return time.monotonic() if has_returned else None


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def handled_notes(bus: Bus) -> Counter[int]:
    """How often the note of each number was handled."""
    if not bus.notes_path.exists():
        return Counter()
    return Counter(map(int, bus.notes_path.read_text().split()))


def what_next(bus: Bus) -> str:
    # In a file of the user's own folder, because the secret is among them.
    environment = bus.folder / "environment"
    environment.write_text("".join(f"export {name}={shlex.quote(value)}\n" for name, value in bus.variables.items()))
    command = ".venv/bin/servicebus"
    return f"""
The bus is up. Try next, in {ROOT}:
  . {environment}
  {command} call -c conf/sender.yaml {NODE}.math.add '[1, 2]'
  {command} call -c conf/sender.yaml {NODE}.machine.facts
  {command} send -c conf/sender.yaml {NODE}.audit.note '{{"number": 1, "text": "hello"}}'
  kill -9 {bus.a.pid}                   # then call again
  {command} broker up                   # starts it again
  {command} status conf/agent.yaml
  tail -f {bus.log_path}
To end it:
  kill {bus.agent.process.pid}; {command} broker down; rm -r {bus.folder}"""


if __name__ == "__main__":
    main()
