"""The page of one series: its slices are those of the scan, its marks those of the masks, and it stays small."""

import base64
import hashlib
import json
import re
from dataclasses import replace

import cv2
import numpy as np
import pydicom
import pytest

from covct.results import study_page, study_pictures
from covct.results.amounts import amount, ends
from covct.results.study_pictures import HU_A_GREY, LOWEST_HU, Encoding, fitting, pictures
from covct.results.writers import WRITERS
from covct.terms import MILLILITRE
from support.line import night
from support.pages import Elements


@pytest.fixture(scope="module")
def done(phantom_series):
    return night(phantom_series, formats=("page", "nifti"))


@pytest.fixture(scope="module")
def page(done):
    return (done.result / "study.html").read_text()


def shown(page):
    """Slice numbers to JPEG and PNG, as the page's script finds them."""
    found = re.findall(r'<script type="text/plain" data-slice="(\d+)">([^,<]*),([^<]*)</script>', page)
    return {int(index): tuple(base64.b64decode(one) for one in both) for index, *both in found}


def picture(encoded):
    return cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)


def given(page):
    return json.loads(re.search(r'<script type="application/json" id="scan">(.*?)</script>', page)[1])


def test_the_slices_are_those_of_the_scan(page, phantom):
    slices = shown(page)
    hu = phantom.volume.to_patient_orientation("FPL").array  # head first
    assert sorted(slices) == list(range(len(hu)))
    told = np.stack([picture(slices[index][0]) for index in sorted(slices)]) * float(HU_A_GREY) + LOWEST_HU
    assert np.abs(told - np.clip(hu, LOWEST_HU, LOWEST_HU + 255 * HU_A_GREY)).mean() < 4 * HU_A_GREY


def test_the_marks_are_the_masks_bit_by_bit(page, done):
    slices, scan = shown(page), given(page)
    counted = [
        (np.count_nonzero(picture(png)), np.count_nonzero(picture(png) & 4)) if png else (0, 0)
        for _, (_, png) in sorted(slices.items())
    ]
    assert counted == list(zip(scan["lung"], scan["infected"], strict=True))
    report, voxel = done.report, done.report["geometry"]["voxel_volume_mm3"] / 1000
    assert sum(scan["lung"]) * voxel == pytest.approx(report["regions"]["lungs"]["volume_ml"], abs=0.01)
    assert sum(scan["infected"]) * voxel == pytest.approx(report["regions"]["lungs"]["infection_ml"], abs=0.01)
    assert scan["infected"][scan["first"]] == max(scan["infected"])


def test_a_lesion_leads_to_where_it_lies(page):
    slices = shown(page)
    places = [tuple(map(int, at.split())) for at in re.findall(r'data-at="([\d ]+)"', page)]
    marked = [picture(slices[at][1])[max(0, row - 4) : row + 5, max(0, column - 4) : column + 5] & 4
              for at, row, column in places]  # fmt: skip
    assert places and sum(one.any() for one in marked) >= 0.8 * len(places), "a centroid may lie beside a crescent"


def test_it_fetches_nothing_and_runs_its_own_script_alone(page):
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)[1]
    [script] = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert f"script-src 'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert not re.search(r"https?://|//cdn", page)
    assert not [one for one in Elements(page).attributes if one[1].startswith("on")]


def test_nobody_is_named(phantom_series, page):
    header = pydicom.dcmread(next(phantom_series.iterdir()), stop_before_pixels=True)
    for keyword in ("PatientName", "PatientID", "StudyDate", "PatientBirthDate", "AccessionNumber"):
        value = str(header.get(keyword) or "")
        assert not value or value not in Elements(page).text


def test_what_comes_from_outside_is_no_markup(result_of):
    hostile = "<script>alert('x')</script>\"&</script>"
    result = result_of()
    report = json.loads(json.dumps(result.report))
    report["warnings"] = [{"slug": hostile, "message": hostile}]
    report["source"]["path"] = report["selection"]["reasons"][0] = hostile
    report["selection"]["left_out"] = [{"series_instance_uid": hostile, "slug": "x", "message": hostile}]
    page = study_page.study_page(replace(result, report=report))
    assert "<script>alert" not in page and Elements(page).text.count("alert('x')") >= 5


@pytest.fixture
def result_of(phantom_series, monkeypatch):
    """The result that a page was made of."""
    seen = []

    def keep(result, folder, *_):
        seen.append(result)
        (folder / "study.html").touch()

    def made():
        monkeypatch.setitem(WRITERS, "page", keep)
        night(phantom_series, formats=("page",))
        return seen[-1]

    return made


def test_figures_that_are_withheld_are_dashes(result_of):
    result = result_of()
    report = json.loads(json.dumps(result.report))
    for region in report["regions"].values():
        for name in [key for key in region if key != "thirds"]:
            region[name] = None
        for third in region["thirds"].values():
            third.update(dict.fromkeys(third))
    report["lesions"] = {"count": 0, "smallest_counted_ml": None, "largest": []}
    page = study_page.study_page(replace(result, report=report))
    assert "no percentage" in page and "None" not in Elements(page).text


@pytest.mark.parametrize("shape", [(1, 64, 64), (3, 1, 5), (40, 200, 200)])
def test_every_scan_fits(shape, monkeypatch):
    """Noise is the worst: it does not compress."""
    monkeypatch.setattr(study_pictures, "BYTES_MOST", 60_000)
    hu = np.random.default_rng(0).integers(-1024, 506, shape).astype(np.int16)
    encoding = fitting(hu)
    lungs = np.zeros(shape, np.uint8)
    drawn = list(pictures(hu, lungs, lungs > 0, encoding))
    assert sum(len(one.grey) for one in drawn) <= max(60_000, 700 * shape[0])
    assert encoding.rows <= shape[1] and not any(one.marks for one in drawn)


def test_smaller_pictures_keep_the_marks_apart():
    marked = np.zeros((1, 64, 64), np.uint8)
    marked[0, 10:30, 10:30], marked[0, 10:30, 34:54] = 1, 2
    infection = np.zeros(marked.shape, bool)
    infection[0, 20:30, 10:20] = True
    [one] = pictures(np.zeros(marked.shape, np.int16), marked, infection, Encoding(32, 32, 80))
    assert np.unique(picture(one.marks)).tolist() == [0, 1, 2, 5]
    assert (one.lung, one.infected) == (800, 100)


def test_an_amount_and_both_ends_of_its_interval_have_the_same_decimals():
    """One rule, that of shares: by the interval's width."""
    assert (amount(1204.31, MILLILITRE, (9.51, 1420.0)), ends((9.51, 1420.0))) == ("1,204 mL", "10–1,420")
    assert (amount(12.34, MILLILITRE, (9.51, 14.0)), ends((9.51, 14.0))) == ("12.3 mL", "9.5–14.0")
    assert [amount(value, MILLILITRE) for value in (9.51, 12.34, None)] == ["9.5 mL", "12 mL", "-"]
