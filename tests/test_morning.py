"""The morning after: the list in a terminal, the digest that is mailed, and identifiers only for whoever asks."""

import json
from datetime import UTC, datetime, timedelta, timezone
from email import message_from_string, policy
from html import escape
from pathlib import Path
from types import SimpleNamespace

import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from covct.intake.gate_rules import ValidFor
from covct.pipeline.report import _in_view
from covct.recompute.result import Recomputed
from covct.results import check_figures
from covct.results.entries import read_tree, worst_first
from covct.results.listing import as_document, as_lines
from covct.results.nights import nights_of
from covct.results.summary import page_shows_identifiers, write_summary
from covct.unattended import digest
from covct.unattended.runs import Run
from support.example_report import example_report
from support.running import invoke
from support.series import change
from support.tree import put, view

NIGHT = datetime(2026, 3, 4, 6, 30, tzinfo=timezone(timedelta(hours=1)))
HOSTILE = '李 محمد <img src=x onerror="alert(1)"> Ünal\u202e'
SHOWN = {"accession number": "A-77", "study date": "2026-02-28", "patient ID": "P4711"}


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def share(percent, **changes):
    return example_report(regions__lungs__infection_percent=percent, **changes)


def identified(out, folder, **more):
    """A result whose SR says whose it is, as the source did."""
    place = put(out, folder, files=("measurements.sr.dcm",), **more)
    header = pydicom.Dataset()
    header.SpecificCharacterSet = "ISO_IR 192"
    header.StudyDate, header.AccessionNumber, header.PatientID = "20260228", "A-77", "P4711"
    header.StudyDescription, header.PatientName = HOSTILE, "Doe^Jane"
    header.SOPInstanceUID = generate_uid()
    header.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.34"
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.save_as(place / "measurements.sr.dcm", enforce_file_format=True)


def all_text(out):
    """Of every file of the tree but the DICOM objects."""
    return "".join(
        path.read_text(errors="replace") for path in sorted(out.rglob("*")) if path.is_file() and path.suffix != ".dcm"
    )


def listed(out, **more):
    return list(as_lines(nights_of(worst_first(read_tree(out)), NIGHT)))


def test_a_page_shows_identifiers_only_where_they_were_asked_for(out):
    identified(out, "1.2/1.2.3")
    write_summary(out, NIGHT)
    assert "P4711" not in all_text(out) and page_shows_identifiers(out) is False
    write_summary(out, NIGHT, identifiers=True)
    page = (out / "index.html").read_text()
    assert all(f"<dt>{name}</dt> <dd>{value}</dd>" in page for name, value in SHOWN.items())
    assert "This page shows patient identifiers" in page and page_shows_identifiers(out)
    assert "P4711" not in (out / "summary.csv").read_text() and "Doe" not in page
    write_summary(out, NIGHT)
    assert "P4711" not in all_text(out)


def test_texts_of_an_archive_in_any_script_stay_texts(out):
    identified(out, "1.2/1.2.3")
    write_summary(out, NIGHT, identifiers=True)
    page = (out / "index.html").read_text()
    assert escape(HOSTILE[:-1]) in page and "<img src=x" not in page and "\u202e" not in page


def test_a_result_without_a_dicom_object_shows_no_identifiers_and_is_shown(out):
    put(out, "1.2/1.2.3", files=("overlay.png",))
    (put(out, "1.2/1.2.4", files=("measurements.sr.dcm",)) / "measurements.sr.dcm").write_bytes(b"no DICOM")
    put(out, "1.2/1.2.5", "rejected", slug="not-chest")
    write_summary(out, NIGHT, identifiers=True)
    assert all(uid in (out / "index.html").read_text() for uid in ("1.2.3", "1.2.4", "1.2.5"))


def test_a_run_without_the_option_replaces_a_page_with_identifiers(
    series_folder, tmp_path, weights, threshold_networks
):
    """Also where it has nothing to do; and whatever else is written or said never held any."""
    change(series_folder, PatientID="P4711", AccessionNumber="A-77", StudyDescription="secret")
    out = tmp_path / "out"
    scan = ("scan", series_folder, "--out", out, "--weights", weights, "--formats", "sr")
    first = invoke(*scan, "--show-identifiers", "--json")
    assert "P4711" in (out / "index.html").read_text()
    assert "P4711" not in first.stdout + first.stderr
    assert "secret" in invoke("status", out, "--list", "--show-identifiers").stdout
    outcomes = [path.read_bytes() for path in sorted(out.glob("*/*/outcome.json"))]
    assert json.loads(invoke(*scan, "--json").stdout.splitlines()[-1])["done before"] == 1
    said = all_text(Path(out))
    assert not [word for word in ("P4711", "A-77", "secret") if word in said]
    assert outcomes == [path.read_bytes() for path in sorted(out.glob("*/*/outcome.json"))]
    invoke(*scan, "--show-identifiers")
    assert "P4711" in (out / "index.html").read_text(), "and the other way round"
    invoke("summary", out)
    assert "P4711" not in (out / "index.html").read_text()


def test_the_list_says_what_the_page_says_in_its_order(out):
    put(out, "1.2/1.2.3", report=share(12.6, uncertainty__low_confidence=True), finished="2026-03-04T02:15:00Z")
    put(out, "1.2/1.2.4", report=view(71.0))
    put(out, "1.2/1.2.5", report=share(55.0), finished="2026-02-20T02:15:00Z")
    put(out, "1.2/1.2.6", "failed", slug="timeout", message="no result within 3600 s")
    put(out, "1.2/1.2.7", "rejected", slug="missing-slices", message="a gap of 15 mm")
    lines = listed(out)
    order = [uid for line in lines for uid in ("1.2.3", "1.2.4", "1.2.5", "1.2.6", "1.2.7") if uid in line.split()]
    assert order == ["1.2.4", "1.2.3", "1.2.5", "1.2.6", "1.2.7"], "the last night first, worst first"
    text = " ".join(" ".join(lines).split())
    for said in (
        "night of 2026-03-03, most affected first: 2 series",
        "71.0 % lung in view - - - no severity class 2026-03-04 03:15 UTC+01:00 1.2.4",
        "of the lungs there is none",
        "low confidence",
        "slices are 5 mm thick" if "5 mm" in json.dumps(example_report()["warnings"]) else "",
        "night of 2026-02-19",
        "failed: 1 series",
        "timeout no result within 3600 s",
        "rejected, missing-slices: 1 series",
    ):
        assert said in text, said


def test_the_list_for_machines_has_the_figures_of_the_reports(out):
    put(out, "1.2/1.2.3")
    put(out, "1.2/1.2.4", "failed", slug="timeout", message="too long")
    told = json.loads(invoke("status", out, "--list", "--json").stdout)
    [row] = told["nights"][0]["series"]
    regions = example_report()["regions"]
    assert row["infection_ml"] == regions["lungs"]["infection_ml"] and row["series"] == "1.2.3"
    assert row["infection_percent_right"] == regions["right_lung"]["infection_percent"]
    assert told["failed"][0]["slug"] == "timeout" and told["rejected"] == []
    assert "identifiers" not in row
    assert as_document(nights_of(worst_first(read_tree(out)), NIGHT))["nights"][0]["night"] == "2026-03-03"


def test_a_report_tells_the_share_of_the_lung_in_view_only_where_there_is_no_other():
    lungs = SimpleNamespace(infection_percent=70.987)
    measured = SimpleNamespace(burden={"lungs": lungs}, valid_for=ValidFor(volume=False, percent=False))
    assert _in_view(measured) == {"called_percent": 70.99}
    assert _in_view(SimpleNamespace(burden={"lungs": lungs}, valid_for=ValidFor())) is None


def test_the_share_of_the_lung_in_view_is_derived_anew(out):
    """By `covct verify --recompute`, as every figure."""
    made = Recomputed({"regions": {"lungs": {"infection_percent": 70.99}}}, [])
    report = view(70.99)
    report["lesions"] = {"count": 0, "largest": []}
    assert not [one for one in check_figures._report(report, made) if one]
    report["in_view"]["called_percent"] = 17.0
    [wrong] = [one for one in check_figures._report(report, made) if one]
    assert wrong.slug == "figure-differs" and wrong.message.startswith("in_view.called_percent is 17, recomputed 70.99")


def a_run(out, began):
    run = Run(out, "scan", began, end="finished", sequence=1)
    run.save()


def test_the_digest_is_of_the_last_run_and_names_no_patient(out):
    now = datetime.now(UTC)
    earlier, tonight = ((now - timedelta(hours=hours)).isoformat(timespec="seconds") for hours in (30, 1))
    identified(out, "1.2/1.2.3", report=share(62.0), finished=tonight)
    put(out, "1.2/1.2.4", report=share(80.0), finished=earlier)
    put(out, "1.2/1.2.5", "rejected", slug="too-few-slices", finished=tonight)
    blank = {"study_instance_uid": "", "series_instance_uid": "", "source": "Doe Jane/1.nii.gz"}
    put(out, "nifti-0123/volume", files=("lungs.nii.gz",), finished=tonight, report=share(1.0), **blank)
    a_run(out, now - timedelta(hours=2))
    told = digest.digest(out, now)
    text = digest.as_text(told)
    assert told.subject == "covct: 2 done, 1 rejected"
    assert "1.2.3" in text and "1.2.4" not in text and "nifti-0123/volume" in text
    assert "scan of" in text and "finished" in text and "rejected: 1 too-few-slices" in text
    for made in (text, digest.as_html(told), digest.as_mail(told), json.dumps(digest.as_document(told))):
        assert not [word for word in ("P4711", "A-77", "Doe") if word in made]
    asked = digest.digest(out, now, identifiers=True)
    assert "P4711" in digest.as_text(asked) and "P4711" in digest.as_html(asked)
    assert "<img" not in digest.as_html(asked) and "This message holds patient identifiers" in digest.as_html(asked)
    since = digest.digest(out, now, since=now - timedelta(hours=48))
    assert [entry.folder for entry in since.worst][0] == "1.2/1.2.4"


def test_the_mail_is_one_that_a_mailer_takes(out):
    put(out, "1.2/1.2.3", finished=datetime.now(UTC).isoformat(timespec="seconds"))
    a_run(out, datetime.now(UTC) - timedelta(minutes=1))
    printed = invoke("digest", out, "--format", "mail").stdout
    mail = message_from_string(f"To: team@example.org\n{printed}", policy=policy.default)
    assert (mail["To"], mail["Subject"]) == ("team@example.org", "covct: 1 done")
    plain, page = (mail.get_body([kind]).get_content() for kind in ("plain", "html"))
    assert "class 2" in plain and "class 2" in page and "index.html" in plain
    assert "<script" not in page and "http" not in page.replace("http-equiv", "")
    assert json.loads(invoke("digest", out, "--format", "json").stdout)["done"] == 1


def test_a_digest_of_a_tree_without_a_run_says_so(out):
    out.mkdir()
    told = invoke("digest", out)
    assert told.exit_code == 0 and "none was recorded here yet" in told.stdout
    assert told.stdout.startswith("covct: no series finished")
