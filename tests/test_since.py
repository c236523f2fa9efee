"""Since last time: two nights of one patient, told in every file; and nothing of people who may be two."""

import csv
import json
import re
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest

from covct.dicom.patient import Patient, patient_of, said_once, why_unsure
from covct.disk.outcome import read_outcome
from covct.disk.sources import SourceFile
from covct.phantom.chest import make_phantom
from covct.phantom.dicom import write_dicom_series
from covct.pipeline.lesions_since import Marked, NotMatched, match
from covct.pipeline.report_document import Report
from covct.pipeline.series import Clock
from covct.pipeline.since import compared
from covct.results.entries import read_entry, read_tree
from covct.results.listing import as_lines
from covct.results.nights import nights_of
from covct.results.verify import verify
from covct.unattended.logs import KEY_NAME
from covct.unattended.priors import Past, by_day, since
from support.chests import SMALL
from support.example_report import example_report
from support.line import night
from support.running import read_json
from support.series import change

JANE = {"PatientID": "JD-4711", "PatientName": "Doe^Jane", "PatientBirthDate": "19500101", "PatientSex": "F"}
IDENTIFYING = re.compile(r"4711|doe|jane|1950|2020-?01|JD-", re.IGNORECASE)
FORMATS = ("seg", "sr", "ko", "pdf", "page")


@pytest.fixture(scope="module")
def phantoms():
    return {lesions: make_phantom(**SMALL, lesions=lesions, seed=1) for lesions in ("moderate", "mild")}


@pytest.fixture(scope="module")
def sources(phantoms, tmp_path_factory):
    """The first night's folder, and that of twelve days later, with fewer lesions."""
    root = tmp_path_factory.mktemp("since")
    for lesions, day in (("moderate", 0), ("mild", 12)):
        write_dicom_series(phantoms[lesions], root / lesions, day=day)
        change(root / lesions, **JANE)
    return root / "moderate", root / "mild"


@pytest.fixture(scope="module")
def nights(sources):
    out = sources[0].parent / "out"
    return [night(source, out=out, formats=FORMATS) for source in sources]


@pytest.fixture(scope="module")
def told(nights):
    return nights[1].report["since"]


# Two nights of one patient


def test_the_first_night_says_that_there_is_nothing_to_compare_with(nights):
    told = nights[0].report["since"]
    assert (told["mark"], told["comparison"], told["earlier"]) == ("first", None, [])
    assert told["sentences"] == ["No earlier result of this patient was found."]
    document = pydicom.dcmread(nights[0].result / "measurements.sr.dcm")
    assert "PertinentOtherEvidenceSequence" not in document


def test_the_second_night_says_how_much_less_there_is(nights, told):
    then, now = (one.report["regions"]["lungs"] for one in nights)
    change = told["comparison"]
    assert told["mark"] == "changed" and told["reason"] is None
    for name in ("infection_percent", "infection_ml", "volume_ml"):
        assert (change[name]["then"], change[name]["now"]) == (then[name], now[name])
        assert change[name]["difference"] == pytest.approx(now[name] - then[name], abs=0.006)
    assert change["infection_percent"]["difference"] < -5
    assert (change["infection_percent"]["interval"], change["infection_percent"]["level"]) == (None, None)
    assert change["infection_percent"]["reason"] == "neither share has an interval"
    assert change["prior"]["days_before"] == 12 and not change["prior"]["elsewhere"]
    assert change["prior"]["work_key"] == nights[0].report["work_key"]
    assert change["cautions"] == []
    assert [one["days_before"] for one in told["earlier"]] == [12]
    assert "12 days before" in told["sentences"][0] and "less" in told["sentences"][0]


class PowerCut(BaseException):
    """What nothing catches but the end of the process."""


@pytest.mark.parametrize(("during", "mark"), [("compare", None), ("write", "changed")])
def test_two_power_cuts_cost_the_comparison_only_where_it_was_under_way(sources, tmp_path, during, mark):
    """Else a series at which two nights ended by chance would never be compared."""
    out = tmp_path / "out"
    night(sources[0], out=out, formats=("seg",))

    def cut(event):
        if event["event"] == "step" and event["step"] == during and "seconds" not in event:
            raise PowerCut

    for _ in range(2):
        with pytest.raises(PowerCut):
            night(sources[1], out=out, formats=("seg",), told=cut)
    told = night(sources[1], out=out, formats=("seg",)).report["since"]
    assert told["mark"] == mark, told["reason"]
    assert mark or "ended in a crash while it was compared" in told["reason"]


def test_document_table_and_page_repeat_it(nights, told):
    document = pydicom.dcmread(nights[1].result / "measurements.sr.dcm")
    texts = [str(one.value) for one in document.iterall() if one.keyword == "TextValue"]
    assert [one for one in texts if one in told["sentences"]] == told["sentences"]
    [study] = document.PertinentOtherEvidenceSequence
    [series] = study.ReferencedSeriesSequence
    assert study.StudyInstanceUID == nights[0].report["source"]["study_instance_uid"]
    [listed] = series.ReferencedSOPSequence
    masks = pydicom.dcmread(nights[0].result / "segmentation.seg.dcm")
    assert listed.ReferencedSOPInstanceUID == masks.SOPInstanceUID

    rows = {row["folder"]: row for row in csv.DictReader((nights[1].out / "summary.csv").open())}
    first, second = (rows["/".join(one.result.parts[-2:])] for one in nights)
    assert (first["since_mark"], first["since_days"]) == ("first", "")
    assert (second["since_mark"], second["since_days"], second["since_superseded"]) == ("changed", "12", "no")
    percent = told["comparison"]["infection_percent"]
    assert float(second["since_infection_percent"]) == percent["then"]
    assert float(second["since_points"]) == percent["difference"]

    words = f"{-percent['difference']:.1f} points less than 12 days before"
    index = (nights[1].out / "index.html").read_text()
    assert words in index and 'data-since="changed"' in index and 'data-since="first"' in index
    assert any(words in line for line in as_lines(nights_of(read_tree(nights[1].out), datetime.now(UTC))))

    page = (nights[1].result / "study.html").read_text()
    assert all(sentence.replace("&", "&amp;") in page for sentence in told["sentences"])
    [line] = re.findall(r'<polyline points="([^"]+)"', page)
    (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in line.split())
    assert x0 < x1 and y0 < y1, "time runs to the right, and a lower share lies lower"
    assert "Since last time" in (nights[0].result / "study.html").read_text()
    assert "<polyline" not in (nights[0].result / "study.html").read_text()


def test_it_is_whole_and_names_nobody(nights, sources):
    assert [verdict.defects for verdict in verify(nights[1].out, sources, recompute=True)] == [(), ()]
    for path in (*nights[1].result.glob("*.json"), *nights[1].result.glob("*.html"), nights[1].out / "summary.csv"):
        text = re.sub(r'data-slice="\d+">[^<]*<', "", path.read_text())
        text = re.sub(r'"(finished|moments)": ("[^"]*"|\{[^}]*\})', "", text)
        text = re.sub(r"[0-9a-f]{16,}|[0-9.]{20,}", "", text)
        assert not IDENTIFYING.search(text), path.name
    assert not any(IDENTIFYING.search(re.sub(r"[0-9.]{20,}", "", json.dumps(event))) for event in nights[1].events)


def test_what_contradicts_the_report_is_found(nights, tmp_path):
    out = shutil.copytree(nights[1].out, tmp_path / "out")
    path = next(out.glob(f"*/{nights[1].result.name}/report.json"))
    report = read_json(path)
    report["since"]["comparison"]["infection_percent"]["now"] += 1
    path.write_text(json.dumps(report))
    slugs = {one.slug for verdict in verify(out) for one in verdict.defects}
    assert {"report-contradicts-itself", "wrong-identity"} <= slugs


@pytest.mark.slow
def test_a_redo_makes_the_same_objects_unless_what_it_is_compared_with_has_changed(nights, sources, tmp_path):
    """SEG and key object are of the scan alone; the SR that tells another change is another object."""
    out = shutil.copytree(nights[1].out, tmp_path / "out")
    place = "/".join(nights[1].result.parts[-2:])
    before = read_outcome(out / place).files
    objects = [name for name in before if name.endswith(".dcm")]
    again = night(sources[1], out=out, formats=FORMATS, force=True)
    assert {name: read_outcome(out / place).files[name] for name in objects} == {name: before[name] for name in objects}
    assert again.report["since"] == nights[1].report["since"]

    shutil.rmtree(out / nights[0].result.parts[-2])
    assert read_entry(out / place).since.is_superseded
    night(sources[1], out=out, formats=FORMATS, force=True)
    after = read_outcome(out / place)
    assert {name for name in objects if after.files[name] != before[name]} == {"measurements.sr.dcm", "report.pdf.dcm"}
    uids = [pydicom.dcmread(tree / place / "measurements.sr.dcm").SOPInstanceUID for tree in (nights[1].out, out)]
    assert uids[0] != uids[1]
    assert not [one for verdict in verify(out) for one in verdict.defects]


@pytest.mark.slow
def test_a_document_that_is_added_later_tells_the_comparison_that_the_report_has(nights, sources, tmp_path):
    """Whatever the trees hold by then: a result says one thing."""
    out = shutil.copytree(nights[1].out, tmp_path / "out")
    place = "/".join(nights[1].result.parts[-2:])
    shutil.rmtree(out / place)
    alone = night(sources[1], out=out, formats=("seg",))
    shutil.rmtree(out / nights[0].result.parts[-2])
    added = night(sources[1], out=out, formats=("seg", "sr"))
    assert added.report["since"] == alone.report["since"]
    document = pydicom.dcmread(out / place / "measurements.sr.dcm")
    texts = {str(one.value) for one in document.iterall() if one.keyword == "TextValue"}
    assert texts >= set(added.report["since"]["sentences"])
    assert not [one for verdict in verify(out) for one in verdict.defects]


# Whose results are compared


def standing_in(nights, header, report=None):
    """The second night's result with another header; its masks are not looked at, as its lungs were not whole."""
    report = report or nights[1].report
    report = {**report, "valid_for": {**report["valid_for"], "volume": False}}
    return SimpleNamespace(report=report, masks=None, scan=SimpleNamespace(headers=(header,)))


@pytest.fixture
def header(sources):
    return pydicom.dcmread(next(sources[1].iterdir()), stop_before_pixels=True)


def asked(nights, header, tree=None, report=None):
    past = Past((tree,) if tree else (nights[0].out,))
    return since(past, standing_in(nights, header, report), Clock())


def test_the_same_patient_is_found(nights, header):
    told = asked(nights, header)
    assert told["comparison"]["prior"]["days_before"] == 12
    assert told["comparison"]["lesions"]["reason"] == "the lungs were not whole now"


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"PatientID": ""}, "no Patient ID"),
        ({"PatientID": "ANON"}, "no Patient ID"),
        ({"PatientID": "0"}, "no Patient ID"),
        ({"PatientID": "123456"}, "many have"),
        ({"PatientName": "", "PatientBirthDate": ""}, "neither a name nor a birth date"),
        ({"PatientName": "JD^4711", "PatientBirthDate": ""}, "neither a name nor a birth date"),
        ({"PatientName": "Roe^John"}, "(the name differs)"),
        ({"PatientBirthDate": "19500102"}, "(the birth date differs)"),
        ({"PatientSex": "M", "PatientName": "Doe^John"}, "(the name and sex differ)"),
        ({"IssuerOfPatientID": "North", "PatientBirthDate": ""}, "issued the Patient ID"),
        ({"StudyDate": ""}, "no Study Date"),
    ],
)
def test_in_doubt_nothing_is_compared_and_one_sentence_says_why(nights, header, said, why):
    header.update({keyword: "" for keyword in said})
    for keyword, value in said.items():
        setattr(header, keyword, value)
    told = asked(nights, header)
    assert (told["mark"], told["comparison"], told["earlier"]) == (None, None, [])
    [sentence] = told["sentences"]
    assert why in sentence and not IDENTIFYING.search(sentence)


@pytest.mark.parametrize("said", [{"PatientID": "JD-4712"}, {"StudyDate": "20200101"}, {"StudyDate": "20191231"}])
def test_of_another_number_the_same_day_or_a_later_one_there_is_no_earlier_result(nights, header, said):
    """Two patients with one name: nothing compared."""
    for keyword, value in said.items():
        setattr(header, keyword, value)
    assert asked(nights, header)["mark"] == "first"


def test_a_series_of_the_same_study_is_no_earlier_result(nights, header):
    report = nights[1].report
    uid = nights[0].report["source"]["study_instance_uid"]
    told = asked(nights, header, report={**report, "source": {**report["source"], "study_instance_uid": uid}})
    assert told["mark"] == "first"


def test_a_volume_file_does_not_say_whose_it_is(nights, header):
    result = standing_in(nights, header)
    result.scan.headers = ()
    assert "whose it is" in since(Past((nights[0].out,)), result, Clock())["reason"]


@pytest.mark.parametrize("key", ["its own", "lost", "another"])
def test_results_of_another_tree_are_found_by_its_key_or_by_their_objects(nights, header, tmp_path, key):
    tree = shutil.copytree(nights[0].out, tmp_path / "elsewhere")
    if key == "lost":
        (tree / ".covct" / KEY_NAME).unlink()
    if key == "another":
        (tree / ".covct" / KEY_NAME).write_text("k" * 64)
    (tmp_path / "out").mkdir()
    told = since(Past((tmp_path / "out", tree)), standing_in(nights, header), Clock())
    assert told["comparison"]["prior"]["elsewhere"] and told["comparison"]["prior"]["days_before"] == 12


def test_what_came_into_another_tree_meanwhile_is_found(nights, header, tmp_path):
    other = tmp_path / "elsewhere"
    (other / ".covct").mkdir(parents=True)
    (tmp_path / "out").mkdir()
    past = Past((tmp_path / "out", other))
    assert since(past, standing_in(nights, header), Clock())["mark"] == "first"
    shutil.copytree(nights[0].out, other, dirs_exist_ok=True)
    past.look_again()
    assert since(past, standing_in(nights, header), Clock())["comparison"]["prior"]["elsewhere"]


@pytest.mark.parametrize("damage", ["report", "objects"])
def test_what_cannot_be_read_of_an_earlier_result_is_a_doubt_and_not_a_first_time(nights, header, tmp_path, damage):
    tree = shutil.copytree(nights[0].out, tmp_path / "out")
    place = next(tree.glob(f"*/{nights[0].result.name}"))
    if damage == "report":
        (place / "report.json").write_text("{")
    else:
        for path in place.glob("*.dcm"):
            path.unlink()
    told = asked(nights, header, tree)
    assert told["mark"] is None and "cannot be read, or holds no DICOM object" in told["reason"]


def test_another_protocol_is_a_caution(nights, header):
    report = nights[1].report
    geometry = {**report["geometry"], "slice_spacing_mm": 1.0}
    source = {**report["source"], "kernel": "B70f", "contrast": True}
    told = asked(nights, header, report={**report, "geometry": geometry, "source": source})
    cautions = {one["slug"] for one in told["comparison"]["cautions"]}
    assert cautions == {"another-slice-spacing", "another-kernel", "another-contrast"}
    assert "Caution: the kernel was STANDARD then, B70f now." in told["sentences"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, ""),
        ({"names": "a"}, ""),
        ({"names": "a b c"}, ""),
        ({"names": "x"}, "the name differs"),
        ({"birth_date": ""}, ""),
        ({"birth_date": "", "names": ""}, "neither a name nor a birth date beside"),
        ({"issuer": "j"}, "the issuer of the Patient ID differs"),
        ({"issuer": ""}, ""),
        ({"issuer": "", "birth_date": ""}, "one of them alone"),
    ],
)
def test_who_is_surely_one_person(changes, why):
    me = Patient("1", "i", "a b", "d", "f")
    other = replace(me, **changes)
    assert why in why_unsure(me, other) and bool(why) == bool(why_unsure(me, other))
    assert why_unsure(me, other) == why_unsure(other, me)


def test_a_name_that_repeats_the_number_is_no_name():
    header = {"PatientID": "LUNG-001", "PatientName": "Lung^001"}
    assert patient_of(header.get).names and not said_once(header.get).names


def test_several_studies_of_one_patient_are_worked_on_by_date(sources):
    def job(name, night, number="n", to_prepare=True):
        slices = (SimpleNamespace(file=SourceFile(str(next(sources[night].iterdir())))),)
        series = SimpleNamespace(kind="dicom", patient=Patient(number), study_folder=name, instances=slices)
        return SimpleNamespace(series=series, to_prepare=to_prepare)

    jobs = [job("late", 1), job("other", 1, "m"), job("early", 0), job("done", 0, to_prepare=False)]
    assert [one.series.study_folder for one in by_day(jobs)] == ["early", "other", "late", "done"]


# Figures and lesions


def with_interval(percent, low, high, level=0.9):
    report = example_report(regions__lungs__infection_percent=percent)
    report["regions"]["lungs"]["infection_percent_interval"] = [low, high]
    report["uncertainty"]["figures"]["infection_percent"]["level"] = level
    return report


@pytest.mark.parametrize(
    ("then", "now", "ends", "mark"),
    [
        ((30, 25, 36), (10, 7, 14), [-29, -11], "changed"),
        ((30, 25, 36), (26, 20, 31), [-16, 6], "unchanged"),
    ],
)
def test_the_interval_of_a_change_is_that_of_both_ends(then, now, ends, mark):
    """Each interval holds 90 % of people; both together at least 80 %."""
    earlier = SimpleNamespace(report=Report.parse(json.dumps(with_interval(*then)), "report.json"), days=3)
    told = compared(with_interval(*now), [earlier], {"days_before": 3}, "")
    percent = told["comparison"]["infection_percent"]
    assert (percent["interval"], percent["level"], percent["reason"]) == (ends, 0.8, None)
    assert told["mark"] == mark
    assert any("at a level of 80 %" in sentence for sentence in told["sentences"])


def test_without_a_share_there_is_no_mark():
    report = example_report(regions__lungs__infection_percent=None, severity__class=None)
    earlier = SimpleNamespace(report=Report.parse(json.dumps(example_report()), "report.json"), days=3)
    told = compared(report, [earlier], {"days_before": 3}, "")
    assert told["mark"] is None and told["comparison"]["infection_percent"]["difference"] is None


def marked(phantom, affine=None, infection=None):
    mask = phantom.infection if infection is None else infection
    return Marked(phantom.lungs, mask, phantom.volume.affine if affine is None else affine)


def moved(phantom):
    """The same chest deeper in breath, and lying elsewhere."""
    deeper = np.diag([1.02, 1.04, 1.12, 1.0])
    deeper[:3, 3] = [14, -9, 40]
    return deeper @ phantom.volume.affine


def test_healed_lesions_have_vanished_and_those_of_a_worse_scan_are_new(phantoms):
    """Fewer of the very same lesions; the patient breathes in deeper, and lies otherwise."""
    mild, moderate = phantoms["mild"], phantoms["moderate"]
    healed = match(marked(mild, moved(mild)), marked(moderate))
    assert (healed.new_count, healed.new) == (0, []) and healed.vanished_count > 0
    assert healed.overlap > 0.97
    gone = moderate.infection & ~mild.infection
    index = np.linalg.inv(moved(moderate)) @ [*healed.vanished[0].centroid_lps_mm, 1]
    slice_, row, column = np.rint(index[:3]).astype(int)
    assert gone[slice_ - 1 : slice_ + 2, row - 5 : row + 6, column - 5 : column + 6].any(), "place in the scan now"
    worse = match(marked(moderate), marked(mild, moved(mild)))
    assert (worse.new_count, worse.vanished_count) == (healed.vanished_count, 0)
    assert worse.persisting_count > 0 and worse.new[0].volume_ml >= worse.new[-1].volume_ml


def test_where_the_lungs_do_not_fit_lesions_are_not_matched(phantoms):
    mild = phantoms["mild"]
    block = np.zeros_like(mild.lungs)
    block[10:20, 40:90, 40:90] = 1
    with pytest.raises(NotMatched, match="overlap"):
        match(marked(mild), Marked(block, block > 5, mild.volume.affine))
    with pytest.raises(NotMatched, match="no lungs"):
        match(marked(mild), Marked(block * 0, block > 5, mild.volume.affine))
