"""`covct verify --recompute`: figures derived anew from masks and source, by code that shares nothing with ours."""

import ast
import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

import covct
from covct.intake.nifti import write_nifti
from covct.phantom.dicom import write_dicom_series
from covct.recompute.figures import BANDS, lesions
from covct.recompute.lattice import Lattice, lattice_of
from covct.recompute.told import COLUMNS
from covct.results.check_figures import NEEDS
from covct.results.verify import Verdict, verify
from covct.terms import FIGURES, HU_BANDS
from support.cuts import Cut, tilted, turned, write_cut
from support.encodings import rewrite
from support.line import segmented_tree
from support.multiframe import write_enhanced
from support.running import invoke, read_json

ROOM = Path(covct.__file__).parent / "recompute"
SEG, SR = "segmentation.seg.dcm", "measurements.sr.dcm"


def anew(out: Path, *sources: Path) -> Verdict:
    """What is found in the one result of a tree. Hashes are another check's."""
    [verdict] = verify(out, sources, recompute=True)
    defects = tuple(one for one in verdict.defects if one.slug in ("figure-differs", "not-recomputed", "not-checked"))
    return Verdict(verdict.folder, verdict.status, defects, figures=verdict.figures)


def told(verdict: Verdict) -> list[str]:
    return [f"{one.slug} {one.file}: {one.message}" for one in verdict.defects]


@pytest.fixture(scope="module")
def segmented(phantom_series, tmp_path_factory) -> Path:
    """A tree with SEG, SR and NIfTI masks. Not to be changed."""
    out = tmp_path_factory.mktemp("recompute") / "out"
    return segmented_tree([phantom_series], out, formats=("seg", "sr", "nifti"))


@pytest.fixture
def tree(segmented, tmp_path) -> Path:
    return Path(shutil.copytree(segmented, tmp_path / "out"))


@pytest.fixture
def result(tree) -> Path:
    [report] = tree.glob("*/*/report.json")
    return report.parent


def test_the_room_imports_nothing_that_measures():
    """Nor anything else of covct: a mistake would have to be made twice."""
    for path in ROOM.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else getattr(node, "names", [])
            for name in (str(getattr(one, "name", one)) for one in names):
                assert not name.startswith("covct") or name.startswith("covct.recompute"), f"{path.name}: {name}"


def test_every_figure_is_derived_anew():
    for figure in FIGURES:
        assert set(figure.valid_for) == set(NEEDS[figure.name])
        columns = [figure.column] * bool(figure.column)
        columns += [f"{figure.column}_{side}" for side in ("right", "left") if figure.column_sides]
        assert set(columns) <= set(COLUMNS)
    assert {f"{name}_ml": band for name, band in HU_BANDS.items()}.items() <= BANDS.items()


def test_a_sound_result_has_every_figure_right(segmented, phantom_series):
    verdict = anew(segmented, phantom_series)
    assert told(verdict) == []
    assert verdict.figures > 120


# Any way the slices lie


@pytest.mark.slow
@pytest.mark.parametrize(
    "write",
    [
        lambda phantom, to: write_dicom_series(phantom, to, orientation="HFDR"),
        lambda phantom, to: write_dicom_series(phantom, to, orientation_cosines=[1, 0, 0, 0, 0, -1]),
        lambda phantom, to: write_cut(phantom, to, turned("x", 10), pixel_mm=4.0, step_mm=8.0),
        lambda phantom, to: write_cut(phantom, to, tilted(15), pixel_mm=4.0, step_mm=8.0),
    ],
    ids=["lying on the right", "coronal", "oblique", "tilted"],
)
def test_any_orientation(write, phantom, tmp_path):
    write(phantom, tmp_path / "in")
    segmented_tree([tmp_path / "in"], tmp_path / "out", formats=("seg", "sr"))
    verdict = anew(tmp_path / "out", tmp_path / "in")
    assert told(verdict) == [] and verdict.figures > 100


@pytest.mark.slow
def test_nifti_masks_of_tilted_slices_stand_for_a_seg(phantom, tmp_path):
    write_cut(phantom, tmp_path / "in", tilted(15), pixel_mm=4.0, step_mm=8.0)
    segmented_tree([tmp_path / "in"], tmp_path / "out", formats=("nifti",))
    verdict = anew(tmp_path / "out", tmp_path / "in")
    assert told(verdict) == [] and verdict.figures > 80


@pytest.mark.slow
@pytest.mark.parametrize("stacks", [1, 2])
def test_frames_of_a_multi_frame_source(stacks, phantom_series, tmp_path):
    write_enhanced(phantom_series, tmp_path / "in" / "enhanced.dcm", stacks, slopes=(1.0, 0.5))
    segmented_tree([tmp_path / "in"], tmp_path / "out", formats=("seg", "sr"))
    verdict = anew(tmp_path / "out", tmp_path / "in")
    assert told(verdict) == [] and verdict.figures > 100


@pytest.mark.slow
@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.90"])
def test_compressed_slices(syntax, series_folder, tmp_path):
    rewrite(series_folder, syntax)
    segmented_tree([series_folder], tmp_path / "out", formats=("seg",))
    verdict = anew(tmp_path / "out", series_folder)
    assert told(verdict) == [] and verdict.figures > 80


@pytest.mark.slow
def test_positions_rounded_to_millimetres_leave_volumes_open_by_so_much(phantom, tmp_path):
    write_cut(phantom, tmp_path / "in", Cut(), pixel_mm=4.0, step_mm=7.3)
    for path in (tmp_path / "in").iterdir():
        dataset = pydicom.dcmread(path)
        dataset.ImagePositionPatient = [round(float(value)) for value in dataset.ImagePositionPatient]
        dataset.save_as(path)
    segmented_tree([tmp_path / "in"], tmp_path / "out", formats=("seg",))
    assert told(anew(tmp_path / "out", tmp_path / "in")) == []


@pytest.mark.slow
def test_a_label_map(phantom_series, tmp_path):
    """Its lungs are two segments each, and the SR gives what lies outside infection."""
    segmented_tree([phantom_series], tmp_path / "out", formats=("seg", "sr"), seg_type="labelmap")
    verdict = anew(tmp_path / "out", phantom_series)
    assert told(verdict) == [] and verdict.figures > 100


@pytest.mark.slow
def test_a_nifti_source(phantom, tmp_path):
    write_nifti(phantom.volume, tmp_path / "chest.nii.gz")
    segmented_tree([tmp_path / "chest.nii.gz"], tmp_path / "out")
    verdict = anew(tmp_path / "out", tmp_path / "chest.nii.gz")
    assert told(verdict) == [] and verdict.figures > 80


# A figure that is not what it should be


def change_report(result: Path, path: str, by: float) -> None:
    report = read_json(result / "report.json")
    *parents, name = path.split(".")
    at = report
    for parent in parents:
        at = at[int(parent)] if isinstance(at, list) else at[parent]
    at[name] = round(at[name] + by, 6)
    (result / "report.json").write_text(json.dumps(report))


@pytest.mark.parametrize(
    ("path", "by"),
    [
        ("regions.right_lung.volume_ml", 0.002),
        ("regions.lungs.infection_percent", 0.02),
        ("regions.left_lung.ground_glass_ml", -0.002),
        ("regions.left_lung.mean_hu", 0.02),
        ("regions.lungs.infection_mass_g", 0.002),
        ("regions.right_lung.thirds.middle.infection_ml", 0.002),
        ("geometry.voxel_volume_mm3", 0.00001),
        ("lesions.count", 1),
        ("lesions.largest.0.volume_ml", 0.002),
    ],
)
def test_a_figure_that_is_off_by_two_of_its_last_digit_is_found(path, by, result, phantom_series):
    was = read_json(result / "report.json")
    change_report(result, path, by)
    (found,) = told(anew(result.parents[1], phantom_series))
    named = path.replace(".0", "[0]")
    assert found.startswith(f"figure-differs report.json: {named} is "), found
    assert "recomputed" in found and was != read_json(result / "report.json")


def test_a_lesion_in_another_place_is_found(result, phantom_series):
    report = read_json(result / "report.json")
    report["lesions"]["largest"][1]["centroid_lps_mm"][2] += 0.2
    (result / "report.json").write_text(json.dumps(report))
    (found,) = told(anew(result.parents[1], phantom_series))
    assert found.startswith("figure-differs report.json: lesions.largest[1] lies at ")


def test_a_figure_that_was_taken_out_is_found(result, phantom_series):
    report = read_json(result / "report.json")
    report["regions"]["left_lung"]["infection_mean_hu"] = None
    (result / "report.json").write_text(json.dumps(report))
    (found,) = told(anew(result.parents[1], phantom_series))
    assert found.startswith("figure-differs report.json: regions.left_lung.infection_mean_hu is null, recomputed -")


def test_a_number_of_the_sr_that_differs_is_found(result, phantom_series):
    dataset = pydicom.dcmread(result / SR)
    measurements = dataset.ContentSequence[-1]  # after the image library
    [number] = [one for one in measurements.iterall() if one.keyword == "NumericValue"][:1]
    number.value = str(float(number.value) + 0.01)
    dataset.save_as(result / SR)
    (found,) = told(anew(result.parents[1], phantom_series))
    assert found.startswith(f"figure-differs {SR}: Volume of the lungs is ")


def test_a_cell_of_the_table_that_differs_is_found(tree, phantom_series):
    [row] = csv.DictReader((tree / "summary.csv").open(newline=""))
    text = (tree / "summary.csv").read_text()
    (tree / "summary.csv").write_text(text.replace(f",{row['lung_mean_hu_left']},", ",-801.5,"))
    (found,) = told(anew(tree, phantom_series))
    assert found.startswith("figure-differs summary.csv: lung_mean_hu_left is -801.5, recomputed ")


def test_another_source_is_found(result, phantom_series, tmp_path):
    """One voxel in the lung by 200 HU: the sum of a mean tells."""
    changed = Path(shutil.copytree(phantom_series, tmp_path / "changed"))
    path = sorted(changed.iterdir())[15]
    dataset = pydicom.dcmread(path)
    pixels = dataset.pixel_array.copy()
    pixels[50:80] += 200
    dataset.PixelData = pixels.tobytes()
    dataset.save_as(path)
    names = {found.split(" is ")[0].rpartition(".")[2] for found in told(anew(result.parents[1], changed))}
    assert {"mean_hu", "infection_mean_hu", "infection_mass_g"} <= names and "volume_ml" not in names


# What cannot be derived is said


def test_without_sources_what_needs_them_is_named_and_the_rest_compared(tree):
    verdict = anew(tree)
    assert verdict.figures > 60
    assert [one.slug for one in verdict.defects] == ["not-recomputed", "not-recomputed"]
    assert "mean HU" in told(verdict)[0] and "30 of 30 source instances are not among the sources" in told(verdict)[0]
    assert "grid" in told(verdict)[1]


def test_volumes_are_compared_without_sources(result):
    change_report(result, "regions.right_lung.volume_ml", 0.002)
    assert any("regions.right_lung.volume_ml" in found for found in told(anew(result.parents[1])))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("outputs", "why"),
    [
        ({"formats": ("png",)}, "it has neither a SEG nor NIfTI masks"),
        ({"formats": ("seg",), "seg_type": "fractional"}, "its SEG holds probabilities"),
    ],
    ids=str,
)
def test_a_result_without_masks_is_not_passed_over(outputs, why, phantom_series, tmp_path):
    segmented_tree([phantom_series], tmp_path / "out", **outputs)
    (found,) = told(anew(tmp_path / "out", phantom_series))
    assert found.startswith(f"not-recomputed report.json: no figure: {why}")


@pytest.mark.slow
def test_a_fractional_seg_beside_nifti_masks(phantom_series, tmp_path):
    segmented_tree([phantom_series], tmp_path / "out", formats=("seg", "sr", "nifti"), seg_type="fractional")
    verdict = anew(tmp_path / "out", phantom_series)
    assert told(verdict) == [] and verdict.figures > 100


@pytest.mark.slow
def test_a_source_whose_format_is_not_read_here(phantom, tmp_path):
    image = sitk.GetImageFromArray(np.asarray(phantom.volume.array, np.int16))
    affine = phantom.volume.affine
    image.SetSpacing(np.linalg.norm(affine[:3, [2, 1, 0]], axis=0).tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, [2, 1, 0]] / np.linalg.norm(affine[:3, [2, 1, 0]], axis=0)).ravel().tolist())
    sitk.WriteImage(image, str(tmp_path / "chest.mha"))
    segmented_tree([tmp_path / "chest.mha"], tmp_path / "out")
    verdict = anew(tmp_path / "out", tmp_path / "chest.mha")
    (found,) = told(verdict)
    assert "the source is a metaimage file" in found and verdict.figures > 50


def test_a_number_that_nobody_knows_is_named(result, phantom_series):
    dataset = pydicom.dcmread(result / SR)
    [code, *_] = [one for one in dataset.iterall() if one.keyword == "CodeValue" and one.value == "118565006"]
    code.value = "another"
    dataset.save_as(result / SR)
    (found,) = told(anew(result.parents[1], phantom_series))
    assert found.startswith(f"not-recomputed {SR}: Volume of the lungs")


def test_the_command_says_how_many_figures_and_ends_with_3(result, phantom_series):
    change_report(result, "regions.right_lung.mean_hu", 1.0)
    ended = invoke("verify", result.parents[1], phantom_series, "--recompute", "--no-dciodvfy", "--json")
    assert ended.exit_code == 3
    events = [json.loads(line) for line in ended.stdout.splitlines()]
    assert "figure-differs" in {event.get("slug") for event in events}
    assert events[-1]["figures"] > 100 and "figures derived anew" in ended.stderr


# Its own geometry


def test_lesions_touch_by_faces_only():
    infection = np.zeros((2, 20, 20), bool)
    infection[0, :10, :10] = infection[1, 10:, 10:] = infection[1, :10, 10:] = True
    lattice = Lattice((2, 20, 20), np.diag([1.0, 1, 1, 1]), (1.0, 1.0, 1.0), 1.0)
    found = lesions(infection, np.zeros_like(infection), (0, 0, 0), lattice)
    assert [one.voxels for one in found] == [200, 100]


def test_a_sheared_affine_has_the_volume_of_its_slices():
    affine = np.diag([0.5, 0.5, 2.0, 1.0])
    affine[1, 2] = 0.4  # slices move on by 0.4 mm sideways
    lattice = lattice_of((10, 10, 10), affine)
    assert lattice.voxel_mm3 == pytest.approx(0.5) and lattice.spacing_mm == pytest.approx((0.5, 0.5, 2.0))
    assert lattice.tilt_degrees == pytest.approx(np.degrees(np.arctan(0.2)))
