"""The morning page as a person uses it: search, filter and sort in a real browser."""

import re
from datetime import UTC, datetime

import pytest
from playwright.sync_api import expect

from covct.results.entries import Entry, worst_first
from covct.results.page import as_html
from support.browser import chromium, opened


@pytest.fixture(scope="module")
def browser():
    with chromium() as one:
        yield one


def entry(number, percent, **more):
    figures = {("infection_percent", "lungs"): percent, ("volume_ml", "lungs"): 4000.0}
    given = {
        "series_instance_uid": f"1.2.{number}", "figures": figures, "severity_class": 1 + (percent or 0) // 25,
        "finished": f"2026-03-02T0{number % 10}:00:00+00:00", **more,
    }  # fmt: skip
    return Entry(f"1.2/1.2.{number}", "done", **given)


ENTRIES = [
    entry(31, 12.0, low_confidence=True),
    entry(32, 60.0),
    entry(33, 3.0, warnings=(("gantry-tilt", "the slices are tilted"),)),
    entry(34, None),
    entry(37, None, called_in_view=50.0, first="2026-01-02T03:00:00+00:00"),
    entry(35, 40.0, finished="2026-02-20T03:00:00+00:00"),
    Entry("1.2/1.2.36", "rejected", "not-chest", "no lungs were found", series_instance_uid="1.2.36"),
]


@pytest.fixture
def night(browser, tmp_path):
    path = tmp_path / "index.html"
    path.write_text(as_html(worst_first(ENTRIES), datetime(2026, 3, 2, 9, tzinfo=UTC)))
    page, faults = opened(browser, path, viewport={"width": 1400, "height": 900})
    yield page
    assert not faults
    page.context.close()


def uids(page):
    """Of the rows that can be seen, in their order."""
    return [re.search(r"1\.2\.(\d+)", row.inner_text())[1] for row in page.locator("tbody tr:visible").all()]


def test_worst_first_and_earlier_nights_folded(night):
    assert uids(night) == ["32", "37", "31", "33", "34", "36"]
    night.click("summary:has-text('2026-02-19')")
    expect(night.locator("#earlier tbody tr")).to_have_count(1)
    assert uids(night) == ["32", "37", "31", "33", "34", "35", "36"]


def test_search_looks_everywhere_and_unfolds(night):
    night.fill("#search", "1.2.35")
    expect(night.locator("#found")).to_have_text("1 of 7 rows")
    assert uids(night) == ["35"]
    night.fill("#search", "TILTED slices")
    expect(night.locator("tbody tr:visible")).to_contain_text(["1.2.33"])
    assert uids(night) == ["33"]
    night.fill("#search", "")
    expect(night.locator("#found")).to_have_text("")
    assert uids(night) == ["32", "37", "31", "33", "34", "36"]


@pytest.mark.parametrize(
    ("shown", "wanted"),
    [
        ("severe", ["32"]),
        ("doubtful", ["31"]),
        ("warned", ["33"]),
        ("unknown", ["37", "34"]),
        ("again", ["37"]),
        ("new", ["32", "31", "33", "34"]),
        ("rejected", ["36"]),
        ("failed", []),
    ],
)
def test_filters(night, shown, wanted):
    night.select_option("#show", shown)
    assert [uid for uid in uids(night) if uid != "35"] == wanted


def test_orders(night):
    night.select_option("#order", "mildest")
    assert uids(night)[:5] == ["33", "31", "37", "32", "34"]
    night.select_option("#order", "newest")
    assert uids(night)[:5] == ["37", "34", "33", "32", "31"]
    night.select_option("#order", "worst")
    assert uids(night)[:5] == ["32", "37", "31", "33", "34"]


def test_what_is_folded_is_made_once_it_is_opened_and_in_the_order_chosen(browser, tmp_path):
    """Of ten thousand series a browser makes rows of the last night's worst."""
    long_ago = [entry(100 + n, float(n), finished="2026-02-20T03:00:00+00:00") for n in range(2000)]
    path = tmp_path / "index.html"
    path.write_text(as_html(worst_first([*ENTRIES, *long_ago]), datetime(2026, 3, 2, 9, tzinfo=UTC)))
    page, faults = opened(browser, path)
    assert page.locator("tbody tr").count() == 7 - 1
    page.select_option("#order", "mildest")
    page.click("summary:has-text('2026-02-19')")
    expect(page.locator("#earlier tbody tr")).to_have_count(2001)
    assert "1.2.100" in page.locator("#earlier tbody tr").first.inner_text()
    assert not faults
    page.context.close()


def test_without_a_script_every_row_can_be_seen(browser, tmp_path):
    path = tmp_path / "index.html"
    path.write_text(as_html(worst_first(ENTRIES), datetime(2026, 3, 2, 9, tzinfo=UTC)))
    page, _ = opened(browser, path, java_script_enabled=False)
    page.click("summary:has-text('2026-02-19')")
    assert "1.2.35" in page.locator("#earlier tbody tr:visible").inner_text()
    assert not page.locator("#tools").is_visible()
    page.context.close()


def test_it_prints_the_last_night_on_few_pages(browser, tmp_path):
    series = [entry(100 + n, n / 2, seconds=40.0) for n in range(100)]
    earlier = [entry(1000 + n, n / 2, finished="2026-02-20T03:00:00+00:00") for n in range(1000)]
    path = tmp_path / "index.html"
    path.write_text(as_html(worst_first([*series, *earlier]), datetime(2026, 3, 2, 9, tzinfo=UTC)))
    page, _ = opened(browser, path)
    assert len(re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4"))) <= 8
    page.context.close()
