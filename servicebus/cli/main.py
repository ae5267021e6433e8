"""``servicebus``: the group that holds all commands."""

from __future__ import annotations

import logging

import click

from servicebus import __version__
from servicebus.cli.group import CommandGroup
from servicebus.cli.options import json_option
from servicebus.wire.printable import printable

PROGRAM = "servicebus"
COMPLETION_VARIABLE = "_SERVICEBUS_COMPLETE"

COMMANDS = {
    "asyncapi": "servicebus.cli.asyncapi:asyncapi",
    "bench": "servicebus.cli.bench:bench",
    "bridge": "servicebus.cli.bridge:bridge",
    "broker": "servicebus.cli.broker:broker",
    "call": "servicebus.cli.call:call",
    "check": "servicebus.cli.check:check",
    "compat": "servicebus.cli.compat:compat",
    "completion": "servicebus.cli.completion:completion",
    "config": "servicebus.cli.config_check:config",
    "contract": "servicebus.cli.contract:contract",
    "dead": "servicebus.cli.dead:dead",
    "describe": "servicebus.cli.describe:describe",
    "docs": "servicebus.cli.docs:docs",
    "doctor": "servicebus.cli.doctor:doctor",
    "drain": "servicebus.cli.drain:drain",
    "drill": "servicebus.cli.drill:drill",
    "events": "servicebus.cli.events:events",
    "gather": "servicebus.cli.nodes:gather",
    "migrate-queue": "servicebus.cli.migrate_queue:migrate_queue",
    "mock": "servicebus.cli.mock:mock",
    "nodes": "servicebus.cli.nodes:nodes",
    "ping": "servicebus.cli.ping:ping",
    "publish": "servicebus.cli.publish:publish",
    "reload": "servicebus.cli.reload:reload",
    "run": "servicebus.cli.run:run",
    "send": "servicebus.cli.send:send",
    "services": "servicebus.cli.nodes:services",
    "setup": "servicebus.cli.setup:setup",
    "stream": "servicebus.cli.stream:stream",
    "status": "servicebus.cli.status:status",
    "stubs": "servicebus.cli.stubs:stubs",
    "tail": "servicebus.cli.tail:tail",
    "token": "servicebus.cli.token_check:token",
    "top": "servicebus.cli.top:top",
    "web": "servicebus.cli.web:web",
    "what": "servicebus.cli.what:what",
}
LEVELS = (logging.CRITICAL, logging.INFO, logging.DEBUG)


class Lines(logging.Formatter):
    """Whatever a record quotes, be it in a traceback, can neither forge another record nor move the cursor."""

    def format(self, record: logging.LogRecord) -> str:
        """The record, its further lines indented: as the log server writes it."""
        return printable(super().format(record), keep_newlines=True).replace("\n", "\n    ")


@click.group(cls=CommandGroup, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name=PROGRAM)
@click.option("-v", "--verbose", count=True, help="Log to stderr; twice for everything.")
@json_option
def servicebus(verbose: int) -> None:
    """Run agents of the service bus, and talk to them.

    Exit status: 0 fine, 1 the service failed, 2 wrong arguments, 3 configuration, 4 no broker or node there, 5 timeout,
    6 refused, 7 outcome unknown, 8 unknown service, 9 busy, 10 done in part, 130 Ctrl-C.
    """
    # Without -v the one line that a failure prints is all: what the connections log on the way would hide it.
    to_stderr = logging.StreamHandler()
    to_stderr.setFormatter(Lines("%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[to_stderr], level=LEVELS[min(verbose, len(LEVELS) - 1)])


def main() -> None:
    """Entry point of the program; ends by SystemExit with the status of docs/cli.rst."""
    servicebus(prog_name=PROGRAM, complete_var=COMPLETION_VARIABLE)
