"""From params to the number of a lock."""

from __future__ import annotations

import traceback
from typing import Any

import pytest

from servicebus.runtime.lock_keys import LOCK_BITS, LockError, lock_finder
from servicebus.runtime.registration import Service
from servicebus.wire.envelope import Kind


def lock_id(lock: Any, params: Any, name: str = "transfer", kind: Kind = Kind.CALL) -> int | None:
    return lock_finder(Service(kind, "bank", name, object(), lock=lock))(params)


ORDER = {"order": {"id": 7, "lines": [{"sku": "x"}]}, "account": "A-1", "none": None}


@pytest.mark.parametrize(
    ("lock", "params", "like"),
    [
        ("account", ORDER, "A-1"),
        ("order.id", ORDER, "7"),
        ("order.lines.0.sku", ORDER, "x"),
        (0, ["A-1", 5], "A-1"),
        ("1", ["A-1", 5], "5"),
        (lambda params: params["account"].lower(), ORDER, "a-1"),
        (lambda params: params["order"], ORDER, '{"id": 7, "lines": [{"sku": "x"}]}'),
    ],
)
def test_a_key_is_found_by_its_place_or_by_a_function(lock: Any, params: Any, like: str) -> None:
    assert lock_id(lock, params) == lock_id(lambda params: like, None)


def test_the_lock_is_the_same_in_every_process_and_fits_a_file() -> None:
    """Workers of an older and a newer version may share a node while it is rolled."""
    assert lock_id("account", ORDER) == 4495034580088265090
    assert 0 <= (lock_id("account", {"account": "\ud800"}) or 0) < 1 << LOCK_BITS


def test_other_keys_services_and_kinds_have_other_slots() -> None:
    found = {
        lock_id("account", {"account": "A-1"}),
        lock_id("account", {"account": "A-2"}),
        lock_id("account", {"account": "A-1"}, name="deposit"),
        lock_id("account", {"account": "A-1"}, kind=Kind.MESSAGE),
    }
    assert len(found) == 4


def test_null_and_none_mean_no_lock() -> None:
    assert lock_id("none", ORDER) is None
    assert lock_id(lambda params: None, ORDER) is None


def test_concurrency_node_is_one_lock_for_whatever_comes() -> None:
    find = lock_finder(Service(Kind.CALL, "bank", "close", object(), concurrency="node"))
    assert find(None) == find([1, 2]) is not None


@pytest.mark.parametrize(
    ("lock", "params", "text"),
    [
        ("account", {}, "no lock for service bank.transfer: the params have no 'account'"),
        ("order.sku", ORDER, "no lock for service bank.transfer: the params have no 'sku'"),
        (
            "account.id",
            ORDER,
            "no lock for service bank.transfer: the params have no 'id': there is a text in its place",
        ),
        (2, [1, 2], "no lock for service bank.transfer: the params have no '2': there is a list of 2 in its place"),
        (
            "account",
            None,
            "no lock for service bank.transfer: the params have no 'account': there is nothing in its place",
        ),
        (lambda params: params["nope"], {}, "no lock for service bank.transfer: KeyError (its text may show a value)"),
        (lambda params: object(), {}, "no lock for service bank.transfer: TypeError (its text may show a value)"),
    ],
)
def test_a_key_that_cannot_be_had_says_why(lock: Any, params: Any, text: str) -> None:
    with pytest.raises(LockError) as caught:
        lock_id(lock, params)
    assert str(caught.value) == text


def test_the_text_of_what_a_lock_function_raises_is_shown_nowhere() -> None:
    """It may quote the params, and these may be secret."""
    secret = "-".join(["not", "for", "logs"])
    with pytest.raises(LockError) as caught:
        lock_id(lambda params: int(params["pin"]), {"pin": secret})
    shown = "".join(traceback.format_exception(caught.type, caught.value, caught.tb))
    assert secret not in shown and "ValueError" in shown
    assert "test_lock_keys.py" in shown, "where it was raised is"
