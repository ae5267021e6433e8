"""The services that the benchmarks call; `servicebus run` makes them from the file that agent.py writes."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from benchmarks.agent import LEDGER


def open_ledger() -> int:
    """In append mode, so that lines of several processes do not meet."""
    return os.open(os.environ.get(LEDGER, os.devnull), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


class Add:
    """The sum of a list of numbers."""

    def on_call(self, request: Any, response: Any) -> None:
        response.send(sum(request.get_params()))


class Sleep:
    """Params ``[seconds, value]``: returns *value* after so long, so that calls are in flight when something breaks."""

    def on_call(self, request: Any, response: Any) -> None:
        seconds, value = request.get_params()
        time.sleep(seconds)
        response.send(value)


class Note:
    """Writes into the ledger what happened to which call, and when."""

    def __init__(self) -> None:
        self._ledger = open_ledger()

    def __call__(self, what: str, label: str) -> None:
        os.write(self._ledger, f"{what} {label} {time.monotonic()}\n".encode())


class Patient:
    """Works until its caller has given up; notes when it began, and when it saw that."""

    def __init__(self) -> None:
        self._note = Note()

    def on_call(self, request: Any, response: Any) -> None:
        label = request.get_params()["label"]
        self._note("started", label)
        while not request.cancelled:
            time.sleep(0.002)
        self._note("cancelled", label)


class Enter:
    """Params ``[name, seconds]``: writes the name into the ledger, once for each execution, and takes its time."""

    def __init__(self) -> None:
        self._ledger = open_ledger()

    def on_call(self, request: Any, response: Any) -> None:
        response.send(self._enter(*request.get_params()))

    def on_message(self, request: Any) -> None:
        self._enter(*request.get_params())

    def _enter(self, name: str, seconds: float) -> str:
        os.write(self._ledger, f"{name}\n".encode())
        time.sleep(seconds)
        return name


class Fragile:
    """Params: a number, which it writes into the ledger with what it did: ``failed-7``, ``done-7``.

    The file beside the ledger says how it is: ``down`` (it fails always), ``ill`` (at one in a thousand), or ``well``.
    """

    def __init__(self) -> None:
        self._ledger = open_ledger()
        self._condition = condition_file(os.environ[LEDGER])

    def on_message(self, request: Any) -> None:
        number, condition = request.get_params(), self._condition.read_text()
        if condition == "down":
            raise ConnectionError("the database is down")
        if condition == "ill" and fails_again(number):
            os.write(self._ledger, f"failed-{number}\n".encode())
            raise ValueError(f"no such customer: {number}")
        os.write(self._ledger, f"done-{number}\n".encode())


def condition_file(ledger: str) -> Path:
    """Of ``Fragile``."""
    return Path(f"{ledger}.condition")


def fails_again(number: int) -> bool:
    return number % 1000 == 999
