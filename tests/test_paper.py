"""The report on paper, and the DICOM object that holds it: the SR's words, two pages, nobody's name, the same bytes."""

import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO

import numpy as np
import pydicom
import pypdf
import pytest

from covct import RESEARCH_USE
from covct.intake.discover import discover
from covct.intake.load_dicom import load_dicom
from covct.intake.nifti import write_nifti
from covct.outputs import Outputs
from covct.pipeline.series import Result
from covct.results.check_dicom import check_objects
from covct.results.entries import read_entry
from covct.results.identifiers import with_identifiers
from covct.results.paper import PAGES, report_pdf
from covct.results.sheet import BOTTOM, MORE, PAGE_HEIGHT, writable
from covct.terms import COMMENT, FIGURES, INTERVAL, NOT_TOLD, WITHHELD
from covct.voxels.preprocess import whole_slice
from covct.voxels.volume import Masks, Probability
from support.example_report import example_report
from support.line import segment
from support.objects import SR, items, judge, without_infection
from support.running import tool
from support.series import change
from support.thresholds import calibrated, make_networks, make_weights

MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PDF, DICOM = "report.pdf", "report.pdf.dcm"
MM = 72 / 25.4


@pytest.fixture(scope="module")
def result(phantom, phantom_series):
    """The phantom with its true masks, and a report with every figure."""
    unused = Probability(np.zeros((1, 1, 1), np.float32), whole_slice((1, 1)))
    [series] = discover([phantom_series]).series
    masks = Masks(phantom.lungs, phantom.infection, unused, unused)
    return Result(series, load_dicom(series), masks, example_report(), "0" * 64, None)


def pages(pdf):
    return pypdf.PdfReader(BytesIO(pdf) if isinstance(pdf, bytes) else pdf).pages


def words(pdf):
    """All words of a document, with a space between any two."""
    return " ".join(" ".join(page.extract_text() for page in pages(pdf)).split())


def of(result, **changes):
    return report_pdf(replace(result, report=example_report(**changes)), MOMENT)


def test_two_pages_of_a4_each_with_what_it_may_be_used_for(result):
    made = pages(of(result))
    assert len(made) == PAGES == 2
    for page in made:
        assert [float(page.mediabox.width), float(page.mediabox.height)] == pytest.approx([595.28, 841.89], abs=0.01)
        assert RESEARCH_USE in page.extract_text()
    assert len(made[0].images) == 1


def test_figures_stand_with_their_intervals_or_the_reason_why_there_is_none(result):
    text = words(of(result))
    assert "12.3 % of the lungs marked (9.8–16.0)" in text and "540 mL (432–702)" in text
    assert "interval of level 0.9, of 40 people between 0.774 and 0.981, measured on: 40 held-out patients" in text
    none = {"level": None, "guaranteed": None, "coverage": None, "reason": "nobody was measured", "people": 0}
    report = example_report()
    for given in report["uncertainty"]["figures"].values():
        given.update(none)
    assert "no interval (nobody was measured)" in words(report_pdf(replace(result, report=report), MOMENT))


def test_what_is_withheld_has_a_reason_and_no_number(result):
    report = example_report(valid_for={"volume": False, "percent": False, "hu_bands": False}, severity__class=None)
    for region in report["regions"].values():
        for place in (region, *region["thirds"].values()):
            place.update({name: None for name, value in place.items() if not isinstance(value, dict)})
    for lesion in report["lesions"]["largest"]:
        lesion["volume_ml"] = None
    text = words(report_pdf(replace(result, report=report), MOMENT))
    assert "no percentage" in text and "Measurement not attempted" in text
    assert "What has no value here was withheld, it is not 0." in text
    assert " mL" not in text and " %" not in text


@pytest.mark.parametrize("script", ["肺部感染", "легкие", "الرئتين", "🫁", "\u202eshut\x1b[2J", "ﬁ̈", "x" * 3000])
def test_any_script_and_any_length_stay_on_the_pages(result, script):
    """Of the words that covct did not write: the card's, and messages of other versions."""
    much = (f"{script} " * 200)[:3000]
    warning = {"slug": "long", "message": much}
    made = of(
        result,
        warnings=[warning] * 40,
        networks__lungs__limits=much,
        networks__infection__limits=much,
        networks__infection__name=much,
        selection__reasons=[much],
        selection__left_out=[{"series_instance_uid": None, "slug": "other", "message": much}] * 30,
    )
    assert len(pages(made)) == PAGES
    assert MORE in words(made)
    for page in pages(made):
        for bottom, right in ends(page):
            assert bottom > (PAGE_HEIGHT - BOTTOM - 10) * MM and right < 595


def ends(page):
    """Lower edge and right end of each line, in points; the right one of letters that are half as wide as high."""
    found = []

    def visit(text, cm, tm, font, size):
        if text.strip():
            found.append((tm[5], tm[4] + 0.4 * size * len(text.strip())))

    page.extract_text(visitor_text=visit)
    return found


def test_letters_are_in_the_document(result):
    """A browser that has to find others takes wider ones, and columns run into one another."""
    for page in pages(of(result)):
        fonts = [font.get_object() for font in page["/Resources"]["/Font"].values()]
        assert fonts and all("/FontFile2" in font["/FontDescriptor"] for font in fonts)


@pytest.mark.parametrize(("given", "written"), [("37 °C – 2 cm² ≥ 1", "37 °C – 2 cm² ≥ 1"), ("a\n肺", "a\\n\\u80ba")])
def test_letters_that_the_font_lacks_are_escaped(given, written):
    assert writable(given) == written


def test_no_path_of_a_file_is_on_it(result):
    """A volume's folder may be named after its patient; the page in the browser tells it unless told otherwise."""
    made = of(result, source__path="Doe^Jane/scan.nii", source__format="nifti")
    assert "Doe" not in words(made) and b"Doe" not in made


def test_it_is_as_old_as_its_computation_and_holds_nothing_random(result, tmp_path):
    """Also in a process of its own, with another hash seed and another time zone."""
    made = of(result)
    assert pypdf.PdfReader(BytesIO(made)).metadata.creation_date == MOMENT
    code = (
        "import sys; from datetime import UTC, datetime\n"
        "from covct.results.sheet import blank, write\n"
        "canvas, file = blank('t', 's', 'a', datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))\n"
        "write(canvas, 'words', 20); canvas.showPage(); canvas.save(); sys.stdout.buffer.write(file.getvalue())"
    )
    made = {
        subprocess.run([sys.executable, "-c", code], env={**os.environ, **more}, capture_output=True, check=True).stdout
        for more in ({"PYTHONHASHSEED": "1", "TZ": "UTC"}, {"PYTHONHASHSEED": "2", "TZ": "Asia/Tokyo"})
    }
    assert len(made) == 1 and made.pop().startswith(b"%PDF")


# The DICOM object


@pytest.fixture(scope="module")
def folder(phantom_series, tmp_path_factory):
    """A result with SR and PDF. Not to be changed."""
    place = tmp_path_factory.mktemp("paper")
    networks = calibrated(make_networks())
    return segment(phantom_series, place / "out", make_weights(place / "weights"), networks, formats=("sr", "pdf"))


@pytest.mark.slow
def test_it_says_the_sentences_and_the_names_of_the_sr(folder):
    told = words(folder / PDF)
    sr = list(items(pydicom.dcmread(folder / SR)))
    texts = {(one.ConceptNameCodeSequence[0].CodeValue, one.TextValue) for one in sr if one.ValueType == "TEXT"}
    assert {kind for kind, _ in texts} >= {COMMENT.value, INTERVAL.value, NOT_TOLD.value}
    for kind, text in texts:
        if kind == INTERVAL.value:
            text = text.split(": ", 1)[1]  # the name of the figure stands in words
        if kind in {COMMENT.value, INTERVAL.value, NOT_TOLD.value, WITHHELD.value, "warning"}:
            assert " ".join(text.split()) in told
    names = {one.ConceptNameCodeSequence[0].CodeMeaning for one in sr if one.ValueType == "NUM"}
    figures = {term.meaning for one in FIGURES for term in (one.of_lung, one.of_infection) if term} & names
    assert len(figures) > 6 and [name for name in figures if name not in told] == []


@pytest.mark.slow
def test_the_object_is_the_file_in_the_study_of_its_source(folder, phantom_series, tmp_path):
    one = pydicom.dcmread(folder / DICOM)
    sources = [pydicom.dcmread(path, stop_before_pixels=True) for path in sorted(phantom_series.iterdir())]
    assert one.EncapsulatedDocument[: one.EncapsulatedDocumentLength] == (folder / PDF).read_bytes()
    assert len(one.EncapsulatedDocument) % 2 == 0
    for keyword in ("StudyInstanceUID", "PatientID", "PatientName", "PatientBirthDate", "StudyDate"):
        assert one[keyword].value == sources[0][keyword].value
    assert {item.ReferencedSOPInstanceUID for item in one.SourceInstanceSequence} == {s.SOPInstanceUID for s in sources}
    assert (one.Modality, one.MIMETypeOfEncapsulatedDocument) == ("DOC", "application/pdf")
    assert (one.BurnedInAnnotation, one.VerificationFlag) == ("NO", "UNVERIFIED")
    assert one.DocumentTitle and one.ConceptNameCodeSequence[0].CodeMeaning == "Imaging Measurement Report"
    assert judge(folder / DICOM) == (0, [])


@pytest.mark.slow
def test_dcmtk_gives_the_file_back(folder, tmp_path):
    subprocess.run([tool("dcm2pdf"), folder / DICOM, tmp_path / "back.pdf"], check=True)
    assert (tmp_path / "back.pdf").read_bytes() == (folder / PDF).read_bytes()


@pytest.mark.slow
def test_nobody_is_named_on_the_pages(series_folder, weights, networks, tmp_path):
    change(series_folder, PatientName="Zq^Someone", PatientID="ZQ-77", PatientBirthDate="19310203")
    made = segment(series_folder, tmp_path / "out", weights, networks, formats=("pdf",))
    told = words(made / PDF) + repr(pypdf.PdfReader(made / PDF).metadata)
    assert not [name for name in ("zq", "someone", "1931") if name in told.lower()]
    assert b"Zq^Someone" in (made / DICOM).read_bytes(), "the test sees what is there"
    told = with_identifiers(tmp_path / "out", read_entry(made)).identifiers
    assert ("patient ID", "ZQ-77") in told, "who asks for it is told, from the header of the PDF"


@pytest.mark.slow
@pytest.mark.parametrize("what", ["clean lung", "one slice", "without attributes", "volume"])
def test_whatever_is_there(what, phantom, series_folder, weights, networks, tmp_path):
    if what == "one slice":
        for path in sorted(series_folder.iterdir())[:14] + sorted(series_folder.iterdir())[15:]:
            path.unlink()
    if what == "without attributes":
        change(series_folder, PatientID=None, PatientName=None, StudyDate=None, StudyID=None, Manufacturer=None)
    if what == "volume":
        for path in series_folder.iterdir():
            path.unlink()
        write_nifti(phantom.volume, series_folder / "scan.nii.gz")
    if what == "clean lung":
        networks = without_infection(networks)
    made = segment(series_folder, tmp_path / "out", weights, networks, formats=("pdf",))
    assert len(pages(made / PDF)) == PAGES
    assert (made / DICOM).exists() == (what != "volume")
    if what == "clean lung":
        assert "no opacity found" in words(made / PDF)
    if what != "volume":
        assert judge(made / DICOM) == (0, [])


# What verify finds


def spoiled(folder, tmp_path, spoil, plain=None):
    dataset = pydicom.dcmread(folder / DICOM)
    spoil(dataset)
    dataset.save_as(tmp_path / DICOM)
    if plain is not None:
        (tmp_path / PDF).write_bytes(plain)
    return [(one.slug, one.message) for one in check_objects([tmp_path / DICOM], None, None)[0]]


@pytest.mark.slow
def test_a_damaged_document_is_found(folder, tmp_path):
    whole = (folder / PDF).read_bytes()
    assert spoiled(folder, tmp_path, lambda one: None, whole) == []
    for spoil, message in (
        (lambda one: setattr(one, "EncapsulatedDocument", b"hello" + one.EncapsulatedDocument[5:]), "it is no PDF"),
        (lambda one: setattr(one, "EncapsulatedDocument", one.EncapsulatedDocument[:-40]), "bytes, wanted"),
        (lambda one: setattr(one, "MIMETypeOfEncapsulatedDocument", "text/plain"), "MIME type"),
    ):
        found = spoiled(folder, tmp_path, spoil, whole)
        assert {slug for slug, _ in found} == {"bad-document"} and any(message in told for _, told in found)
    [(slug, message)] = spoiled(folder, tmp_path, lambda one: None, whole.replace(b"%%EOF", b"%%EOF "))
    assert (slug, message) == ("bad-document", "it is not the same as report.pdf")
    found = spoiled(folder, tmp_path, lambda one: delattr(one, "EncapsulatedDocument"))
    assert {slug for slug, _ in found} == {"unreadable-dicom"}


def test_it_is_written_unless_other_formats_are_asked_for():
    assert "pdf" in Outputs().formats
