"""`covct view`: who may ask, what is opened, what a reader saves, and what a truth says of it."""

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
from contextlib import contextmanager
from dataclasses import replace

import cv2
import nibabel
import numpy as np
import pydicom
import pytest

from covct.commands import view
from covct.commands.options import Runtime
from covct.commands.restore import Anterior
from covct.data.read_case import read_case
from covct.errors import UsageError
from covct.intake.nifti import read_description, read_mask, write_nifti
from covct.pipeline.report_document import Report
from covct.viewer.answers import Viewer
from covct.viewer.guard import NO_TOKEN, Guard
from covct.viewer.marks import from_runs, to_runs
from covct.viewer.opened import open_study
from covct.viewer.pages import scan_page
from covct.viewer.saved import save
from covct.viewer.server import listening
from covct.viewer.studies import studies_of
from covct.viewer.truth import read_truth
from support.checkout import PYTHONPATH, ROOT
from support.labelled import find_cases
from support.line import night, segmented_tree
from support.running import invoke
from support.thresholds import make_weights

READER = "Müller^Ada"
EARLIER = "is there already, from an earlier session or of another scan of that name, and is not loaded here"


@pytest.fixture(scope="module")
def tree(phantom_series):
    return night(phantom_series, formats=("seg", "nifti", "page")).out


@pytest.fixture(scope="module")
def volume(phantom, tmp_path_factory):
    """The chest as a volume file, with its results."""
    path = tmp_path_factory.mktemp("volume") / "in" / "one_ct.nii.gz"
    path.parent.mkdir()
    write_nifti(phantom.volume.to_patient_orientation("LPH"), path)
    return path, night(path.parent, formats=("nifti",)).out


@pytest.fixture
def opened(tree, phantom_series):
    [study] = studies_of(tree, [phantom_series])
    return open_study(study)


@pytest.fixture
def opened_volume(volume):
    path, out = volume
    [study] = studies_of(out, [path.parent])
    return open_study(study)


def marks(opened):
    return np.stack(list(opened.labels))


def corrected(opened, index=14, value=4):
    """One slice with a square of opacity, as the page would send it."""
    square = marks(opened)[index]
    square[40:60, 40:60] |= value
    opened.correct({str(index): to_runs(square)})
    return square


# Marks


def test_marks_cross_to_the_browser_and_back():
    drawn = np.array([[0, 0, 4], [4, 5, 1]], np.uint8)
    assert to_runs(drawn) == [0, 2, 4, 2, 5, 1, 1, 1]
    assert (from_runs(to_runs(drawn), (2, 3)) == drawn).all()


@pytest.mark.parametrize(
    ("runs", "says"),
    [
        ([0, 5], "another grid, 5 pixels a slice; wanted marks of 2 x 3 pixels"),
        ([0, 7], "another grid"),
        ([0, -1, 0, 7], "another grid"),
        ([3, 6], "the value 3"),
        ([9, 6], "the value 9"),
        ([0], "no runs"),
        ("0,6", "no runs"),
        ([0, 6.0], "no runs"),
        ([True, 6], "no runs"),
    ],
)
def test_marks_of_another_grid_are_refused(runs, says):
    with pytest.raises(UsageError, match=says):
        from_runs(runs, (2, 3))


def test_a_correction_is_taken_whole_or_not_at_all(opened):
    before = marks(opened)
    good = to_runs(np.zeros(before.shape[1:], np.uint8))
    for slices in ({"0": good, "14": [0, 1]}, {"0": good, "30": good}, {"0": good, "-1": good}, [good]):
        with pytest.raises(UsageError):
            opened.correct(slices)
    assert (marks(opened) == before).all()


# What is opened


@pytest.mark.parametrize("seg_type", ["binary", "labelmap"])
def test_masks_of_a_seg_are_those_of_the_nifti(opened, phantom_series, tmp_path, seg_type):
    out = segmented_tree([phantom_series], tmp_path / "out", formats=("seg",), seg_type=seg_type)
    [study] = studies_of(out, [phantom_series])
    assert (marks(open_study(study)) == marks(opened)).all()
    assert set(np.unique(marks(opened))) == {0, 1, 2, 5, 6}


def test_of_a_fractional_seg_nobody_knows_what_was_called(phantom_series, tmp_path):
    out = segmented_tree([phantom_series], tmp_path / "out", formats=("seg",), seg_type="fractional")
    [study] = studies_of(out, [phantom_series])
    with pytest.raises(UsageError, match="no masks to look at: its SEG holds probabilities"):
        open_study(study)


def test_a_source_belongs_to_a_result_by_its_contents(tree, phantom_series, tmp_path):
    moved = shutil.copytree(phantom_series, tmp_path / "elsewhere")
    [study] = studies_of(tree, [moved])
    assert study.series and studies_of(tree, [])[0].series is None
    sorted(moved.iterdir())[3].unlink()
    [study] = studies_of(tree, [moved])
    with pytest.raises(UsageError, match="not among the sources"):
        open_study(study)


def test_without_its_scan_a_study_is_the_result_alone(tree, phantom_series):
    answer = Viewer(studies_of(tree, []), tree).get("/series/0")
    page = answer.body.decode()
    assert "This is the result alone: the scan is not among the sources." in page and 'data-slice="14"' in page
    assert "sandbox" in answer.policy and 'id="save"' not in page
    whole = Viewer(studies_of(tree, [phantom_series]), tree).get("/series/0")
    assert 'id="save"' in whole.body.decode() and "sandbox" not in whole.policy


@pytest.mark.parametrize("archive", sorted((ROOT / "tests" / "trees").glob("*.tar.xz")), ids=lambda path: path.name)
def test_results_of_earlier_versions_are_shown(archive, opened, tmp_path):
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    [private] = tmp_path.rglob(".covct")
    viewer = Viewer(studies_of(private.parent, []), tmp_path)
    assert viewer.get("/").status == 200
    done = [number for number, study in enumerate(viewer.studies) if study.done]
    assert done and all(b"result alone" in viewer.get(f"/series/{number}").body for number in done)
    report = json.loads(Report.read(viewer.studies[done[0]].folder / "report.json").as_json())
    assert "Chest CT" in scan_page(replace(opened, result=replace(opened.result, report=report)), "")


def test_a_readers_name_is_no_markup(opened):
    assert '<script>alert("x")' not in scan_page(opened, '"><script>alert("x")</script>')


def test_a_picture_is_brought_to_hu_and_compared_with_a_picture(phantom, threshold_networks, tmp_path):
    hu = cv2.resize(phantom.volume.to_patient_orientation("FPL").array[14], (512, 512))
    picture, weights = tmp_path / "slice.png", make_weights(tmp_path / "weights")
    grey = np.clip((hu + 1250.0) / 1500 * 255, 0, 255).astype(np.uint8)
    cv2.imwrite(str(picture), np.rot90(grey))  # as in the set of medicalsegmentation.com
    asked = ([picture], None, tmp_path / "scratch", weights, "auto", Runtime.auto, None, Anterior.left)
    tree, sources = view._segmented(*asked)
    [study] = studies_of(tree, sources)
    opened = open_study(study)
    assert opened.labels.shape == (1, 512, 512) and opened.mask("lungs").any()
    png = cv2.imencode(".png", 255 * np.rot90(opened.mask("lungs")[0]).astype(np.uint8))[1].tobytes()
    opened.truths["lungs"] = read_truth(png, "Lungs.PNG", "lungs", "", opened.scan, "left")
    told = opened.compared("lungs")
    assert told["dice"] == 1 and told["missed_ml"] is None, "of a picture nobody knows the spacing"
    assert [path.name for path in save(opened, tmp_path / "to", READER)] == [
        "slice_lungs.nii.gz", "slice_infection.nii.gz"
    ]  # fmt: skip


def test_pages_that_are_not_there(tree):
    viewer = Viewer(studies_of(tree, []), tree)
    for path in ("/series/1", "/series/-1", "/series/0/marks", "/series/x", "/../report.json", "/series/99999999999"):
        assert viewer.get(path).status == 404
    assert viewer.post("/series/0/other", {}, b"").status == 404


# What a reader saves


def test_a_corrected_seg_is_truth_and_told_from_the_networks(opened, tree, phantom_series, tmp_path):
    drawn = corrected(opened)
    data = tmp_path / "data"
    shutil.copytree(phantom_series, data / "series")
    shutil.copy(next(tree.glob("*/*/segmentation.seg.dcm")), data)
    with pytest.raises(UsageError, match="drawn by covct and corrected by nobody"):
        find_cases(data)
    [path] = save(opened, data, READER)
    [case] = find_cases(data)
    assert [file.path for file in case.segmentations] == [path]
    seg = pydicom.dcmread(path)
    assert str(seg.ContentCreatorName) == READER and seg.ContentLabel == "CORRECTED"
    assert {segment.SegmentAlgorithmType for segment in seg.SegmentSequence} == {"SEMIAUTOMATIC"}
    read = read_case(case)
    assert (read.infection[14] == (drawn >= 4)).all() and (read.lungs[14] == drawn % 4).all()


def test_saved_again_by_the_same_reader_alone(opened, tmp_path):
    [path] = save(opened, tmp_path, READER)
    first = pydicom.dcmread(path).SOPInstanceUID
    corrected(opened)
    assert save(opened, tmp_path, f" {READER} ") == [path] and pydicom.dcmread(path).SOPInstanceUID != first
    with pytest.raises(UsageError, match="there already, and Other did not save it; wanted another --save-to"):
        save(opened, tmp_path, "Other")
    assert str(pydicom.dcmread(path).ContentCreatorName) == READER


@pytest.mark.parametrize("name", ["", "  ", "a\\b", "a=b", "x" * 61, "a\0b"])
def test_nobody_saves_without_a_name(opened, tmp_path, name):
    with pytest.raises(UsageError, match="reader"):
        save(opened, tmp_path, name)
    assert not list(tmp_path.iterdir())


def test_a_corrected_volume_is_saved_by_its_name_and_with_its_scan(opened_volume, tmp_path):
    drawn = corrected(opened_volume)
    lungs, infection = save(opened_volume, tmp_path, READER, with_scan=True)
    assert (lungs.name, infection.name) == ("one_lungs.nii.gz", "one_infection.nii.gz")
    assert read_description(infection) == f"covct, corrected by {READER}"
    [case] = find_cases(tmp_path)
    read = read_case(case)
    assert (read.infection[14] == (drawn >= 4)).all()
    assert (read.pixels == opened_volume.scan.working.array).all()
    array, _ = read_mask(infection)
    nibabel.save(nibabel.Nifti1Image(array, nibabel.load(infection).affine), infection)  # somebody else's, with no word
    with pytest.raises(UsageError, match=r"one_infection\.nii\.gz is there already"):
        save(opened_volume, tmp_path, READER)


def test_readers_in_any_script_are_told_apart(opened_volume, tmp_path):
    save(opened_volume, tmp_path, "李明")
    with pytest.raises(UsageError, match="王芳 did not save it"):
        save(opened_volume, tmp_path, "王芳")


def test_a_scan_that_lies_there_already_is_not_written_over(tree, phantom_series, tmp_path):
    """Its files are in another order than its slices."""
    [study] = studies_of(tree, [phantom_series])
    data = tmp_path / study.series.folder.split("/")[-1]
    data.mkdir()
    for number, path in enumerate(sorted(phantom_series.iterdir(), reverse=True), start=1):
        shutil.copy(path, data / f"{number:04d}.dcm")
    before = {path.name: path.read_bytes() for path in data.iterdir()}
    [study] = studies_of(tree, [data])
    save(open_study(study), tmp_path, READER, with_scan=True)
    assert {path.name: path.read_bytes() for path in data.iterdir()} == before


def test_another_scan_of_that_name_stays(opened_volume, tmp_path):
    (tmp_path / "one_ct.nii.gz").write_bytes(b"another scan")
    with pytest.raises(UsageError, match="is there already, and is another scan"):
        save(opened_volume, tmp_path, READER, with_scan=True)
    assert (tmp_path / "one_ct.nii.gz").read_bytes() == b"another scan"


def sent(viewer, index, number=0, reader=READER):
    """A square of opacity on one slice, as the page sends it. Returns the answer."""
    page = marks(viewer._open(number))[index]
    page[40:60, 40:60] |= 4
    body = json.dumps({"reader": reader, "slices": {str(index): to_runs(page)}}).encode()
    return viewer.post(f"/series/{number}/marks", {}, body)


def test_what_was_saved_is_there_when_a_series_is_opened_again(tree, phantom_series, tmp_path):
    viewer = Viewer(studies_of(tree, [phantom_series]), tmp_path)
    assert sent(viewer, 14).status == 200
    viewer._opened = None  # another series was looked at
    assert sent(viewer, 15).status == 200
    [study] = studies_of(tree, [phantom_series])
    before = marks(open_study(study))
    read = pydicom.dcmread(next(tmp_path.glob("*.seg.dcm")))
    changed = [index for index, one in enumerate(marks(viewer._open(0))) if (one != before[index]).any()]
    assert changed == [14, 15] and len(read.PerFrameFunctionalGroupsSequence)


def test_corrections_that_are_not_loaded_are_not_written_over(tree, phantom_series, tmp_path):
    assert sent(Viewer(studies_of(tree, [phantom_series]), tmp_path), 14).status == 200
    [path] = tmp_path.glob("*.seg.dcm")
    saved, viewer = path.read_bytes(), Viewer(studies_of(tree, [phantom_series]), tmp_path)
    before = marks(viewer._open(0))
    answer = sent(viewer, 15)
    assert answer.status == 400 and EARLIER in answer.body.decode()
    assert path.read_bytes() == saved and (marks(viewer._open(0)) == before).all()


def test_marks_that_could_not_be_saved_are_taken_back(tree, phantom_series, tmp_path):
    (tmp_path / "file").touch()
    viewer = Viewer(studies_of(tree, [phantom_series]), tmp_path / "file")
    before = marks(viewer._open(0))
    assert sent(viewer, 14).status == 400 and (marks(viewer._open(0)) == before).all()


@pytest.mark.slow
def test_covct_evaluate_reads_a_correction_as_a_readers_mask(opened, tmp_path):
    """The truth: what another reader saved."""
    save(opened, tmp_path / "truth", "Other", with_scan=True)
    corrected(opened)
    save(opened, tmp_path / "mine", READER)
    asked = ("evaluate", tmp_path / "truth", "--predictions", tmp_path / "mine", "-o", tmp_path / "out")
    done = invoke(*asked, "--task", "infection")
    assert done.exit_code == 0, done.output
    evaluation = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    [group] = evaluation["groups"]
    opened.truths["infection"] = read_truth(
        next((tmp_path / "truth").glob("*.seg.dcm")).read_bytes(), "t.dcm", "infection", "", opened.scan
    )
    assert group["pooled"]["dice"]["value"] == pytest.approx(opened.compared("infection")["dice"], abs=1e-4)
    assert 0.5 < group["pooled"]["dice"]["value"] < 1


# Truth


def test_a_truth_is_compared(opened, opened_volume, tmp_path):
    [path] = save(opened, tmp_path, READER)
    before = opened.mask("infection")
    opened.truths["infection"] = read_truth(path.read_bytes(), "TRUTH.DCM", "infection", "", opened.scan)
    assert opened.compared("infection")["dice"] == 1 and opened.compared("infection")["beyond_ml"] == 0
    corrected(opened)
    told = opened.compared("infection")
    added = np.count_nonzero(opened.mask("infection")) - np.count_nonzero(before)
    assert told["dice"] == pytest.approx(2 * before.sum() / (2 * before.sum() + added))
    assert told["iou"] == pytest.approx(before.sum() / (before.sum() + added))
    assert told["most"] == 14 and told["missed_ml"] == 0 and told["beyond_ml"] > 0
    *_, infection = save(opened_volume, tmp_path, READER)
    truth = read_truth(infection.read_bytes(), "x.nii.gz", "infection", "", opened_volume.scan)
    assert (truth == opened_volume.mask("infection")).all()


def test_a_truth_that_does_not_fit_is_told_in_a_sentence(opened, opened_volume, tmp_path):
    other = tmp_path / "other.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((5, 6, 7), np.uint8), np.diag([1, 1, 2, 1])), other)
    contents, scan = other.read_bytes(), opened.scan
    for name, body, says in (
        ("a.nii.gz", contents, r"the file: the mask has 7 x 6 x 5 voxels, wanted 30 x 128 x 128 as its scan has$"),
        ("a.dcm", b"nothing", "the file is no mask: wanted a DICOM SEG"),
        ("a", contents, "the file is no mask"),
        ("a.nii.gz", contents[:60], "cannot be read"),
        ("a.png", cv2.imencode(".png", np.zeros((128, 128), np.uint8))[1].tobytes(), "wanted 30 x 128 x 128"),
    ):
        with pytest.raises(UsageError, match=says) as error:
            read_truth(body, name, "infection", "", scan)
        assert "\n" not in str(error.value) and "/tmp" not in str(error.value) and "--" not in str(error.value)
    [seg] = save(opened, tmp_path, READER)
    with pytest.raises(UsageError, match="refers to DICOM slices, and this scan is a volume file"):
        read_truth(seg.read_bytes(), "a.dcm", "infection", "", opened_volume.scan)


def test_labels_say_what_a_truth_holds(opened_volume, tmp_path):
    both = opened_volume.scan.to_source(np.where(marks(opened_volume) >= 4, 7, 1).astype(np.uint8))
    path = tmp_path / "both.nii.gz"
    nibabel.save(both.to_nibabel(), path)
    with pytest.raises(UsageError, match="holds labels 1, 7; say which are infection$"):
        read_truth(path.read_bytes(), path.name, "infection", "", opened_volume.scan)
    truth = read_truth(path.read_bytes(), path.name, "infection", "7", opened_volume.scan)
    assert (truth == opened_volume.mask("infection")).all() and truth.any()


# Who may ask


@pytest.mark.parametrize(
    ("bound", "host", "own"),
    [
        ("127.0.0.1", "127.0.0.1:8000", True),
        ("127.0.0.1", "localhost:9000", True),  # through a tunnel
        ("127.0.0.1", "[::1]:8000", True),
        ("127.0.0.1", "evil.example:8000", False),
        ("127.0.0.1", "127.0.0.1.evil.example", False),
        ("127.0.0.1", "10.0.0.5:8000", False),
        ("127.0.0.1", "", False),
        ("127.0.0.1", "[::1", False),
        ("0.0.0.0", "10.0.0.5:8000", True),
        ("0.0.0.0", "evil.example:8000", False),
        ("ward-pc", "ward-pc:8000", True),
    ],
)
def test_the_name_asked_for_is_its_own(bound, host, own):
    assert Guard(bound, 8000).is_own(host) is own


@contextmanager
def served(viewer):
    with listening(viewer, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()


def ask(server, method, path, body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.guard.port, timeout=20)
    own = f"127.0.0.1:{server.guard.port}"
    names = {"Host": own, "Cookie": f"{server.guard.cookie}={server.guard.token}", "Origin": f"http://{own}"}
    headers = {key: value for key, value in {**names, **headers}.items() if value is not None}
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    return response, response.read().decode()


def test_only_who_has_the_token_is_answered(tree, tmp_path, capfd):
    with served(Viewer(studies_of(tree, []), tmp_path)) as server:
        guard = server.guard
        for path in ("/", "/series/0", "/?token=wrong", "/?token=%F0%9F%98%80", "/nothing"):
            for cookie in (None, f"{guard.cookie}=wrong", "covct=1; ;;=", f"covct-view-1={guard.token}"):
                response, body = ask(server, "GET", path, Cookie=cookie)
                assert response.status == 403 and NO_TOKEN in body
        response, _ = ask(server, "GET", f"/?token={guard.token}", Cookie=None)
        assert response.status == 303 and response.headers["Location"] == "/"
        assert response.headers["Set-Cookie"] == f"{guard.cookie}={guard.token}; HttpOnly; SameSite=Lax; Path=/"
        assert [ask(server, "GET", f"/?token={guard.once}" if guard.once else "/?token=", Cookie=None)[0].status
                for _ in range(2)] == [303, 403]  # fmt: skip
        response, body = ask(server, "GET", "/")
        assert response.status == 200 and "Series to look at" in body
        assert response.headers["Cache-Control"] == "no-store" and response.headers["X-Frame-Options"] == "DENY"
        assert "frame-ancestors 'none'" in response.headers["Content-Security-Policy"]
        assert ask(server, "GET", "/", Host=f"evil.example:{guard.port}")[0].status == 403
        assert "Server" not in response.headers
    assert capfd.readouterr() == ("", ""), "nothing is logged"


def test_only_its_own_pages_may_send(tree, phantom_series, tmp_path):
    with served(Viewer(studies_of(tree, [phantom_series]), tmp_path / "saved")) as server:
        for changes in ({"Origin": None}, {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Cookie": None}):
            response, _ = ask(server, "POST", "/series/0/marks", b"{}", **changes)
            assert response.status == 403
        for body in (b"{}", b"\xff", b"[1]", b"[" * 100_000):
            response, said = ask(server, "POST", "/series/0/marks", body)
            assert response.status == 400 and "what was sent is no correction" in said
        none = {"reader": READER, "slices": {"14": [0, 5]}}
        response, said = ask(server, "POST", "/series/0/marks", json.dumps(none))
        assert response.status == 400 and "the marks lie on another grid, 5 pixels a slice" in said
        assert ask(server, "POST", "/series/0/marks", b"", **{"Content-Length": str(2**40)})[0].status == 413
        assert ask(server, "PUT", "/series/0/marks", b"")[0].status == 501
        assert not (tmp_path / "saved").exists()
        response, said = ask(server, "POST", "/series/0/marks", json.dumps({"reader": READER, "slices": {}}))
        assert response.status == 200 and len(list((tmp_path / "saved").glob("*.seg.dcm"))) == 1


def test_a_port_in_use(tree, tmp_path):
    viewer = Viewer(studies_of(tree, []), tmp_path)
    with (
        served(viewer) as server,
        pytest.raises(UsageError, match=r"^--port \d+ is in use; --port 0 takes a free one"),
        listening(viewer, "127.0.0.1", server.guard.port),
    ):
        pass
    with pytest.raises(UsageError, match="cannot listen on"), listening(viewer, "192.0.2.1", 0):
        pass


# The command


@pytest.mark.slow
def test_a_scan_is_segmented_and_shown_until_ctrl_c(phantom_series, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "support.threshold_cli", "view", phantom_series, "--no-browser"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": PYTHONPATH, "COVCT_WEIGHTS": str(make_weights(tmp_path / "weights")),
             "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    address = process.stdout.readline()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{32}\n", address)
    assert [path.name for path in tmp_path.glob("covct-view-*/*")] == ["results"]
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=30)
    assert process.returncode == 0 and out == "" and "Traceback" not in said
    assert not list(tmp_path.glob("covct-view-*")), "nothing is left behind"


def test_what_cannot_be_viewed_is_told(tree, phantom_series, threshold_networks, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "no such file" in str(invoke("view", tmp_path / "none").exception)
    assert "results alone" in str(invoke("view", phantom_series, "--save-to", tree).exception)
    assert "results alone" in str(invoke("view", tree, "--save-to", tree / "corrected").exception)
    assert "is for a scan" in str(invoke("view", tree, "-o", tmp_path / "out").exception)
    assert invoke("view", tmp_path / "empty", "--weights", make_weights(tmp_path / "w")).exit_code == 3
