"""The services of the demo's agent, named in conf/agent.yaml."""

from __future__ import annotations

import json
import logging
import os
import platform
import socket
from pathlib import Path
from typing import Any

from servicebus.services import Request, Response

LOG = logging.getLogger(__name__)

NOTES_VARIABLE = "SERVICEBUS_DEMO_NOTES"


class AddService:
    """``NODE-01.math.add``: the sum of a list of numbers."""

    def on_call(self, request: Request, response: Response) -> None:
        response.send(sum(request.get_params()))


class FactsService:
    """``NODE-01.machine.facts``: what the agent's machine is and how it is right now."""

    def on_call(self, request: Request, response: Response) -> None:
        response.send(machine_facts())


class NoteService:
    """``NODE-01.audit.note``: logs the message, whatever it is.

    With a file's name in the environment it also appends the note's number there, so that each can be counted.
    """

    def on_message(self, request: Request) -> None:
        note = request.get_params()
        LOG.info("note: %s", json.dumps(note))
        path = os.environ.get(NOTES_VARIABLE)
        if path and isinstance(note, dict) and isinstance(note.get("number"), int):
            # One short write to a file opened for appending is never torn, whichever worker process it comes from.
            with Path(path).open("a", encoding="ascii") as notes:
                notes.write(f"{note['number']}\n")


def machine_facts() -> dict[str, Any]:
    """Host name, kernel, processors, load, memory and uptime, read now; and who answers."""
    return {
        "hostname": socket.gethostname(),
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "load": list(os.getloadavg()),
        "memory_kib": _memory_kib(),
        "uptime_s": float(Path("/proc/uptime").read_text().split()[0]),
        "python": platform.python_version(),
        "pid": os.getpid(),
    }


def _memory_kib() -> dict[str, int]:
    rows = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    sizes = {name.rstrip(":"): int(size) for name, size, *_ in rows}
    return {"total": sizes["MemTotal"], "available": sizes["MemAvailable"]}
