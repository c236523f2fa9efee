"""What OHIF shows of covct's objects, as docs/viewers.md says. COVCT_OHIF_PICTURES: where to put pictures of it."""

import os
import re
from pathlib import Path

import pydicom
import pytest

from covct.outputs import DICOM_FORMATS
from covct.results.writers import WRITERS
from covct.terms import SEGMENTS
from support.browser import chromium
from support.line import segmented_tree
from support.ohif import MORE, WITHOUT, served

pytestmark = pytest.mark.slow

LONGEST_MS = 300_000  # without a GPU, on a busy machine
FORMATS = tuple(name for name in DICOM_FORMATS if name in WRITERS)


@pytest.fixture(scope="module")
def browser():
    with chromium(WITHOUT, MORE) as one:
        yield one


@pytest.fixture
def viewer(browser, pacs, phantom_series, tmp_path):
    """The study in the viewer: its slices, and every object that covct writes."""
    with served(pacs) as address:
        out = segmented_tree([phantom_series], tmp_path / "out", formats=FORMATS)
        pacs.stow([*sorted(phantom_series.glob("*.dcm")), *sorted(out.glob("*/*/*.dcm"))])
        study = pydicom.dcmread(next(phantom_series.glob("*.dcm")), stop_before_pixels=True).StudyInstanceUID
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.set_default_timeout(LONGEST_MS)
        page.add_init_script("localStorage.setItem('shownTours', JSON.stringify(['basicViewerTour']))")
        page.goto(f"{address}/viewer?StudyInstanceUIDs={study}")
        page.wait_for_selector("text=/I: ?\\d+ \\(\\d+\\/30\\)/")
        page.results = out
        yield page
        page.close()


def show(page, modality):
    """Open the last series of a modality by a double click on its entry."""
    entries = page.locator('[data-cy^="study-browser-thumbnail"]')
    entries.filter(has_text=re.compile(rf"^\s*{modality}", re.MULTILINE)).last.dblclick()


def picture(page, name):
    if folder := os.environ.get("COVCT_OHIF_PICTURES"):
        page.screenshot(path=Path(folder, f"{name}.png"))


def number(page):
    """Of the slice that is shown; None where none is."""
    found = re.search(r"I: ?\d+ \((\d+)/30\)", page.inner_text("body"))
    return found and int(found[1])


def numbers(page, click, times):
    """Of the slices that are shown after each of so many clicks."""
    seen = []
    for index in range(times):
        click(index)
        page.wait_for_timeout(2000)
        seen.append(number(page))
    return seen


def sound(page):
    return "Something went wrong" not in page.inner_text("body")


def test_figures_of_the_sr_are_drawn_and_a_click_jumps_to_their_slices(viewer):
    """Not always before the first click: OHIF draws them when it draws the slice again."""
    show(viewer, "SR")
    following = viewer.locator('[data-cy="viewport-pane"] svg.rotate-180')
    seen = numbers(viewer, lambda _: following.click(), 5)
    picture(viewer, "sr")
    assert len(set(seen)) > 1 and sound(viewer)
    assert re.search(r"Volume: [\d.]+ mL", viewer.inner_text("body"))


def test_segments_are_listed_and_a_click_jumps_to_them(viewer):
    show(viewer, "SEG")
    viewer.get_by_role("button", name=re.compile("^yes$", re.IGNORECASE)).click()
    viewer.wait_for_selector("text=/\\(\\d+\\/30\\)/")
    viewer.locator('[data-cy="panelSegmentation-btn"]').click()
    rows = viewer.locator('[data-cy="data-row"]')
    rows.first.wait_for()
    viewer.wait_for_timeout(3000)
    labels = [row.inner_text().split("\n")[-1] for row in rows.all()]
    assert labels == [segment.label for segment in SEGMENTS]
    seen = numbers(viewer, lambda index: rows.nth(index).click(), len(labels))
    picture(viewer, "seg")
    assert len(set(seen)) > 1 and sound(viewer)


def test_captures_are_pictures_and_a_key_object_is_not_shown(viewer):
    show(viewer, "KO")
    viewer.wait_for_timeout(2000)
    assert number(viewer) == 1, "the slices stay"
    show(viewer, "CT")
    viewer.wait_for_function("!/\\(\\d+\\/30\\)/.test(document.body.innerText)")
    viewer.wait_for_timeout(3000)
    picture(viewer, "capture")
    assert sound(viewer)


def test_the_report_is_shown_as_it_was_written(viewer):
    """In the browser's own reader of PDF, of which a test sees the frame only: it is asked for what it was given."""
    show(viewer, "DOC")
    shown = viewer.locator('object[type="application/pdf"]')
    shown.wait_for(state="attached")
    viewer.wait_for_timeout(5000)
    picture(viewer, "pdf")
    [written] = viewer.results.glob("*/*/report.pdf")
    given = viewer.evaluate(
        "async address => [...new Uint8Array(await (await fetch(address)).arrayBuffer())]", shown.get_attribute("data")
    )
    assert bytes(given).rstrip(b"\0") == written.read_bytes().rstrip(b"\0") and sound(viewer)
