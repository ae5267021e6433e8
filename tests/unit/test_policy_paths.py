from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicebus.policy.paths import Candidate, Health, choose, next_to_connect

GOOD = Candidate(is_usable=True, is_stable=True, path_is_healthy=True, path_is_stable=True)
RECOVERED = Candidate(is_usable=True, is_stable=False, path_is_healthy=True, path_is_stable=True)
PATH_RECOVERED = Candidate(is_usable=True, is_stable=True, path_is_healthy=True, path_is_stable=False)
PATH_DEAD = Candidate(is_usable=True, is_stable=True, path_is_healthy=False, path_is_stable=False)
DOWN = Candidate(is_usable=False, is_stable=True, path_is_healthy=True, path_is_stable=True)
CANDIDATES = st.builds(Candidate, st.booleans(), st.booleans(), st.booleans(), st.booleans())


def chosen(*seen: Candidate) -> int | None:
    return choose(range(len(seen)), lambda index: seen[index])


class TestHealth:
    def test_a_newcomer_is_trusted_at_once(self) -> None:
        """A Sender's first call goes to the first host of the list; health is only lost by failing."""
        health = Health()
        assert health.is_healthy
        assert health.restored(0.0, 30.0)

    def test_what_failed_is_neither_healthy_nor_trusted(self) -> None:
        health = Health()
        health.fail("connection refused")
        assert not health.is_healthy
        assert not health.restored(1e9, 30.0)
        assert "connection refused" in repr(health)

    def test_what_works_again_is_healthy_at_once_and_trusted_only_after_a_while(self) -> None:
        health = Health()
        health.fail("died")
        health.recover(100.0)
        assert health.is_healthy
        assert not health.restored(129.9, 30.0)
        assert health.restored(130.0, 30.0)
        assert (health.failed, health.reason) == (False, "")

    def test_asking_what_it_has_earned_changes_nothing(self) -> None:
        """Another thread may ask, while the engine's hears of the next failure."""
        health = Health()
        health.fail("died")
        health.recover(100.0)
        assert not health.is_stable(129.9, 30.0)
        assert health.is_stable(130.0, 30.0)
        assert (health.failed, health.healthy_since, health.reason) == (True, 100.0, "died")

    def test_further_good_news_does_not_start_the_time_again(self) -> None:
        health = Health()
        health.fail("died")
        for now in (100.0, 110.0, 120.0, 129.0):
            health.recover(now)
        assert health.restored(130.0, 30.0)

    def test_one_that_flaps_starts_its_time_again(self) -> None:
        health = Health()
        health.fail("died")
        health.recover(100.0)
        health.fail("died again")
        assert not health.is_healthy
        health.recover(120.0)
        assert not health.restored(140.0, 30.0)
        assert health.restored(150.0, 30.0)

    def test_good_news_of_one_that_never_failed_changes_nothing(self) -> None:
        health = Health()
        health.recover(100.0)
        assert health.healthy_since is None
        assert health.restored(100.0, 30.0)

    def test_without_a_waiting_time_it_is_trusted_as_soon_as_it_works(self) -> None:
        health = Health()
        health.fail("died")
        health.recover(5.0)
        assert health.restored(5.0, 0.0)

    def test_one_that_is_suspect_has_not_failed_and_is_stable_as_soon_as_it_is_heard(self) -> None:
        health = Health()
        health.suspect()
        assert health.is_healthy and not health.failed and not health.is_stable(100.0, 30.0)
        health.heard()
        assert health.is_stable(101.0, 30.0)

    def test_a_suspicion_does_not_shorten_the_time_after_a_failure(self) -> None:
        health = Health()
        health.fail("died")
        health.suspect()
        assert not health.is_suspect, "it is known to be dead"
        health.recover(100.0)
        health.suspect()
        health.heard()
        assert not health.is_stable(129.0, 30.0)
        assert health.is_stable(130.0, 30.0)


class TestChoose:
    def test_the_first_of_several_good_hosts_is_preferred(self) -> None:
        assert chosen(GOOD, GOOD) == 0

    def test_a_trusted_host_is_preferred_to_one_that_has_only_just_recovered(self) -> None:
        assert chosen(RECOVERED, GOOD) == 1
        assert chosen(PATH_RECOVERED, GOOD) == 1

    def test_a_recovered_host_is_used_when_there_is_nothing_better(self) -> None:
        assert chosen(DOWN, RECOVERED, PATH_DEAD) == 1
        assert chosen(DOWN, PATH_RECOVERED, RECOVERED) == 1

    def test_a_suspect_host_is_used_when_there_is_nothing_else(self) -> None:
        suspect = GOOD._replace(is_suspect=True)
        assert chosen(suspect, RECOVERED) == 1
        assert chosen(DOWN, suspect, PATH_DEAD) == 1

    @pytest.mark.parametrize("seen", [(), (DOWN,), (PATH_DEAD, DOWN)])
    def test_none_is_chosen_where_no_path_is_healthy(self, seen: tuple[Candidate, ...]) -> None:
        assert chosen(*seen) is None

    @given(st.lists(CANDIDATES, max_size=6))
    def test_the_choice_is_usable_and_no_better_one_stands_before_it(self, seen: list[Candidate]) -> None:
        index = chosen(*seen)
        usable = [n for n, one in enumerate(seen) if one.is_usable and one.path_is_healthy]
        recovered = [n for n in usable if not seen[n].is_suspect]
        trusted = [n for n in recovered if seen[n].is_stable and seen[n].path_is_stable]
        assert index == next(iter(trusted or recovered or usable), None)


class TestNextToConnect:
    def test_the_first_host_is_started_at_once(self) -> None:
        assert next_to_connect([True, True], [None, None], 10.0, 0.25) == (0, 0.25)

    @given(st.floats(1.0, 1e7), st.floats(0.001, 1.0), st.floats(0.0, 1.0))
    def test_a_timer_for_the_rest_brings_the_next_host(self, since: float, stagger_s: float, part: float) -> None:
        """However the sums are rounded: else it would be set again and again."""
        now = since + part * stagger_s
        for _ in range(3):
            index, again_s = next_to_connect([False, True], [since, None], now, stagger_s)
            if index is not None:
                break
            now += again_s
        assert index == 1

    def test_the_second_is_started_only_a_stagger_later(self) -> None:
        index, again_s = next_to_connect([False, True], [10.0, None], 10.1, 0.25)
        assert index is None
        assert again_s == pytest.approx(0.15)
        assert next_to_connect([False, True], [10.0, None], 10.25, 0.25) == (1, 0.25)

    def test_the_stagger_counts_from_the_youngest_attempt(self) -> None:
        index, again_s = next_to_connect([False, False, True], [10.0, 10.25, None], 10.3, 0.25)
        assert index is None
        assert again_s == pytest.approx(0.2)

    def test_a_host_that_failed_at_once_is_passed_over_at_once(self) -> None:
        """It is in its backoff: neither idle nor connecting, so nothing is waited for."""
        assert next_to_connect([False, True], [None, None], 10.01, 0.25) == (1, 0.25)

    def test_nothing_is_left_to_start_when_all_are_busy(self) -> None:
        assert next_to_connect([False, False], [None, 1.0], 10.0, 0.25) == (None, 0.25)

    @given(
        st.lists(st.tuples(st.booleans(), st.none() | st.floats(0, 100)), min_size=1, max_size=6),
        st.floats(0, 100),
        st.floats(0.001, 5),
    )
    def test_one_is_started_only_if_it_is_idle_and_the_question_always_comes_again(
        self, hosts: list[tuple[bool, float | None]], now: float, stagger_s: float
    ) -> None:
        idle = [is_idle for is_idle, _ in hosts]
        since = [since for _, since in hosts]
        index, again_s = next_to_connect(idle, since, now, stagger_s)
        assert again_s > 0
        if index is not None:
            assert idle[index]
            assert not any(idle[:index])
