"""Daily tokens of py-servicebus 2.x: vectors of the real thing, and who accepts which day."""

from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest

from servicebus.compat.tokens import DailyTokens

UTC = timezone.utc
DAY_S = 86400.0


def at(text: str, zone: object = UTC) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("secret", "day", "token"),
    [
        ("secret token", "2026-11-20", "e3ce9809a6729d10ec65bf4434a96be2c77abcc6"),
        ("secret token", "2024-02-29", "253279f2b066781ea71ae8cdff4903b0becc6de6"),
        ("s3cr\u00e9t", "2024-12-31", "30c125546556d1f20de21282228bc270244d5f84"),
    ],
)
def test_the_token_of_a_day_is_the_one_that_2_19_makes(secret: str, day: str, token: str) -> None:
    assert DailyTokens([secret], UTC).make(at(f"{day}T12:00")) == token


@pytest.mark.parametrize(("days", "is_accepted"), [(-2, False), (-1, True), (0, True), (1, True), (2, False)])
def test_yesterday_today_and_tomorrow_are_accepted(days: int, is_accepted: bool) -> None:
    tokens = DailyTokens(["s"], UTC)
    now = at("2024-03-01T00:00:01")
    assert tokens.accepts(tokens.make(now + days * DAY_S), now) is is_accepted


@pytest.mark.parametrize("change", [str.upper, lambda token: f" {token}", lambda token: token[:-1], lambda token: ""])
def test_a_token_that_is_not_exactly_right_is_refused(change: object) -> None:
    tokens = DailyTokens(["s"], UTC)
    assert not tokens.accepts(change(tokens.make(0.0)), 0.0)  # type: ignore[operator]


@pytest.mark.parametrize("token", ["\u00e9" * 40, "\ud800", "\0"])
def test_no_text_makes_the_check_raise(token: str) -> None:
    assert not DailyTokens(["s"], UTC).accepts(token, 0.0)


def test_the_day_begins_where_the_zone_says() -> None:
    """At 23:30 in London it is tomorrow in Berlin and, at the same moment, still yesterday's evening in New York."""
    now = at("2024-06-10T23:30", ZoneInfo("Europe/London"))
    made = {name: DailyTokens(["s"], ZoneInfo(name)).make(now) for name in ("Europe/Berlin", "America/New_York")}
    assert made["Europe/Berlin"] == DailyTokens(["s"], UTC).make(at("2024-06-11T12:00"))
    assert made["America/New_York"] == DailyTokens(["s"], UTC).make(at("2024-06-10T12:00"))


def test_two_sides_whose_days_differ_by_one_understand_each_other() -> None:
    east, west = DailyTokens(["s"], timezone(timedelta(hours=14))), DailyTokens(["s"], timezone(timedelta(hours=-10)))
    for hour in range(24):
        now = at("2024-12-31T00:00") + hour * 3600
        assert west.accepts(east.make(now), now)
        assert east.accepts(west.make(now), now)


def test_the_first_secret_makes_and_all_check() -> None:
    tokens = DailyTokens(["new", "old"], UTC)
    assert tokens.make(0.0) == DailyTokens(["new"], UTC).make(0.0)
    assert tokens.accepts(DailyTokens(["old"], UTC).make(0.0), 0.0)
    assert not tokens.accepts(DailyTokens(["other"], UTC).make(0.0), 0.0)


def test_no_secret_stands_in_the_repr() -> None:
    assert "hunter2" not in repr(DailyTokens(["hunter2"]))
