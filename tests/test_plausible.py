"""Figures that cannot be true are no results: wrong voxel sizes, turned patients, what is no chest."""

import json
from dataclasses import replace

import cv2
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

from covct.cli import app
from covct.errors import SeriesError
from covct.intake import gate, gate_rules
from covct.intake.discover import discover
from covct.intake.gate import check_headers, check_hounsfield, coverage, header_warnings
from covct.intake.gate_voxels import Chest, judge_chest, measure_chest
from covct.unattended.convert import Conversion, convert
from covct.voxels.volume import spacing_mm
from support.line import night
from support.series import change, each_slice, put_hu

pytestmark = pytest.mark.slow

RAS_OF_LPS = np.diag([-1.0, -1, 1, 1])


@pytest.fixture(scope="module")
def measured(phantom) -> Chest:
    return measure_chest(phantom.volume.array, phantom.lungs, spacing_mm(phantom.volume))


def as_nifti(phantom):
    """Voxels in the order of RAS, and their affine."""
    image = nibabel.Nifti1Image(np.asarray(phantom.volume.array, np.int16), RAS_OF_LPS @ phantom.volume.affine)
    image = nibabel.as_closest_canonical(image)
    return np.asanyarray(image.dataobj), image.affine


def saved(voxels, affine, folder):
    folder.mkdir()
    nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(voxels), affine), folder / "chest.nii.gz")
    return folder


def assert_no_figures(report):
    """No volume, no percent, no class."""
    assert not report["valid_for"]["volume"] and not report["valid_for"]["percent"]
    assert report["severity"]["class"] is None
    for region in report["regions"].values():
        assert region["volume_ml"] is None and region["infection_percent"] is None


def test_the_phantom_is_a_person(measured):
    assert judge_chest(measured, None, other_part=True) == []
    assert judge_chest(measured, 60.0, other_part=False) == []
    assert measured.clefts[2] < 0.1 < 0.9 < min(measured.clefts[:2])
    assert measured.spine > 0.7


def test_an_affine_that_nobody_set_is_refused_with_that_reason(phantom, tmp_path):
    voxels, _ = as_nifti(phantom)
    slug, message = night(saved(voxels, np.eye(4), tmp_path / "in")).rejection
    assert slug == "no-lungs"
    assert "the affine is the identity" in message


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, -1, 1)], ids=["by nibabel", "by SimpleITK"])
def test_an_affine_that_nobody_set_gives_no_figures_where_they_might_be_true(phantom, tmp_path, signs):
    """Voxels of 1 mm, as likely as not: only the file's origin at 0 gives it away. A small adult: fewer of them."""
    voxels, affine = as_nifti(phantom)
    size = np.round(0.75 * np.array(voxels.shape) * np.linalg.norm(affine[:3, :3], axis=0)).astype(int)
    places = [np.arange(n) * have // n for n, have in zip(size, voxels.shape, strict=True)]
    array = voxels[np.ix_(*places)]
    array = array[tuple(slice(None, None, sign) for sign in signs)]
    done = night(saved(array, np.diag([*map(float, signs), 1]), tmp_path / "in"))
    assert "default-affine" in done.warned
    assert_no_figures(done.report)
    slug, _ = night(tmp_path / "in", strict=True).rejection
    assert slug == "default-affine"


def test_axes_in_the_order_of_rows_columns_and_slices_are_a_patient_on_his_side(phantom, tmp_path):
    voxels, affine = as_nifti(phantom)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    turned = voxels[::-1, ::-1].transpose(1, 0, 2)
    slug, message = night(saved(turned, np.diag([*spacing[[1, 0, 2]], 1.0]), tmp_path / "in")).rejection
    assert slug == "turned"
    assert "one in front of the other" in message


def test_slices_for_columns_are_lungs_one_above_the_other(phantom, tmp_path):
    voxels, affine = as_nifti(phantom)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    turned = voxels.transpose(2, 1, 0)
    affine = np.diag([*spacing[[2, 1, 0]], 1.0])
    slug, _ = night(saved(turned, affine, tmp_path / "in")).rejection
    assert slug == "turned"


def test_a_prone_patient_registered_as_supine_would_have_his_sides_exchanged(phantom, tmp_path):
    voxels, affine = as_nifti(phantom)
    slug, message = night(saved(voxels[::-1, ::-1], affine, tmp_path / "in")).rejection
    assert slug == "turned"
    assert "back and front seem swapped" in message


@pytest.mark.parametrize(
    ("factors", "slug"),
    [((2, 2, 1), "implausible-body"), ((2.3, 2.3, 1), "implausible-body"), ((1, 1, 1.95), "implausible-lungs")],
    ids=["pixels doubled", "pixels more than doubled", "slice spacing doubled"],
)
def test_voxels_larger_than_they_are(phantom, tmp_path, factors, slug):
    voxels, affine = as_nifti(phantom)
    done = night(saved(voxels, affine @ np.diag([*map(float, factors), 1]), tmp_path / "in"))
    if done.said("rejected"):
        assert done.rejection[0] == slug
    else:
        assert slug in done.warned
        assert_no_figures(done.report)


def test_a_third_of_the_slice_spacing(measured):
    squeezed = replace(measured, lungs_mm=(measured.lungs_mm[0] / 3, *measured.lungs_mm[1:]))
    with pytest.raises(SeriesError, match="slice spacing cannot be right"):
        judge_chest(squeezed, None, False)
    assert judge_chest(replace(squeezed, end_share=0.2), None, False) == [], "cut lungs may be as low as they like"


def findings(chest, age=None, other_part=False):
    """The one finding and its level, whether it refuses or warns."""
    try:
        found = judge_chest(chest, age, other_part)
    except SeriesError as error:
        return error.slug, "refused"
    return (found[0].slug, found[0].level) if found else None


@pytest.mark.parametrize(
    ("changes", "age", "finding"),
    [
        ({"right_ml": 4500.0, "left_ml": 4000.0}, None, None),
        ({"right_ml": 6000.0, "left_ml": 5500.0}, None, ("implausible-lungs", "warned")),
        ({"right_ml": 9000.0, "left_ml": 8000.0}, None, ("implausible-lungs", "refused")),
        ({"right_ml": 500.0, "left_ml": 8000.0}, None, ("implausible-lungs", "warned")),
        ({"right_ml": 700.0, "left_ml": 600.0}, 0.5, ("implausible-lungs", "warned")),
        ({"right_ml": 900.0, "left_ml": 800.0}, 4.0, None),
        ({"right_ml": 350.0, "left_ml": 300.0}, 40.0, ("implausible-lungs", "warned")),
        ({"right_ml": 350.0, "left_ml": 300.0}, None, None),
        ({"right_ml": 350.0, "left_ml": 300.0, "end_share": 0.5}, 40.0, None),
        ({"right_ml": 1600.0, "left_ml": 0.0, "clefts": (1.0, 1.0, 1.0)}, 40.0, None),
        ({"right_ml": 1600.0, "left_ml": 900.0, "clefts": (1.0, 1.0, 1.0)}, 40.0, ("turned", "warned")),
        ({"width_mm": 110.0, "area_cm2": 85.0, "right_ml": 50.0, "left_ml": 40.0}, 0.02, None),
        ({"width_mm": 110.0, "area_cm2": 85.0}, 40.0, ("implausible-body", "warned")),
        ({"width_mm": 650.0}, None, ("implausible-body", "warned")),
        ({"width_mm": 50.0}, None, ("implausible-body", "refused")),
        ({"area_cm2": 1600.0, "width_mm": 520.0}, None, None),
        ({"area_cm2": 3200.0}, None, ("implausible-body", "refused")),
        ({"spine": None}, None, None),
        ({"spine": 0.35}, None, ("turned", "warned")),
        ({"spine": 0.35, "lungs_mm": (19.0, 110.0, 210.0), "end_share": 1.0}, None, None),
        ({"lung_share": 0.05}, None, ("no-lungs", "warned")),
        ({"right_ml": 600.0, "left_ml": 300.0, "inner_hu": -985.0}, None, ("no-lungs", "refused")),
        ({"right_ml": 3600.0, "left_ml": 3300.0, "inner_hu": -965.0}, None, None),
    ],
)
def test_what_a_chest_can_be(measured, changes, age, finding):
    assert findings(replace(measured, **changes), age) == finding


@pytest.mark.parametrize(
    "changes",
    [
        {"right_ml": 500.0, "left_ml": 400.0},
        {"lung_share": 0.12},
        {"left_ml": 0.0},
        {"clefts": (1.0, 1.0, 0.9)},
        {"end_share": 1.0},
    ],
    ids=["little lung", "a small part of the body", "one lung", "not side by side", "only the bases"],
)
def test_what_is_said_to_be_an_abdomen_needs_all_signs_of_a_chest(measured, changes):
    assert findings(measured, other_part=True) is None
    assert findings(replace(measured, **changes), other_part=True) == ("head-or-abdomen", "refused")


def test_a_newborn_has_less_lung_than_an_adult_may_have():
    lungs = np.zeros((30, 40, 40), np.uint8)
    lungs[5:25, 10:20, 8:13], lungs[5:25, 10:20, 20:25] = 1, 2
    spacing = (3.0, 3.0, 3.0)
    with pytest.raises(SeriesError, match="54 mL"):
        coverage(lungs, spacing)
    valid, found = coverage(lungs, spacing, age_years=gate.age_years("010D"))
    assert valid.volume and not found


@pytest.mark.parametrize(
    ("text", "years"),
    [
        ("045Y", 45),
        ("006M", 0.5),
        (" 045Y ", 45),
        ("45", None),
        ("000Y", None),
        ("", None),
        (None, None),
        ("ABCY", None),
    ],
)
def test_the_age_that_a_header_says(text, years):
    assert gate.age_years(text) == years


def pelvis(series_folder, part, radius=6):
    """An abdomen with six loops of gas, on every slice of the phantom's."""
    y, x = np.mgrid[:128, :128] - 64
    hu = np.where((x / 55) ** 2 + (y / 38) ** 2 < 1, 40, -1000)
    for column, row in ((-30, -10), (0, -14), (28, -8), (-24, 12), (10, 10), (30, 12)):
        hu[np.hypot(y - row, x - column) < radius] = -998
    for index, dataset in enumerate(each_slice(series_folder)):
        dataset.BodyPartExamined, dataset.SeriesDescription = part, ""
        put_hu(dataset, hu if 4 < index < 25 else np.where(hu < -990, np.where(np.abs(x) < 45, 40, hu), hu))
    return series_folder


@pytest.mark.parametrize(("part", "slug"), [("PELVIS", "head-or-abdomen"), ("", "no-lungs"), ("CHEST", "no-lungs")])
def test_bowel_gas_is_no_lung_whatever_the_header_says(series_folder, part, slug, networks):
    """Networks that take all gas for lung."""
    got, _ = night(pelvis(series_folder, part), networks=networks).rejection
    assert got == slug


def test_lung_bases_above_an_abdomen_have_no_class(series_folder):
    paths = sorted(series_folder.iterdir())
    for path in paths[:18]:
        path.unlink()
    done = night(series_folder)
    assert_no_figures(done.report)
    for dataset in each_slice(series_folder):
        dataset.BodyPartExamined, dataset.SeriesDescription = "ABDOMEN", ""
    assert night(series_folder).rejection[0] == "head-or-abdomen"


def test_a_chest_said_to_be_an_abdomen_is_done(series_folder):
    for dataset in each_slice(series_folder):
        dataset.BodyPartExamined, dataset.SeriesDescription = "ABDOMEN", ""
    assert night(series_folder).report["severity"]["class"]


@pytest.mark.parametrize(
    ("pixel_mm", "level"), [(0.5, "refused"), (0.8, "warned"), (3.0, None), (7.0, "warned"), (8.0, "refused")]
)
def test_a_field_of_view_that_no_scanner_has(series_folder, pixel_mm, level):
    """128 pixels a side."""
    change(series_folder, PixelSpacing=[pixel_mm, pixel_mm])
    [series] = discover([series_folder]).series
    if level == "refused":
        with pytest.raises(SeriesError) as caught:
            check_headers(series)
        assert caught.value.slug == "implausible-size"
        return
    check_headers(series)
    valid, found = header_warnings(series)
    assert ("implausible-size" in {finding.slug for finding in found}) == (level == "warned")
    assert valid.volume == valid.percent == (level is None)


def test_a_picture_stretched_to_a_thousand_is_no_hounsfield_units(phantom):
    """A lung window of 8 bit, brought to -1000 to 1000: air is right, and nothing else."""
    grey = np.clip((phantom.volume.array + 1250.0) / 1500, 0, 1)
    with pytest.raises(SeriesError, match="soft tissue"):
        check_hounsfield(grey * 2000 - 1000)


def test_a_phantom_of_water_is_no_chest(series_folder, networks):
    y, x = np.mgrid[:128, :128] - 64
    hu = np.where(np.hypot(y, x) < 40, 0, -1000)
    for dataset in each_slice(series_folder):
        put_hu(dataset, hu)
    assert night(series_folder, networks=networks).rejection[0] in {"no-lungs", "not-hounsfield"}


def test_contrast_medium_in_the_heart_is_no_spine(phantom):
    hu = phantom.volume.array.copy()
    heart = np.zeros(hu.shape[1:], np.uint8)
    cv2.ellipse(heart, (64, 52), (12, 12), 0, 0, 360, 1, -1)
    dense = (heart > 0) & (hu > 0) & (phantom.lungs == 0)
    hu[dense] = np.maximum(hu[dense], 350)
    chest = measure_chest(hu, phantom.lungs, spacing_mm(phantom.volume))
    assert chest.spine > gate_rules.SPINE_WARNED


def test_the_real_scans_pass(shared):
    """What was right before is refused by nothing new: with the masks of people, or the phantom's threshold."""
    from covct.intake.nifti import read_mask
    from covct.intake.volume_file import read_volume

    for path in sorted((shared / "lctsc-256").glob("*_ct.nii.gz")):
        volume = read_volume(path).to_patient_orientation("FPL")
        mask, _ = read_mask(path.with_name(path.name.replace("_ct", "_lungs")))
        lungs = read_volume(path).with_array(mask).to_patient_orientation("FPL").array.astype(np.uint8)
        lungs[:, :, lungs.shape[2] // 2 :][lungs[:, :, lungs.shape[2] // 2 :] > 0] = 2
        chest = measure_chest(volume.array, lungs, spacing_mm(volume))
        assert judge_chest(chest, 60.0, other_part=True) == [], path.name


def test_a_child_of_one_year_has_no_three_litres(series_folder):
    """The age may be wrong, so that nothing is refused; the figures do not hold all the same."""
    for dataset in each_slice(series_folder):
        dataset.PatientAge = "001Y"
    done = night(series_folder)
    assert "implausible-lungs" in done.warned
    assert_no_figures(done.report)


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_training_data_with_wrong_voxel_sizes_are_named_by_explore(phantom, tmp_path, factor):
    from covct.data.explore import explore
    from covct.data.explore_page import as_html

    affine = RAS_OF_LPS @ phantom.volume.affine @ np.diag([1.0, factor, factor, 1])
    for kind, array in (("ct", phantom.volume.array), ("lungs", (phantom.lungs > 0).astype(np.uint8))):
        nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / f"one_{kind}.nii.gz")
    found = explore(tmp_path)
    assert len(found.facts) == 1, found.left_out
    told = [one["message"] for one in found.as_json()["doubtful"]]
    assert bool(told) == ("Doubtful" in as_html(found, "data")) == (factor > 1)
    assert factor == 1 or any("voxel size cannot be right" in message for message in told)


def planned(source, tmp_path, weights, *more):
    arguments = ["scan", source, "--out", tmp_path / "out", "--weights", weights, "--dry-run", "--json", *more]
    [row] = [json.loads(line) for line in CliRunner().invoke(app, [str(one) for one in arguments]).stdout.splitlines()]
    return row


@pytest.mark.parametrize("ending", ["nii.gz", "nii", "mha", "nrrd"])
def test_a_dry_run_tells_of_an_affine_that_nobody_set(phantom, tmp_path, weights, ending):
    array = np.repeat(phantom.volume.array, 4, axis=0)[:, ::-1]
    (tmp_path / "in").mkdir()
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    sitk.WriteImage(image, str(tmp_path / "in" / f"chest.{ending}"))
    row = planned(tmp_path / "in", tmp_path, weights)
    assert row["verdict"] == "segment"
    assert row["warned"].startswith("default-affine: the affine is the identity")
    strict = planned(tmp_path / "in", tmp_path, weights, "--strict")
    assert (strict["verdict"], strict["why"].split(":")[0]) == ("reject", "default-affine")


def test_a_dry_run_refuses_by_the_header_what_a_scan_would(phantom, tmp_path, weights, series_folder):
    voxels, affine = as_nifti(phantom)
    row = planned(saved(voxels, affine @ np.diag([3.0, 3, 1, 1]), tmp_path / "in"), tmp_path, weights)
    assert (row["verdict"], row["why"].split(":")[0]) == ("reject", "implausible-size")
    change(series_folder, PixelSpacing=[7.0, 7.0])
    assert "implausible-size" in planned(series_folder, tmp_path, weights)["warned"]


def test_a_conversion_tells_of_sizes_that_cannot_be(phantom, tmp_path):
    voxels, affine = as_nifti(phantom)
    for name, matrix in (("as it is", affine), ("identity", np.eye(4)), ("tripled", affine @ np.diag([3.0, 3, 1, 1]))):
        events = []
        convert(Conversion((saved(voxels, matrix, tmp_path / name),), tmp_path / f"{name} out"), events.append)
        [done] = [event for event in events if event["event"] == "converted"]
        told = {finding["slug"] for finding in done["findings"]}
        assert (
            told
            == {
                "as it is": set(),
                "identity": {"default-affine"},
                "tripled": {"implausible-size", "implausible-body"},
            }[name]
        )


def test_a_dicom_series_of_doubled_pixels_is_told_of_when_converted(series_folder, tmp_path):
    change(series_folder, PixelSpacing=[6.0, 6.0])
    events = []
    convert(Conversion((series_folder,), tmp_path / "out"), events.append)
    [done] = [event for event in events if event["event"] == "converted"]
    assert "implausible-body" in {finding["slug"] for finding in done["findings"]}
