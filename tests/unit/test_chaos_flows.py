"""Streams, pipelines and named callers of the rig: what its checker finds."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from histories import Made

from servicebus.configuration import Configuration
from servicebus.errors import CallInterrupted, StreamInterrupted
from servicebus.policy.permissions import Permissions, Rules
from servicebus.service import ServiceBus
from tests.chaos import services
from tests.chaos.callers import CHANGING, RULES, WISHES, CallerKeys, Wish
from tests.chaos.history import History, files, read_file
from tests.chaos.report import tables
from tests.chaos.stream_load import StreamLoad
from tests.chaos.stream_services import RESUMABLE, STREAMS
from tests.chaos.subscribers import plain_queues
from tests.chaos.tally import tally

STEP, END = "N.pipe.step", "M.pipe.end"


def run(count: int = 10, **more: Any) -> Made:
    """A stream whose generator has run to its end."""
    return Made().at(1).stream(7, count, **more).at(2).executed(7).at(3)


class TestAStream:
    def test_that_is_whole_is_fine(self) -> None:
        result = run().streamed(7, [0, 9]).ends("worker").result()
        assert result.is_clean and result.findings["I13"].checked == 1

    @pytest.mark.parametrize("runs", [([0, 3], [5, 9]), ([1, 9],), ([0, 3], [3, 9]), ([0, 8],), ()])
    def test_that_ends_with_a_gap_or_a_double_or_too_early_is_found(self, runs: tuple[list[int], ...]) -> None:
        assert run().streamed(7, *runs).broken() == {"I13"}

    def test_that_is_interrupted_may_be_cut_short(self) -> None:
        how = {"outcome": "error", "error": "StreamInterrupted", "cause": "CallInterrupted"}
        assert run().streamed(7, [0, 3], position=4, **how).broken() == set()
        assert run().streamed(7, [0, 3], position=5, **how).broken() == {"I13"}
        assert run().streamed(7, [1, 3], position=3, **how).broken() == {"I13"}

    def test_that_is_resumable_goes_on(self) -> None:
        how: dict[str, Any] = {"outcome": "error", "error": "StreamInterrupted", "position": 4}
        assert run(idempotent=True).streamed(7, [0, 3], cause="NodeUnavailable", **how).broken() == set()
        assert run(idempotent=True).streamed(7, [0, 3], cause="CallInterrupted", **how).broken() == {"I13"}

    def test_that_is_resumable_may_begin_twice_and_no_other(self) -> None:
        whole = run(idempotent=True).executed(7, process="other").streamed(7, [0, 9])
        assert whole.broken() == set()
        assert run().executed(7, process="other").streamed(7, [0, 9]).broken() == {"I2"}

    def test_that_its_service_ends_is_behind_its_last_item(self) -> None:
        how = {"outcome": "fault", "error": "RemoteError"}
        assert run(fails_at=4).streamed(7, [0, 3], **how).broken() == set()
        assert run(fails_at=4).streamed(7, [0, 2], **how).broken() == {"I13"}

    def test_that_is_left_closes_its_generator(self) -> None:
        made = Made().at(1).stream(7).at(2).started(7).at(3).streamed(7, [0, 3], outcome="left")
        assert made.broken() == set(), "its worker was killed"
        assert made.ends("worker").broken() == {"I13"}

    def test_gets_no_items_of_others(self) -> None:
        assert run().streamed(7, [0, 9], right=False).broken() == {"I5"}

    def test_ends(self) -> None:
        assert Made().at(1).stream(7).broken() == {"I4"}
        assert run().at(11).streamed(7, [0, 9]).broken() == {"I4"}

    def test_that_no_service_has_run_is_found(self) -> None:
        assert Made().at(1).stream(7).at(2).streamed(7, [0, 9]).broken() == {"I5"}

    def test_that_was_refused_must_not_run(self) -> None:
        assert run().streamed(7, outcome="error", error="NodeUnavailable").broken() == {"I11"}


def passed() -> Made:
    return Made().at(1).plain(7, STEP, END).at(2).confirmed(7).at(3).executed(7, subscriber=STEP).at(4)


class TestAPipeline:
    def test_through_which_a_message_has_gone_is_fine(self) -> None:
        result = passed().executed(7, subscriber=END).result()
        assert result.is_clean and result.findings["I14"].checked == 2

    def test_loses_nothing(self) -> None:
        assert passed().broken() == {"I14"}
        assert Made().at(1).plain(7, STEP, END).at(2).confirmed(7).broken() == {"I14"}

    def test_goes_no_further_than_a_dead_letter(self) -> None:
        made = Made().at(1).plain(7, STEP, END).at(2).confirmed(7).started(7, subscriber=STEP)
        made.finished(7, subscriber=STEP, verdict="failed").dead(7, subscriber=STEP)
        assert made.broken() == set()
        assert made.at(5).executed(7, subscriber=END).broken() == {"I14"}

    def test_gives_nothing_up_untried(self) -> None:
        made = Made().at(1).plain(7, STEP, END).at(2).confirmed(7).dead(7, subscriber=STEP)
        assert made.broken() == {"I14"}

    def test_may_have_published_where_that_is_unsure(self) -> None:
        made = Made().at(1).plain(7, STEP, END).at(2).confirmed(7).started(7, subscriber=STEP)
        made.finished(7, subscriber=STEP, verdict="unsure").dead(7, subscriber=STEP)
        assert made.at(5).executed(7, subscriber=END).broken() == set()

    def test_runs_each_stage_once(self) -> None:
        made = passed().executed(7, subscriber=END).at(9).executed(7, 2, "other", subscriber=END)
        assert made.broken() == set(), "the worker was killed with its work just done"
        assert made.ends("worker").broken() == {"I14"}

    def test_has_no_other_stages(self) -> None:
        assert passed().executed(7, subscriber=END).executed(7, subscriber="M.x.y").broken() == {"I14"}

    def test_whose_message_no_broker_has_does_not_run(self) -> None:
        made = Made().at(1).plain(7, STEP, END)
        made.at(2).write("sender", "refused", op=7, error="SendRefused")
        assert made.broken() == set()
        assert made.executed(7, subscriber=STEP).broken() == {"I11"}

    def test_ends_each_publish(self) -> None:
        assert Made().plain(7, STEP).broken() == {"I4"}

    def test_of_a_bridge_moves_nothing_again_that_its_target_has(self) -> None:
        made = Made().at(1).plain(7, END).at(2).confirmed(7).at(3).executed(7, subscriber=END)
        for process in ("bridge", "bridge again"):  # the first one was killed
            made.write(process, "moving", op=7)
        made.write("bridge again", "moved", op=7)
        assert made.broken() == set()
        made.write("bridge again", "moving", op=7)
        assert made.broken() == {"I14"}


class TestANamedCaller:
    def test_is_answered_or_told(self) -> None:
        made = Made().at(1).call(7, may=True).at(2).executed(7).at(3).replied(7)
        made.call(8, may=False).replied(8, "error", error="PermissionDenied")
        result = made.result()
        assert result.is_clean and result.findings["I15"].checked == 2

    def test_is_refused_nothing_that_it_may(self) -> None:
        assert Made().at(1).call(7, may=True).replied(7, "error", error="PermissionDenied").broken() == {"I15"}
        assert Made().at(1).call(7).replied(7, "error", error="PermissionDenied").broken() == {"I15"}
        assert Made().at(1).call(7, may=True).replied(7, "error", error="NodeUnavailable").broken() == set()

    @pytest.mark.parametrize("reason", ["signature: no such key", "permission-denied: shop"])
    def test_has_no_dead_letters_of_what_it_may(self, reason: str) -> None:
        made = Made().at(1).message(7, may=True).at(2).confirmed(7)
        made.write("rig", "dead", op=7, id="7", reason=reason)
        assert made.broken() == {"I15"}

    def test_gets_nothing_that_it_may_not(self) -> None:
        assert Made().at(1).call(7, may=False).executed(7).replied(7).broken() == {"I15"}
        assert Made().at(1).message(7, may=False).confirmed(7).executed(7).broken() == {"I15"}
        event = Made().at(1)
        event.write("sender", "invoked", op=7, kind="event", target="e", subscribers=["N.a.b"], may=False)
        assert event.confirmed(7).dead(7, subscriber="N.a.b").broken() == set()
        assert event.executed(7, subscriber="N.a.b").ends("worker").broken() == {"I12", "I15"}


def test_the_tables_count_them() -> None:
    made = passed().executed(7, subscriber=END).stream(8).executed(8).streamed(8, [0, 9])
    found = tally("servicebus", made.call(9, may=False).result())
    assert found.streams == {"asked for": 1, "whole": 1, "items": 10, "went on over another path": 0}
    assert found.pipelines["stages executed"] == 2 and found.callers["may not"] == 1
    assert all(title in tables([found]) for title in ("Streams", "Pipelines", "Named callers"))


def test_an_agent_of_the_rig_registers_streams_and_pipelines(tmp_path: Path) -> None:
    bus = ServiceBus(Configuration({"hosts": ["mq"], "node_name": "N", "secret_token": "secret"}))
    pipes = {"moved_host": "mq:5672", "arguments": {}, "retry": [1]}
    services.add_services(bus, History(tmp_path, "worker"), "N", ["M", "N"], pipes=pipes)
    found = list(bus._services.values())
    streams = {service.key: service.resumable for service in found if service.key.startswith("reports.")}
    assert streams == {f"reports.{name}": name in RESUMABLE for name in STREAMS}
    queues = {service.plain.queue for service in found if service.plain is not None}
    assert queues == {"chaos.moved", *(f"N{queue}" for queue in plain_queues())}


class Streaming:
    """A Sender whose streams are whole, or not."""

    def stream(self, target: str, params: dict[str, Any], **_options: Any) -> Any:
        return Stream(params["op"], params["count"], is_whole=not target.endswith("rows"))


class Stream:
    def __init__(self, op: int, count: int, *, is_whole: bool):
        self._items = ([op, number] for number in range(count))
        self._is_whole = is_whole

    def __enter__(self) -> Stream:
        return self

    def __iter__(self) -> Iterator[Any]:
        yield from self._items
        if not self._is_whole:
            error = StreamInterrupted("N.a.b", 5, "gone")
            raise error from CallInterrupted("N.a.b", "gone")

    def __exit__(self, *_: object) -> None: ...


def test_a_sender_tells_the_history_of_each_stream(tmp_path: Path) -> None:
    counts: Counter[str] = Counter()
    sender: Any = Streaming()
    load = StreamLoad(History(tmp_path, "sender"), 1, ["N"], itertools.count(1), counts)
    load.read(sender, range(20), random.Random(1))
    told = [record for path in files(tmp_path) for record in read_file(path)]
    asked = {r["op"]: r for r in told if r["what"] == "invoked"}
    ended = {r["op"]: r for r in told if r["what"] == "replied"}
    assert counts["streams"] == len(asked) == len(ended) == 20
    outcomes = Counter(record["outcome"] for record in ended.values())
    assert outcomes["ok"] > 5 and outcomes["left"] and outcomes["error"]
    for op, record in ended.items():
        if record["outcome"] != "left":
            assert record["runs"] == [[0, asked[op]["stream"]["count"] - 1]]
        if record["outcome"] == "error":
            assert (record["error"], record["cause"]) == ("StreamInterrupted", "CallInterrupted")


@pytest.mark.parametrize("caller", CHANGING)
def test_what_a_caller_may_is_what_its_rules_say(caller: str) -> None:
    rules = {name: Rules(*(_listed(given.get(key, ())) for key in Rules._fields)) for name, given in RULES.items()}
    permissions = Permissions(rules)

    def may(wish: Wish, node: str) -> bool:
        is_event = wish.kind == "event"
        return permissions.decide(caller, wish.target if is_event else f"{node}.{wish.target}", is_event=is_event)[0]

    for wish in WISHES[caller]:
        for node in ("NODE-1", "NODE-2"):
            assert may(wish, node) is (wish.may is None or node in wish.may), wish


def _listed(given: Any) -> Any:
    return [given] if isinstance(given, str) else given


def test_a_further_key_replaces_the_one_before_the_last() -> None:
    keys = CallerKeys()
    (first,) = keys.known["shop"]
    second = keys.add("shop", in_use=first)
    assert keys.section()["shop"]["key"] == [second, first]
    third = keys.add("shop", in_use=second)
    assert keys.known["shop"] == [third, second]
    assert len({first, second, third}) == 3 and {first, second, third} < set(keys.ever)
