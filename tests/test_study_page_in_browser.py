"""The study page as a person uses it: in a real browser, by wheel, keys, finger and print."""

import re

import pytest
from playwright.sync_api import expect

from support.browser import chromium, opened
from support.line import night


@pytest.fixture(scope="module")
def browser():
    with chromium() as one:
        yield one


@pytest.fixture(scope="module")
def path(phantom_series):
    return night(phantom_series, formats=("page",)).result / "study.html"


@pytest.fixture
def study(browser, path):
    page, faults = opened(browser, path, viewport={"width": 1300, "height": 900})
    expect(page.locator("#told")).not_to_have_text(re.compile("^$"))
    expect(page.locator("#loading")).to_have_text("")
    yield page
    assert not faults
    page.context.close()


def place(page):
    return int(re.search(r"(\d+) of", page.inner_text("#told"))[1])


def seen(page):
    return page.locator("#marked").screenshot()


def test_wheel_keys_and_slider_change_the_slice(study):
    start = place(study)
    study.hover("#stage")
    study.mouse.wheel(0, 100)
    expect(study.locator("#told")).to_have_text(re.compile(f"^slice {start + 1} of 30"))
    study.focus("#stage")
    for key, wanted in (("ArrowUp", start), ("Home", 1), ("PageDown", 11), ("End", 30), ("ArrowDown", 30)):
        study.keyboard.press(key)
        expect(study.locator("#told")).to_have_text(re.compile(f"^slice {wanted} of 30"))
    study.locator("#position").fill("14")
    expect(study.locator("#told")).to_have_text(re.compile("^slice 15 of 30"))
    expect(study.locator("#position")).to_have_attribute("aria-valuetext", "15 of 30")


def test_marks_come_and_go(study):
    both = seen(study)
    study.keyboard.press("i")
    expect(study.locator("#infection")).not_to_be_checked()
    study.wait_for_timeout(100)
    without = seen(study)
    study.keyboard.press("i")
    study.wait_for_timeout(100)
    assert seen(study) == both != without
    study.locator("#opacity").fill("0")
    study.wait_for_timeout(100)
    assert seen(study) != both


def test_windows_and_planes(study):
    lung = seen(study)
    study.check("input[value=mediastinum]")
    expect(study.locator("#told")).to_have_text(re.compile(r"40 / 400 HU"))
    assert seen(study) != lung
    for key, words, first, second in (("2", "coronal plane", "R", "L"), ("3", "sagittal plane", "A", "P")):
        study.keyboard.press(key)
        expect(study.locator("#told")).to_have_text(re.compile(f"^{words} 65 of 128"))
        expect(study.locator("#stage span").nth(4)).to_have_text(first)
        expect(study.locator("#stage span").nth(5)).to_have_text(second)
        expect(study.locator("#strip")).to_be_hidden()


def test_a_drag_changes_the_window(study):
    study.hover("#stage")
    study.mouse.down()
    study.mouse.move(500, 500)
    study.mouse.up()
    expect(study.locator("#told")).not_to_have_text(re.compile(r"-600 / 1500"))
    expect(study.locator("input[value=lung]")).not_to_be_checked()


def test_side_by_side(study):
    expect(study.locator("#plain")).to_be_hidden()
    study.keyboard.press("s")
    expect(study.locator("#plain")).to_be_visible()
    plain, marked = (study.locator(one).bounding_box() for one in ("#plain", "#marked"))
    assert plain["width"] == pytest.approx(marked["width"], abs=2) and plain["x"] < marked["x"]


def test_a_lesion_is_one_click_away(study):
    button = study.locator(".lesions button").last
    wanted = re.search(r"slice (\d+)", button.inner_text())[1]
    button.click()
    expect(study.locator("#told")).to_have_text(re.compile(f"^slice {wanted} of"))


def test_on_a_phone_in_the_dark(browser, path):
    page, faults = opened(
        browser, path, viewport={"width": 390, "height": 844}, color_scheme="dark", has_touch=True, is_mobile=True
    )
    expect(page.locator("#told")).not_to_have_text(re.compile("^$"))
    expect(page.locator("#loading")).to_have_text("")
    widths = page.locator("body, #stage, #strip, #position").evaluate_all("all => all.map(one => one.scrollWidth)")
    assert max(widths) <= 390 and not faults
    page.context.close()


def test_two_sheets_of_paper(study):
    pdf = study.pdf(format="A4", margin=dict.fromkeys(("top", "bottom", "left", "right"), "12mm"))
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 2


def test_without_scripts_the_figures_are_there(browser, path):
    page, _ = opened(browser, path, java_script_enabled=False)
    expect(page.locator("table").first).to_be_visible()
    expect(page.locator("#viewer")).to_be_hidden()
    assert "scripts are switched off" in page.locator("noscript").inner_html()
    page.context.close()


@pytest.mark.parametrize(("width", "height"), [(1300, 900), (700, 1300), (1600, 420)])
@pytest.mark.parametrize("key", ["1", "2", "s"])
def test_nothing_is_drawn_out_of_shape(browser, path, width, height, key):
    page, faults = opened(browser, path, viewport={"width": width, "height": height})
    expect(page.locator("#told")).not_to_have_text(re.compile("^$"))
    page.keyboard.press(key)
    expect(page.locator("#marked")).to_be_visible()
    page.wait_for_timeout(150)
    box = page.locator("#marked").bounding_box()
    wanted = float(re.search(r"--ratio: ([\d.]+)", page.locator("#marked").get_attribute("style"))[1])
    assert box["width"] / box["height"] == pytest.approx(wanted, rel=0.02) and not faults
    page.context.close()


def test_a_slice_that_cannot_be_decoded_is_named_and_the_others_are_shown(browser, path, tmp_path):
    damaged = tmp_path / "study.html"
    text = path.read_text()
    damaged.write_text(re.sub(r'(data-slice="4">)[^,]*', r"\1AAAA", text, count=1))
    page, faults = opened(browser, damaged)
    expect(page.locator("#told")).not_to_have_text(re.compile("^$"))
    expect(page.locator("#loading")).to_have_text("")
    page.locator("#position").fill("4")
    expect(page.locator("#told")).to_have_text(re.compile("^slice 5 of 30.*, cannot be shown"))
    page.locator("#position").fill("5")
    expect(page.locator("#told")).to_have_text(re.compile("^slice 6 of 30(?!.*cannot)"))
    assert not faults
    page.context.close()
