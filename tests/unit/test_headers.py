"""Headers of stored messages: what is kept of them, and what is believed."""

from __future__ import annotations

import pytest

from servicebus.wire import headers


def test_only_what_the_sender_put_there_is_kept():
    given = {"mine": 1, headers.REASON: "ValueError", headers.ATTEMPTS: 3, "x-death": [{}], "x-first-death-queue": "q"}
    assert headers.as_sent(given) == {"mine": 1}
    assert headers.as_sent(None) == {}


@pytest.mark.parametrize("value", [None, "3", True, -3, 2.5, [3]])
def test_a_header_that_is_no_count_counts_as_none(value):
    assert headers.number({headers.ATTEMPTS: value}, headers.ATTEMPTS) == 0


def test_a_count_is_read():
    assert headers.number({headers.ATTEMPTS: 3}, headers.ATTEMPTS) == 3
