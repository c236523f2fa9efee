"""Training data of every layout, found, read, checked and brought to one form; and what is left out, and why."""

import logging
import shutil

import cv2
import highdicom as hd
import numpy as np
import pydicom
import pytest

from covct.data.cases import CaseError
from covct.data.layouts import search_cases
from covct.data.model_space import read_slices
from covct.data.published import find_sources, read_lung_slices, read_ma_slices, read_medseg_slices, read_other_slices
from covct.data.read_case import read_case
from covct.data.screen import Likeness, Screen
from covct.data.slices import UNKNOWN
from covct.errors import UsageError
from covct.intake.nifti import write_nifti
from covct.intake.volume_file import read_volume
from support.chests import chest, corrected, equalised, fake_restore, published, save, save_pair, save_slices, windowed
from support.labelled import find_cases
from support.objects import MAKING


def test_the_published_table_is_read_with_another_machine_s_paths(tmp_path):
    cases = find_cases(published(tmp_path / "set"))
    assert [case.name for case in cases] == ["coronacases_001", "radiopaedia_10_85902_1", "radiopaedia_10_85902_3"]
    assert [case.patient for case in cases] == ["coronacases_001", "radiopaedia_10", "radiopaedia_10"]
    hu, first, _ = (read_case(case) for case in cases)
    assert (hu.domain, first.domain) == ("hu", "window-8bit")
    array, lungs, infection = chest(0)
    np.testing.assert_array_equal(hu.pixels, array)
    np.testing.assert_array_equal(hu.lungs, lungs, "1 is the patient's right, whatever the publisher's number")
    np.testing.assert_array_equal(hu.infection, infection)
    assert hu.sides and hu.spacing_mm == (5.0, 4.0, 4.0) and hu.orientation == "LPH"


def test_a_known_window_leads_back_to_hu(tmp_path):
    """Within the 6 HU of a grey level."""
    case = find_cases(published(tmp_path / "set"))[1]
    from covct.data.model_space import to_hounsfield

    hu, _, _ = chest(1)
    assert np.abs(to_hounsfield(read_case(case)) - np.clip(hu, -1250, 250)).max() <= 6


def test_the_same_folders_without_their_table(tmp_path):
    folder = published(tmp_path / "set")
    (folder / "metadata.csv").unlink()
    cases = find_cases(folder)
    assert {case.layout for case in cases} == {"folders"}
    assert [case.name for case in cases] == ["coronacases_001", "radiopaedia_10_85902_1", "radiopaedia_10_85902_3"]
    (folder / "ct_scans" / "coronacases_org_001.nii.gz").unlink()
    [left] = search_cases(folder).left_out
    assert (left.case, left.slug) == ("coronacases_001", "no-image")


def test_a_file_that_the_table_names_and_nobody_has(tmp_path):
    folder = published(tmp_path / "set")
    (folder / "infection_mask" / "coronacases_001.nii.gz").unlink()
    found = search_cases(folder)
    assert len(found.cases) == 2
    assert [(one.case, one.slug) for one in found.left_out] == [("coronacases_001", "incomplete")]
    assert "infection_mask/coronacases_001.nii" in found.left_out[0].message


def test_lungs_alone_are_negatives_unless_somebody_says_otherwise(tmp_path):
    save_pair(tmp_path / "a", "one", kinds=("lungs",))
    save_pair(tmp_path / "a", "two", 1, kinds=("lungs",))
    assert [case.negative for case in find_cases(tmp_path / "a")] == [True, True]
    (tmp_path / "a" / "cases.csv").write_text("name,patient,infection\none,p1,unknown\ntwo,p1,none\n")
    cases = find_cases(tmp_path / "a")
    assert [(case.patient, case.negative) for case in cases] == [("p1", False), ("p1", True)]
    unknown, negative = (read_slices(case) for case in cases)
    assert set(np.unique(unknown.infection[unknown.lungs == 1])) == {UNKNOWN}
    assert 0 in negative.infection[negative.lungs == 1], "aerated lung of a person without COVID-19 holds none"
    (tmp_path / "a" / "cases.csv").write_text("name,domain\none,grey\n")
    with pytest.raises(UsageError, match="'grey'; wanted hu, window-8bit, clahe-8bit"):
        find_cases(tmp_path)


def test_two_volumes_of_one_person_are_one_patient_in_any_layout(tmp_path):
    """As NIfTI pairs they were two, and a split came between them."""
    for seed, name in enumerate(("radiopaedia_10_85902_1", "radiopaedia_10_85902_3", "own_1", "own_2")):
        save_pair(tmp_path, name, seed)
    assert [case.patient for case in find_cases(tmp_path)] == ["own_1", "own_2", "radiopaedia_10", "radiopaedia_10"]


def test_masks_without_an_image_and_images_without_a_mask_are_named(tmp_path):
    save_pair(tmp_path, "whole")
    hu, lungs, _ = chest()
    save(hu, tmp_path / "lonely_ct.nii.gz")
    save(lungs, tmp_path / "orphan_lungs.nii.gz")
    found = search_cases(tmp_path)
    assert [case.name for case in found.cases] == ["whole"]
    assert {one.case: one.slug for one in found.left_out} == {"lonely": "no-mask", "orphan": "no-image"}


@pytest.mark.parametrize(
    ("spoil", "slug", "told"),
    [
        (lambda f: save(chest()[1][:5], f / "a_lungs.nii.gz"), "other-shape", "5 x 48 x 48 voxels, wanted 6"),
        (lambda f: save(chest()[1], f / "a_lungs.nii.gz", shift_mm=8), "other-geometry", "up to 2.0 voxels"),
        (lambda f: save(chest()[1] * 3, f / "a_lungs.nii.gz"), "unexpected-labels", "wanted 0, 1, 2"),
        (lambda f: save(np.full((6, 48, 48), 7, np.int16), f / "a_ct.nii.gz"), "constant", "every pixel is 7"),
        (lambda f: save(chest()[0] + 1024, f / "a_ct.nii.gz"), "unknown-domain", "wanted HU"),
        (lambda f: (f / "a_ct.nii.gz").write_bytes((f / "a_ct.nii.gz").read_bytes()[:900]), "unreadable", "a_ct.nii"),
        (lambda f: (f / "cases.csv").write_text("name,domain\na,clahe-8bit\n"), "other-domain", "looks like hu"),
    ],
    ids=["shape", "geometry", "labels", "constant", "unscaled", "truncated", "domain"],
)
def test_what_does_not_fit_is_refused_by_file(spoil, slug, told, tmp_path):
    save_pair(tmp_path, "a")
    spoil(tmp_path)
    [case] = find_cases(tmp_path)
    with pytest.raises(CaseError) as refused:
        read_case(case)
    assert refused.value.slug == slug
    assert told in str(refused.value) and "a_" in str(refused.value)


ORDERS = ["RAS", "LPI", "PIR", "AIL", "SRP"]


@pytest.mark.parametrize("order", ORDERS)
def test_masks_of_another_order_of_voxels_mark_the_same_points(order, tmp_path):
    """Another converter turned and transposed the mask's array, and said so in its affine."""
    save_pair(tmp_path, "a")
    plain = read_case(find_cases(tmp_path)[0])
    for name in ("a_lungs", "a_infection"):
        path = tmp_path / f"{name}.nii.gz"
        write_nifti(read_volume(path).to_patient_orientation(order), path)
    turned = read_case(find_cases(tmp_path)[0])
    np.testing.assert_array_equal(turned.lungs, plain.lungs)
    np.testing.assert_array_equal(turned.infection, plain.infection)


def test_no_advice_that_would_mirror_a_mask(tmp_path):
    """A mask whose affine points the other way and lies elsewhere: taken by index it would be a mirrored one."""
    save_pair(tmp_path, "a")
    path = tmp_path / "a_lungs.nii.gz"
    mask = read_volume(path).to_patient_orientation("RAS")
    affine = mask.affine.copy()
    affine[2, 3] += 40
    write_nifti(hd.Volume(mask.array, affine, "PATIENT"), path)
    with pytest.raises(CaseError, match="wanted one grid$"):
        read_case(find_cases(tmp_path)[0])


def test_a_wrong_header_can_be_overruled_by_name(tmp_path):
    save_pair(tmp_path, "a")
    save(chest()[1], tmp_path / "a_lungs.nii.gz", shift_mm=8)
    (tmp_path / "cases.csv").write_text("name,geometry\na,by-index\n")
    np.testing.assert_array_equal(read_case(find_cases(tmp_path)[0]).lungs, chest()[1])


@pytest.mark.parametrize("anterior", ["up", "down"])
def test_slices_are_read_as_before_and_with_the_front_up(anterior, tmp_path):
    save_slices(tmp_path, ["p1", "p2", "p1"], lambda hu: equalised(hu)[::4, ::4], anterior)
    cases = find_cases(tmp_path)
    assert [(case.name, case.patient) for case in cases] == [("p1-1", "p1"), ("p2", "p2"), ("p1-2", "p1")]
    assert read_case(cases[0]).infection[0].sum(1).argmax() > 32, "the infection is at the back"
    for case in cases:
        object.__setattr__(case, "domain", "clahe-8bit")  # 64 pixels are too few to tell by
    whole = [read_slices(case, lambda pixels: fake_restore(pixels)) for case in cases]
    assert sum(len(part) for part in whole) == 15
    with pytest.raises(UsageError, match=r"0000.png: 8-bit CLAHE slices need a restorer"):
        read_slices(cases[0])


def test_slices_that_volumes_csv_claims_and_nobody_has(tmp_path):
    save_slices(tmp_path, ["p1", "p2"], windowed)
    (tmp_path / "lungs" / "0002.png").unlink()
    (tmp_path / "ct" / "0099.png").write_bytes(b"")
    found = search_cases(tmp_path)
    assert [case.name for case in found.cases] == ["p2"]
    assert {one.slug for one in found.left_out} == {"incomplete", "unclaimed"}
    assert any("lungs/0002.png" in one.message for one in found.left_out)
    (tmp_path / "volumes.csv").write_text("first,last,patient_group,anterior\n0,4,p1,left\n")
    with pytest.raises(UsageError, match="line 2: anterior is 'left', wanted up or down"):
        find_cases(tmp_path)


def test_two_rows_of_volumes_csv_that_claim_one_slice(tmp_path):
    """One slice would be of two patients, trained on and held out."""
    save_slices(tmp_path, ["p1", "p2"], windowed)
    table = (tmp_path / "volumes.csv").read_text()
    (tmp_path / "volumes.csv").write_text(table.replace("0005,0009", "0004,0009"))
    with pytest.raises(UsageError, match="two rows claim slice 0004, one 0000 to 0004"):
        read_ma_slices(tmp_path, fake_restore)


def rewrite(folder, kind, change):
    for path in (folder / kind).glob("*.png"):
        cv2.imwrite(str(path), change(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)))


def test_masks_may_say_1_for_255_but_nothing_that_nobody_explains(tmp_path):
    """With 1 for 255 whole volumes were learned from as free of disease."""
    save_slices(tmp_path, ["p1", "p2"], windowed)
    before = read_ma_slices(tmp_path, fake_restore)
    for kind in ("lungs", "infection"):
        rewrite(tmp_path, kind, lambda mask: mask // 255)
    after = read_ma_slices(tmp_path, fake_restore)
    assert after.infection.any()
    np.testing.assert_array_equal(after.infection, before.infection)
    np.testing.assert_array_equal(after.lungs, before.lungs)
    rewrite(tmp_path, "lungs", lambda mask: mask * 2)
    with pytest.raises(UsageError, match=r"lungs/0000.png: a mask with values up to 2; wanted 0 and 255, or 0 and 1"):
        read_ma_slices(tmp_path, fake_restore)


def test_a_volume_whose_lungs_are_nowhere_marked(tmp_path):
    save_slices(tmp_path, ["p1", "p2"], windowed)
    rewrite(tmp_path, "lungs", np.zeros_like)
    with pytest.raises(UsageError, match=r"lungs: 0000.png to 0004.png mark nothing; wanted lungs"):
        read_ma_slices(tmp_path, fake_restore)


def save_medseg(folder):
    hu, _, infection = (array[2] for array in chest())
    for place, picture in (
        ("Imgs/1.jpg", windowed(hu)),
        ("GT/1.png", infection * np.uint8(255)),
        ("GT-multiclass/1.png", infection[..., None] * np.array([0, 128, 0], np.uint8)),
    ):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / place), np.ascontiguousarray(np.rot90(picture)))
    return folder


def test_slices_on_their_side_with_coloured_classes(tmp_path):
    folder = save_medseg(tmp_path / "set")
    [case] = find_cases(folder)
    read, (_, _, infection) = read_case(case), chest()
    assert read.domain == "window-8bit"
    np.testing.assert_array_equal(read.infection[0], infection[2])
    np.testing.assert_array_equal(read.classes[0], 2 * infection[2])
    one, old = read_slices(case), read_medseg_slices(folder)
    for name in ("hu", "lungs", "infection"):
        np.testing.assert_array_equal(getattr(one, name), getattr(old, name))
    assert set(np.unique(one.classes)) == {0, 2}
    cv2.imwrite(str(folder / "GT-multiclass" / "1.png"), np.full((48, 48, 3), 90, np.uint8))
    with pytest.raises(CaseError, match=r"GT-multiclass/1.png: colour \[90, 90, 90\]"):
        read_case(case)


def test_a_picture_s_mask_of_another_size_is_refused(tmp_path):
    """It was laid over the middle of the picture, wherever that was."""
    folder = save_medseg(tmp_path)
    mask = cv2.imread(str(folder / "GT" / "1.png"), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(folder / "GT" / "1.png"), mask[:40])
    with pytest.raises(UsageError, match=r"GT/1.png: 40 x 48 pixels, its picture has 48 x 48"):
        read_medseg_slices(folder)


@pytest.mark.parametrize(("name", "told"), [("upper left.jpg", ""), ("1.gif", "no pictures")])
def test_pictures_of_other_names_than_the_published(name, told, tmp_path):
    folder = save_medseg(tmp_path)
    (folder / "Imgs" / "1.jpg").rename(folder / "Imgs" / name)
    (folder / "GT" / "1.png").rename(folder / "GT" / f"{name.split('.')[0]}.png")
    if told:
        with pytest.raises(UsageError, match=told):
            read_medseg_slices(folder)
    else:
        assert read_medseg_slices(folder).infection.any()


# DICOM


@pytest.fixture
def segmented(phantom, tmp_path):
    """A phantom series, feet first and prone, with the SEG that covct wrote; and its masks."""
    from covct.dicom.seg import write_seg
    from covct.intake.discover import discover
    from covct.intake.load_dicom import load_dicom
    from covct.outputs import Outputs
    from covct.phantom.dicom import write_dicom_series
    from covct.voxels.preprocess import FieldOfView
    from covct.voxels.volume import Masks, Probability

    write_dicom_series(phantom, tmp_path / "data" / "series", orientation="FFP")
    [series] = discover([tmp_path / "data"]).series
    nothing = Probability(np.zeros((30, 8, 8)), FieldOfView(64, 64, 128, 128))
    masks = Masks(phantom.lungs, phantom.infection, nothing, nothing)

    def write(seg_type="binary"):
        path = tmp_path / "data" / "masks.seg.dcm"
        write_seg(
            path,
            load_dicom(series),
            masks,
            "key",
            {task: {"sha256": "0" * 64, "threshold": 0.5} for task in ("lungs", "infection")},
            Outputs(seg_type=seg_type),
            MAKING,
        )
        return path

    return write, masks, tmp_path / "data"


@pytest.mark.slow
def test_covct_s_own_masks_are_no_truth_until_somebody_corrects_them(segmented):
    write, _, data = segmented
    write()
    found = search_cases(data)
    assert not found.cases
    assert [one.slug for one in found.left_out] == ["automatic-mask"]


@pytest.mark.parametrize("seg_type", ["binary", "labelmap"])
def test_masks_that_a_radiologist_corrected_come_back_on_their_slices(seg_type, segmented):
    """Prone and feet first: only the references, not the order of frames, lead to the right slices."""
    write, masks, data = segmented
    corrected(write(seg_type))
    [case] = find_cases(data)
    read = read_case(case)
    assert read.domain == "hu" and case.patient.startswith("patient-")
    np.testing.assert_array_equal(read.infection > 0, masks.infection)
    np.testing.assert_array_equal(read.lungs > 0, masks.lungs > 0)
    if seg_type == "binary":
        np.testing.assert_array_equal(read.lungs, masks.lungs)
    assert find_sources(data) == {"cases": data}


@pytest.mark.parametrize("seg_type", ["binary", "labelmap"])
def test_evaluation_takes_the_segments_that_training_takes(seg_type, segmented):
    """It took any abnormal structure for infection, a nodule too, and a label map of infection alone for the lungs."""
    from covct.dicom.seg_masks import read_segmentation
    from covct.disk.sources import SourceFile
    from covct.evaluation.predictions import read_seg_mask
    from covct.intake.discover import discover
    from covct.intake.load_dicom import load_dicom

    write, masks, data = segmented
    path = write(seg_type)
    scan = load_dicom(discover([data / "series"]).series[0])

    def read(task):
        return read_seg_mask(read_segmentation(SourceFile(path)), task, {}, scan)

    np.testing.assert_array_equal(read("infection"), masks.infection)
    np.testing.assert_array_equal(read("lungs"), masks.lungs > 0)
    dataset = pydicom.dcmread(path)
    lungs = [s for s in dataset.SegmentSequence if s.SegmentedPropertyTypeCodeSequence[0].CodeValue == "39607008"]
    for segment in lungs:
        segment.SegmentLabel, segment.SegmentedPropertyTypeCodeSequence[0].CodeValue = "Heart", "80891009"
    dataset.save_as(path)
    assert read("lungs") is None
    for segment in dataset.SegmentSequence:
        segment.SegmentLabel, segment.SegmentedPropertyTypeCodeSequence[0].CodeValue = "Lung nodule", "27925004"
    dataset.save_as(path)
    assert read("infection") is None


def test_without_references_the_place_in_space_tells_the_slice(segmented):
    write, masks, data = segmented
    path = write()
    dataset = corrected(path)
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        del groups.DerivationImageSequence
    dataset.save_as(path)
    np.testing.assert_array_equal(read_case(find_cases(data)[0]).infection > 0, masks.infection)


def test_a_seg_of_another_geometry_is_refused(segmented):
    write, _, data = segmented
    path = write()
    dataset = corrected(path)
    place = dataset.PerFrameFunctionalGroupsSequence[3].PlanePositionSequence[0]
    place.ImagePositionPatient = [float(v) + 7 for v in place.ImagePositionPatient]
    dataset.save_as(path)
    with pytest.raises(CaseError, match=r"frame 4 lies 12.1 mm from the slice"):
        read_case(find_cases(data)[0])


def test_the_newest_of_two_corrections_counts(segmented):
    write, _, data = segmented
    path = write()
    dataset = corrected(path)
    dataset.ContentDate, dataset.SOPInstanceUID = "29990101", "1.2.3.4.6"
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4.6"
    dataset.save_as(data / "later.seg.dcm")
    found = search_cases(data)
    assert [seg.path.name for seg in found.cases[0].segmentations] == ["later.seg.dcm"]
    assert [one.slug for one in found.left_out] == ["superseded"]


def test_lungs_of_one_seg_and_infection_of_another(segmented):
    """Training took the newer alone, and evaluation both."""
    write, masks, data = segmented
    path = write()
    for name, kept, uid in (("lungs", "39607008", "1.2.3.4.7"), ("infection", "112001", "1.2.3.4.8")):
        dataset = corrected(path, data / f"{name}.seg.dcm")
        for segment in dataset.SegmentSequence:
            if segment.SegmentedPropertyTypeCodeSequence[0].CodeValue != kept:
                segment.SegmentLabel, segment.SegmentedPropertyTypeCodeSequence[0].CodeValue = "Heart", "80891009"
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid
        dataset.save_as(data / f"{name}.seg.dcm")
    path.unlink()
    found = search_cases(data)
    assert len(found.cases[0].segmentations) == 2 and not found.left_out
    read = read_case(found.cases[0])
    np.testing.assert_array_equal(read.lungs > 0, masks.lungs > 0)
    np.testing.assert_array_equal(read.infection > 0, masks.infection)


def test_volume_masks_beside_a_dicom_series_are_learned_from_too(phantom, tmp_path):
    """Only evaluation knew them. The series is not told of again as one without a mask."""
    from covct.phantom.dicom import write_dicom_series

    write_dicom_series(phantom, tmp_path / "chest", orientation="FFP")
    write_nifti(phantom.volume.with_array((phantom.lungs > 0).astype(np.uint8)), tmp_path / "chest_lungs.nii.gz")
    found = search_cases(tmp_path)
    [case] = found.cases
    assert not found.left_out and case.negative and case.patient.startswith("patient-")
    assert find_sources(tmp_path) == {"cases": tmp_path}
    np.testing.assert_array_equal(read_case(case).lungs > 0, phantom.lungs > 0)
    (tmp_path / "chest_lungs.nii.gz").rename(tmp_path / "other_lungs.nii.gz")
    assert {one.slug for one in search_cases(tmp_path).left_out} == {"no-image", "no-mask"}


def test_slices_in_a_lung_window_need_no_restorer(tmp_path):
    """They went through it as if they had been CLAHE, while `covct explore` said what they are."""
    save_slices(tmp_path, ["p1", "p2"], windowed)
    slices = read_ma_slices(tmp_path, None)
    healthy = (slices.lungs == 1) & (slices.infection == 0)
    assert -950 < np.median(slices.hu[healthy]) < -700


@pytest.mark.parametrize(
    ("label", "code", "name"),
    [
        ("Right lung", "39607008", "lungs"),
        ("Ground-glass opacity, left lung", "", "ground glass"),
        ("Infection, left lung", "47351003", "infection"),
        ("Consolidation", "47351003", "consolidation"),
        ("Left lung", "", "left lung"),
        ("Lung_R", "", "right lung"),
        ("Right lung outside infection", "", "right lung"),
        ("Right lung outside opacity", "", "right lung"),
        ("Opacity (COVID-19 network), left lung", "112001", "infection"),
        ("Both lungs", "", "lungs"),
        ("Pulmo dexter", "3341006", "right lung"),
        ("Lung nodule", "27925004", ""),
        ("Upper lobe of right lung", "", ""),
        ("Non-infected lung", "", ""),
        ("Heart", "80891009", ""),
    ],
)
def test_a_segment_is_known_by_its_code_or_else_its_label(label, code, name):
    from covct.dicom.seg_masks import structure

    segment = pydicom.Dataset()
    segment.SegmentLabel = label
    if code:
        item = pydicom.Dataset()
        item.CodeValue = code
        segment.SegmentedPropertyTypeCodeSequence = [item]
    assert structure(segment) == name


# What is left out


def judged(folder, screen=None):
    screen = screen or Screen()
    results = [screen.judge(read_case(case)) for case in find_cases(folder)]
    return [kept for kept, _ in results], [fault for _, faults in results for fault in faults]


def test_infection_outside_the_lungs_points_at_a_mask_of_another_image(tmp_path):
    save_pair(tmp_path, "a")
    save(chest()[2][:, ::-1, ::-1], tmp_path / "a_infection.nii.gz")
    save(np.where(chest()[1] == 1, 1, 0).astype(np.uint8), tmp_path / "a_lungs.nii.gz")
    [kept], [fault] = judged(tmp_path)
    assert kept is None and fault.slug == "infection-outside-lungs"


def test_lungs_at_the_border_are_cropped(tmp_path):
    """One slice goes alone; where it is most of them, the case goes."""
    hu, lungs, infection = chest()
    lungs[3, 20:24, 0] = 1
    for kind, array in (("ct", hu), ("lungs", lungs), ("infection", infection)):
        save(array, tmp_path / "one" / f"a_{kind}.nii.gz")
        save(array[..., 8:], tmp_path / "all" / f"a_{kind}.nii.gz")
    [kept], [fault] = judged(tmp_path / "one")
    assert (fault.slug, fault.slices, len(kept)) == ("cropped", (3,), 5)
    [kept], [fault] = judged(tmp_path / "all")
    assert kept is None and fault.slug == "cropped" and "5 of 5" in fault.message


def test_the_same_pixels_under_two_names_are_a_leak(tmp_path):
    """Also mirrored: it is the same patient's image."""
    save_pair(tmp_path, "a", 1)
    save_pair(tmp_path, "b", 2)
    for kind, array in zip(("ct", "lungs", "infection"), chest(1), strict=True):
        save(array[:, :, ::-1], tmp_path / f"c_{kind}.nii.gz")
    kept, [fault] = judged(tmp_path)
    assert [one is not None for one in kept] == [True, True, False]
    assert (fault.case, fault.slug) == ("c", "duplicate")
    assert "as " in fault.message and " a, another patient: a leak" in fault.message


def test_slices_that_look_alike_across_patients_are_pointed_at(tmp_path):
    """A re-encoded copy has other pixels, and is the same image all the same."""
    rng = np.random.default_rng(0)
    for name, extra in (("a", 0), ("b", 1)):
        hu, lungs, infection = chest(3)
        save((hu + extra * rng.normal(0, 5, hu.shape)).astype(np.int16), tmp_path / f"{name}_ct.nii.gz")
        save(lungs, tmp_path / f"{name}_lungs.nii.gz")
        save(infection, tmp_path / f"{name}_infection.nii.gz")
    hu, lungs, _ = chest(4)
    save(hu[:, ::-1] + np.int16(3), tmp_path / "c_ct.nii.gz")
    save(lungs[:, ::-1], tmp_path / "c_lungs.nii.gz")
    likeness = Likeness()
    for case in find_cases(tmp_path):
        likeness.add(read_case(case))
    assert {(one.name, other.name) for one, other, *_ in likeness.pairs()} == {("a", "b")}
    slices = read_other_slices(tmp_path, {"cases": tmp_path})
    assert sorted(set(slices.patients)) == ["a", "c"], "no split may come between a and its copy"


# As sources of training


def test_a_folder_of_hu_volumes_with_infection_is_a_source_without_a_restorer(tmp_path, caplog):
    for seed in range(3):
        save_pair(tmp_path / "site", f"p{seed}", seed)
    save(chest()[1] * 3, tmp_path / "site" / "p2_lungs.nii.gz")
    sources = find_sources(tmp_path)
    assert sources == {"cases": tmp_path}
    with caplog.at_level(logging.WARNING):
        slices = read_other_slices(tmp_path, sources)
    assert "p2: unexpected-labels" in caplog.text
    assert (len(slices), slices.source, sorted(set(slices.patients))) == (12, "cases", ["p0", "p1"])
    assert slices.hu.shape[1:] == (256, 256)
    infected, healthy = slices.infection == 1, (slices.infection == 0) & (slices.lungs == 1)
    assert -480 < np.median(slices.hu[infected]) < -420 and -880 < np.median(slices.hu[healthy]) < -820


def test_a_person_in_two_sources_is_taken_from_one(tmp_path):
    published(tmp_path / "volumes")
    save_slices(tmp_path / "slices", ["radiopaedia_10", "p2"], windowed)
    sources = find_sources(tmp_path)
    assert sources == {"ma": tmp_path / "slices", "cases": tmp_path}
    slices = read_other_slices(tmp_path, sources)
    assert set(slices.patients) == {"coronacases_001"}


def test_infection_is_learned_from_hu_volumes_like_from_the_published_slices(tmp_path):
    pytest.importorskip("keras")
    from covct.training.samples.plans import plan_infection
    from covct.training.samples.reading import Reading
    from covct.training.settings import Settings

    for seed in range(3):
        save_pair(tmp_path, f"p{seed}", seed)
    plan = plan_infection(Reading(find_sources(tmp_path)), Settings("infection", 1, 8))
    assert len(plan.held_out["cases"]) == 1 and plan.slices == {"cases": 12}
    drawn = [plan.draw(np.random.default_rng(seed)) for seed in range(4)]
    assert any(truth[..., 0].any() for _, truth in drawn)
    assert plan.validation[1][..., 0].any()


def test_slices_whose_lungs_nobody_marked_teach_no_lungs_network(tmp_path):
    """They were learned from as slices without any lung, and counted so in the validation."""
    pytest.importorskip("keras")
    from covct.training.samples.plans import plan_lungs
    from covct.training.samples.reading import Reading
    from covct.training.settings import Settings

    for seed in range(2):
        save_pair(tmp_path, f"marked{seed}", seed)
    for seed in range(2, 6):
        save_pair(tmp_path, f"unmarked{seed}", seed, kinds=("infection",))
    plan = plan_lungs(Reading(find_sources(tmp_path)), Settings("lungs", 1, 8))
    assert plan.patients == {"cases": ["marked0", "marked1"]}
    assert plan.slices == {"cases": 6}
    for seed in range(2):
        for kind in ("ct", "lungs"):
            (tmp_path / f"marked{seed}_{kind}.nii.gz").unlink()
        (tmp_path / f"marked{seed}_infection.nii.gz").unlink()
    with pytest.raises(UsageError, match="lungs need slices with lung masks"):
        plan_lungs(Reading(find_sources(tmp_path)), Settings("lungs", 1, 8))


def test_people_without_the_disease_are_learned_from_in_whatever_folder_they_lie(tmp_path):
    """A second folder of them is "cases", and no sample was ever drawn from it, though the card counted its slices."""
    pytest.importorskip("keras")
    from covct.training.samples.plans import Origin, plan_infection
    from covct.training.samples.reading import Reading
    from covct.training.settings import Settings

    save_slices(tmp_path / "slices", ["a", "b", "c"], equalised)
    for place in ("lctsc", "own"):
        for seed in range(2):
            save_pair(tmp_path / place, f"{place}{seed}", seed, infected=False, kinds=("lungs",))
    sources = find_sources(tmp_path)
    assert set(sources) == {"ma", "lungs", "cases"}
    plan = plan_infection(Reading(sources, fake_restore), Settings("infection", 1, 8))
    origins: list[Origin] = []
    for seed in range(40):
        plan.draw(np.random.default_rng(seed), origins)
    assert {origin.source for origin in origins} >= {"ma", "lctsc", "cases"}


def test_scans_of_any_size_teach_the_restorer(tmp_path):
    """Its recipe is of 256 x 256 pixels: scans of 512, as scanners make them, and of two sizes ended in a traceback."""
    pytest.importorskip("keras")
    from covct.training.samples.plans import plan_restorer
    from covct.training.samples.reading import Reading
    from covct.training.settings import Settings

    for seed, side in enumerate((48, 320, 256)):
        hu, lungs, _ = chest(seed, infected=False)
        for kind, array in (("ct", hu), ("lungs", lungs)):
            array = np.stack([cv2.resize(one, (side, side), interpolation=cv2.INTER_NEAREST) for one in array])
            save(array, tmp_path / f"p{seed}_{kind}.nii.gz")
    plan = plan_restorer(Reading(find_sources(tmp_path)), Settings("restorer", 1, 8))
    assert plan.slices == {"lctsc": 12}
    for seed in range(6):
        x, truth = plan.draw(np.random.default_rng(seed))
        assert (x.shape, truth.shape) == ((256, 256, 1), (256, 256, 2))
    restored = read_lung_slices(tmp_path, lambda pixels: np.full(pixels.shape, -850, np.int16))
    assert restored.hu.shape == (18, 256, 256)
    assert restored.lungs.any((1, 2)).sum() == 15


def test_every_layout_gives_what_its_own_reader_gave(shared, tmp_path):
    """The sources that the shipped weights come from are read to the same arrays by either way."""
    lines = (shared / "ma-slices" / "volumes.csv").read_text().splitlines()
    few = [line for line in lines if "first" in line or ",radiopaedia_29," in line]
    (tmp_path / "ma").mkdir()
    (tmp_path / "ma" / "volumes.csv").write_text("\n".join(few))
    for kind in ("ct", "lungs", "infection"):
        (tmp_path / "ma" / kind).symlink_to(shared / "ma-slices" / kind)
    (tmp_path / "lctsc").mkdir()
    for kind in ("ct", "lungs"):
        name = f"case-007_{kind}.nii.gz"
        shutil.copy(shared / "lctsc-256" / name, tmp_path / "lctsc" / name)
    olds = {"ma": read_ma_slices(tmp_path / "ma", fake_restore), "lctsc": read_lung_slices(tmp_path / "lctsc")}
    cases = find_cases(tmp_path)
    assert {case.domain or read_case(case).domain for case in cases} == {"clahe-8bit", "hu"}
    for source, old in olds.items():
        parts = [read_slices(case, fake_restore) for case in cases if case.source == source]
        for name in ("hu", "lungs", "infection"):
            np.testing.assert_array_equal(np.concatenate([getattr(p, name) for p in parts]), getattr(old, name))
        assert tuple(p for part in parts for p in part.patients) == old.patients
