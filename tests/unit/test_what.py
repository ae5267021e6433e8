"""``servicebus what``: what is made of the answers of nodes and brokers, and how it is said."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from servicebus._id_search import FoundId, IdSearch, NodeRun
from servicebus._id_search_text import as_text, document_of
from servicebus.cli.main import servicebus
from servicebus.client.found import Discovered, NodeInfo
from servicebus.configuration import Configuration
from servicebus.errors import ConnectFailed, NoBrokerAvailable
from servicebus.operations.dead_letter import DeadLetter, RequeueStatus
from servicebus.operations.dead_letters import Found
from servicebus.operations.id_places import BrokerPlaces, FoundDeadLetter, Waiting
from servicebus.protocol.discovery import MOST_IDS, Answer
from servicebus.wire.stamps import DeadLetterStamp, requeued_id

ID = "0123456789abcdef-17"
OTHER = "0123456789abcdef-18"
CONFIG = Configuration({"hosts": ["mq-a", "mq-b"], "secret_token": "a secret of the test"})


def dead_letter(subscription: str = "", *, is_signed: bool = True, former: str = "") -> FoundDeadLetter:
    stamp = DeadLetterStamp(1_700_000_000, 0, 2, 0, former) if is_signed else None
    letter = DeadLetter(
        ID, "audit.note", None, b"", b"{}", {}, None, "ValueError", "no \x1b[31m good", "", "mq-a", stamp,
        subscription=subscription,
    )  # fmt: skip
    return FoundDeadLetter("NODE-01", Found("mq-a:5672", letter, RequeueStatus.GOOD, ""))


def found(*runs: NodeRun, letters: Sequence[FoundDeadLetter] = ()) -> FoundId:
    return FoundId(ID, list(runs), [("mq-a:5672", each) for each in letters])


def answers(monkeypatch: pytest.MonkeyPatch, *said: Answer, unreachable: dict[str, str] | None = None) -> list[Any]:
    """Have the nodes answer so; how they were asked."""
    asked: list[Any] = []

    def survey(_sender: Any, ids: Sequence[str], *how: Any) -> Any:
        asked.append((list(ids), *how))
        nodes = {answer.node: NodeInfo(answer.node, ("mq-a:5672",)) for answer in said}
        return Discovered(nodes.values(), unreachable or {}), list(said)

    monkeypatch.setattr("servicebus._id_search.survey_ids", survey)
    return asked


def has(monkeypatch: pytest.MonkeyPatch, *places: BrokerPlaces) -> list[Any]:
    """Have the brokers have this; for which nodes they were looked at."""
    asked: list[Any] = []

    def look(_config: Any, nodes: Sequence[str], ids: Sequence[str], *_: Any, **__: Any) -> list[BrokerPlaces]:
        asked.append((list(nodes), list(ids)))
        return list(places)

    monkeypatch.setattr("servicebus._id_search.look_on_brokers", look)
    return asked


def asked_nodes(monkeypatch: pytest.MonkeyPatch, *said: Answer, named: Sequence[str] = (), **how: Any) -> IdSearch:
    answers(monkeypatch, *said, **how)
    search = IdSearch(CONFIG, [ID], named)
    search.ask_nodes(None, 2, 0.25)  # type: ignore[arg-type]
    return search


# -- what nodes say ----------------------------------------------------------------------------------------------------


def test_what_two_workers_of_a_node_say_is_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    states = [{ID: [{"state": state, "attempts": 1}]} for state in ("queued", "running", "finished", "running")]
    search = asked_nodes(monkeypatch, *(Answer("NODE-01", known=known) for known in states))
    assert search.found[ID].runs == [NodeRun("NODE-01", "finished", 1)], "what is over stays so"
    assert search.found[ID].state == "finished" and search.unasked == []


def test_whoever_cannot_say_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    said = Answer("OLD"), Answer("FULL", known={}, problem="its disk is full"), Answer("NODE-01", known={})
    search = asked_nodes(monkeypatch, *said, named=["NODE-01", "NODE-77"], unreachable={"mq-b:5672": "refused"})
    assert {(each.broker or each.node): each.why for each in search.unasked} == {
        "mq-b:5672": "refused",
        "OLD": "its version knows no such question",
        "FULL": "its disk is full",
        "NODE-77": "no answer within 2 s",
    }


def test_many_ids_are_asked_for_in_parts_and_digests_of_no_node(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answers(monkeypatch, Answer("NODE-01", known={}))
    ids = [f"0123456789abcdef-{number}" for number in range(1, MOST_IDS + 2)]
    search = IdSearch(CONFIG, [*ids, "sha256-0123456789abcdef01234567"])
    search.ask_nodes(None, 2, 0.25)  # type: ignore[arg-type]
    assert [each for part, *_ in asked for each in part] == ids and len(asked) == 2


@pytest.mark.parametrize("more", [{"attempts": "x"}, {"attempts": True}, {"caller": 1}, {"as": []}, {"unheard-of": 1}])
def test_what_a_node_says_in_another_form_is_left_out(monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]) -> None:
    search = asked_nodes(monkeypatch, Answer("NODE-01", known={ID: [{"state": "running", **more}], "of others": []}))
    assert search.found[ID].runs == [NodeRun("NODE-01", "running")]


# -- what it comes to --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "state"),
    [
        (found(), "unknown"),
        (found(NodeRun("NODE-01", "retrying", 3)), "retrying"),
        (found(letters=[dead_letter()]), "dead-lettered"),
        (found(letters=[dead_letter(is_signed=False)]), "unknown"),
        (found(NodeRun("NODE-01", "refused"), letters=[dead_letter()]), "dead-lettered"),
        (found(NodeRun("NODE-01", "finished"), letters=[dead_letter()]), "dead-lettered"),
        (found(NodeRun("NODE-01", "finished"), letters=[dead_letter(is_signed=False)]), "finished"),
        (found(NodeRun("NODE-02", "finished"), letters=[dead_letter()]), "several"),
        (found(NodeRun("NODE-01", "finished", subscription="a.b"), letters=[dead_letter("c.d")]), "several"),
        (found(NodeRun("NODE-01", "finished", subscription="a.b"), NodeRun("NODE-02", "finished")), "finished"),
        (
            found(NodeRun("NODE-01", "finished", requeued=1, known_as="x-1"), letters=[dead_letter(former="x-1")]),
            "dead-lettered",
        ),
        (found(NodeRun("NODE-01", "running", requeued=1, known_as="x-1"), letters=[dead_letter()]), "several"),
    ],
)
def test_the_state_is_what_the_places_agree_on(what: FoundId, state: str) -> None:
    assert what.state == state


@pytest.mark.parametrize(
    ("run", "text"),
    [
        (NodeRun("N", "queued"), "N: has it, and has not started it: it waits for its service"),
        (NodeRun("N", "finished"), "N: is done with it"),
        (NodeRun("N", "finished", answer="ok"), "N: ran it, and answered with a result"),
        (NodeRun("N", "finished", answer="stored"), "N: is done with it"),
        (NodeRun("N", "finished", answer="ValueError"), "N: ran it, and answered with the error ValueError"),
        (NodeRun("N", "finished", answer="expired"), "N: did not run it, and said so: expired"),
        (NodeRun("N", "of later"), "N: of later"),
        (
            NodeRun("N", "running", 3, 1, caller="shop", subscription="a.b", requeued=1, known_as="f-1"),
            "N: is running it (3 attempts, 1 worker died of it, by the caller shop, event for a.b, "
            "sent back from the dead letters, known there as f-1)",
        ),
    ],
)
def test_a_run_is_a_sentence(run: NodeRun, text: str) -> None:
    search = IdSearch(CONFIG, [ID])
    search.found[ID].runs = [run]
    assert as_text(search).splitlines()[1] == f"  {text}"


def test_what_strangers_wrote_moves_no_cursor() -> None:
    search = IdSearch(CONFIG, [ID])
    search.found[ID] = found(letters=[dead_letter(), dead_letter(is_signed=False)])
    assert "\x1b" not in as_text(search) and "no \\x1b[31m good" in as_text(search)
    assert "no worker has signed; anyone may have put it there" in as_text(search)
    assert [each["verified"] for each in document_of(search)["ids"][0]["dead_letters"]] == [True, False]


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "sender.yaml"
    path.write_text("{hosts: [mq-a, mq-b], secret_token: a secret of the test}")
    return str(path)


def run(config: str, *arguments: str) -> Result:
    return CliRunner().invoke(servicebus, ["what", *arguments, "-c", config])


def test_brokers_are_looked_at_for_the_nodes_that_answer_and_those_that_are_named(
    monkeypatch: pytest.MonkeyPatch, config: str
) -> None:
    answers(monkeypatch, Answer("N-2", known={ID: [{"state": "running"}]}))
    asked = has(monkeypatch, BrokerPlaces("mq-a:5672"), BrokerPlaces("mq-b:5672"))
    done = run(config, ID, ID)
    assert done.exit_code == 0 and asked == [(["N-2"], [ID])]
    assert done.stdout == (
        f"{ID}  running\n  N-2: is running it\n"
        "asked: the journals of 1 node: N-2 (mq-a:5672); dead letters on mq-a:5672, mq-b:5672\n"
    )
    done = run(config, ID, "--node", "N-1")
    assert done.exit_code == 10 and asked[-1] == (["N-1", "N-2"], [ID])
    assert done.stderr == "servicebus: warning: not asked: N-1: no answer within 2 s\n"


def test_an_unknown_id_says_what_waits_and_what_to_try(monkeypatch: pytest.MonkeyPatch, config: str) -> None:
    answers(monkeypatch, Answer("N", known={ID: [{"state": "running"}]}))
    has(monkeypatch, BrokerPlaces("mq-a:5672", waiting=[Waiting("N.messages", 12)]))
    done = run(config, ID, OTHER)
    assert done.exit_code == 1
    assert f"{OTHER}  unknown" in done.stdout and "mq-a:5672: 12 in N.messages" in done.stdout
    document = json.loads(run(config, OTHER, "--json").stdout)
    assert document["ids"][0]["state"] == "unknown"
    assert document["waiting"] == {"mq-a:5672": [{"queue": "N.messages", "messages": 12}]}


def test_a_broker_that_fails_is_named_once(monkeypatch: pytest.MonkeyPatch, config: str) -> None:
    answers(monkeypatch, Answer("N", known={ID: [{"state": "running"}]}), unreachable={"mq-b:5672": "refused"})
    failure = ConnectFailed("mq-b:5672", "refused", kind="unreachable")
    has(monkeypatch, BrokerPlaces("mq-a:5672"), BrokerPlaces("mq-b:5672", error=failure))
    done = run(config, ID, "--json")
    assert done.exit_code == 10
    unasked = [{"broker": "mq-b:5672", "node": None, "file": None, "why": "refused"}]
    assert json.loads(done.stdout)["unasked"] == unasked


def test_without_a_broker_nothing_is_known(monkeypatch: pytest.MonkeyPatch, config: str) -> None:
    def no_broker(*_: Any) -> Any:
        raise NoBrokerAvailable("*", [("mq-a:5672", "refused"), ("mq-b:5672", "refused")], "no node was found")

    monkeypatch.setattr("servicebus._id_search.survey_ids", no_broker)
    failure = ConnectFailed("mq-a:5672", "refused", kind="unreachable")
    has(monkeypatch, *(BrokerPlaces(host, error=failure) for host in ("mq-a:5672", "mq-b:5672")))
    assert run(config, ID).exit_code == 4


@pytest.mark.parametrize(
    ("id", "said"),
    [
        ("17", "17 is the event id alone, and each Sender has one of its own: say which by --sender"),
        ("0123456789ABCDEF-17", "is no id; an id is the 16 digits of its Sender, a dash and the event id"),
        ("0123456789abcdef-0", "is no id"),
        ("x", "is no id"),
    ],
)
def test_an_id_has_to_be_one(config: str, id: str, said: str) -> None:
    done = run(config, id)
    assert done.exit_code == 2 and said in " ".join(done.stderr.split())


def test_event_ids_are_those_of_a_sender_that_is_named(monkeypatch: pytest.MonkeyPatch, config: str) -> None:
    answers(monkeypatch, Answer("N", known={}))
    asked = has(monkeypatch, BrokerPlaces("mq-a:5672"))
    run(config, "17", OTHER, "17", "--sender", "0123456789abcdef")
    assert asked == [(["N"], [ID, OTHER])]
    done = run(config, "17", "--sender", "17")
    assert done.exit_code == 2 and "they are 16 digits" in " ".join(done.stderr.split())


def test_the_id_of_a_requeued_message_is_that_of_its_ticket() -> None:
    assert requeued_id(ID, "") != requeued_id(ID, requeued_id(ID, "")) != requeued_id(ID, "", "N.events.a.b")
