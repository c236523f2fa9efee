"""Since when, until when: what a person types at a terminal."""

from datetime import datetime, timedelta

import pytest

from covct.unattended.since_until import parse_since, parse_until

NOW = datetime.fromisoformat("2026-01-31T22:30:00+01:00")


@pytest.mark.parametrize(
    ("text", "hours"), [("90m", 1.5), ("24h", 24), ("7d", 168), ("2w", 336), ("2026-01-31T21:30:00+01:00", 1)]
)
def test_since(text, hours):
    assert parse_since(text, NOW) == NOW - timedelta(hours=hours)


def test_since_without_a_zone_is_local():
    assert parse_since("2026-01-31", NOW) == datetime(2026, 1, 31).astimezone()


@pytest.mark.parametrize("text", ["", "yesterday", "24", "h", "-1h", "31.01.2026", "2026-13-01"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011 - whatever it says, the command line says it better
        parse_since(text, NOW)


@pytest.mark.parametrize(
    ("wall", "then"),
    [
        ("2026-01-31T22:30", "2026-02-01T06:00"),
        ("2026-02-01T05:59", "2026-02-01T06:00"),
        ("2026-02-01T06:00", "2026-02-02T06:00"),
    ],
)
def test_until_is_the_next_time_that_the_clock_shows_it(wall, then):
    assert parse_until("06:00", datetime.fromisoformat(wall)) == datetime.fromisoformat(then).astimezone()


@pytest.mark.parametrize("text", ["6", "25:00", "06:60", "6am", "06:00:00"])
def test_what_is_no_time_of_day_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011
        parse_until(text, datetime(2026, 1, 31))
