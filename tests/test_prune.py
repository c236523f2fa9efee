"""`covct prune`: old results without pictures and captures; what was found stays, and nothing brings the rest back."""

import json
import re
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from covct.disk import state
from covct.disk.outcome import read_outcome
from covct.intake.nifti import write_nifti
from covct.outputs import NIFTI_PAIR, Outputs
from covct.phantom.chest import make_phantom
from covct.phantom.dicom import write_dicom_series
from covct.results.verify import verify
from covct.unattended import batch, prune
from support.batches import never, well_told
from support.chests import SMALL
from support.running import change_json, invoke, read_json
from support.series import change
from support.thresholds import make_networks, make_weights

pytestmark = pytest.mark.slow

FORMATS_OF_NIGHT = ("seg", "sr", "sc", "nifti", "png", "page")
OLD = (datetime.now(UTC) - timedelta(days=100)).isoformat(timespec="seconds")


def scanned(order, networks=never):
    events = []
    tally = batch.scan(order, networks if networks is never else lambda: networks, events.append)
    return tally, well_told(events)


def results(out):
    return sorted(path.parent for path in out.glob("[!.]*/*/outcome.json"))


def names(folder):
    return {path.name for path in folder.iterdir()}


def age(folder):
    """A result as if it had been computed a hundred days ago."""
    outcome = read_json(folder / "outcome.json")
    change_json(folder / "outcome.json", moments={outcome["work_key"]: OLD}, finished=OLD)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three results with every format of the night, of which the first two are a hundred days old; their order."""
    folder = tmp_path_factory.mktemp("nights")
    chest = make_phantom(**{**SMALL, "slices": 16, "rows": 64, "columns": 64, "pixel_spacing_mm": (6.0, 6.0)}, seed=1)
    for number in "123":
        write_dicom_series(chest, folder / "in" / number)
        identity = {"StudyInstanceUID": f"1.2.{number}", "SeriesInstanceUID": f"1.2.{number}.1"}
        change(folder / "in" / number, **identity, SOPInstanceUID=lambda i, number=number: f"1.2.{number}.1.{i + 1}")
    weights = make_weights(folder / "weights")
    order = batch.Order((folder / "in",), folder / "out", weights, Outputs(FORMATS_OF_NIGHT))
    assert scanned(order, make_networks())[0]["done"] == 3
    for one in results(order.out)[:2]:
        age(one)
    return order


@pytest.fixture
def nights(made, tmp_path):
    return replace(made, out=Path(shutil.copytree(made.out, tmp_path / "out")))


def pruned(out, *options):
    ended = invoke("prune", out, "--older-than", "90d", *options)
    assert ended.exit_code == 0, ended.output
    return ended


def test_old_results_keep_their_report_and_masks(nights):
    out = nights.out
    first, second, young = results(out)
    before = names(young)
    lines = [json.loads(line) for line in pruned(out, "--json").stdout.splitlines()]
    assert [line.get("folder") for line in lines] == [
        *(f"{one.parent.name}/{one.name}" for one in (first, second)),
        None,
    ]
    assert lines[0]["formats"] == ["sr", "sc", "nifti", "png", "page"]
    assert lines[0]["files"] == len(before) - 3
    assert (lines[2]["results"], lines[2]["bytes"]) == (2, lines[0]["bytes"] + lines[1]["bytes"])
    for folder in (first, second):
        assert names(folder) == {"outcome.json", "report.json", "segmentation.seg.dcm"}
        assert read_outcome(folder).pruned == lines[0]["formats"]
    assert names(young) == before
    assert not [defect for verdict in verify(out) for defect in verdict.defects]
    assert not pruned(out).stdout, "there is nothing more to remove"


def test_no_scan_brings_back_what_was_removed_unless_it_is_forced_to(nights, networks):
    pruned(nights.out)
    before = {folder: names(folder) for folder in results(nights.out)}
    for formats in (FORMATS_OF_NIGHT, ("seg", "sc")):
        tally, _ = scanned(replace(nights, outputs=Outputs(formats)))
        assert (tally["done before"], tally["done"]) == (3, 0)
        assert {folder: names(folder) for folder in results(nights.out)} == before
    tally, events = scanned(replace(nights, outputs=Outputs(("seg", "sc", "ko"))))
    added = [event["added"] for event in events if event["event"] == "done"]
    assert (tally["done"], added) == (3, [["ko"]] * 3), "what was never there is added, and no more"
    scanned(replace(nights, force=True), networks)
    assert {len(names(folder)) for folder in results(nights.out)} == {len(before[results(nights.out)[2]]) + 1}
    assert not any(read_outcome(folder).pruned for folder in results(nights.out))


def test_the_page_leads_to_nothing_that_is_gone(nights):
    out = nights.out
    pruned(out)
    links = re.findall(r'(?:href|src)="([^"#:]+)"', (out / "index.html").read_text())
    assert any("study.html" in link for link in links), "of the young one"
    assert not [link for link in links if not (out / link).exists()]
    assert (out / "summary.csv").read_text().count("overlay.png") == 1


def test_a_dry_run_removes_nothing_and_waits_for_nobody(nights):
    before = {folder: names(folder) for folder in results(nights.out)}
    with state.lock(nights.out):
        ended = pruned(nights.out, "--dry-run")
    assert len(ended.stdout.splitlines()) == 2 and "would be removed from 2 results" in ended.stderr
    assert {folder: names(folder) for folder in results(nights.out)} == before


def test_another_covct_in_the_tree_is_not_disturbed(nights):
    with state.lock(nights.out):
        assert invoke("prune", nights.out, "--older-than", "90d").exception.exit_code == 11


@pytest.mark.parametrize(
    ("keep", "left"),
    [("sr", {"measurements.sr.dcm", "segmentation.seg.dcm"}), ("report", set()), ("png", {"overlay.png"})],
)
def test_what_is_kept_is_kept_with_what_it_needs(nights, keep, left):
    """An SR without the SEG whose segments it measures would point at nothing."""
    pruned(nights.out, "--keep", keep)
    folder = results(nights.out)[0]
    assert names(folder) == {"outcome.json", "report.json", *left}
    assert not [defect for verdict in verify(nights.out) for defect in verdict.defects]


def test_of_a_volume_file_the_masks_stay_in_place_of_a_seg(tmp_path, weights, networks):
    write_nifti(make_phantom(**{**SMALL, "slices": 20}, lesions="moderate", seed=1).volume, tmp_path / "volume.nii.gz")
    scanned(batch.Order((tmp_path / "volume.nii.gz",), tmp_path / "out", weights), networks)
    [folder] = results(tmp_path / "out")
    age(folder)
    pruned(tmp_path / "out")
    assert names(folder) == {"outcome.json", "report.json", *NIFTI_PAIR}


def test_masks_stay_where_a_pdf_is_the_only_dicom_object(nights):
    """NIfTI holds what was found; a report on paper does not."""
    outcome = read_outcome(results(nights.out)[0])
    files = {
        name: "0" * 64 for name in ("report.json", "lungs.nii.gz", "infection.nii.gz", "report.pdf", "report.pdf.dcm")
    }
    held = outcome.model_copy(update={"files": files, "formats": {"nifti": "", "pdf": ""}})
    assert "nifti" in prune._kept(held, ("seg",)) and "nifti" not in prune._kept(outcome, ("seg",))


def test_what_is_missing_is_missing_still(nights):
    """Pruning is no reason to forget that somebody lost a SEG."""
    folder = results(nights.out)[0]
    (folder / "segmentation.seg.dcm").unlink()
    pruned(nights.out)
    [defects] = [verdict.defects for verdict in verify(nights.out) if verdict.defects]
    assert ("missing-file", "segmentation.seg.dcm") in {(one.slug, one.file) for one in defects}


def test_a_prune_that_was_stopped_leaves_no_broken_page(nights, monkeypatch):
    commit, calls = state.commit, []

    def once(*arguments):
        if calls:
            raise KeyboardInterrupt
        calls.append(arguments)
        commit(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(state, "commit", once)
        assert invoke("prune", nights.out, "--older-than", "90d").exit_code
    assert [len(names(folder)) == 3 for folder in results(nights.out)] == [True, False, False]
    assert (nights.out / "summary.csv").read_text().count("overlay.png") == 2
    pruned(nights.out)
    assert [len(names(folder)) == 3 for folder in results(nights.out)] == [True, True, False]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--older-than", "soon"), "--older-than soon: wanted how long ago (90d, 12w, 24h), or a date (2026-01-31)"),
        (("--older-than", "90d", "--keep", "report,dicom"), "--keep names dicom; wanted report, seg, sr, sc, ko"),
        (("--older-than", "90d", "--keep", ","), "--keep names nothing; wanted report where nothing else is to stay"),
        (("--older-than", "90d"), "is not an output tree of covct"),
    ],
)
def test_what_is_asked_for_wrongly_is_refused(tmp_path, options, said):
    if said.startswith("--"):
        (tmp_path / ".covct").mkdir()
    error = invoke("prune", tmp_path, *options).exception
    assert error.exit_code == 2 and said in str(error)
