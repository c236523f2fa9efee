"""The viewer as a person uses it, in a real browser: choose, look, compare, paint, save."""

import json
import re
import threading

import numpy as np
import pydicom
import pytest
from playwright.sync_api import expect

from covct.data.read_case import read_case
from covct.viewer.answers import Viewer
from covct.viewer.marks import to_runs
from covct.viewer.opened import open_study
from covct.viewer.saved import save
from covct.viewer.server import listening
from covct.viewer.studies import studies_of
from support.browser import chromium
from support.labelled import find_cases
from support.line import night
from support.running import invoke

READER = "Lee^Kim"


@pytest.fixture(scope="module")
def browser():
    with chromium() as one:
        yield one


@pytest.fixture(scope="module")
def tree(phantom_series):
    return night(phantom_series, formats=("seg", "page")).out


def is_fault(told):
    """What is refused in a sentence is none."""
    return told.type == "error" and "status of 400" not in told.text


@pytest.fixture
def viewed(browser, tree, phantom_series, tmp_path):
    """A function that opens the viewer; what it asked of others, or complained about, is nothing."""
    faults, ends = [], []

    def opened(*sources, **options):
        viewer = Viewer(studies_of(tree, sources), tmp_path / "saved", with_scan=True)
        listens = listening(viewer, "127.0.0.1", 0)
        server = listens.__enter__()
        ends.append((server, listens))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = browser.new_context(viewport={"width": 1300, "height": 1000}, **options).new_page()
        own = ("data:", f"http://127.0.0.1:{server.guard.port}/")
        page.on("request", lambda asked: faults.append(asked.url) if not asked.url.startswith(own) else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda told: faults.append(told.text) if is_fault(told) else None)
        page.goto(server.guard.address(server.guard.token))
        return page

    yield opened
    for server, listens in ends:
        server.shutdown()
        listens.__exit__(None, None, None)
    assert not faults


def loaded(page):
    expect(page.locator("#told")).not_to_have_text(re.compile("^$"))
    expect(page.locator("#loading")).to_have_text("")
    return page


def painted(page, share=(0.3, 0.5), to=(0.4, 0.5)):
    box = page.locator("#marked").bounding_box()
    (x, y), (then, there) = ((box["x"] + box["width"] * a, box["y"] + box["height"] * b) for a, b in (share, to))
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(then, there, steps=4)
    page.mouse.up()


def test_choose_infection_and_see_scan_and_mask(viewed, phantom_series):
    page = viewed(phantom_series)
    assert "token" not in page.url
    page.get_by_role("link", name="opacity").click()
    loaded(page)
    expect(page.locator("#plain")).to_be_visible()
    expect(page.locator("#lungs")).not_to_be_checked()
    expect(page.locator("#infection")).to_be_checked()
    assert page.locator("#plain").screenshot() != page.locator("#marked").screenshot()
    page.go_back()
    page.get_by_role("link", name="lungs").click()
    loaded(page)
    expect(page.locator("#lungs")).to_be_checked()
    expect(page.locator("#infection")).not_to_be_checked()
    assert page.evaluate("document.cookie") == "", "no script reads it"


@pytest.mark.slow
def test_a_mask_is_corrected_saved_and_read(viewed, tree, phantom_series, tmp_path):
    page = loaded(viewed_series(viewed(phantom_series)))
    before = page.locator("#marked").screenshot()
    at = int(re.search(r"slice (\d+)", page.inner_text("#told"))[1]) - 1
    window = re.search(r"Window .*", page.inner_text("#told"))[0]
    page.keyboard.press("p")
    page.locator("#brush").fill("24")
    painted(page)
    expect(page.locator("#save")).to_be_enabled()
    assert page.locator("#marked").screenshot() != before
    assert window in page.inner_text("#told"), "the brush drags no window"
    page.keyboard.press("z")
    page.wait_for_timeout(100)
    assert page.locator("#marked").screenshot() == before
    painted(page)
    page.locator("#save").click()
    expect(page.locator("#kept")).to_have_text(re.compile("^Not done: nobody is named as the reader"))
    page.locator("#reader").fill("")
    page.locator("#reader").press_sequentially(READER)  # with letters that are keys elsewhere: L, i, e
    expect(page.locator("#reader")).to_have_value(READER)
    page.locator("#save").click()
    expect(page.locator("#kept")).to_have_text(re.compile(r"^Saved: .*\.seg\.dcm in"))
    expect(page.locator("#save")).to_be_disabled()

    [study] = studies_of(tree, [phantom_series])
    original = open_study(study).mask("infection")
    data = tmp_path / "saved"
    [case] = find_cases(data)
    corrected = read_case(case).infection > 0
    added = corrected & ~original
    assert added[at].sum() > 50 and not (original & ~corrected).any()
    assert not np.delete(added, at, axis=0).any(), "one slice was painted, as shown"
    rows, columns = np.nonzero(added[at])
    assert 60 < rows.mean() < 68 and 0.28 * 128 < columns.mean() < 0.42 * 128, "where the brush was"
    [seg] = data.glob("*.seg.dcm")
    assert str(pydicom.dcmread(seg).ContentCreatorName) == READER
    done = invoke("evaluate", data, "--predictions", data, "-o", tmp_path / "out", "--task", "infection")
    assert done.exit_code == 0, done.output
    [group] = json.loads((tmp_path / "out" / "evaluation.json").read_text())["groups"]
    assert group["pooled"]["dice"]["value"] == 1


def viewed_series(page):
    page.get_by_role("link", name="both").click()
    return page


def test_a_truth_is_uploaded_and_differences_are_shown(viewed, tree, phantom_series, tmp_path):
    [study] = studies_of(tree, [phantom_series])
    opened = open_study(study)
    less = np.zeros(opened.labels.shape[1:], np.uint8)
    opened.correct({"20": to_runs(less)})
    [path] = save(opened, tmp_path / "truth", "Other")
    page = loaded(viewed_series(viewed(phantom_series)))
    page.set_input_files("#truth", path)
    expect(page.locator("#answer")).to_have_text(
        re.compile(
            r"Opacity as saved against the truth: Dice 0\.\d{3}, IoU 0\.\d{3}; 0\.0 mL missed, \d+\.\d mL beyond"
        )
    )
    expect(page.locator("#differing")).to_be_visible()
    page.locator("#most").click()
    expect(page.locator("#told")).to_have_text(re.compile("^slice 21 of 30"))
    page.wait_for_timeout(100)
    shown = page.locator("#plain").screenshot()
    page.keyboard.press("d")
    expect(page.locator("#differing")).to_be_hidden()
    page.wait_for_timeout(100)
    assert page.locator("#plain").screenshot() != shown
    other = tmp_path / "other.dcm"
    other.write_bytes(b"nothing")
    page.set_input_files("#truth", other)
    expect(page.locator("#answer")).to_have_text(re.compile("^Not done: the file is no mask"))


def test_without_its_scan_the_page_of_the_result_is_shown(viewed):
    page = loaded(viewed_series(viewed()))
    expect(page.locator(".notice").first).to_have_text(re.compile("result alone: the scan is not among the sources"))
    expect(page.locator("#marked")).to_be_visible()
    assert page.locator("#save").count() == 0
