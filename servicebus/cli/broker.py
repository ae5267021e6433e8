"""``servicebus broker``: private RabbitMQ brokers on this machine, for trying out and developing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from servicebus.cli.exit_codes import ExitCode
from servicebus.cli.group import CommandGroup, Failure
from servicebus.cli.options import json_option
from servicebus.cli.output import Output, said_while_waiting
from servicebus.wire.printable import counted, printable

if TYPE_CHECKING:
    from servicebus.testing import Broker

MAX_COUNT = 26


@click.group(cls=CommandGroup)
@json_option
def broker() -> None:
    """Start and stop private RabbitMQ brokers on loopback ports, for trying out and developing.

    They use the installed rabbitmq-server program, and nothing else of the system: ports, data, logs and Erlang cookie
    are their own. They run until `down`.
    """


@broker.command()
@click.option("--count", type=click.IntRange(1, MAX_COUNT), default=2, show_default=True, help="How many shall run.")
@click.option(
    "--dir", "folder", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
    help="Where their data lie, and stay after `down`. Default: a private temporary folder.",
)  # fmt: skip
@json_option
@click.pass_context
def up(ctx: click.Context, count: int, folder: Path | None) -> None:
    """Start brokers, and print their urls. Those that run already stay as they are.

    Exit status 0 if all run, 1 if one did not come up; its log is printed then.
    """
    from servicebus.testing import BrokerStartFailed
    from servicebus.testing.persistent import PersistentBrokers

    output = ctx.ensure_object(Output)
    try:
        with said_while_waiting(f"{counted(count, 'broker')} to come up; on a busy machine that takes a minute"):
            brokers = PersistentBrokers().up(count, folder)
    except BrokerStartFailed as error:
        if output.json:
            raise
        click.echo(printable(error.log_tail, keep_newlines=True), err=True)
        message = f"broker {error.name} did not come up: {error.reason}; what it logged stands above"
        raise Failure("BrokerStartFailed", message, ExitCode.FAILED, as_json=False) from error
    output.result(_document(brokers), "\n".join([*map(_line, brokers), "", _what_next(brokers)]))


@broker.command()
@json_option
@click.pass_context
def status(ctx: click.Context) -> None:
    """Print each broker with its url, pid and state.

    Exit status 0 if all answer, 1 if one does not, 4 if none was started.
    """
    from servicebus.testing.persistent import PersistentBrokers

    output = ctx.ensure_object(Output)
    brokers = PersistentBrokers().known()
    if not brokers:
        message = "no private brokers; start some: servicebus broker up --count 2"
        raise Failure("NoBrokers", message, ExitCode.UNAVAILABLE, as_json=output.json)
    output.result(_document(brokers), "\n".join(map(_line, brokers)))
    ctx.exit(ExitCode.OK if all(broker.answers() for broker in brokers) else ExitCode.FAILED)


@broker.command()
@click.argument("name")
@json_option
@click.pass_context
def kill(ctx: click.Context, name: str) -> None:
    """Kill the broker NAME (a, b, ...), as a crash would. `up` starts it again.

    Exit status 0 if it is dead then, 2 if no broker has that name.
    """
    from servicebus.testing.persistent import PersistentBrokers

    known = {broker.name: broker for broker in PersistentBrokers().known()}
    if name not in known:
        raise click.BadParameter(f"no broker {name!r}; there are: {', '.join(known) or 'none'}", ctx, param_hint="NAME")
    known[name].kill()
    ctx.ensure_object(Output).result(_document([known[name]]), f"killed {name}")


@broker.command()
@json_option
@click.pass_context
def down(ctx: click.Context) -> None:
    """Stop the brokers that `up` started. Fine if there are none."""
    from servicebus.testing.persistent import PersistentBrokers

    brokers = PersistentBrokers().down()
    text = f"stopped {', '.join(broker.name for broker in brokers)}" if brokers else "there were none"
    ctx.ensure_object(Output).result(_document(brokers), text)


def _document(brokers: list[Broker]) -> dict[str, Any]:
    return {"brokers": [_facts(broker) for broker in brokers]}


def _facts(broker: Broker) -> dict[str, Any]:
    facts = {name: getattr(broker, name) for name in ("name", "host", "port", "url", "pid", "state")}
    facts["pid"] = None if facts["state"] == "down" else facts["pid"]
    return facts | {"log": str(broker.log_path)}


def _line(broker: Broker) -> str:
    pid = "" if broker.state == "down" else f"pid {broker.pid}  "
    return f"{broker.name}  {broker.url}  {pid}{broker.state}  {broker.log_path}"


def _what_next(brokers: list[Broker]) -> str:
    variables = " ".join(
        f"SERVICEBUS_BROKER_{broker.name.upper()}={broker.host}:{broker.port}" for broker in brokers[:2]
    )
    return f"""Try next:
  export {variables}
  servicebus run -c conf/agent.yaml          # an agent over them, in another terminal
  servicebus call -c conf/sender.yaml NODE-01.math.add '[1, 2]'
  servicebus broker kill {brokers[0].name}                   # the next call goes on over the other broker
  servicebus broker up                       # starts again what is down
  servicebus broker down                     # ends all of them"""
