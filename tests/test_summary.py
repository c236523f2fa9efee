import csv
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from html.parser import HTMLParser

import pytest

from covct import RESEARCH_USE
from covct.html import stylesheet
from covct.results import entries as results
from covct.results import page as page_module
from covct.results import summary
from covct.results.entries import Entry, read_tree, worst_first
from covct.results.nights import nights_of
from covct.results.page import as_html
from covct.results.summary import Summary, write_summary
from support.example_report import example_report
from support.tree import DICOM_FILES, put, view

NIGHT = datetime(2026, 3, 4, 6, 30, tzinfo=timezone(timedelta(hours=1)))


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def percent(value):
    return example_report(regions__lungs__infection_percent=value)


def shown(percent, right=None, left=None, interval=None, **more):
    """An entry with these shares."""
    shares = {"lungs": percent, "right_lung": right, "left_lung": left}
    figures = {("infection_percent", region): share for region, share in shares.items()}
    return Entry("a/b", "done", figures=figures, intervals={"infection_percent": interval}, **more)


def page(out):
    return (out / "index.html").read_text(encoding="utf-8")


def rows(out):
    with open(out / "summary.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


class Tags(HTMLParser):
    """Start tags with their attributes, and the text of a page."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag, key):
        return [attributes[key] for name, attributes in self.tags if name == tag and key in attributes]


def test_done_series_keeps_its_figures(out):
    put(out, "1.2/1.2.3")
    [entry] = read_tree(out)
    assert (entry.status, entry.folder, entry.series_instance_uid) == ("done", "1.2/1.2.3", "1.2.3")
    assert (entry.figure("volume_ml"), entry.figure("infection_ml")) == (4400.0, 540.0)
    assert entry.figure("infection_percent", "right_lung") == 10.0
    assert entry.severity_class == 2
    assert entry.warnings[0][0] == "thick-slices"
    assert dict(entry.valid_for) == {"volume": True, "percent": True, "hu_bands": True}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"status": "do',
        b"[]",
        b"\xff\xfe\x00broken",
        b'{"status": "excellent"}',
        b'{"status": NaN}',
        b"[" * 100_000,
    ],
)
def test_damaged_outcome_is_a_failed_entry_and_hides_no_other(out, content):
    put(out, "1.2/1.2.3")
    (put(out, "1.2/1.2.4") / "outcome.json").write_bytes(content)
    good, damaged = read_tree(out)
    assert good.status == "done"
    assert (damaged.status, damaged.slug, damaged.series_instance_uid) == ("failed", "damaged-result", "1.2.4")
    write_summary(out)


@pytest.mark.parametrize("report", ["{", "[1]", "{}", '{"regions": {"lungs": 7}}', json.dumps(percent(101))])
def test_damaged_report_is_a_failed_entry(out, report):
    (put(out, "1.2/1.2.3") / "report.json").write_text(report)
    [entry] = read_tree(out)
    assert (entry.status, entry.slug, entry.finished) == ("failed", "damaged-result", "2026-03-04T02:15:00Z")


def test_done_without_its_report_is_damaged(out):
    (put(out, "1.2/1.2.3") / "report.json").unlink()
    [entry] = read_tree(out)
    assert entry.slug == "damaged-result"
    assert "report.json is missing" in entry.message


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"severity__class": True}, "severity.class is true, wanted a whole number"),
        ({"warnings": "none"}, 'warnings is "none", wanted a list'),
        ({"valid_for": []}, "valid_for is a list, wanted an object"),
        ({"regions__right_lung": "?"}, "regions.right_lung is a text, wanted an object"),
        ({"regions__lungs__infection_percent": 101}, "regions.lungs.infection_percent is 101, wanted at most 100"),
        ({"valid_for__percent": False}, "regions.right_lung.infection_percent is given, wanted null since valid_for.p"),
    ],
)
def test_a_damaged_report_is_named_with_the_field(out, changes, said):
    put(out, "1.2/1.2.3", report=example_report(**changes))
    [entry] = read_tree(out)
    assert (entry.status, entry.slug) == ("failed", "damaged-result")
    assert f"report.json: {said}" in entry.message
    write_summary(out)


def test_a_damaged_outcome_is_named_with_the_field(out):
    put(out, "1.2/1.2.3", seconds="long")
    [entry] = read_tree(out)
    assert (entry.status, entry.slug) == ("failed", "damaged-result")
    assert entry.message == 'the result cannot be read: outcome.json: seconds is "long", wanted a number'


def test_a_report_of_the_first_version_is_read(out):
    """It has no intervals, nor what else came later."""
    report = example_report()
    for name in ("uncertainty",):
        del report[name]
    for region in report["regions"].values():
        for name in [*region]:
            if name.endswith("_interval"):
                del region[name]
    put(out, "1.2/1.2.3", report=report)
    [entry] = read_tree(out)
    assert (entry.status, entry.infection_percent, entry.percent_interval) == ("done", 100 * 540 / 4400, None)
    assert entry.low_confidence is None


def test_folder_without_outcome_and_staging_are_not_results(out):
    (out / "1.2/1.2.3").mkdir(parents=True)
    put(out, ".covct/staging")
    put(out, "1.2/.1.2.4-new")
    assert read_tree(out) == []


def test_worst_is_first_then_failed_then_rejected(out):
    put(out, "1.1/a", "rejected", slug="too-few-slices")
    put(out, "1.1/b", report=percent(3.0))
    put(out, "1.1/c", "failed", slug="unexpected")
    put(out, "1.1/d", report=percent(None))
    put(out, "1.1/e", report=percent(55.0))
    put(out, "1.1/f", report=percent(0.0))
    entries = write_summary(out)
    assert [entry.folder[-1] for entry in entries] == ["e", "b", "f", "d", "c", "a"]
    assert [row["series_instance_uid"] for row in rows(out)] == ["e", "b", "f", "d", "c", "a"]
    html = page(out)
    places = [html.index(text) for text in ("55.0 %", ">3.0 %", "not known", ">Failed ", ">Rejected ")]
    assert places == sorted(places)


def test_what_has_no_share_of_the_lungs_is_placed_by_that_of_the_lung_in_view(out):
    for name, report in {
        "a": percent(62.0), "b": view(71.0), "c": percent(3.0), "d": view(None), "e": view(10.0)
    }.items():  # fmt: skip
        put(out, f"1.1/{name}", report=report, files=())
    entries = write_summary(out)
    assert [entry.folder[-1] for entry in entries] == ["b", "a", "e", "c", "d"]
    text = " ".join("".join(Tags(page(out)).text).split())
    assert "71.0 %of the lung in view, not of the lungsno severity class" in text
    table = {row["series_instance_uid"]: row for row in rows(out)}
    assert (table["b"]["infection_percent"], table["b"]["called_in_view_percent"]) == ("", "71.0")
    assert (table["a"]["infection_percent"], table["a"]["called_in_view_percent"]) == ("62.0", "")


def test_what_is_new_is_told_from_what_was_done_again(out):
    """By when the series first had a result: new weights make no new patients."""
    put(out, "1.2/1.2.3", moments={"a" * 64: "2026-03-04T02:15:00+00:00"})
    put(out, "1.2/1.2.4", moments={"b" * 64: "2026-02-01T02:15:00+00:00", "a" * 64: "2026-03-04T02:15:00+00:00"})
    put(out, "1.2/1.2.5")
    put(out, "1.2/1.2.6", finished="2026-03-02T02:15:00Z")
    entries = {entry.series_instance_uid: entry for entry in write_summary(out, NIGHT)}
    shown = nights_of(entries.values(), NIGHT)
    made = {uid: shown.made(entry) for uid, entry in entries.items()}
    assert made == {"1.2.3": "new", "1.2.4": "again", "1.2.5": "new", "1.2.6": ""}
    assert page(out).count("done again</p>") == 1


def test_csv_holds_a_row_a_series_with_units_in_its_names(out):
    put(out, "1.2/1.2.3")
    put(out, "1.2/1.2.9", "rejected", slug="too-few-slices", message="2 slices, at least 10 wanted")
    write_summary(out)
    done, rejected = rows(out)
    assert float(done["lungs_volume_ml"]) == 4400
    assert float(done["infection_percent"]) == pytest.approx(100 * 540 / 4400, abs=1e-3)
    assert (done["infection_percent_right"], done["infection_percent_left"]) == ("10.0", "15.0")
    ends = [float(done[f"infection_percent_{end}"]) for end in ("low", "high")]
    assert ends == pytest.approx([80 * 540 / 4400, 130 * 540 / 4400], abs=1e-3)
    assert (float(done["infection_ml_low"]), done["low_confidence"]) == (432, "no")
    assert (rejected["infection_percent_low"], rejected["low_confidence"]) == ("", "")
    assert float(done["ground_glass_ml"]) == 405
    assert float(done["infection_mass_g"]) == pytest.approx(0.4875 * 540)
    assert {done[f"lung_mean_hu{side}"] for side in ("", "_right", "_left")} == {"-790.5"}
    assert (done["severity_class"], done["valid_for_percent"], done["warnings"]) == ("2", "yes", "thick-slices")
    assert done["overlay"] == "1.2/1.2.3/overlay.png"
    assert rejected["message"] == "2 slices, at least 10 wanted"
    assert rejected["infection_percent"] == "" and rejected["valid_for_volume"] == ""
    assert {done["research_use"], rejected["research_use"]} == {RESEARCH_USE}


@pytest.mark.parametrize("hostile", ["=1+1", "+1", "-1+1", "@SUM(A1)", "\t=1+1", "bad;=1+1", "bad; @x", "\uff1d1"])
def test_csv_runs_no_formula_in_a_spreadsheet(out, hostile):
    put(out, "1.2/1.2.3", "failed", slug="unexpected", message=hostile)
    write_summary(out)
    [row] = rows(out)
    for cell in re.split(";", row["message"]):
        assert cell.strip()[0] not in "=+-@\t\uff1d"


def test_csv_of_an_empty_tree_has_its_header(out):
    out.mkdir()
    assert write_summary(out) == []
    assert (out / "summary.csv").read_text().startswith("study_instance_uid,series_instance_uid,status,")
    assert "No series has a result yet" in page(out)


def test_hostile_texts_stay_texts(out):
    hostile = "<script>alert('x')</script>\"><img src=x onerror=y>\x00\u202e"
    report = example_report(
        warnings=[{"slug": "thick-slices", "message": hostile}],
        severity={"class": 2, "scale": hostile, "label": hostile},
    )
    put(out, "1.2/1.2.3", report=report, series_instance_uid=hostile, study_instance_uid=hostile, finished=hostile)
    put(out, "1.2/1.2.4", "failed", slug=hostile, message=hostile)
    put(out, "1.2/1.2.5", "rejected", slug=hostile, message=hostile)
    put(out, "1.2/1.2.6", "rejected", slug="\ud800", message="lone surrogate \ud800")
    write_summary(out)
    html = page(out)
    found = Tags(html)
    assert not found.all("img", "onerror")
    assert [name for name, _ in found.tags].count("script") == 1, "its own"
    assert found.all("img", "src") == ["1.2/1.2.3/overlay.png"]
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in html
    assert "\x00" not in html and "\u202e" not in html


def test_page_loads_nothing_from_elsewhere(out):
    put(out, "1.2/1.2.3")
    write_summary(out)
    found = Tags(page(out))
    addresses = found.all("a", "href") + found.all("img", "src")
    assert all(not re.match(r"[a-z]+:|//", address) for address in addresses)
    assert not found.all("script", "src") and not {"link", "iframe", "base", "object"} & {
        name for name, _ in found.tags
    }
    [policy] = [tag["content"] for name, tag in found.tags if tag.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none';")
    assert not any("style" in attributes for _, attributes in found.tags)  # the policy would drop them


def test_links_lead_to_files_that_are_there(out):
    place = put(out, "1.2/1.2.3-2", series_instance_uid="1.2.3")
    for name in DICOM_FILES[1:]:
        (place / name).touch()
    write_summary(out)
    links = [address for address in Tags(page(out)).all("a", "href") if not address.startswith("#")]
    assert "1.2/1.2.3-2/segmentation.seg.dcm" in links
    assert all((out / address).is_file() for address in links)


def test_file_names_of_an_outcome_are_not_trusted(out):
    put(out, "1.2/1.2.3", files=("../../../etc/passwd", "javascript:alert(1)", "overlay.png"))
    write_summary(out)
    html = page(out)
    assert "passwd" not in html and "javascript" not in html


def test_second_acquisition_of_a_series_is_told_apart(out):
    put(out, "1.2/1.2.3-2", series_instance_uid="1.2.3")
    write_summary(out)
    assert "<code>1.2.3 (acquisition 2)</code>" in page(out)


def test_nifti_is_known_by_its_path_and_dicom_never(out):
    """A path of DICOM files may hold a patient's name, and the UIDs say enough."""
    blank = {"study_instance_uid": "", "series_instance_uid": ""}
    put(out, "nifti-0123456789ab/volume", source="cohort/case 7.nii.gz", files=("lungs.nii.gz",), **blank)
    put(out, "1.2/1.2.3")
    write_summary(out)
    everything = page(out) + (out / "summary.csv").read_text()
    assert "cohort/case 7.nii.gz" in page(out)
    assert "Jane" not in everything


def test_top_counts_and_says_when(out):
    put(out, "1.2/1.2.3")
    put(out, "1.2/1.2.4", "failed", slug="unexpected", finished="2026-03-04T05:10:00+00:00")
    write_summary(out, NIGHT)
    html, text = page(out), " ".join("".join(Tags(page(out)).text).split())
    assert "<b>2</b> series" in html
    assert "<b>1</b> done" in html and "<b>1</b> failed" in html and "<b>0</b> rejected" in html
    assert "Written 2026-03-04 06:30 UTC+01:00." in text
    assert "Results from 2026-03-04 03:15 UTC+01:00 to 2026-03-04 06:10 UTC+01:00." in text, "in the zone of the page"
    assert html.count(RESEARCH_USE) == 2


def test_rejected_are_grouped_by_reason_largest_group_first(out):
    for number in range(3):
        put(out, f"1.2/{number}", "rejected", slug="too-few-slices", message="2 slices")
    put(out, "1.2/9", "rejected", slug="missing-slices", message="a gap of 15 mm")
    write_summary(out)
    html = page(out)
    assert html.count("<details") == 2
    assert html.index("too-few-slices") < html.index("missing-slices")


def test_figures_that_are_not_valid_are_said_to_be_missing(out):
    report = view(None)
    put(out, "1.2/1.2.3", report=report)
    write_summary(out)
    html = page(out)
    assert "no volumes, no shares of opacity, severity class" in html
    assert "no severity class" in html
    assert "None" not in html and "nan" not in html


def test_what_is_folded_is_markup_only_for_whoever_runs_no_script(out):
    """Ten thousand rows of earlier nights cost a browser seconds; as text of a <noscript> they cost nothing."""
    put(out, "1.2/1.2.3")
    put(out, "1.2/1.2.4", finished="2026-02-20T03:00:00+00:00", series_instance_uid="</noscript><b>x")
    write_summary(out, NIGHT)
    [folded] = re.findall(r"<noscript>(.*?)</noscript>", page(out), re.S)
    assert "&lt;/noscript&gt;&lt;b&gt;x" in folded and "<b>x" not in page(out)


def test_bar_is_as_long_as_the_share():
    html = as_html([shown(37.5, right=0.02, left=100)], NIGHT)
    assert re.findall(r'class="fill" width="([\d.]+)"', html) == ["0.02", "100.00", "37.50"]
    assert "&lt; 0.1 %" in html and "100.0 %" in html


def test_interval_stands_below_the_share_and_across_its_bar():
    html = as_html([shown(12.6, interval=(9.8, 15.9), low_confidence=False)], NIGHT)
    assert ">9.8 to 15.9 %</p>" in html and "low confidence</b>" not in html
    assert html.count('class="reach" x="9.80" y="3" width="6.10"') == 1
    doubtful = as_html([shown(12.6, interval=(3.0, 31.0), low_confidence=True)], NIGHT)
    assert "3 to 31 % · <b>low confidence</b>" in doubtful
    older = as_html([shown(12.6)], NIGHT)
    assert 'class="interval"' not in older and 'class="reach"' not in older


@pytest.mark.parametrize("odd", ["9", [1], [2, 1], [None, 3], [-1, 2], [float("nan"), 2], {}])
def test_an_odd_interval_is_damage(out, odd):
    put(out, "1.2/1.2.3", report=example_report(regions__lungs__infection_percent_interval=odd))
    [row] = read_tree(out)
    assert "report.json: regions.lungs.infection_percent_interval" in row.message


def test_thousands_of_series_show_the_worst_with_pictures_and_the_rest_as_rows():
    entries = worst_first(
        replace(shown(n / 100, files=DICOM_FILES, series_instance_uid=f"2.{n}"), folder=f"1.{n}/2")
        for n in range(10_000)
    )
    html = as_html(entries, NIGHT)
    assert html.count("<img ") == page_module.WITH_PICTURE == html.count('loading="lazy"')
    assert "the 200 most affected of 10,000" in html
    assert all(f"<code>2.{n}</code>" in html for n in (0, 9499, 9500, 9999))
    assert len(html) < 12e6


def test_pictures_and_tables_can_be_read_aloud(out):
    put(out, "1.2/1.2.3")
    put(out, "1.2/1.2.4", "failed", slug="unexpected")
    write_summary(out)
    found = Tags(page(out))
    assert all(attributes.get("alt") for name, attributes in found.tags if name == "img")
    assert all(attributes.get("scope") in ("col", "row") for name, attributes in found.tags if name == "th")
    assert found.all("html", "lang") == ["en"]


def luminance(colour):
    digits = colour.lstrip("#")
    channels = [int(d * 2, 16) for d in digits] if len(digits) == 3 else [*bytes.fromhex(digits)]
    linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_texts_stand_out_from_what_is_behind_them(mode):
    """WCAG 2.1 AA wants 4.5 to 1."""
    colours = dict(re.findall(r"--([\w-]+): (#\w+)", re.findall(r":root \{(.*?)\}", stylesheet(), re.S)[mode]))
    pairs = [(text, back) for text in ("text", "dim", "link", "bad") for back in ("page", "card")]
    pairs += [("text", f"c{number}") for number in range(5)] + [("c5-text", "c5"), ("notice-text", "notice")]
    for text, back in pairs:
        bright, dark = sorted((luminance(colours[text]), luminance(colours[back])), reverse=True)
        assert (bright + 0.05) / (dark + 0.05) >= 4.5, (text, back)


def test_failed_write_leaves_the_old_page_whole(out, monkeypatch):
    put(out, "1.2/1.2.3")
    write_summary(out)
    before = page(out)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    put(out, "1.2/1.2.4")
    with pytest.raises(OSError, match="No space left"):
        write_summary(out)
    assert page(out) == before
    assert sorted(path.name for path in out.iterdir()) == ["1.2", "index.html", "summary.csv"]


def test_csv_numbers_are_numbers(out):
    put(out, "1.2/1.2.3", report=example_report(regions__lungs__infection_ml=0.12345))
    write_summary(out)
    [row] = rows(out)
    assert (row["infection_ml"], row["severity_class"]) == ("0.123", "2")


def test_import_is_light():
    heavy = "{'numpy', 'keras', 'cv2', 'rich', 'typer', 'pydicom', 'jinja2'}"
    code = f"import sys, covct.results.summary; print(*{heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


def test_a_run_reads_no_result_twice_and_shows_none_that_is_gone(tmp_path, monkeypatch):
    """Ten thousand results are read once a run: the next pass reads what is new, replaced or taken away."""
    for name in ("a", "b", "c"):
        put(tmp_path, f"1.2/{name}")
    kept = Summary(tmp_path)
    assert len(kept.write()) == 3
    put(tmp_path, "1.2/d")
    for name in ("b", "c"):
        shutil.rmtree(tmp_path / "1.2" / name)
    put(tmp_path, "1.2/b", status="failed", slug="timeout", message="too long")
    read = []
    whole = results.read_entry
    monkeypatch.setattr(summary, "read_entry", lambda folder: read.append(folder.name) or whole(folder))
    monkeypatch.setattr(summary, "read_tree", None)
    entries = kept.write(["1.2/d", "1.2/gone"], NIGHT)
    assert {entry.folder: entry.status for entry in entries} == {"1.2/a": "done", "1.2/b": "failed", "1.2/d": "done"}
    assert sorted(read) == ["b", "d"]
    monkeypatch.undo()
    files = {name: (tmp_path / name).read_text() for name in ("summary.csv", "index.html")}
    write_summary(tmp_path, NIGHT)
    assert files == {name: (tmp_path / name).read_text() for name in files}, "the same as of all results"


def test_the_last_night_comes_first_and_earlier_ones_are_folded(out):
    for folder, finished in (
        ("1.2/1.2.3", "2026-03-02T03:00:00+00:00"),
        ("1.2/1.2.4", "2026-03-01T23:30:00+00:00"),
        ("1.2/1.2.5", "2026-03-01T02:00:00+00:00"),
        ("1.2/1.2.6", "2026-03-01T13:00:00+00:00"),
    ):
        put(out, folder, finished=finished, series_instance_uid=folder[4:])
    write_summary(out, datetime(2026, 3, 2, 7, tzinfo=UTC))
    last, earlier = page(out).split('id="earlier"')
    assert "night of 2026-03-01" in last and all(uid in last for uid in ("1.2.3", "1.2.4", "1.2.6"))
    assert "night of 2026-02-28" in earlier and "1.2.5" in earlier and "1.2.4" not in earlier


def test_a_small_picture_stands_for_the_large_one_and_leads_to_the_study(out):
    put(out, "1.2/1.2.3", files=("overlay.png", "study.html", "thumbnail.jpg"))
    put(out, "1.2/1.2.4", files=("overlay.png",))
    put(out, "1.2/1.2.5", files=())
    write_summary(out)
    found = Tags(page(out))
    assert sorted(found.all("img", "src")) == ["1.2/1.2.3/thumbnail.jpg", "1.2/1.2.4/overlay.png"]
    assert {"1.2/1.2.3/study.html", "1.2/1.2.4/overlay.png"} <= set(found.all("a", "href"))
