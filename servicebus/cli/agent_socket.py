"""The agent of this machine, as commands find it: by the status socket, which its file or ``--socket`` names."""

from __future__ import annotations

import json
import socket
import struct
import time
from typing import Any, NamedTuple

import click

from servicebus.cli.exit_codes import ExitCode
from servicebus.cli.group import Failure
from servicebus.cli.options import CONFIG_VARIABLE, Command
from servicebus.cli.output import Output
from servicebus.configuration import Configuration
from servicebus.errors import ConfigurationError

__all__ = ["AgentAnswer", "ask_agent", "socket_option", "socket_path"]

_MAX_BYTES = 16 * 1024 * 1024
_CREDENTIALS = struct.Struct("3i")
"""Of SO_PEERCRED: the number of the process, its user and its group."""


class AgentAnswer(NamedTuple):
    """What the status socket says, and who listens there."""

    document: dict[str, Any]
    pid: int
    """Of the master, as this process has to call it; 0 if it cannot see it, as in another container."""


def socket_option(command: Command) -> Command:
    """``--socket PATH``; the command gets ``path``."""
    help_text = "The status socket itself, instead of the file that names it."
    return click.option("--socket", "path", metavar="PATH", help=help_text)(command)


def socket_path(configuration: Configuration | None, path: str | None) -> str:
    """Where the agent is asked. Raises click.UsageError or ConfigurationError: that was not said."""
    if path is not None:
        return path
    if configuration is None:
        raise click.UsageError(f"say which agent: FILE, -c FILE, ${CONFIG_VARIABLE} or --socket PATH")
    if configuration.status_socket is None:
        raise ConfigurationError("status_socket is not set, so the agent cannot be asked", path=configuration.path)
    return configuration.status_socket


def ask_agent(path: str, timeout_s: float, output: Output) -> AgentAnswer:
    """What the agent says at the status socket *path*. Raises Failure: none answers."""
    try:
        answer, pid = _read_all(path, timeout_s)
        document = json.loads(answer)
        if isinstance(document, dict) and all(isinstance(worker, dict) for worker in document["workers"]):
            return AgentAnswer(document, pid)
        reason = "the answer is none of an agent"
    except TimeoutError:
        reason = f"no answer within {timeout_s:g} s"
    except OSError as error:
        reason = error.strerror or str(error)
    except (ValueError, KeyError, TypeError):
        reason = "the answer is none of an agent"
    raise Failure(
        "AgentUnavailable", f"no agent answers on {path}: {reason}", ExitCode.UNAVAILABLE, as_json=output.json
    )


def _read_all(path: str, timeout_s: float) -> tuple[bytes, int]:
    """What the socket says until it ends; the limit holds for the whole of it, not for each piece."""
    deadline = time.monotonic() + timeout_s
    received = bytearray()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        connection.connect(path)
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        while piece := connection.recv(65536):
            received += piece
            if time.monotonic() > deadline or len(received) > _MAX_BYTES:
                raise TimeoutError
            connection.settimeout(max(deadline - time.monotonic(), 0.001))  # 0 would mean non-blocking
    return bytes(received), _CREDENTIALS.unpack(credentials)[0]
