"""The rig's checker: for each invariant the smallest history that breaks it, and one beside it that does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from histories import Made

from tests.chaos.checker import SHOWN_PER_INVARIANT, check
from tests.chaos.health import _best
from tests.chaos.history import History


def executed_message() -> Made:
    return Made().at(1).message(7).at(2).confirmed(7).at(3).started(7).at(4).finished(7)


def answered_call() -> Made:
    return Made().at(1).call(7).at(2).started(7).at(3).finished(7).at(4).replied(7)


class TestConfirmedIsExecutedOrDead:
    def test_a_confirmed_message_that_was_executed_is_fine(self) -> None:
        assert executed_message().broken() == set()

    def test_a_confirmed_message_that_nobody_executed_is_lost(self) -> None:
        assert Made().at(1).message(7).at(2).confirmed(7).broken() == {"I1"}

    def test_a_confirmed_message_that_only_failed_is_lost(self) -> None:
        made = Made().at(1).message(7).at(2).confirmed(7).at(3).started(7).at(4).finished(7, verdict="failed")
        assert made.broken() == {"I1"}
        assert made.dead(7).broken() == set()

    def test_a_message_of_the_outbox_must_arrive_too(self) -> None:
        made = Made().at(1).message(7).at(2).confirmed(7, outbox=True)
        assert made.broken() == {"I1"}

    def test_a_message_of_the_outbox_may_expire_when_its_sender_is_told(self) -> None:
        made = Made().at(1).message(7).at(2).confirmed(7, outbox=True)
        made.at(9).write("sender", "expired", op=7)
        assert made.broken() == set()

    def test_a_message_that_was_refused_may_vanish(self) -> None:
        made = Made().at(1).message(7)
        made.at(2).write("sender", "refused", op=7, error="NoBrokerAvailable")
        assert made.broken() == set()

    def test_a_message_that_2_19_has_sent_counts_as_taken(self) -> None:
        made = Made().at(1).message(7)
        made.at(2).write("sender", "sent", op=7)
        assert made.broken() == {"I1"}


class TestExecutedOnce:
    def test_a_call_starts_once(self) -> None:
        assert answered_call().broken() == set()
        assert answered_call().at(5).started(7, process="other").broken() == {"I2"}

    def test_a_call_that_was_cut_short_is_not_started_again(self) -> None:
        made = (
            Made().at(1).call(7).at(2).started(7).at(3).started(7, process="other").at(4).finished(7, process="other")
        )
        made.at(5).replied(7)
        assert made.broken() == {"I2"}

    def test_an_idempotent_call_may_be(self) -> None:
        made = Made().at(1).call(7, idempotent=True).at(2).started(7).at(3).started(7, process="other")
        made.at(4).finished(7, process="other").at(5).replied(7)
        assert made.broken() == set()

    def test_a_message_is_not_started_after_it_was_executed(self) -> None:
        made = executed_message().at(9).started(7, 2, "other")
        assert made.ends("worker", "other").broken() == {"I2"}

    def test_a_worker_that_works_on_has_told_the_journal(self) -> None:
        made = executed_message().at(6).message(8).confirmed(8).started(8).finished(8)
        made.at(9).started(7, 2, "other").finished(7, 2, "other")
        assert made.broken() == {"I2"}

    def test_a_worker_that_was_killed_with_the_work_just_done_may_not_have(self) -> None:
        made = executed_message().at(9).started(7, 2, "other").finished(7, 2, "other").ends("other")
        assert made.broken() == set()

    @pytest.mark.parametrize(("paused", "broken"), [("NODE-1@a", set()), ("NODE-2@a", {"I2"})])
    def test_the_time_in_which_it_was_paused_does_not_count(self, paused: str, broken: set[str]) -> None:
        paused_worker = "worker-NODE-1-12"
        made = Made().at(1).message(7).at(2).confirmed(7).message(8).confirmed(8).started(8, 1, paused_worker)
        made.at(3).started(7, 1, paused_worker).at(4).finished(7, 1, paused_worker)
        made.at(4.1).write("faults", "fault-begin", number=1, kind="worker-freeze-10s", target=paused)
        made.at(14.1).write("faults", "fault-end", number=1)
        made.at(14.2).finished(8, 1, paused_worker).at(15).started(7, 2, "other").finished(7, 2, "other")
        assert made.ends("other").broken() == broken

    def test_but_then_the_attempt_counts(self) -> None:
        made = executed_message().at(9).started(7, 1, "other").finished(7, 1, "other").ends("other")
        assert made.broken() == {"I2"}

    def test_a_message_that_failed_is_tried_again_as_the_next_attempt(self) -> None:
        made = Made().at(1).message(7).at(2).confirmed(7).at(3).started(7).at(4).finished(7, verdict="failed")
        again = made.at(5).started(7, 2).at(6).finished(7, 2)
        assert again.ends("worker").broken() == set()

    def test_a_failure_that_was_not_counted_is_found(self) -> None:
        made = Made().at(1).message(7).at(2).confirmed(7).at(3).started(7).at(4).finished(7, verdict="failed")
        assert made.at(5).started(7, 1).at(6).finished(7, 1).broken() == {"I2"}

    def test_what_the_service_put_back_is_no_attempt(self) -> None:
        made = Made().at(1).message(7).at(2).confirmed(7).at(3).started(7).at(4).finished(7, verdict="requeue")
        assert made.at(5).started(7, 1).at(6).finished(7, 1).broken() == set()

    def test_a_message_is_tried_again_when_its_worker_was_killed(self) -> None:
        made = Made().at(1).message(7).at(2).confirmed(7).at(3).started(7)
        made.at(5).started(7, 2, "other").at(6).finished(7, 2, "other").ends("other")
        assert made.broken() == set()

    def test_but_not_while_its_worker_is_alive(self) -> None:
        made = Made().at(1).message(7).at(2).confirmed(7).at(3).started(7)
        made.at(5).started(7, 2, "other").at(6).finished(7, 2, "other")
        made.at(7).finished(7, verdict="failed").ends("worker", "other")
        assert made.broken() == {"I2"}

    def test_a_message_that_was_executed_is_no_dead_letter(self) -> None:
        assert executed_message().dead(7).ends("worker").broken() == {"I2"}

    def test_a_dead_letter_whose_confirm_was_lost_may_stand_there_twice(self) -> None:
        assert Made().at(1).message(7).confirmed(7).dead(7).dead(7).broken() == set()


class TestSentBackFromTheDeadLetters:
    """After ``dead requeue`` a message runs again, with all of its attempts; and if it was executed, it does not."""

    def failed(self) -> Made:
        made = Made().at(1).message(7).at(2).confirmed(7)
        return made.at(3).started(7, 2).at(4).finished(7, 2, verdict="failed")

    def requeued(self, made: Made) -> Made:
        made.write("operator", "requeued", op=7)
        return made

    def test_its_attempts_are_counted_from_1_again(self) -> None:
        again = self.requeued(self.failed().at(5)).at(6).started(7, 1, "other").at(7).finished(7, 1, "other")
        assert again.broken() == set()
        assert self.failed().at(6).started(7, 1, "other").at(7).finished(7, 1, "other").broken() == {"I2"}

    def test_only_attempts_after_it_are(self) -> None:
        again = self.failed().at(6).started(7, 1, "other").at(7).finished(7, 1, "other")
        assert self.requeued(again.at(8)).broken() == {"I2"}

    def test_what_was_executed_stays_executed_once(self) -> None:
        again = self.requeued(executed_message().ends("worker").at(5)).at(6).started(7, 1, "other")
        assert again.ends("other").broken() == {"I2"}

    def test_its_former_dead_letter_may_have_stayed(self) -> None:
        again = self.requeued(self.failed().at(5)).at(6).started(7, 1, "other").at(7).finished(7, 1, "other")
        assert again.dead(7).ends("other").broken() == set()


class TestWhatWasSaidNotToRun:
    @pytest.mark.parametrize("error", ["EnvelopeError", "SendRefused", "NoBrokerAvailable", "OutboxFull"])
    def test_a_message_that_is_not_stored_does_not_run(self, error: str) -> None:
        made = Made().at(1).message(7)
        made.at(2).write("sender", "refused", op=7, error=error)
        assert made.broken() == set()
        assert made.result().findings["I11"].checked == 1
        assert made.at(3).started(7).at(4).finished(7).broken() == {"I11"}

    def test_one_of_which_nobody_knows_may_run(self) -> None:
        made = Made().at(1).message(7)
        made.at(2).write("sender", "refused", op=7, error="SendUnconfirmed")
        assert made.at(3).started(7).at(4).finished(7).broken() == set()

    @pytest.mark.parametrize("error", ["UnknownService", "ServiceBusy", "NodeUnavailable", "CallRefused"])
    def test_a_call_that_was_not_run_does_not_run(self, error: str) -> None:
        made = Made().at(1).call(7).at(4).replied(7, "error", error=error)
        assert made.broken() == set()
        assert made.at(2).started(7).at(3).finished(7).broken() == {"I11"}

    def test_a_call_that_was_interrupted_may_have_run(self) -> None:
        made = Made().at(1).call(7).at(2).started(7).at(3).finished(7)
        assert made.at(4).replied(7, "error", error="CallInterrupted").broken() == set()

    @pytest.mark.parametrize(("error", "broken"), [("EnvelopeError", set()), ("SendUnconfirmed", {"I11"})])
    def test_what_is_too_large_is_told_so(self, error: str, broken: set[str]) -> None:
        made = Made().at(1).message(7, too_large=True)
        made.at(2).write("sender", "refused", op=7, error=error)
        assert made.broken() == broken

    def test_what_is_too_large_is_not_taken(self) -> None:
        taken = Made().at(1).message(7, too_large=True).at(2).confirmed(7).at(3).started(7).at(4).finished(7)
        assert taken.broken() == {"I11"}


class TestChildrenOfServices:
    @pytest.mark.parametrize(("ended", "broken"), [(True, set()), (False, {"I10"})])
    def test_a_child_ends(self, ended: bool, broken: set[str]) -> None:
        made = executed_message()
        made.at(3.5).write("worker", "child", op=7, how="exits", ended=ended)
        assert made.broken() == broken
        assert made.result().findings["I10"].checked == 1


class TestNotAfterItsDeadline:
    def test_a_call_that_starts_in_time_is_fine(self) -> None:
        made = Made().at(1).call(7, deadline=5).at(5.1).replied(7, "error", error="CallTimeout").at(5.2).started(7)
        assert made.broken() == set()

    def test_a_call_that_starts_late_is_found(self) -> None:
        made = Made().at(1).call(7, deadline=5).at(5.1).replied(7, "error", error="CallTimeout").at(5.3).started(7)
        assert made.broken() == {"I3"}

    def test_so_is_a_message_with_an_expiry(self) -> None:
        made = Made().at(1).message(7, deadline=5).at(2).confirmed(7, outbox=True).at(6).started(7).finished(7)
        assert made.broken() == {"I3"}


class TestEveryCallEnds:
    def test_a_call_that_ends_a_moment_after_its_deadline_is_fine(self) -> None:
        assert Made().at(1).call(7, deadline=5).at(5.24).replied(7, "error").broken() == set()

    def test_a_call_that_ends_later_is_found(self) -> None:
        assert Made().at(1).call(7, deadline=5).at(5.26).replied(7, "error").broken() == {"I4"}

    def test_a_call_that_never_ends_is_found(self) -> None:
        assert Made().at(1).call(7).broken() == {"I4"}

    def test_a_send_that_never_ends_is_found(self) -> None:
        assert Made().at(1).message(7).broken() == {"I4"}

    def test_a_machine_that_stood_still_is_no_fault_of_the_bus(self) -> None:
        made = Made().at(1).call(7, deadline=5).at(5.5).replied(7, "error")
        made.at(5.4).write("rig", "stall", seconds=0.4)
        assert made.broken() == set()

    def test_a_stall_at_another_time_is_no_excuse(self) -> None:
        made = Made().at(1).call(7, deadline=5).at(5.5).replied(7, "error")
        made.at(4).write("rig", "stall", seconds=0.4)
        assert made.broken() == {"I4"}

    def test_a_stall_that_two_have_seen_is_one(self) -> None:
        made = Made().at(1).call(7, deadline=5).at(5.8).replied(7, "error")
        made.at(5.4).write("rig", "stall", seconds=0.3)
        made.at(5.4).write("faults", "stall", seconds=0.3)
        assert made.broken() == {"I4"}


class TestNoReplyToAWrongCall:
    def test_the_reply_of_another_call_is_found(self) -> None:
        assert answered_call().change(lambda r: "right" in r, lambda r: {**r, "right": False}).broken() == {"I5"}

    def test_a_reply_that_no_service_gave_is_found(self) -> None:
        assert Made().at(1).call(7).at(2).replied(7).broken() == {"I5"}

    def test_an_error_needs_no_service(self) -> None:
        assert Made().at(1).call(7).at(2).replied(7, "error", error="ServiceBusy").broken() == set()


class TestNothingForged:
    def test_a_forged_request_that_was_executed_is_found(self) -> None:
        made = executed_message()
        made.write("worker", "forged", came="a token of nobody")
        assert made.broken() == {"I6"}

    def test_so_is_an_operation_that_nobody_invoked(self) -> None:
        assert executed_message().started(8).broken() == {"I6"}

    def test_and_one_among_the_dead_letters(self) -> None:
        assert executed_message().dead(8).broken() == {"I6"}


class TestBackToBase:
    def test_what_is_gone_is_fine(self) -> None:
        made = executed_message()
        made.write("rig", "base", counts={"sockets": 10, "queues": 5})
        made.write("rig", "end", counts={"sockets": 9, "queues": 5}, lengths={"N.messages on a": 0})
        assert made.broken() == set()

    @pytest.mark.parametrize(
        ("counts", "lengths"),
        [
            ({"sockets": 11}, {}),
            ({}, {}),
            ({"sockets": 10, "threads": 1}, {}),
            ({"sockets": 10}, {"N.messages on a": 1}),
        ],
    )
    def test_what_is_left_over_is_found(self, counts: dict[str, int], lengths: dict[str, int]) -> None:
        made = executed_message()
        made.write("rig", "base", counts={"sockets": 10})
        made.write("rig", "end", counts=counts, lengths=lengths)
        assert made.broken() == {"I7"}


class TestLogRecords:
    def logged(self, sent: int, written: int, lost: int) -> Made:
        made = executed_message()
        made.write("worker", "log-sent", source="w1", count=sent // 2)
        made.write("worker", "log-sent", source="w1", count=sent)
        made.write("rig", "log-written", source="w1", count=written)
        made.write("rig", "log-lost", source="w1", count=lost)
        return made

    def test_written_and_counted_lost_is_all(self) -> None:
        assert self.logged(100, 97, 3).ends("worker").broken() == set()

    @pytest.mark.parametrize(("written", "lost"), [(97, 2), (100, 1)])
    def test_what_is_missing_or_there_twice_is_found(self, written: int, lost: int) -> None:
        assert self.logged(100, written, lost).ends("worker").broken() == {"I8"}

    def test_of_a_killed_process_nobody_knows(self) -> None:
        assert self.logged(100, 97, 2).broken() == set()


class TestHealth:
    def samples(self, *samples: tuple[float, bool, int | None]) -> Made:
        made = executed_message()
        for t, green, consumers in samples:
            made.at(t).write("health", "health", target="agent-1 on a", green=green, consumers=consumers)
        return made

    def test_green_with_a_consumer_is_fine(self) -> None:
        assert self.samples(*((t, True, 1) for t in range(30))).broken() == set()

    def test_green_for_a_moment_without_one_is_fine(self) -> None:
        assert self.samples(*((t, True, 0) for t in range(11)), (11, False, 0)).broken() == set()

    def test_what_nobody_looked_at_between_is_not_held_against_it(self) -> None:
        asked = [0.0, 1.0, 2.0, 18.0, 19.0]
        assert self.samples(*((t, True, 0) for t in asked)).broken() == set()
        assert self.samples(*((t, True, 0) for t in [*asked, *range(20, 30)])).broken() == {"I9"}

    def test_green_for_long_without_one_is_found(self) -> None:
        assert self.samples(*((t, True, 0) for t in range(12))).broken() == {"I9"}

    def test_red_is_honest(self) -> None:
        assert self.samples(*((t, False, 0) for t in range(30))).broken() == set()

    def test_a_consumer_between_begins_it_anew(self) -> None:
        assert self.samples(*((t, True, t == 8) for t in range(18))).broken() == set()


class TestReadiness:
    """What an agent and its workers say, against what is consumed."""

    def samples(self, what: str, *samples: tuple[float, bool, int | None]) -> Made:
        made = executed_message()
        said = {"health": {"target": "N@a#1", "green": False}, "agent": {"node": "N", "live": True}}[what]
        for t, ready, consumers in samples:
            made.at(t).write("health", what, **said, ready=ready, consumers=consumers)
        return made

    @pytest.mark.parametrize("what", ["health", "agent"])
    def test_that_is_not_true_for_long_is_found(self, what: str) -> None:
        assert self.samples(what, *((t, True, 0) for t in range(12))).broken() == {"I16"}
        assert self.samples(what, *((t, True, 0) for t in range(11)), (11, False, 0)).broken() == set()

    @pytest.mark.parametrize("consumers", [1, None])
    def test_that_is_true_or_not_known_to_be_false_is_fine(self, consumers: int | None) -> None:
        assert self.samples("agent", *((t, True, consumers) for t in range(30))).broken() == set()

    def test_is_of_the_agent_if_any_worker_consumes(self) -> None:
        assert [_best(counts) for counts in ([0, 1], [None, 1], [0, None], [0, 0], [])] == [1, 1, None, 0, 0]


class TestLiveness:
    def samples(self, *samples: tuple[float, bool | None], fault: str = "broker-kill", at: float = 0.0) -> Made:
        made = executed_message()
        made.at(at).write("faults", "fault-begin", number=0, kind=fault, target="N")
        made.at(at + 5).write("faults", "fault-end", number=0, kind=fault, target="N")
        for t, live in samples:
            made.at(t).write("health", "agent", node="N", live=live, ready=False, consumers=0)
        return made

    def test_does_not_end_with_a_broker(self) -> None:
        assert self.samples((1, True), (2, True)).broken() == set()
        assert self.samples((1, True), (2, False), (3, True)).broken() == {"I17"}

    def test_may_end_with_a_worker_that_is_stopped(self) -> None:
        assert self.samples((20, False), fault="worker-freeze-10s").broken() == set()
        assert self.samples((60, False), fault="worker-freeze-10s").broken() == {"I17"}

    def test_is_an_answer(self) -> None:
        silent = [(float(t), None) for t in range(12)]
        assert self.samples(*silent[:11], (11.0, True)).broken() == set()
        assert self.samples(*silent).broken() == {"I17"}
        assert self.samples(*silent, fault="agent-rolled").broken() == set()


def test_an_offence_comes_with_its_history_and_the_faults_of_that_time(tmp_path: Path) -> None:
    sender, worker, faults = (History(tmp_path, role) for role in ("sender", "worker", "faults"))
    faults.fault_begin(0, "long ago", "a")
    faults.record("fault-end", t=1.0, number=0, kind="long ago", target="a")
    faults.fault_begin(1, "broker kill -9", "a")
    sender.invoked(5, "message", "N.a.b")
    sender.confirmed(5, "ff-1")
    worker.started(5, "ff-1", 1)
    worker.finished(5, "ff-1", 1, verdict="failed")
    sender.invoked(6, "message", "N.a.b")
    faults.fault_end(1, "broker kill -9", "a")

    result = check(tmp_path)

    (offence,) = result.findings["I1"].offences
    assert offence.op == 5
    assert [record["what"] for _, record in offence.history] == ["invoked", "confirmed", "started", "finished"]
    assert [process.split("-")[0] for process, _ in offence.history] == ["sender", "sender", "worker", "worker"]
    assert [fault.kind for fault in offence.faults] == ["broker kill -9"]


def test_offences_are_counted_and_the_first_are_shown() -> None:
    made = Made().at(1)
    for op in range(100):
        made.message(op).confirmed(op)
    finding = made.result().findings["I1"]
    assert finding.broken == 100
    assert len(finding.offences) == SHOWN_PER_INVARIANT


def test_a_result_says_what_it_could_not_check() -> None:
    result = answered_call().result()
    assert result.is_clean
    assert result.unchecked == ["I1", "I7", "I8", "I9", "I10", "I11", "I12", "I13", "I14", "I15", "I16", "I17"]


def test_a_rig_that_contradicts_itself_is_not_clean() -> None:
    assert not answered_call().call(7).result().is_clean
    assert not Made().call(7).finished(7).replied(7, "error").result().is_clean


class TestFiles:
    def test_a_torn_last_line_is_left_out(self, tmp_path: Path) -> None:
        History(tmp_path, "sender").invoked(5, "call", "N.a.b")
        (path,) = tmp_path.iterdir()
        with path.open("a") as file:
            file.write('{"t": 1, "wha')
        assert check(tmp_path).story.operations.keys() == {5}

    def test_rubbish_elsewhere_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "sender.jsonl").write_text('{"t": 1, "wh\n' + json.dumps({"t": 1, "what": "ended"}) + "\n")
        with pytest.raises(Exception, match=r"sender\.jsonl:1 is no record"):
            check(tmp_path)
