"""The DICOM SR, judged by others: dciodvfy, dcentvfy, dcmqi; and against report.json and the SEG."""

import copy
import math
import re
import shutil
import subprocess
from functools import partial
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest

import covct
from covct import terms
from covct.dicom.sr import write_sr
from covct.dicom.sr_groups import Group
from covct.dicom.sr_regions import places
from covct.intake.discover import discover
from covct.intake.load_dicom import load_dicom
from covct.networks.cards import file_sha256, write_card
from covct.networks.network import Device, Network, Networks
from covct.outputs import SEG_TYPES, Outputs, formats_for
from covct.phantom.dicom import write_dicom_series
from covct.unattended import one_series
from covct.voxels.volume import Masks
from support import line
from support.objects import KO, MAKING, SEG, SR, as_multi_frame, evidence, items, judge, without_infection
from support.running import read_json, tool
from support.series import change
from support.thresholds import calibrated, call_infection, call_lungs, threshold_card

pytestmark = pytest.mark.slow

STATEMENT = (Path(covct.__file__).parent / "dicom" / "CONFORMANCE.md").read_text()
ALL = ("seg", "sr", "ko")
segment = partial(line.segment, formats=ALL)
NOTICE = "Research use only. Not a medical device."
CALLED = terms.CALLED
NOT_ATTEMPTED = "114007"  # PS3.16 CID 42


def segments_of(folder):
    """The SEG's segments; highdicom gives a label map one for the background, which is no finding."""
    return [s for s in pydicom.dcmread(folder / SEG, stop_before_pixels=True).SegmentSequence if s.SegmentNumber]


@pytest.fixture(scope="module", params=SEG_TYPES)
def result(request, phantom_series, tmp_path_factory):
    """The phantom's result in each type of SEG: (folder, type). Not to be changed."""
    folder = tmp_path_factory.mktemp(request.param)
    weights = folder / "weights"
    weights.mkdir()
    for task in ("lungs", "infection"):
        (weights / f"{task}.keras").write_bytes(task.encode())
        write_card(threshold_card(task, file_sha256(weights / f"{task}.keras")), weights)
    networks = calibrated(
        Networks(
            Network(threshold_card("lungs"), call_lungs),
            Network(threshold_card("infection"), call_infection),
            Device("cpu", "threshold"),
        )
    )
    return segment(phantom_series, folder / "out", weights, networks, seg_type=request.param), request.param


def groups(folder, on_slices=False):
    """The measurement groups by tracking identifier: those with figures, or the same findings on slices (TID 1410)."""
    return groups_in(pydicom.dcmread(folder / SR), on_slices)


def groups_in(document, on_slices=False):
    [container] = [item for item in document.ContentSequence if _name(item) == "126010"]
    return {
        _value(group, "112039"): group
        for group in container.ContentSequence
        if (group.ContentTemplateSequence[0].TemplateIdentifier == "1410") == on_slices
    }


def figures(group):
    """Numbers of a group by the code of their name."""
    return {
        _name(item): float(item.MeasuredValueSequence[0].NumericValue)
        for item in group.ContentSequence
        if item.ValueType == "NUM" and item.MeasuredValueSequence
    }


def absent(group):
    """Why figures of a group have no value, by the code of their name."""
    return {
        _name(item): item.NumericValueQualifierCodeSequence[0].CodeValue
        for item in group.ContentSequence
        if item.ValueType == "NUM" and not item.MeasuredValueSequence
    }


def texts(group, code):
    return [item.TextValue for item in group.ContentSequence if item.ValueType == "TEXT" and _name(item) == code]


def _name(item):
    return item.ConceptNameCodeSequence[0].CodeValue


def _value(group, code):
    [item] = [item for item in group.ContentSequence if _name(item) == code]
    return item.TextValue if item.ValueType == "TEXT" else item.UID


def expected(report, seg_type):
    """What the groups shall say, from report.json: code to figure, by tracking identifier."""
    of_lung = {"volume_ml": "118565006", "mean_hu": "112031"}
    of_opacity = {
        "infection_ml": "118565006",
        "infection_percent": "opacity-percent",
        "ground_glass_ml": "ground-glass-ml",
        "consolidation_ml": "consolidation-ml",
        "below_bands_ml": "below-bands-ml",
        "above_bands_ml": "above-bands-ml",
        "infection_mass_g": "118538004",
        "infection_mean_hu": "112031",
    }
    of_third = {"volume_ml": "118565006", "infection_ml": "opacity-ml", "infection_percent": "opacity-percent"}

    def said(codes, region):
        return {code: region[figure] for figure, code in codes.items()}

    out = {}
    for words, name in (("Both lungs", "lungs"), ("Right lung", "right_lung"), ("Left lung", "left_lung")):
        region = report["regions"][name]
        out[f"covct {words}"] = said(of_lung, region)
        out[f"covct {CALLED}" + (f", {words.lower()}" if name != "lungs" else "")] = said(of_opacity, region)
        for third, figures_of in region["thirds"].items():
            out[f"covct {words}, {third} third"] = said(of_third, figures_of)
        if seg_type == "labelmap" and name != "lungs":
            outside = region["volume_ml"] - region["infection_ml"]
            out[f"covct {words} outside opacity"] = {"118565006": pytest.approx(outside, abs=1e-3)}
    for number, lesion in enumerate(report["lesions"]["largest"], 1):
        out[f"covct Lesion {number}"] = {"118565006": lesion["volume_ml"]}
    return out


def test_dciodvfy_finds_no_error(result):
    assert judge(result[0] / SR) == (0, [])


def test_the_figures_are_those_of_the_report(result):
    folder, seg_type = result
    report = read_json(folder / "report.json")
    found = {identifier: figures(group) for identifier, group in groups(folder).items()}
    assert found == expected(report, seg_type)
    assert found[f"covct {CALLED}"]["opacity-percent"] > 0


def test_dcmqi_reads_the_figures_of_the_report(result, tmp_path):
    folder, seg_type = result
    read = tmp_path / "read.json"
    command = [tool("tid1500reader"), "--inputDICOM", folder / SR, "--outputMetadata", read]
    subprocess.run(command, check=True, capture_output=True)
    theirs = read_json(read)
    measured = [group for group in theirs["Measurements"] if group.get("measurementItems")]
    found = {
        group["TrackingIdentifier"]: {
            item["quantity"]["CodeValue"]: float(item["value"]) for item in group["measurementItems"]
        }
        for group in measured
    }
    assert found == expected(read_json(folder / "report.json"), seg_type)
    units = {item["units"]["CodeValue"] for group in measured for item in group["measurementItems"]}
    assert units == {"mL", "%", "g", "[hnsf'U]"}
    seg = pydicom.dcmread(folder / SEG, stop_before_pixels=True)
    pointing = [group for group in theirs["Measurements"] if "ReferencedSegment" in group]
    assert sorted(group["ReferencedSegment"] for group in pointing) == [s.SegmentNumber for s in segments_of(folder)]
    assert {group["segmentationSOPInstanceUID"] for group in pointing} == {seg.SOPInstanceUID}
    assert "Research use only" in theirs["observerContext"]["DeviceObserverName"]


def test_whole_lung_severity_is_said_once(result):
    """Of both lungs: a side has no class of its own on this scale."""
    folder, _ = result
    report = read_json(folder / "report.json")
    said = {
        identifier: item.ConceptCodeSequence[0].CodeValue
        for identifier, group in groups(folder).items()
        for item in group.ContentSequence
        if _name(item) == "246112005"
    }
    assert said == {"covct Both lungs": f"ct-ss-{report['severity']['class']}"}


def test_each_segment_has_its_group_and_is_the_same_finding(result):
    """Number, tracking identifier, tracking UID, category and type are those of the SEG."""
    folder, _ = result
    seg = pydicom.dcmread(folder / SEG, stop_before_pixels=True)
    by_identifier = groups(folder)
    for segment in segments_of(folder):
        group = by_identifier[segment.TrackingID]
        [reference] = [item for item in group.ContentSequence if item.ValueType == "IMAGE"]
        assert reference.ReferencedSOPSequence[0].ReferencedSegmentNumber == segment.SegmentNumber
        assert reference.ReferencedSOPSequence[0].ReferencedSOPClassUID == seg.SOPClassUID
        assert _value(group, "112040") == segment.TrackingUID
        coded = {_name(i): i.ConceptCodeSequence[0].CodeValue for i in group.ContentSequence if i.ValueType == "CODE"}
        assert coded["276214006"] == segment.SegmentedPropertyCategoryCodeSequence[0].CodeValue
        assert coded["121071"] == segment.SegmentedPropertyTypeCodeSequence[0].CodeValue


def test_infection_of_both_lungs_claims_no_side(series_folder, tmp_path, weights, networks):
    """It may lie in one lung only; "bilateral" would be a finding that nobody made."""
    group = groups(segment(series_folder, tmp_path / "out", weights, networks))[f"covct {CALLED}"]
    [site] = [item for item in group.ContentSequence if _name(item) == "363698007"]
    assert site.ConceptCodeSequence[0].CodeValue == terms.LUNG.value
    assert "ContentSequence" not in site


def test_every_referenced_instance_exists(result, phantom_series):
    folder, _ = result
    there = {}
    for path in [*phantom_series.iterdir(), folder / SEG]:
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        there[dataset.SOPInstanceUID] = dataset.SeriesInstanceUID
    document = pydicom.dcmread(folder / SR)
    assert evidence(document) == there
    source_series = read_json(folder / "report.json")["source"]["series_instance_uid"]
    for item in items(document):
        if item.ValueType == "IMAGE":
            assert item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID in there
        if item.ValueType == "UIDREF" and _name(item) == "121232":
            assert source_series == item.UID


def test_intervals_are_uncertainty_of_the_measurement(result):
    """How far their ends lie above and below (CID 225), in its own unit; the library would give them none."""
    folder, _ = result
    region = read_json(folder / "report.json")["regions"]["lungs"]
    for label, figure, code, unit in (
        ("Both lungs", "volume_ml", "118565006", "mL"),
        (CALLED, "infection_percent", "opacity-percent", "%"),
    ):
        [number] = [item for item in groups(folder)[f"covct {label}"].ContentSequence if _name(item) == code]
        ends = {
            _name(item): float(item.MeasuredValueSequence[0].NumericValue)
            for item in number.ContentSequence
            if item.ValueType == "NUM"
        }
        low, high = region[f"{figure}_interval"]
        assert region[figure] + ends["371886008"] == pytest.approx(high)
        assert region[figure] - ends["371885007"] == pytest.approx(low)
        units = {
            item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue
            for item in number.ContentSequence
            if item.ValueType == "NUM"
        }
        assert units == {unit}
    told = texts(groups(folder)["covct Both lungs"], "interval")
    assert [text.split(": ")[1].split(",")[0] for text in told] == ["interval of level 0.9"] * 3
    assert "of 38 people between 0.774 and 0.981" in told[-1]


def test_viewers_are_sent_to_a_slice_of_each_finding(result, phantom_series):
    """By a group of its own with the same tracking UID: TID 1411 has either a segment or a region. The outline lies on
    the slice where the mask is largest; a lesion's point is its centre. The library has these slices, and no others."""
    folder, seg_type = result
    headers = {dataset.SOPInstanceUID: dataset for dataset in map(pydicom.dcmread, phantom_series.iterdir())}
    measured, placed = groups(folder), groups(folder, on_slices=True)
    report, seen = read_json(folder / "report.json"), set()
    lesions = {f"covct Lesion {n}": one for n, one in enumerate(report["lesions"]["largest"], 1)}
    assert placed.keys() == measured.keys(), "OHIF shows nothing of a document with a group that has no place"
    for name, group in placed.items():
        assert _value(group, "112040") == _value(measured[name], "112040")
        [region] = [item for item in group.ContentSequence if item.ValueType == "SCOORD"]
        assert _name(region) == "111030"
        uid = region.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        seen.add(uid)
        header, points = headers[uid], np.reshape(region.GraphicData, (-1, 2))
        assert (points > 0).all() and (points < (header.Columns, header.Rows)).all()
        assert (points[0] == points[-1]).all() and len(points) >= 6, "closed, and no rectangle"
        if name in lesions:
            spacing = np.array(header.PixelSpacing)[::-1]
            here = np.array(header.ImagePositionPatient)[:2] + (points - 0.5) * spacing
            centre = np.array(lesions[name]["centroid_lps_mm"])
            assert abs(header.ImagePositionPatient[2] - centre[2]) <= header.SliceThickness / 2 + 0.1
            assert (here.min(0) <= centre[:2] + spacing).all() and (here.max(0) >= centre[:2] - spacing).all()
    [library] = [item for item in pydicom.dcmread(folder / SR).ContentSequence if _name(item) == "111028"]
    [group] = library.ContentSequence
    images = [item for item in group.ContentSequence if item.ValueType == "IMAGE"]
    assert {image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for image in images} == seen
    for image in images:
        header = headers[image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID]
        position = [float(item.MeasuredValueSequence[0].NumericValue) for item in image.ContentSequence]
        np.testing.assert_allclose(position, header.ImagePositionPatient, atol=1e-3)


def test_what_was_not_found_is_outlined_nowhere(phantom_series):
    """Not on the other lung, and not in another third: the sites would say one thing and the outlines another."""
    scan = load_dicom(discover([phantom_series]).series[0])
    lungs = np.zeros(scan.working.array.shape, np.uint8)
    lungs[3:20, 40:60, 70:100] = 2
    nothing = np.zeros(lungs.shape, bool)
    masks = Masks(lungs, nothing, None, None)
    side = partial(Group, category=terms.ANATOMICAL_STRUCTURE, finding=terms.LUNG, side=None, measured=())
    groups = [
        side("left", outlined="left_lung"),
        side("right", outlined="right_lung"),
        side("opacity of the right", outlined="opacity right_lung"),
        side("left, lower", outlined="left_lung", slices=(20, 30)),
        side("left, upper", outlined="left_lung", slices=(0, 10)),
    ]
    found = places(scan, masks, groups)
    depth = {label: round(_working_slice(scan, index)) for label, (index, _) in found.items()}
    middles = {label: outline.mean(0) for label, (_, outline) in found.items()}
    assert 3 <= depth["left"] < 20 and 3 <= depth["left, upper"] < 10 and 20 <= depth["left, lower"] < 30
    for label in ("right", "opacity of the right", "left, lower"):
        np.testing.assert_allclose(middles[label], (64, 64), atol=3)


def _working_slice(scan, index):
    return (np.linalg.inv(scan.working_affine) @ scan.affine @ [index, 0, 0, 1])[0]


def test_what_the_order_says_is_taken_over_and_what_it_does_not_is_not_invented(
    series_folder, tmp_path, weights, networks
):
    plain = pydicom.dcmread(segment(series_folder, tmp_path / "plain", weights, networks) / SR)
    assert procedure(plain) == ("25045-6", "LN"), "a CT of something"
    assert "ReferencedRequestSequence" not in plain
    assert texts(groups_in(plain)["covct Both lungs"], "not-told") == ["procedure, request"]
    ordered = pydicom.Dataset()
    ordered.RequestedProcedureID, ordered.AccessionNumber = "RP7", "A7"
    ordered.RequestedProcedureDescription = "told nobody else"
    code = pydicom.Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "CTCH", "L", "CT chest native"
    change(series_folder, RequestAttributesSequence=[ordered], ProcedureCodeSequence=[code])
    folder = segment(series_folder, tmp_path / "ordered", weights, networks)
    document = pydicom.dcmread(folder / SR)
    assert procedure(document) == ("CTCH", "L")
    [request] = document.ReferencedRequestSequence
    assert (request.RequestedProcedureID, request.AccessionNumber) == ("RP7", "A7")
    assert request.StudyInstanceUID == document.StudyInstanceUID
    assert request.RequestedProcedureDescription == ""
    assert texts(groups_in(document)["covct Both lungs"], "not-told") == []
    assert judge(folder / SR) == (0, [])


def procedure(document):
    [item] = [item for item in document.ContentSequence if _name(item) == "121058"]
    return item.ConceptCodeSequence[0].CodeValue, item.ConceptCodeSequence[0].CodingSchemeDesignator


def test_an_installation_is_a_device(series_folder, tmp_path, weights, networks):
    """Two output trees are two; a redo in one is the same. The UID says nothing of the tree's key."""

    def device(document):
        [item] = [item for item in document.ContentSequence if _name(item) == "121012"]
        return item.UID

    documents = [segment(series_folder, tmp_path / name, weights, networks) / SR for name in ("one", "two")]
    assert len({device(pydicom.dcmread(path)) for path in documents}) == 2


def test_dcentvfy_finds_one_patient_and_one_study(result, phantom_series):
    folder, _ = result
    command = [tool("dcentvfy"), *folder.glob("*.dcm"), *phantom_series.iterdir()]
    assert len(list(folder.glob("*.dcm"))) == 3
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "Error" not in run.stdout + run.stderr


def test_research_use_stands_in_the_document(result):
    folder, _ = result
    document = pydicom.dcmread(folder / SR)
    assert "research use only" in document.SeriesDescription.lower()
    assert document.ContentQualification == "RESEARCH"
    [observer] = [item for item in document.ContentSequence if _name(item) == "121013"]
    assert NOTICE in observer.TextValue, "viewers show the observer on top"
    assert texts(groups(folder)["covct Both lungs"], "121106") == [NOTICE]
    assert (document.VerificationFlag, document.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")


def test_each_group_names_the_weights(result):
    folder, _ = result
    networks = read_json(folder / "report.json")["networks"]
    used = (networks["lungs"], networks["infection"])
    for group in groups(folder).values():
        parameters = texts(group, "111002")
        assert all(any(card["sha256"] in text for text in parameters) for card in used)


def test_clean_lung_says_zero(series_folder, tmp_path, weights, networks):
    folder = segment(series_folder, tmp_path / "out", weights, without_infection(networks))
    found = groups(folder)
    assert figures(found[f"covct {CALLED}"]) == {
        "118565006": 0, "opacity-percent": 0, "ground-glass-ml": 0, "consolidation-ml": 0, "below-bands-ml": 0,
        "above-bands-ml": 0, "118538004": 0,
    }  # fmt: skip
    assert absent(found[f"covct {CALLED}"]) == {}, "nothing has no mean; highdicom could not read the reason"
    assert hd.sr.srread(folder / SR)
    placed = groups(folder, on_slices=True)
    nothing, lung = (
        [item for item in placed[f"covct {name}"].ContentSequence if item.ValueType == "SCOORD"]
        for name in (f"{CALLED}, right lung", "Right lung")
    )
    assert nothing == lung, "where it was looked for"
    assert texts(found[f"covct {CALLED}"], "withheld") == [], "that nothing has no mean is not withholding"
    assert pydicom.dcmread(folder / SR).CompletionFlag == "COMPLETE"
    assert judge(folder / SR) == (0, [])


def test_cut_lungs_have_no_volumes_and_the_document_says_why(series_folder, tmp_path, weights, networks):
    """Withheld is left out, never 0: a reader who knows nothing of valid_for cannot be misled."""
    for path in sorted(series_folder.iterdir())[15:]:
        path.unlink()
    folder = segment(series_folder, tmp_path / "out", weights, networks)
    assert read_json(folder / "report.json")["valid_for"] == {"volume": False, "percent": False, "hu_bands": True}
    found = groups(folder)
    assert figures(found["covct Both lungs"]) == figures(found["covct Right lung, upper third"]) == {}
    assert set(figures(found[f"covct {CALLED}"])) == {"112031"}
    assert absent(found["covct Both lungs"]) == {"118565006": NOT_ATTEMPTED, "112031": NOT_ATTEMPTED}
    assert set(absent(found["covct Lesion 1"]).values()) == {NOT_ATTEMPTED}
    for group in found.values():
        [text] = texts(group, "withheld")
        assert "volumes; shares of opacity, severity class and mean HU of whole lungs" in text
        assert "ground glass" not in text
    assert [text.split(":")[0] for text in texts(found["covct Both lungs"], "warning")] == [
        "thick-slices",
        "partial-lungs",
    ]
    assert "ct-ss" not in str(pydicom.dcmread(folder / SR))
    document = pydicom.dcmread(folder / SR)
    assert (document.CompletionFlag, document.CompletionFlagDescription) == ("PARTIAL", "Withheld: volume, percent")
    assert judge(folder / SR) == (0, [])


@pytest.mark.parametrize("seg_type", ["binary", "labelmap"])
def test_nothing_that_holds(seg_type, series_folder, phantom, tmp_path, weights, networks):
    """All figures withheld: the document is still valid, has no number, and says so in every group."""
    folder = segment(series_folder, tmp_path / "out", weights, networks, seg_type=seg_type)
    report = copy.deepcopy(read_json(folder / "report.json"))
    report["valid_for"] = dict.fromkeys(report["valid_for"], False)
    report["severity"]["class"] = None
    report["regions"] = {
        name: {**dict.fromkeys(region), "thirds": {t: dict.fromkeys(f) for t, f in region["thirds"].items()}}
        for name, region in report["regions"].items()
    }
    report["lesions"]["largest"] = [{**one, "volume_ml": None} for one in report["lesions"]["largest"]]
    scan = load_dicom(discover([series_folder]).series[0])
    write_anew(tmp_path / SR, scan, phantom, report, Outputs(ALL, seg_type))
    assert judge(tmp_path / SR) == (0, [])
    for group in groups(tmp_path).values():
        assert figures(group) == {}
        assert set(absent(group).values()) == {NOT_ATTEMPTED}
        assert "mass, mean HU, ground glass and consolidation" in texts(group, "withheld")[0]


def test_deidentified_series_without_type_2_attributes(series_folder, tmp_path, weights, networks):
    for path in series_folder.iterdir():
        dataset = pydicom.dcmread(path)
        for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "AccessionNumber",
                        "StudyDate", "StudyTime", "ReferringPhysicianName", "FrameOfReferenceUID", "SliceThickness",
                        "PositionReferenceIndicator", "StudyDescription"):  # fmt: skip
            if keyword in dataset:
                delattr(dataset, keyword)
        dataset.save_as(path)
    folder = segment(series_folder, tmp_path / "out", weights, networks)
    for name in (SR, KO):
        document = pydicom.dcmread(folder / name)
        assert str(document.PatientName or "") == "", "nothing is invented that could be taken for the patient's"
        assert not document.PatientID
        assert judge(folder / name) == (0, [])


@pytest.mark.parametrize(
    "dirt",
    [
        {"PatientBirthDate": "1950-01-01", "StudyTime": "240000", "PatientSex": "UNKNOWN"},
        {"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": "Yamada^Tarou=山田^太郎"},
        {"PatientName": "Smith^^^^^^John"},
    ],
    ids=str,
)
def test_dirt_in_the_header_does_not_cost_the_result(dirt, series_folder, tmp_path, weights, networks):
    for path in series_folder.iterdir():
        dataset = pydicom.dcmread(path)
        with pydicom.config.disable_value_validation():
            for keyword, value in dirt.items():
                setattr(dataset, keyword, value)
            dataset.save_as(path)
    folder = segment(series_folder, tmp_path / "out", weights, networks)
    for name in (SR, KO):
        if "SpecificCharacterSet" in dirt:
            assert str(pydicom.dcmread(folder / name).PatientName) == dirt["PatientName"]
            assert judge(folder / name) == (0, [])


def test_a_redo_sends_the_same_objects(series_folder, tmp_path, weights, networks, monkeypatch):
    monkeypatch.setattr(one_series, "installation", lambda out: "one")
    first = segment(series_folder, tmp_path / "one", weights, networks)
    second = segment(series_folder, tmp_path / "two", weights, networks)
    for name in (SR, KO):
        one, two = (pydicom.dcmread(folder / name) for folder in (first, second))
        assert (one.SOPInstanceUID, one.SeriesInstanceUID) == (two.SOPInstanceUID, two.SeriesInstanceUID)
        assert one.ContentSequence == two.ContentSequence
    objects = [pydicom.dcmread(first / name, stop_before_pixels=True) for name in (SEG, SR, KO)]
    assert len({dataset.SeriesInstanceUID for dataset in objects}) == 3, "a series holds one modality"
    assert [dataset.SeriesNumber for dataset in objects] == [9200, 9201, 9203]


def test_sr_brings_the_seg_along(series_folder, tmp_path, weights, networks):
    """Its figures are those of segments, which must be there to be looked at."""
    folder = segment(series_folder, tmp_path / "out", weights, networks, formats=("sr",))
    assert {path.name for path in folder.glob("*.dcm")} == {SEG, SR}
    assert formats_for("nifti", ("sr", "ko")) == ("nifti",)


def test_right_is_the_patients_right_however_he_lay(phantom, tmp_path, weights, networks):
    """Supine alone proves nothing. The phantom's lungs differ in size and infection."""
    found = []
    for position in ("HFS", "FFP"):
        write_dicom_series(phantom, tmp_path / position, orientation=position)
        folder = segment(tmp_path / position, tmp_path / f"{position}-out", weights, networks)
        found.append({identifier: figures(group) for identifier, group in groups(folder).items()})
    truth = phantom.truth()
    for one in found:
        right, left = (one[f"covct {side} lung"]["118565006"] for side in ("Right", "Left"))
        assert right / left == pytest.approx(truth["right_lung_ml"] / truth["left_lung_ml"], rel=0.02)
    for identifier, numbers in found[0].items():
        assert found[1][identifier] == pytest.approx(numbers, rel=0.01), identifier


def write_anew(path, scan, phantom, report, outputs):
    masks = Masks(phantom.lungs, phantom.infection, None, None)
    write_sr(path, scan, masks, report, report["work_key"], outputs, MAKING)


def test_multi_frame_source_is_one_instance(series_folder, phantom, tmp_path, weights, networks):
    folder = segment(series_folder, tmp_path / "out", weights, networks)
    report = read_json(folder / "report.json")
    scan = as_multi_frame(load_dicom(discover([series_folder]).series[0]))
    write_anew(tmp_path / SR, scan, phantom, report, Outputs(ALL))
    document = pydicom.dcmread(tmp_path / SR)
    assert scan.headers[0].SOPInstanceUID in evidence(document)
    assert len(evidence(document)) == 2, "the source and the SEG"
    assert judge(tmp_path / SR) == (0, [])


def test_highdicom_finds_the_groups(result):
    """Another reader: the segments' groups, and those without a segment."""
    folder, seg_type = result
    content = hd.sr.srread(folder / SR).content
    by_segment = content.get_volumetric_roi_measurement_groups()
    assert len(by_segment) == len(terms.LABELMAP_SEGMENTS if seg_type == "labelmap" else terms.SEGMENTS)
    lesions = len(read_json(folder / "report.json")["lesions"]["largest"])
    whole = content.get_image_measurement_groups()
    assert len(whole) == (13 if seg_type == "labelmap" else 12) + lesions
    planar = content.get_planar_roi_measurement_groups()
    assert len(planar) == len(whole) + len(by_segment)


def concept_names():
    return [name for one in terms.FIGURES for name in (one.of_lung, one.of_infection) if name]


def test_the_conformance_statement_names_every_private_code():
    codes = [term for term in vars(terms).values() if isinstance(term, terms.CodedTerm)]
    codes += concept_names()
    private = {term.value for term in codes if term.scheme == terms.PRIVATE_SCHEME}
    assert private, "99COVCT has codes"
    assert {value for value in private if f"`{value}`" not in STATEMENT} == set()
    severity = [terms.SEVERITY_CLASSES[number].value for number in (1, 5)]
    assert all(f"`{value}`" in STATEMENT for value in severity)


def test_codes_fit_their_value_representations():
    """Code Value SH 16 characters, Code Meaning LO 64."""
    codes = [term for term in vars(terms).values() if isinstance(term, terms.CodedTerm)]
    codes += [*concept_names(), *terms.SEVERITY_CLASSES.values()]
    assert all(len(term.value) <= 16 and len(term.meaning) <= 64 for term in codes)


@pytest.mark.parametrize("band", [*terms.HU_BANDS, *terms.HU_AROUND])
def test_a_code_says_the_band_it_measures(band):
    """A changed band is a new code: the old one has been written into archives."""
    [meaning] = {one.of_infection.meaning for one in terms.FIGURES if one.name == f"{band}_ml"}
    ends = (terms.HU_BANDS | terms.HU_AROUND)[band]
    assert list(map(int, re.findall(r"-?\d+", meaning))) == [end for end in ends if math.isfinite(end)]


def test_real_series(shared, tmp_path, weights, networks):
    """Slices of a de-identified archive, whose names are of a retired form and whose StudyID is empty."""
    shutil.copytree(shared / "dicom" / "ricord-covid-15-slices", tmp_path / "in")
    folder = segment(tmp_path / "in", tmp_path / "out", weights, networks)
    for name in (SEG, SR, KO):
        assert judge(folder / name) == (0, []), name
    command = [tool("dcentvfy"), *folder.glob("*.dcm"), *(tmp_path / "in").iterdir()]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_no_rescale_withholds_what_rests_on_hounsfield_units(series_folder, tmp_path, weights, networks):
    def hounsfield(dataset):
        array = dataset.pixel_array.astype(np.int16) - 1024
        dataset.PixelRepresentation = 1
        dataset.PixelData = array.tobytes()
        del dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType

    for path in series_folder.iterdir():
        dataset = pydicom.dcmread(path)
        hounsfield(dataset)
        dataset.save_as(path)
    found = groups(segment(series_folder, tmp_path / "out", weights, networks))
    assert set(figures(found[f"covct {CALLED}"])) == {"118565006", "opacity-percent"}
    assert set(figures(found["covct Both lungs"])) == {"118565006"}
    assert absent(found["covct Both lungs"]) == {"112031": NOT_ATTEMPTED}
    assert [text.split(":")[0] for text in texts(found["covct Both lungs"], "warning")] == [
        "thick-slices",
        "no-rescale",
    ]
