"""What the rig tells of a run: the numbers, the tables, the offending histories and the picture."""

from __future__ import annotations

from pathlib import Path

import pytest
from histories import Made
from lxml import etree

from tests.chaos.checker import check
from tests.chaos.history import History
from tests.chaos.report import offences, tables
from tests.chaos.tally import load, percentile, save, tally
from tests.chaos.timeline import picture


def a_run() -> Made:
    """Three calls and five messages: one call fails though executed, one message is lost, one dead, one runs twice."""
    made = Made()
    made.at(1).call(1).at(1.1).started(1).at(1.2).finished(1).at(1.5).replied(1)
    made.at(2).call(2).started(2).finished(2).at(9).replied(2, "error", error="CallTimeout")
    made.at(3).call(3).at(3.1).replied(3, "error", error="ServiceBusy")
    made.at(4).message(11).confirmed(11).started(11).finished(11)
    made.at(4).message(12).confirmed(12)
    made.at(4).message(13).confirmed(13).dead(13)
    made.at(4).message(14).confirmed(14).started(14).finished(14).at(6).started(14, 2, "other").finished(14, 2, "other")
    made.at(5).message(15).write("sender", "refused", op=15, error="SendUnconfirmed")
    made.started(15).finished(15).started(99)
    made.at(2.5).write("faults", "fault-begin", number=0, kind="broker kill -9", target="mq-a")
    made.at(3.5).write("faults", "fault-end", number=0, kind="broker kill -9", target="mq-a")
    return made.at(10).ends("sender", "worker", "other")


def test_the_words_of_the_queue_checker() -> None:
    found = tally("servicebus", a_run().result())
    assert found.calls == {
        "attempted": 3, "acknowledged": 1, "executed": 2, "dead letters": 0, "lost": 0, "lost after an error": 0,
        "duplicated": 0,
        "unexpected": 0, "recovered": 1, "again after a kill": 0,
    }  # fmt: skip
    assert found.messages == {
        "attempted": 5, "acknowledged": 4, "executed": 3, "dead letters": 1, "lost": 1, "lost after an error": 0,
        "duplicated": 1,
        "unexpected": 1, "recovered": 1, "again after a kill": 0,
    }  # fmt: skip
    assert found.outcomes == {"ok": 1, "CallTimeout": 1, "ServiceBusy": 1}
    assert found.sends == {"confirmed": 4, "SendUnconfirmed": 1}
    assert found.faults == {"broker kill -9": 1}
    assert found.latencies["call"] == [0.5] * 5
    assert found.invariants["I1"] == (4, 1)
    assert found.seconds == 8.0


def test_a_message_that_ran_again_after_a_kill_is_told_apart() -> None:
    made = Made().at(1).message(7).confirmed(7).started(7).finished(7)
    made.at(5).started(7, 2, "other").finished(7, 2, "other").ends("sender", "other")
    found = tally("servicebus", made.result())
    assert (found.messages["duplicated"], found.messages["again after a kill"]) == (0, 1)


def test_two_systems_stand_side_by_side() -> None:
    ours = tally("servicebus", a_run().result(), seed="1")
    theirs = tally("py-servicebus 2.19", Made().at(1).call(1).at(2).replied(1, "error", error="OldTimeout").result())
    text = tables([ours, theirs])
    assert "* servicebus: 8 s, seed 1" in text
    assert "calls, servicebus messages, servicebus calls, py-servicebus 2.19 messages, py-servicebus 2.19" in text
    (lost,) = (line.split() for line in text.splitlines() if line.startswith("lost  "))
    assert lost == ["lost", "0", "1", "0", "0"]
    (timeout,) = (line.split() for line in text.splitlines() if line.startswith("timeout "))
    assert timeout == ["timeout", "1", "0"]
    assert "BROKEN: 1" in text
    assert "not measured" in text


def test_every_table_is_a_simple_table() -> None:
    """Of reStructuredText: no cell reaches over its rule, and none of the first column is empty."""
    lines = tables([tally("servicebus", a_run().result())]).splitlines()
    rules: list[str] = []
    for line in lines:
        if line.startswith("==="):
            rules = [] if len(rules) == 2 else [*rules, line]
        elif rules:
            assert line[0] != " "
            gaps = [at for at, character in enumerate(rules[0]) if character == " "]
            assert all(line[at : at + 1] in ("", " ") for at in gaps), line


def test_a_tally_is_kept_and_read_again(tmp_path: Path) -> None:
    found = tally("servicebus", a_run().result(), seed="1")
    save(found, tmp_path / "tally.json")
    assert load(tmp_path / "tally.json") == found


def test_an_offence_is_told_with_its_history(tmp_path: Path) -> None:
    sender, faults = History(tmp_path, "sender", "1"), History(tmp_path, "faults")
    faults.fault_begin(3, "queue deleted", "mq-a")
    sender.record("invoked", t=100.0, op=5, kind="message", target="N.a.b", deadline=107.0)
    sender.confirmed(5, "ff-1")
    told = offences(check(tmp_path))
    assert told.startswith("I1 (confirmed = executed or dead) is broken: 1\n")
    assert "op 5: the message was confirmed, and is neither executed nor among the dead letters" in told
    assert "invoked kind=message target=N.a.b deadline=7.000000" in told
    assert "confirmed id=ff-1" in told
    assert "fault 3: queue deleted of mq-a" in told


def test_a_clean_run_has_nothing_to_tell() -> None:
    assert offences(Made().at(1).message(7).confirmed(7).started(7).finished(7).result()) == ""


@pytest.mark.parametrize("made", [a_run(), Made()], ids=["a run", "nothing"])
def test_the_picture_is_a_drawing_of_every_fault(made: Made) -> None:
    story = made.result().story
    root = etree.fromstring(picture(story, "a <run> & more"))
    titles = [element.text for element in root.iter("{http://www.w3.org/2000/svg}title")]
    assert titles == ["a <run> & more", *("0: broker kill -9 of mq-a" for _ in story.faults)]
    # Two lines of the legend, four of the panels; where nothing was answered, there is no p99.
    assert len(list(root.iter("{http://www.w3.org/2000/svg}polyline"))) == (6 if story.operations else 5)


def test_percentiles_are_values_that_were_seen() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [percentile(values, rank) for rank in (50, 99, 99.9, 100)] == [50, 99, 100, 100]
    assert percentile([3.0], 50) == 3.0
