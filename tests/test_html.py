"""Pages by one base template and one stylesheet: nothing from outside becomes markup, nothing is fetched or run."""

import base64
import hashlib
import re
from dataclasses import replace
from datetime import UTC, datetime
from html import escape

import numpy as np
import pytest
from jinja2 import UndefinedError

from covct import html
from covct.data.cases import LeftOut
from covct.data.explore import Example, Exploration, Histogram
from covct.data.explore_page import as_html as explore_page
from covct.data.facts import Facts
from covct.evaluation.anatomy import REGIONS
from covct.evaluation.judge import Picture
from covct.evaluation.outline import SCORES as OUTLINE
from covct.evaluation.page import as_html as evaluation_page
from covct.evaluation.page_detection import COMPARED, CURVES
from covct.results.entries import Entry
from covct.results.page import as_html as night_page
from support.pages import Elements

HOSTILE = "<script>alert('x')</script>\"&<b>"
ELEMENTS = {
    "html", "head", "meta", "title", "style", "body", "header", "section", "footer", "h1", "h2", "h3", "p", "ul", "li",
    "dl", "dt", "dd", "table", "thead", "tbody", "tr", "th", "td", "a", "b", "i", "br", "code", "small", "span",
    "strong", "time", "div", "details", "summary", "figure", "figcaption", "img", "svg", "rect", "line", "text",
    "polyline", "circle", "main", "label", "input", "select", "option", "output",
}  # fmt: skip


def night():
    texts = ("slug", "message", "study_instance_uid", "series_instance_uid", "source", "covct_version", "finished",
             "severity_label")  # fmt: skip
    one = Entry(
        f"1.2/{HOSTILE}", "done", **dict.fromkeys(texts, HOSTILE), severity_class=3,
        figures={("infection_percent", "lungs"): 12.5},
        intervals={"infection_percent": (9.0, 15.5)}, files=("overlay.png", HOSTILE), warnings=((HOSTILE, HOSTILE),),
    )  # fmt: skip
    return night_page([one, replace(one, status="failed"), replace(one, status="rejected")], datetime.now(UTC))


def value(number):
    return {"value": number, "interval": [number - 0.125, number + 0.125], "cases": 2, "infinite": 1}


def evaluation():
    """A document in which every text that comes from outside is hostile."""
    agreement = {key: value(1.5) for key in ("bias", "mean_absolute_error", "lower_limit", "upper_limit")}
    bins = [{"from": 0.0, "to": 0.1, "pixels": 9, "probability": 0.05, "frequency": 0.5}]
    curve = [{"threshold": 0.5, "dice": 0.75}]
    shares = {"sensitivity": value(0.75), "precision": value(0.75)}
    points = [{"threshold": 0.9, "recall": x, "precision": 1 - x, "false_positive_rate": x / 2} for x in (0.1, 0.9)]
    names = ("dice", "iou", "precision", "recall", "specificity", "accuracy", "f1", "hd95_mm", "surface_dice")
    group = {
        "source": HOSTILE, "task": "infection", "patients": 1, "cases": 2, "slices": 1200,
        "pooled": dict.fromkeys(names, value(0.75)), "mean": dict.fromkeys(names, value(0.75)),
        **dict.fromkeys(("volume_ml", "volume_error_percent", "percent_of_lung"), agreement),
        "calibration": {"expected_calibration_error": value(0.25), "brier_score": value(0.25), "bins": bins},
        "thresholds": {"curve": curve, "by_other_patients": {"dice": 0.75, "least": 0.5, "most": 0.5}},
        "outline": dict.fromkeys(OUTLINE, value(0.75)), "marked_inside_lungs": value(0.75),
        "burden": {"patients": 3, "mean_absolute_error": value(2.5),
                   "classes": [{"truth": 2, "called": 2, "patients": 2}, {"truth": 2, "called": 1, "patients": 1}]},
        "lesions": {**shares, "recognition_quality": value(0.75), "by_size": [
            {**shares, "from_ml": 0.1, "to_ml": end, "found": 3, "missed": 1, "called": 5, "false": 2}
            for end in (1.0, None)
        ]},
        "curves": {**dict.fromkeys(CURVES, value(0.75)), "points": points},
        "intervals": {"cases": 3, "held": 2, "level": 0.9, "mean_width": 4.5},
    }  # fmt: skip
    slices = {"labelled": 80, "found": 72, "clear": 59, "called": 17}
    without = {"percent_of_lung": 1.0, "percent_of_aerated_lung": 2.0, "lungs": "found"}
    region = {"ml": 1.5, "percent_of_lung": 0.5, "share": 0.125}
    false = {"ml": 12.0, "percent_of_lung": 0.25, "regions": dict.fromkeys(REGIONS, region)}
    calls = {
        "source": HOSTILE, "patients": 1, "cases": 2,
        "by_slice": {**slices, "sensitivity": value(0.9), "specificity": value(0.75)},
        "false_calls": {**false, "percent_of_lung": value(0.25),
                        "regions": dict.fromkeys(REGIONS, {**region, "share": value(0.125)})},
        "calls_without_truth": {**without, "percent_of_lung": value(1.0), "percent_of_aerated_lung": value(2.0)},
        "robustness": {HOSTILE: {"mean_absolute": value(0.5), "worst": 1.5}},
    }  # fmt: skip
    quartiles = {"slices": 9, "p5": 0.1, "q1": 0.2, "median": 0.5, "q3": 0.7, "p95": 0.9}
    pair = {"truth": 12.0, "called": 10.0}
    figures = {**dict.fromkeys(names, 0.75), "hd95_infinite": False, "slice_dice": quartiles, "volume_ml": pair,
               "volume_error_percent": -4.0, "percent_of_lung": pair, "curves": {"points": points},
               "counts": {"hit": 6, "invented": 2, "missed": 2, "rest": 90}}  # fmt: skip
    compared = {"value": 0.75, "against": 0.5, "difference": value(0.25)}
    against = {
        "what": "networks", "groups": [{"task": "infection", "source": HOSTILE, "patients": 2,
                                        "figures": dict.fromkeys(COMPARED, compared)}],
        "cases": [{"case": HOSTILE, "source": HOSTILE, "task": "infection", "dice": 0.75, "against": 0.5}],
    }  # fmt: skip
    case = {"case": HOSTILE, "patient": HOSTILE, "source": HOSTILE, "slices": 9, "spacing_mm": [5.0, 1.0, 1.0],
            "seen_by": [HOSTILE], "tasks": {"infection": figures},
            "calls_without_truth": without, "by_slice": slices, "false_calls": false}  # fmt: skip
    return {
        "research_use": HOSTILE, "covct_version": HOSTILE, "software": {HOSTILE: HOSTILE},
        "settings": {"tasks": ["infection"], "resamples": 2000, "surface_tolerance_mm": 2.0},
        "judged": {"what": "networks", "cards": {HOSTILE: {"sha256": HOSTILE, "threshold": 0.5}}},
        "also_seen": True, "notes": [HOSTILE], "groups": [group, {**group, "source": "other"}],
        "cases": [case, {**case, "patient": f"{HOSTILE} 2"}],
        "calls": [calls], "against": against,
        "left_out": [{"case": HOSTILE, "source": HOSTILE, "reason": HOSTILE}],
    }  # fmt: skip


def judged():
    picture = Picture(HOSTILE, 3, 9, 0.5, b"png")
    history = {HOSTILE: {"loss": [1.0, 0.5]}, "lungs": None}
    return evaluation_page(evaluation(), history, {"infection": [picture]})


def explored():
    facts = Facts(
        name=HOSTILE, source=HOSTILE, layout=HOSTILE, patient=HOSTILE, domain="hu", told_by=HOSTILE, shape=(2, 8, 8),
        spacing_mm=(5.0, 1.0, 1.0), intensity=(-1000.0, -990.0, -800.0, 40.0, 90.0), orientation=HOSTILE,
        labels=(HOSTILE,), lung_share=0.5, infection_share=0.1, outside_share=0.0,
        class_shares={"ground_glass": 0.5, "consolidation": 0.5, "effusion": 0.0}, without_lung=0, without_infection=1,
        cropped=0, healthy=-850.0, infected=-450.0, negative=True,
    )  # fmt: skip
    edges = np.arange(-1100, 501, 20)
    counts = {"image": np.ones(len(edges) - 1), "healthy lung": np.ones(len(edges) - 1)}
    slice_ = np.zeros((256, 256), np.uint8)
    return explore_page(
        Exploration(
            facts=[facts, replace(facts, domain="clahe-8bit")],
            left_out=[LeftOut(HOSTILE, HOSTILE, HOSTILE, HOSTILE)],
            alike=[{"cases": [HOSTILE, HOSTILE], "slices": 1, "likeness": 0.99}],
            doubtful=[{"source": HOSTILE, "case": HOSTILE, "message": HOSTILE}],
            histograms={HOSTILE: Histogram("HU", edges, counts)},
            examples=[Example(HOSTILE, HOSTILE, 0, slice_.astype(np.int16), slice_, slice_ > 0)],
        ),
        HOSTILE,
    )


PAGES = {"night": night, "evaluation": judged, "explore": explored}


@pytest.fixture(params=PAGES)
def page(request):
    return PAGES[request.param]()


def test_text_from_outside_is_text_wherever_it_stands(page):
    found = Elements(page)
    assert found.names - {"script"} <= ELEMENTS
    assert page.count("<script") == page.count(html.inline_script("night.js")["script"]) and '<b>"' not in page
    assert not [a for a in found.attributes if a[1].startswith("on") or a[1] == "style"]
    assert found.text.count(HOSTILE) > 5, "and it is there to be read"


def test_page_is_one_file_that_fetches_nothing_and_runs_nothing_else(page):
    found = Elements(page)
    addresses = [value for _, name, value in found.attributes if name in ("src", "href")]
    assert all(re.match(r"data:image/png;base64,|#|[^:/]+(/[^:]*)?$", address) for address in addresses)
    [policy] = [value for _, name, value in found.attributes if name == "content" and "default-src" in value]
    assert policy.startswith("default-src 'none'; img-src ") and "unsafe" not in policy and "http" not in policy
    assert ("script-src" in policy) == ("<script" in page)
    [style] = re.findall(r"<style>(.*?)</style>", page, re.S)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy and style == html.stylesheet()
    assert "url(" not in style and "@import" not in style
    assert "prefers-color-scheme: dark" in style and "@media print" in style


def test_rows_are_filled_with_texts_and_only_texts():
    rows = [(HOSTILE, "{0}"), ("&amp;", "\0</td>")]
    for some in (rows, rows[:1], []):
        wanted = "".join(f"<td>{escape(one)}</td><td>{escape(other)}</td>" for one, other in some)
        assert html.filled(some, "<td>{}</td><td>{}</td>") == wanted


def test_what_a_template_misses_is_an_error_and_not_a_gap():
    document = evaluation()
    del document["notes"]
    with pytest.raises(UndefinedError, match="notes"):
        evaluation_page(document, {}, {})


def test_colours_of_all_pages_are_named_light_and_dark():
    blocks = re.findall(r":root \{(.*?)\}", html.stylesheet(), re.S)
    light, dark = (set(re.findall(r"--([\w-]+):", block)) for block in blocks[:2])
    assert set(re.findall(r"var\(--([\w-]+)\)", html.stylesheet())) == light == dark


def test_classes_of_the_stylesheet_are_those_of_the_pages():
    """One stylesheet for all pages: what no page has any more goes from it."""
    template = html.files("covct").joinpath("templates", "study.html").read_text()  # made of a scan, in its own test
    elements = [*(Elements(one()) for one in PAGES.values()), Elements(template)]
    in_study = {"study", "side"}  # of the body, and set by the script
    on_request = {"known"}  # with --show-identifiers, in tests of its own
    classes = [value for one in elements for _, name, value in one.attributes if name == "class"]
    written = in_study | on_request | {cls for value in classes for cls in value.split()}
    selectors = re.sub(r"\{[^{}]*\}|[\d.]+px", "", html.stylesheet())
    by_figures = {f"{letter}{number}" for letter in "cs" for number in range(6)} | {"none", "start", "end", "green"}
    assert set(re.findall(r"\.([a-z][\w-]*)", selectors)) - written <= by_figures
