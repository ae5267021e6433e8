"""``servicebus dead``: its arguments, and how letters are shown; what it does to brokers is tested with brokers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from envelopes import SECRET, dead_letter_headers, signed

from servicebus.cli import dead_text
from servicebus.cli.main import servicebus
from servicebus.cli.output import as_json
from servicebus.operations.dead_letter import RequeueStatus, read_dead_letter
from servicebus.operations.dead_letters import BrokerReport, Found
from servicebus.transport.interface import Delivery
from servicebus.wire import headers
from servicebus.wire.envelope import Kind
from servicebus.wire.signing import Keyring


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "ops.yaml"
    path.write_text(json.dumps({"hosts": ["127.0.0.1:1", "127.0.0.1:2"], "secret_token": SECRET, "node_name": "N"}))
    return str(path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(servicebus, ["dead", *arguments])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["requeue"], "say which letters"),
        (["drop"], "say which letters"),
        (["show"], "say which letters"),
        (["list", "--since", "2"], "write 90s, 15m, 2h, 3d"),
        (["list", "--since", "1h", "--until", "2h"], "--since must be longer"),
        (["list", "--host", "mq"], "no broker of the file: 127.0.0.1:1, 127.0.0.1:2"),
        (["list", "--host", "127.0.0.1"], "means more than one"),
        (["list", "--node", "a.b"], "holds a dot"),
        (["requeue", "--all", "--rate", "fast"], "write 10/s"),
        (["drop", "--all", "--json"], "add --yes"),
    ],
)
def test_what_cannot_be_meant_is_said_before_anything_is_done(file: str, arguments: list[str], complaint: str) -> None:
    done = run(*arguments, "-c", file)
    assert done.exit_code == 2
    assert complaint in " ".join(done.output.split())


@pytest.mark.parametrize("arguments", [["list"], ["show", "x"], ["requeue", "--all"], ["drop", "--all"]])
def test_without_any_broker_the_status_is_unavailable_and_each_is_named(file: str, arguments: list[str]) -> None:
    done = run(*arguments, "-c", file)
    assert done.exit_code == 4
    assert "no broker reachable for the dead letters of N: 127.0.0.1:1 connection refused" in done.output
    assert "127.0.0.1:2 connection refused" in done.output
    assert done.stderr.count("\n") == 1, "one line, which names each"
    assert "nothing was done" in done.stderr
    if arguments[0] in ("list", "show"):
        assert done.stdout == ""


def test_without_any_broker_machines_get_one_document_on_stderr(file: str) -> None:
    done = run("list", "--json", "-c", file)
    assert json.loads(done.stderr)["error"] == "NoBrokerAvailable"
    assert [broker["error"]["exit_code"] for broker in json.loads(done.stdout)["brokers"]] == [4, 4]


def found(params: Any = None, **more: Any) -> Found:
    """A letter with *params*, or with ``body=``; the rest are its headers."""
    body = more.pop("body", None) or signed("N.audit.record", params, kind=Kind.MESSAGE)
    reason = more.get(headers.REASON, "ValueError")
    written = {**dead_letter_headers(body, reason, age_s=60), **more}
    letter = read_dead_letter(Delivery(None, 1, body, headers=written), 100_000, Keyring([SECRET]))  # type: ignore[arg-type]
    return Found("mq:1", letter, RequeueStatus.GOOD, "")


def test_parameters_are_cut_unless_all_is_wanted() -> None:
    long = found({"text": "x" * 5000})
    assert "--full shows all" in dead_text.as_show(long, full=False)
    assert "x" * 5000 in dead_text.as_show(long, full=True)
    assert dead_text.shown_facts(long, full=False)["params_cut"] is True
    assert dead_text.shown_facts(long, full=True)["params"] == {"text": "x" * 5000}
    assert dead_text.shown_facts(found([1, 2]), full=False)["params"] == [1, 2]


def test_a_context_is_shown_and_what_a_node_refused_for_it_too() -> None:
    text = '{"traceparent":"00-1","who":"\\u202ea"}'
    letter = found(body=signed("N.audit.record", 1, kind=Kind.MESSAGE, context=text))
    assert dead_text.facts(letter)["context"] == {"traceparent": "00-1", "who": "\u202ea"}
    assert "context   traceparent = 00-1\ncontext   who = \\u202ea\n" in dead_text.as_show(letter, full=False)
    assert "00-1" not in dead_text.as_list([letter], [], is_cut=False) + repr(letter)
    refused = found(body=signed("N.audit.record", 1, kind=Kind.MESSAGE, context='{"K":"v"}'))
    assert dead_text.facts(refused)["context"] == dead_text.facts(found())["context"] == {}


def test_list_shows_no_parameters() -> None:
    assert "secret thing" not in json.dumps(dead_text.facts(found("secret thing")))
    assert "secret thing" not in dead_text.as_list([found("secret thing")], [], is_cut=False)


def test_what_a_stranger_wrote_moves_no_cursor() -> None:
    hostile = found(
        "\x1b[2J\x9b2J\u202e\u2028",
        **{
            headers.REASON: "\x1b]0;x\x07\u202e",
            headers.DETAIL: "a\rb\nc\u2066",
            headers.TRACE: "\x1b[1A\r\n\x85\u2028\u200b",
            headers.HOST: "\x9b1A",
        },
    )
    garbage = found(body=b"\x1b[2J\xff\xc2\x9b")
    for text in (
        dead_text.as_show(hostile, full=True),
        dead_text.as_show(garbage, full=True),
        dead_text.as_list([hostile, garbage], [], is_cut=False),
    ):
        assert all(char.isprintable() or char == "\n" for char in text)
    document = [dead_text.shown_facts(each, full=True) for each in (hostile, garbage)]
    line = as_json(document)
    assert line.isprintable()
    assert json.loads(line) == document


def test_one_dead_letter_is_not_several() -> None:
    assert dead_text.as_list([], [BrokerReport("mq:1", total=1, matched=1)], is_cut=False) == (
        "mq:1: 1 dead letter, 1 of them matches"
    )


def test_only_a_line_feed_ends_a_shown_line() -> None:
    shown = dead_text.as_show(found("a\u2028b\x85c", **{headers.TRACE: "one\u2028still one\ntwo\n"}), full=True)
    assert "  one\\u2028still one\n  two\nparams" in shown
    assert '  "a\\u2028b\\x85c"' in shown


def test_a_dead_letter_that_no_worker_signed_is_shown_as_such_and_its_times_and_attempts_are_unknown() -> None:
    forged = found(**{headers.DEAD_LETTER: f"1 1 6 99  e8e26184:{'0' * 64}", "x-servicebus-time": 5})
    forged = Found(forged.broker, forged.dead_letter, RequeueStatus.UNVERIFIED, "no worker has signed this letter")
    shown = dead_text.as_show(forged, full=False)
    assert "time      ?" in shown and "attempts  ?" in shown
    assert "unverified: no worker has signed this letter" in shown
    assert "unverified: no worker" in dead_text.as_list([forged], [], is_cut=False)
    assert (dead_text.facts(forged)["verified"], dead_text.facts(forged)["attempts"]) == (False, 0)
    assert (dead_text.facts(found())["verified"], dead_text.facts(found())["attempts"]) == (True, 6)


def test_the_summary_counts_by_service_and_reason_the_most_first() -> None:
    summary = dead_text.Summary()
    for reason in ("b", "a", "b"):
        summary.add(found(**{headers.REASON: reason}))
    assert [(row["reason"], row["count"]) for row in summary.document()] == [("b", 2), ("a", 1)]
    text = summary.text([BrokerReport("mq:1", total=3, matched=3)])
    assert text.splitlines()[1].split()[0] == "2"
    assert "mq:1: 3 dead letters, 3 of them match" in text
