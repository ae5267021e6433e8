"""Headers of stored messages: what is kept of them, and what is believed."""

from __future__ import annotations

from typing import Any

import pytest

from servicebus.wire import headers


def test_only_what_the_sender_put_there_is_kept() -> None:
    given = {"mine": 1, headers.REASON: "ValueError", headers.WAIT: "3", "x-death": [{}], "x-first-death-queue": "q"}
    assert headers.as_sent(given) == {"mine": 1}
    assert headers.as_sent(None) == {}


def test_copies_made_by_an_operator_keep_ours_as_well() -> None:
    given = {"mine": 1, headers.DEAD_LETTER: "1", headers.REQUEUED: "2", headers.WAIT: "3", "x-death": [{}]}
    assert headers.kept_in_copies(given) == {
        "mine": 1,
        headers.DEAD_LETTER: "1",
        headers.REQUEUED: "2",
        headers.WAIT: "3",
    }


@pytest.mark.parametrize("value", [None, "3", True, -3, 2.5, [3]])
def test_a_header_that_is_no_count_counts_as_none(value: Any) -> None:
    assert headers.number({"x-delivery-count": value}, "x-delivery-count") == 0


def test_a_count_is_read() -> None:
    assert headers.number({"x-delivery-count": 3}, "x-delivery-count") == 3
