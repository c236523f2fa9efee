"""What covct says must be fit for a log server outside: one JSON object a line, and nothing of a patient in it."""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pydicom
import pytest
from pydicom.dataelem import DataElement
from typer.testing import CliRunner

import covct
from covct import cli
from covct.commands import scan
from covct.disk.state import recover
from covct.errors import UsageError
from covct.unattended import logs, one_pass

pytestmark = pytest.mark.slow

ROOT = Path(covct.__file__).parent.parent
SECRETS = ("planted", "19010203", "19450607")
TEXT, DATES = {"PN", "LO", "SH", "ST", "LT", "UT", "UC", "AE"}, {"DA", "DT"}
# covct as it is run, with networks that are thresholds.
PROGRAM = """
from support.thresholds import make_networks
from covct import cli
from covct.commands import scan
scan.networks_of = lambda *_: make_networks
cli.main()
"""


def invoke(*arguments):
    """The same in this process, which is faster."""
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture(autouse=True)
def threshold_networks(monkeypatch, networks):
    monkeypatch.setattr(scan, "networks_of", lambda *_: lambda: networks)


def run(*arguments, program=PROGRAM):
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "COLUMNS": "200"},
    )  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def quiet_while_planting():
    """pydicom warns of what is written here."""
    before = pydicom.config.settings.writing_validation_mode, pydicom.config.settings.reading_validation_mode
    pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    yield
    pydicom.config.settings.writing_validation_mode, pydicom.config.settings.reading_validation_mode = before


def plant(source: Path, folder: Path, name: str = "slice", slices: int = 30, **values) -> list[Path]:
    """A series that says a name wherever a header has room for text; `values` are written as text whatever their VR."""
    folder.mkdir(parents=True)
    paths = []
    for number, path in enumerate(sorted(source.iterdir())[:slices], 1):
        dataset = pydicom.dcmread(path)
        for element in dataset:
            if element.VR in TEXT:
                element.value = "Planted^Name"
            elif element.VR in DATES:
                element.value = "19010203"
        for keyword in ("PatientComments", "ImageComments", "SeriesDescription", "ReferringPhysicianName", "StudyID"):
            setattr(dataset, keyword, "Planted^Name 19450607")
        dataset.ConvolutionKernel, dataset.BodyPartExamined = "PLANTED", "PLANTED"
        for keyword, value in {"RescaleType": "HU", "PatientWeight": "PLANTED", **values}.items():
            tag = pydicom.datadict.tag_for_keyword(keyword)
            dataset[tag] = DataElement(tag, "LO", value)
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{dataset.SeriesInstanceUID}.{number}"
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian  # its VRs are the dictionary's
        paths.append(folder / f"{name}-{number:02}.dcm")
        pydicom.dcmwrite(paths[-1], dataset, implicit_vr=True, little_endian=True)
    return paths


def secrets_in(text: str) -> list[str]:
    return [secret for secret in SECRETS if secret in text.lower()]


@pytest.fixture(scope="module")
def inbox(phantom_series, tmp_path_factory):
    """One good series, and one for each way in which a message could quote what it stumbled over."""
    inbox = tmp_path_factory.mktemp("inbox")
    plant(phantom_series, inbox / "good", StudyInstanceUID="1.2.1", SeriesInstanceUID="1.2.1.1")
    spoiled = {
        "modality": {"Modality": "PLANTED"},
        "derived": {"ImageType": "DERIVED\\PLANTED\\AXIAL\\MPR"},
        "class": {"SOPClassUID": "PLANTED"},
        "units": {"RescaleType": "PLANTED"},
        "slope": {"RescaleSlope": "PLANTED"},
        "place": {"ImagePositionPatient": "PLANTED\\0\\0"},
        "padding": {"SmallestImagePixelValue": "PLANTED", "PixelPaddingValue": "PLANTED"},
        "colours": {"PhotometricInterpretation": "PLANTED"},
        "series": {"SeriesInstanceUID": "PLANTED.NAME"},
    }
    for number, (name, values) in enumerate(spoiled.items(), 2):
        uids = {"StudyInstanceUID": f"1.2.{number}", "SeriesInstanceUID": f"1.2.{number}.1"}
        plant(phantom_series, inbox / name, slices=12, **{**uids, **values})
    return inbox


@pytest.fixture(scope="module")
def named_files(inbox, phantom_series, tmp_path_factory):
    """The same in an export that names its folders and files after the patient, some of them damaged."""
    from covct.intake.nifti import write_nifti
    from covct.phantom.chest import make_phantom

    export = tmp_path_factory.mktemp("export") / "Planted Name 19010203"
    shutil.copytree(inbox, export)
    whole = plant(phantom_series, export / "cut", "Planted_Name", StudyInstanceUID="1.3.1", SeriesInstanceUID="1.3.1.1")
    whole[5].write_bytes(whole[5].read_bytes()[:-9000])
    (export / "Planted.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"Planted^Name" * 50)
    (export / "Planted.zip").write_bytes(b"PK\3\4 Planted^Name")
    (export / "Planted_cut.nii.gz").write_bytes(b"\x1f\x8b\x08 Planted")
    made = make_phantom(slices=12, rows=64, columns=64, slice_spacing_mm=None, pixel_spacing_mm=(6.0, 6.0))
    write_nifti(made.volume, export / "Planted_Name.nii.gz", description="Planted Name")
    return export


def names_below(out: Path) -> str:
    return "\n".join(str(path.relative_to(out)) for path in out.rglob("*"))


def said(result, out: Path, metrics: Path) -> str:
    """All that leaves: both streams, metrics, file names, and what is noted beside the results."""
    beside = [path for path in (out / "runs").rglob("*") if path.is_file()]
    beside += [out / ".covct" / "heartbeat", metrics]
    return "\n".join([result.stdout, result.stderr, names_below(out), *(path.read_text() for path in beside)])


def test_a_header_full_of_names_leaves_none_in_what_covct_says(inbox, tmp_path, weights):
    """Nor does a library's warning: pydicom's quote the value, and are switched off."""
    out, metrics = tmp_path / "out", tmp_path / "covct.prom"
    result = run("scan", inbox, "-o", out, "--weights", weights, "--json", "--metrics", metrics)
    assert result.returncode == 0, result.stderr
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert {"done", "rejected"} <= {event["event"] for event in events}
    slugs = {event["slug"] for event in events if event["event"] == "rejected"}
    assert {"not-ct", "derived", "not-hounsfield", "no-geometry"} <= slugs
    assert secrets_in(said(result, out, metrics)) == []


def test_hashed_identifiers_hide_paths_uids_and_names(named_files, tmp_path, weights):
    """The export is named after the patient, so that also its paths must go; and UIDs are identifiers."""
    out, metrics = tmp_path / "out", tmp_path / "covct.prom"
    result = invoke(
        "scan", named_files, "-o", out, "--weights", weights, "--json", "--metrics", metrics, "--log-format", "json",
        "--hash-identifiers", "--formats", "seg,page",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    logged = [json.loads(line) for line in result.stderr.splitlines()]
    assert {"problem", "done", "rejected", "finished"} <= {event["event"] for event in logged}
    assert {"unreadable", "not-ct"} <= {event["slug"] for event in logged if event["event"] == "rejected"}
    text = said(result, out, metrics)
    assert secrets_in(text) == []
    streams = result.stdout + result.stderr
    assert str(named_files.parent) not in streams and ".nii" not in streams and ".dcm" not in streams
    assert not re.search(r"\d\.\d+\.\d", streams), "a UID"

    key = logs.identifier_key(out / ".covct")
    results = "".join(path.read_text() for path in out.rglob("*") if path.suffix in (".json", ".csv", ".html"))
    results = results.replace("PLANTED.NAME", "")  # an identifier by the header, as results have it
    assert secrets_in(results) == [], "nor do results hold a name: of a cut slice, of a NIfTI, of its folder"
    done = {event["study"]: event for event in logged if event["event"] == "done"}
    assert done[logs.hashed("1.2.1", key)]["series"] == logs.hashed("1.2.1.1", key)
    assert (out / ".covct" / "identifier-key").stat().st_mode & 0o777 == 0o600


def test_hashes_of_one_tree_stay_the_same_and_those_of_another_differ(tmp_path):
    one, other = logs.identifier_key(tmp_path / "a"), logs.identifier_key(tmp_path / "b")
    assert logs.identifier_key(tmp_path / "a") == one != other
    assert logs.hashed("1.2.3", one) == logs.hashed("1.2.3", one) != logs.hashed("1.2.3", other)
    assert list((tmp_path / "a").iterdir()) == [tmp_path / "a" / "identifier-key"]


def test_a_key_that_a_killed_process_had_not_in_its_place_goes_with_the_next_run(tmp_path):
    """As `tests/faults.py` found: it lay there for ever, a secret that no tree had."""
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom covct.unattended import logs\n"
        "logs._rename_new = lambda source, target: os._exit(9)\nlogs.identifier_key(Path(sys.argv[1]))"
    )
    private = tmp_path / ".covct"
    assert subprocess.run([sys.executable, "-c", code, private], check=False).returncode == 9
    assert len(list(private.iterdir())) == 1
    recover(tmp_path)
    assert list(private.iterdir()) == []


@pytest.mark.parametrize("key", ["", "\n", "short\n"])
def test_a_key_that_hides_nothing_is_refused(tmp_path, key):
    """An editor, a full disk or a copy left the file empty: hashes of UIDs could be tried by anyone."""
    (tmp_path / "identifier-key").write_text(key)
    with pytest.raises(UsageError, match="wanted at least 32"):
        logs.identifier_key(tmp_path)


def test_a_file_named_after_a_patient_leaves_its_name_in_no_result(named_files, tmp_path, weights):
    """Without --hash-identifiers covct names files while it runs; of DICOM files results do not."""
    result = invoke("scan", named_files, "-o", tmp_path / "out", "--weights", weights, "--json", "--formats", "seg")
    told = [json.loads(line) for line in result.stdout.splitlines()]
    [cut] = [e for e in told if e["event"] == "rejected" and e["folder"].startswith("1.3.1/")]
    assert "Planted Name" in cut["file"]
    assert "Planted" not in cut["message"]
    kept = json.loads((tmp_path / "out" / cut["folder"] / "outcome.json").read_text())
    assert kept["message"] == cut["message"]


def test_text_in_a_field_that_nobody_thought_of_is_hashed():
    event = {"event": "done", "study": "1.2", "new": "/home/Planted", "inner": {"of": ["Planted"]}, "number": 3}
    hidden = logs.hide_identifiers(event, b"key", {})
    assert secrets_in(json.dumps(hidden)) == []
    assert (hidden["event"], hidden["number"]) == ("done", 3)


def test_study_and_series_can_be_joined_with_the_folder():
    event = {"event": "started", "study": "1.2", "series": "1.2.3", "folder": "1.2/1.2.3"}
    hidden = logs.hide_identifiers(event, b"key", {})
    assert hidden["folder"] == f"{hidden['study']}/{hidden['series']}"


def test_every_line_has_time_level_and_event(phantom_series, tmp_path, weights):
    result = invoke("scan", phantom_series, "-o", tmp_path / "out", "--weights", weights, "--log-format", "json")
    assert (result.exit_code, result.stdout) == (0, "")
    lines = [json.loads(line) for line in result.stderr.splitlines()]
    assert all(line["time"].endswith("Z") and line["level"] and line["event"] for line in lines)
    assert [line["event"] for line in lines if line["event"] != "step"] == ["found", "started", "done", "finished"]
    ended = {line["step"] for line in lines if line["event"] == "step" and "seconds" in line}
    assert {"load", "check", "networks", "lungs", "infection", "postprocess", "measure", "write"} <= ended


def test_the_end_by_an_error_is_a_json_line_too(tmp_path, weights):
    (tmp_path / "in").mkdir()
    (tmp_path / "file").write_text("")
    result = invoke(
        "scan", tmp_path / "in", "-o", tmp_path / "file" / "out", "--weights", weights, "--log-format", "json"
    )
    assert result.exit_code == 12
    [line] = [json.loads(line) for line in result.stderr.splitlines()]
    assert (line["event"], line["level"], line["exit_code"]) == ("ended", "error", 12)
    assert "cannot write" in line["message"]


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_the_end_by_an_error_names_no_path_when_identifiers_are_hashed(tmp_path, weights, log_format):
    (tmp_path / "in").mkdir()
    (tmp_path / "Planted").write_text("")
    arguments = ("scan", tmp_path / "in", "-o", tmp_path / "Planted" / "out", "--weights", weights)
    result = invoke(*arguments, "--hash-identifiers", "--log-format", log_format)
    assert result.exit_code == 12
    assert "not writable" in result.stderr and "Not a directory" in result.stderr
    assert "Planted" not in result.stderr


def test_a_dry_run_cannot_hash(tmp_path, weights):
    (tmp_path / "in").mkdir()
    result = invoke("scan", tmp_path / "in", "-o", tmp_path / "out", "--dry-run", "--hash-identifiers")
    assert isinstance(result.exception, UsageError)
    assert not (tmp_path / "out").exists()


def test_a_bug_shows_where_but_not_what(phantom_series, tmp_path, weights, monkeypatch):
    """Python's own traceback ends with the error's text, which may quote a header."""
    arguments = ["scan", str(phantom_series), "-o", str(tmp_path / "out"), "--weights", str(weights)]
    spoiled = PROGRAM.replace(
        "cli.main()", "from covct.unattended import one_pass\none_pass.plan = lambda *_: int('Planted')\ncli.main()"
    )
    text = run(*arguments, program=spoiled)
    assert text.returncode == 1
    assert "Traceback" in text.stderr and "ValueError at" in text.stderr

    monkeypatch.setattr(one_pass, "plan", lambda *_: int("Planted"))
    result = invoke(*arguments, "--log-format", "json")
    assert result.exit_code == 1
    assert json.loads(result.stderr.splitlines()[-1])["message"].startswith("ValueError at test_logs.py:")
    assert "'Planted'\n" not in text.stderr and "literal" not in text.stderr + result.stderr


def test_what_libraries_log_and_warn_of_is_told_once_without_its_text(capsys):
    with logs.as_json_lines():
        for _ in range(3):
            logging.getLogger("pydicom").warning("Invalid value %s", "Planted^Name")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            logs.install(logging.getLogger().handlers[0])
            for value in ("Planted^Name", "Planted^Other"):
                warnings.warn(f"Invalid value {value}", UserWarning, stacklevel=1)
        logging.getLogger("covct").warning("our own words")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["event"], line.get("logger")) for line in lines] == [
        ("warning", "pydicom"), ("warning", "UserWarning"), ("log", None),
    ]  # fmt: skip
    assert lines[0]["at"].startswith("test_logs.py:")
    assert lines[2]["message"] == "our own words"
    assert "Planted" not in json.dumps(lines)
