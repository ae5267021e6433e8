"""``servicebus tail``: what is printed where, and the status that says how it went."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from servicebus.cli.main import servicebus
from servicebus.cli.tail import as_text, document_of
from servicebus.client.tails import LogTail, Tailed
from servicebus.protocol.tail import TailedRecord, TailQuestion

MADE_AT = 1_790_000_000.125
RECORD = TailedRecord(
    MADE_AT, 30, "WARNING", "shop.orders", "svc-shop", "no \x1b[31msku", "worker mq-a", 4711, "shop.order", "abc-1"
)
TAILED = Tailed("NODE-\u202e", "shop-1", "mq-a", "worker mq-a", 4711, RECORD)
LEFT_OUT = Tailed("NODE-01", "shop-1", "mq-a", "worker mq-a", 4711, None, 3)
MOMENT = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(int(MADE_AT))) + ".125"


class Found(LogTail):
    """One with what a test has put into it, which is over once that is taken."""

    def __init__(self, *come: Tailed, nodes: tuple[str, ...] = (), problems: Any = (), refusals: tuple[str, ...] = ()):
        super().__init__(TailQuestion("0123456789abcdef", "*"))
        self.come = list(come)
        self.nodes, self.refusals = dict.fromkeys(nodes), dict.fromkeys(refusals)
        self.problems = dict(problems)

    def take(self, timeout_s: float) -> list[Tailed]:
        taken, self.come = self.come, []
        self.has_ended = not taken
        return taken


Run = Callable[..., tuple[Result, list[Any]]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """What the command makes of what has come, and how that was asked for."""
    path = tmp_path / "sender.yaml"
    path.write_text("{hosts: [mq-a, mq-b], secret_token: a secret of the test, node_name: N}")

    def run(found: LogTail, *arguments: str) -> tuple[Result, list[Any]]:
        asked: list[Any] = []

        @contextmanager
        def tail_logs(_sender: Any, *what: Any, **how: Any) -> Iterator[LogTail]:
            asked.extend([*what, how])
            yield found

        monkeypatch.setattr("servicebus._discovering.tail_logs", tail_logs)
        return CliRunner().invoke(servicebus, ["tail", *arguments, "-c", str(path)]), asked

    return run


def test_records_are_lines_and_who_sends_them_stands_on_stderr(run: Run) -> None:
    done, asked = run(Found(TAILED, LEFT_OUT, nodes=("NODE-02", "NODE-01")))
    assert done.exit_code == 0
    assert done.stdout == (
        f"{MOMENT} NODE-\\u202e worker mq-a[4711] WARNING shop.orders: no \\x1b[31msku [abc-1]\n"
        "-- NODE-01 worker mq-a[4711]: 3 records left out\n"
    )
    assert done.stderr == "servicebus: NODE-01, NODE-02: log records come from here on\n"
    assert asked == ["*", logging.DEBUG, {"service": "", "request": ""}]


def test_it_asks_for_what_is_chosen(run: Run) -> None:
    options = "--level", "warning", "--service", "math.*", "--id", "abc-1"
    _, asked = run(Found(nodes=("N",)), "NODE-*", *options)
    assert asked == ["NODE-*", logging.WARNING, {"service": "math.*", "request": "abc-1"}]
    assert run(Found(), "--level", "loud")[0].exit_code == 2


def test_with_json_each_is_an_object_and_stderr_is_empty(run: Run) -> None:
    done, _ = run(Found(TAILED, LEFT_OUT, nodes=("NODE-01",), problems={"mq-b": "refused"}), "--json")
    record, left_out = map(json.loads, done.stdout.splitlines())
    assert record == document_of(TAILED) and left_out == document_of(LEFT_OUT)
    assert record["message"] == "no \x1b[31msku" and record["time"] == MADE_AT and record["service"] == "shop.order"
    assert left_out == {
        "node": "NODE-01", "machine": "shop-1", "broker": "mq-a", "process": "worker mq-a", "pid": 4711, "left_out": 3,
    }  # fmt: skip
    assert done.stderr == "" and done.exit_code == 10


@pytest.mark.parametrize(
    ("found", "code", "said"),
    [
        (
            Found(nodes=("N",), problems={"mq-b": "re\x1bfused"}),
            10,
            "mq-b: nothing comes over this broker: re\\x1bfused",
        ),
        (Found(nodes=("N",), refusals=("no\x1b",)), 10, "servicebus: warning: no\\x1b\n"),
        (Found(refusals=("permission-denied: of N",)), 6, "permission-denied: of N"),
        (Found(problems={"mq-a": "refused", "mq-b": "frozen"}), 4, "mq-a refused, mq-b frozen"),
        (Found(), 4, "no node has answered"),
    ],
)
def test_the_status_says_how_it_went(run: Run, found: Found, code: int, said: str) -> None:
    done, _ = run(found)
    assert done.exit_code == code and said in done.stderr and done.stdout == ""


def test_a_broker_that_is_back_is_told(run: Run) -> None:
    class Healing(Found):
        def take(self, timeout_s: float) -> list[Tailed]:
            if not self.come:
                self.problems.clear()
            return super().take(timeout_s)

    done, _ = run(Healing(LEFT_OUT, nodes=("N",), problems={"mq-b": "refused"}))
    assert done.exit_code == 0
    assert "servicebus: mq-b: log records come over this broker again\n" in done.stderr


def test_no_record_forges_another() -> None:
    forged = RECORD._replace(message=f"first\n{MOMENT} NODE-01 forged\r\u2028x", logger="a\nb", level_name="W\n")
    lines = click.unstyle(as_text(TAILED._replace(record=forged, process="p\n"))).split("\n")
    assert len(lines) == 2 and lines[1] == f"    {MOMENT} NODE-01 forged\\r\\u2028x"
    assert "a\\nb" in lines[0] and "W\\n" in lines[0] and "p\\n" in lines[0]


@pytest.mark.parametrize(("level", "colour"), [(50, "31"), (40, "31"), (30, "33"), (20, "32"), (10, "")])
def test_a_terminal_shows_levels_in_colours(level: int, colour: str) -> None:
    text = as_text(TAILED._replace(record=RECORD._replace(level=level, level_name="LEVEL")))
    assert (f"\x1b[{colour}mLEVEL\x1b[0m" if colour else " LEVEL ") in text


def test_what_was_left_out_here_is_told() -> None:
    assert click.unstyle(as_text(Tailed("", "", "", "", 0, None, 1))) == "-- here: 1 record left out"
