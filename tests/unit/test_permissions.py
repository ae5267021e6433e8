"""What a caller may do, by its patterns."""

from __future__ import annotations

import fnmatch

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from servicebus.policy.permissions import Permissions, Rules
from servicebus.wire.events import matches

UNTIMED = settings(deadline=None)
NAME = st.text("abc*?.+[](-^$\\", min_size=1, max_size=4).filter(lambda name: "." not in name)
LITERAL = NAME.filter(lambda name: "*" not in name and "?" not in name)
ADDRESS = st.tuples(LITERAL, LITERAL, LITERAL).map(".".join)
PATTERN = st.one_of(st.just("*"), st.tuples(NAME, NAME, NAME).map(".".join))
EVENT_WORD = st.sampled_from(["a", "b", "ab", "a+", "c"])
EVENT = st.lists(EVENT_WORD, min_size=1, max_size=5).map(".".join)
EVENT_PATTERN = st.lists(st.one_of(EVENT_WORD, st.sampled_from("*#")), min_size=1, max_size=5).map(".".join)


def may(rules: Rules, target: str, *, is_event: bool = False) -> bool:
    return Permissions({"shop": rules}).decide("shop", target, is_event=is_event).is_allowed


def fits(pattern: str, address: str) -> bool:
    """By names, as fnmatch has them, whose brackets are none here."""
    if pattern == "*":
        return True
    pairs = zip(pattern.split("."), address.split("."), strict=True)
    return all(fnmatch.fnmatchcase(name, wanted.replace("[", "[[]")) for wanted, name in pairs)


@pytest.mark.parametrize(
    ("pattern", "address", "fitting"),
    [
        ("*", "NODE-01.math.add", True),
        ("NODE-01.math.add", "NODE-01.math.add", True),
        ("NODE-01.math.add", "NODE-01.math.added", False),
        ("NODE-01.math.add", "XNODE-01.math.add", False),
        ("NODE-01.math.add", "node-01.math.add", False),
        ("*.math.*", "NODE-01.math.add", True),
        ("*.math.*", "NODE-01.maths.add", False),
        ("*.*.add", "NODE-01.math.add", True),
        ("NODE-*.math.add", "NODE-01.math.add", True),
        ("NODE-0?.math.add", "NODE-01.math.add", True),
        ("NODE-0?.math.add", "NODE-011.math.add", False),
        ("NODE-[01].math.add", "NODE-0.math.add", False),
        ("*.ma.h.add", "NODE-01.math.add", False),
        ("K\u00d6LN.*.*", "K\u00d6LN.a.b", True),
    ],
)
def test_a_pattern_fits_name_by_name(pattern: str, address: str, fitting: bool) -> None:
    assert may(Rules(allow=[pattern]), address) is fitting


@UNTIMED
@given(st.lists(PATTERN, max_size=3), st.lists(PATTERN, max_size=2), ADDRESS)
@example(["*"], ["*.a.*"], "b.a.c")
def test_allowed_is_what_one_fits_and_none_denies(allow: list[str], deny: list[str], address: str) -> None:
    wanted = any(fits(each, address) for each in allow) and not any(fits(each, address) for each in deny)
    assert may(Rules(allow, deny), address) is wanted


@UNTIMED
@given(ADDRESS)
def test_an_address_is_its_own_pattern_and_nothing_is_everything(address: str) -> None:
    assert may(Rules(allow=[address]), address)
    assert not may(Rules(), address)
    assert not may(Rules(publish=["#"]), address), "events are others"
    assert not may(Rules(allow=["*"], deny=[address]), address)


@UNTIMED
@given(ADDRESS, ADDRESS)
def test_a_pattern_without_a_wildcard_fits_itself_alone(pattern: str, address: str) -> None:
    assert may(Rules(allow=[pattern]), address) is (pattern == address)


@UNTIMED
@given(EVENT_PATTERN, EVENT)
@example("#.a", "a")
@example("a.#", "a")
@example("#.#", "a.b")
@example("*.#.*", "a")
def test_a_pattern_of_events_fits_as_that_of_a_subscription(pattern: str, event: str) -> None:
    assert may(Rules(publish=[pattern]), event, is_event=True) is matches(pattern, event)


@UNTIMED
@given(st.text(max_size=300), st.booleans())
def test_whatever_is_asked_for_is_decided(target: str, is_event: bool) -> None:
    rules = Rules(["a.b.*"], ["*.b.c"], ["a.#"])
    assert may(rules, target, is_event=is_event) in (True, False)
    assert may(Rules(["*"]), target)


def test_the_decision_names_the_rule() -> None:
    decide = Permissions({"shop": Rules(["*.math.*"], ["*.math.drop"], ["orders.*"])}).decide
    assert decide("shop", "N.math.add") == (True, "callers.shop.allow '*.math.*'")
    assert decide("shop", "N.math.drop") == (False, "callers.shop.deny '*.math.drop'")
    assert decide("shop", "N.audit.add") == (False, "callers.shop.allow, of which no pattern fits")
    assert decide("shop", "orders.made", is_event=True) == (True, "callers.shop.publish 'orders.*'")
    assert decide("shop", "users.made", is_event=True) == (False, "callers.shop.publish, of which no pattern fits")
    assert decide("stranger", "N.math.add") == (False, "callers, which has no 'stranger'")
    assert "shop" in repr(Permissions({"shop": Rules()}))
