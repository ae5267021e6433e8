"""TERM ends a command that nodes work for as Ctrl-C does: what it has asked of them is called off."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from servicebus.cli.main import servicebus


class Interrupted:
    """A Sender that TERM finds in the middle of whatever it is asked."""

    closed = 0

    def __init__(self, _configuration: Any):
        pass

    def __enter__(self) -> Interrupted:
        return self

    def __exit__(self, *_error: object) -> None:
        type(self).closed += 1

    def call(self, *_what: Any, **_how: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)

    gather = stream = call


@contextmanager
def tail_logs(sender: Any, *_what: Any, **_how: Any) -> Iterator[Any]:
    with sender:
        yield sender.call()


@pytest.mark.parametrize("command", ["call", "stream", "gather", "tail"])
def test_term_calls_off_what_is_asked_of_nodes(command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "sender.yaml"
    file.write_text("{hosts: [mq-a], secret_token: a secret of the test}")
    monkeypatch.setattr("servicebus.sender.Sender", Interrupted)
    monkeypatch.setattr("servicebus._discovering.tail_logs", tail_logs)
    monkeypatch.setattr(Interrupted, "closed", 0)
    before = signal.getsignal(signal.SIGTERM)
    done = CliRunner().invoke(
        servicebus, [command, "NODE-01.math.add"[: 7 if command == "tail" else None], "-c", str(file)]
    )
    assert (done.exit_code, done.output.strip()) == (130, ""), done.output
    assert Interrupted.closed >= 1 and signal.getsignal(signal.SIGTERM) == before
