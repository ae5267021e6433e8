from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from servicebus.runtime.journal import MemoryJournal, Standing

NEVER = 10**12


def test_an_id_is_new_once_then_running_then_finished_with_its_answer() -> None:
    journal = MemoryJournal()
    assert journal.begin("a-1", 0, NEVER) == (Standing.NEW, None)
    assert journal.begin("a-1", 1, NEVER) == (Standing.RUNNING, None)
    journal.finish("a-1", b"<response/>")
    assert journal.begin("a-1", 2, NEVER) == (Standing.FINISHED, b"<response/>")
    assert journal.begin("a-2", 2, NEVER) == (Standing.NEW, None)


def test_a_message_has_no_answer_and_is_finished_all_the_same() -> None:
    journal = MemoryJournal()
    journal.begin("a-1", 0, NEVER)
    journal.finish("a-1", None)
    assert journal.begin("a-1", 1, NEVER) == (Standing.FINISHED, None)


def test_what_was_not_run_after_all_may_come_again() -> None:
    journal = MemoryJournal()
    journal.begin("a-1", 0, NEVER)
    journal.forget("a-1")
    assert journal.begin("a-1", 1, NEVER) == (Standing.NEW, None)


def test_finishing_or_forgetting_what_was_never_begun_changes_nothing() -> None:
    journal = MemoryJournal()
    journal.finish("a-1", b"x")
    journal.forget("a-2")
    assert journal.begin("a-1", 0, NEVER) == (Standing.NEW, None)
    assert repr(journal) == "<MemoryJournal ids=1 answer_bytes=0>"


def test_an_id_is_forgotten_only_when_its_token_would_be_refused_anyway() -> None:
    journal = MemoryJournal()
    journal.begin("a-1", 0, 100)
    journal.finish("a-1", b"answer")
    journal.begin("a-2", 99, NEVER)
    assert journal.begin("a-1", 99, 100)[0] is Standing.FINISHED
    journal.begin("a-3", 101, NEVER)
    assert repr(journal) == "<MemoryJournal ids=2 answer_bytes=0>"
    assert journal.forgotten_early == 0


def test_too_many_ids_forget_those_that_expire_first_and_count_it() -> None:
    """Bounded memory: a promise broken under a flood of signed ids is counted, not hidden."""
    journal = MemoryJournal(max_ids=3)
    for n in range(5):
        journal.begin(f"a-{n}", 0, NEVER + n)
        journal.finish(f"a-{n}", None)
    assert journal.forgotten_early == 2
    assert len(journal) == 3
    assert journal.begin("a-4", 0, NEVER)[0] is Standing.FINISHED
    assert journal.begin("a-0", 0, NEVER)[0] is Standing.NEW


def test_an_id_that_is_still_running_outlives_finished_ones_when_there_are_too_many() -> None:
    """Running ids are few (the prefetch) and forgetting one could run it twice at the same time."""
    journal = MemoryJournal(max_ids=3)
    journal.begin("running", 0, NEVER)
    for n in range(10):
        journal.begin(f"a-{n}", 0, NEVER)
        journal.finish(f"a-{n}", None)
    assert journal.begin("running", 0, NEVER)[0] is Standing.RUNNING


def test_ids_that_live_long_do_not_keep_those_that_are_over() -> None:
    """A message's id is remembered for a day, a call's for its deadline; both stand in one journal."""
    journal = MemoryJournal()
    journal.begin("message", 0, 86_400)
    journal.finish("message", None)
    for n in range(1, 1001):
        journal.begin(f"call-{n}", n, n + 5)
        journal.finish(f"call-{n}", b"x" * 100)
    assert len(journal) < 100
    assert journal.begin("message", 1001, 86_400)[0] is Standing.FINISHED


def test_stored_answers_are_bounded_in_bytes_and_the_ids_stay() -> None:
    journal = MemoryJournal(max_answer_bytes=100)
    for n in range(3):
        journal.begin(f"a-{n}", 0, NEVER)
        journal.finish(f"a-{n}", b"x" * 40)
    assert journal.begin("a-0", 0, NEVER) == (Standing.FINISHED, None)
    assert journal.begin("a-1", 0, NEVER) == (Standing.FINISHED, b"x" * 40)
    assert repr(journal) == "<MemoryJournal ids=3 answer_bytes=80>"


def test_an_answer_larger_than_all_the_room_is_not_stored() -> None:
    journal = MemoryJournal(max_answer_bytes=100)
    journal.begin("a-1", 0, NEVER)
    journal.finish("a-1", b"x" * 101)
    assert journal.begin("a-1", 0, NEVER) == (Standing.FINISHED, None)


STEPS = st.tuples(
    st.sampled_from(["begin", "finish", "forget"]), st.integers(0, 7), st.integers(0, 60), st.integers(0, 30)
)


@given(st.lists(STEPS, max_size=200))
def test_no_id_is_new_twice_while_its_token_is_good_whatever_the_order_of_events(
    steps: list[tuple[str, int, int, int]],
) -> None:
    """The promise behind P2, against a model that remembers everything; and the bytes are counted right."""
    journal = MemoryJournal()
    model: dict[str, tuple[Standing, int, bytes | None]] = {}
    now = 0
    for action, number, lives, size in steps:
        now += 1
        id = f"a-{number}"
        if action == "begin":
            found = journal.begin(id, now, now + lives)
            known = model.get(id)
            if known is None or (known[0] is Standing.FINISHED and known[1] < now):
                assert found == (Standing.NEW, None)
                model[id] = (Standing.RUNNING, now + lives, None)
            else:
                assert found == (known[0], known[2])
                # A copy that was signed later is good for longer.
                model[id] = (known[0], max(known[1], now + lives), known[2])
        elif action == "finish" and id in model and model[id][0] is Standing.RUNNING:
            journal.finish(id, b"x" * size)
            model[id] = (Standing.FINISHED, model[id][1], b"x" * size)
        elif action == "forget" and id in model and model[id][0] is Standing.RUNNING:
            journal.forget(id)
            del model[id]
    journal.begin("last", now, NEVER)
    kept = {
        id: answer for id, (standing, until, answer) in model.items() if standing is Standing.RUNNING or until >= now
    }
    stored = sum(len(answer or b"") for answer in kept.values())
    assert repr(journal) == f"<MemoryJournal ids={len(kept) + 1} answer_bytes={stored}>"
