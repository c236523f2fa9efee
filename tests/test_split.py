"""What shares a Series Instance UID and is not one scan."""

import shutil
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from covct.intake.choice import choose
from covct.intake.discover import discover
from covct.intake.gate import check_headers, inspect_headers
from covct.intake.load_dicom import load_dicom
from covct.intake.split import split_scans
from support.line import night
from support.multiframe import write_enhanced
from support.series import change


def twice(folder, tmp_path, **second):
    """The series a second time under the same Series Instance UID, with attributes that may tell it apart."""
    again = tmp_path / "again"
    shutil.copytree(folder, again)
    change(again, SOPInstanceUID=lambda i: f"1.2.3.{i + 1}", **second)
    return [folder, again]


def sizes(sources):
    return [(series.folder.rsplit("/", 1)[1][-2:], len(series.instances)) for series in discover(sources).series]


@pytest.mark.parametrize(
    ("second", "suffixes"),
    [
        ({"AcquisitionNumber": 2}, ["-1", "-2"]),
        ({"TemporalPositionIdentifier": 2}, ["t1", "t2"]),
        ({"ConvolutionKernel": "B60f"}, ["k1", "k2"]),
        ({"InstanceNumber": lambda i: i + 31}, ["p1", "p2"]),
    ],
)
def test_two_scans_are_told_apart_by_what_their_headers_say(second, suffixes, series_folder, tmp_path):
    change(series_folder, TemporalPositionIdentifier=1)
    assert sizes(twice(series_folder, tmp_path, **{"TemporalPositionIdentifier": 1, **second})) == [
        (suffix, 30) for suffix in suffixes
    ]


def test_the_same_scan_sent_again_under_new_uids_stays_whole_for_the_gate_to_refuse(series_folder, tmp_path):
    [series] = discover(twice(series_folder, tmp_path)).series
    assert len(series.instances) == 60


def test_a_scout_inside_the_series_is_set_aside(series_folder):
    scout = pydicom.dcmread(sorted(series_folder.iterdir())[0])
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    scout.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    scout.SOPInstanceUID = scout.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    scout.save_as(series_folder / "scout.dcm")
    assert sorted(len(series.instances) for series in discover([series_folder]).series) == [1, 30]


def test_one_scan_in_several_rotations_is_one_scan(series_folder):
    change(series_folder, AcquisitionNumber=lambda i: 1 + i // 10)
    [series] = discover([series_folder]).series
    assert len(series.instances) == 30


def test_two_enhanced_files_are_two_scans(phantom_series, tmp_path):
    write_enhanced(phantom_series, tmp_path / "a.dcm")
    write_enhanced(phantom_series, tmp_path / "b.dcm", stacks=2)
    assert [len(series.instances) for series in discover([tmp_path]).series] == [30, 30, 30]


def interleaved(folder, tmp_path, first, second):
    """Every slice twice, one after the other as the scanner numbers them, with attributes of their own."""
    change(folder, InstanceNumber=lambda i: 2 * i + 1, **first)
    return twice(folder, tmp_path, InstanceNumber=lambda i: 2 * i + 2, **second)


ENERGIES, PHASES = (
    ({"KVP": "80"}, {"KVP": "140"}),
    ({"NominalPercentageOfCardiacPhase": 40.0}, {"NominalPercentageOfCardiacPhase": 75.0}),
)


@pytest.mark.parametrize(
    ("apart", "suffixes", "said"),
    [
        (ENERGIES, ["-e80", "-e140"], "80 kV; the chosen series: {}; 140 kV"),
        (
            PHASES,
            ["-c40", "-c75"],
            "phase 40 %; the chosen series: {}; phase 75 %",
        ),
        (
            ({"TemporalPositionIndex": 1}, {"TemporalPositionIndex": 2}),
            ["-t1", "-t2"],
            "temporal position 2: the lowest decides; the chosen series: {}; temporal position 1",
        ),
    ],
    ids=["energies", "cardiac phases", "temporal positions"],
)
def test_energies_and_phases_slice_by_slice_are_taken_apart_by_name(apart, suffixes, said, series_folder, tmp_path):
    found = discover(interleaved(series_folder, tmp_path, *apart)).series
    assert [one.folder.removeprefix(one.whole_folder) for one in found] == suffixes
    [(_, slug, message)] = choose(list(found), check_headers).left_out
    assert slug == "not-chosen"
    assert message == said.format("30 slices; 10 mm thick; kernel STANDARD")


@pytest.mark.parametrize("apart", [ENERGIES, PHASES], ids=["energies", "cardiac phases"])
def test_energies_and_phases_half_a_step_apart_make_no_even_stack(apart, series_folder, tmp_path):
    sources = interleaved(series_folder, tmp_path, *apart)
    change(sources[1], ImagePositionPatient=lambda i: [0.0, 0.0, -10.0 * i - 5.0])
    change(sources[0], ImagePositionPatient=lambda i: [0.0, 0.0, -10.0 * i])
    assert [len(one.instances) for one in discover(sources).series] == [30, 30]


@pytest.fixture(scope="module")
def chest(phantom_series):
    [series] = discover([phantom_series]).series
    return series


@settings(max_examples=60, deadline=None)
@given(data=st.data(), attribute=st.sampled_from(["kvp", "phase_percent", "temporal_position", "acquisition"]))
def test_no_mixture_of_two_scans_passes_whatever_is_missing(data, attribute, chest):
    """Shuffled, partly missing, in place or half a step apart: each part that passes is of one scan."""
    shift = data.draw(st.sampled_from([0.0, 5.0, 3.0]))
    mixed = []
    for value in (40, 75):
        lost = data.draw(st.sets(st.integers(0, 29), max_size=6))
        for number, one in enumerate(chest.instances):
            x, y, z = one.position
            place = (x, y, z + shift * (value == 75))
            uid = f"1.2.{value}.{number}"
            own = {attribute: value, "position": place, "sop_instance_uid": uid, "number": 2 * number + (value == 75)}
            if number not in lost:
                mixed.append(replace(one, **own))
    for part in split_scans(tuple(data.draw(st.permutations(mixed)))):
        series = replace(chest, instances=part.instances, suffix=part.suffix)
        if len({getattr(one, attribute) for one in part.instances}) > 1:
            assert any(one.level == "refused" for one in inspect_headers(series))


def test_a_tube_voltage_that_changes_on_the_way_is_one_scan(series_folder):
    change(series_folder, KVP=lambda i: "120" if i < 14 else "100")
    [series] = discover([series_folder]).series
    assert len(series.instances) == 30


def test_a_tube_voltage_as_it_was_measured_is_no_energy_of_its_own(series_folder):
    change(series_folder, KVP=lambda i: "119.3" if i % 2 else "119.9")
    [series] = discover([series_folder]).series
    assert len(series.instances) == 30


def test_two_energies_of_two_acquisitions_are_four_scans(series_folder, tmp_path):
    first = interleaved(series_folder, tmp_path, *ENERGIES)
    later = [shutil.copytree(folder, tmp_path / f"later-{n}") for n, folder in enumerate(first)]
    for number, folder in enumerate(later):
        change(folder, AcquisitionNumber=2, SOPInstanceUID=lambda i, number=number: f"1.2.4.{number}.{i + 1}")
    found = discover([*first, *later]).series
    assert [one.folder.removeprefix(one.whole_folder) for one in found] == ["-1-e80", "-1-e140", "-2-e80", "-2-e140"]


def test_energies_that_are_not_whole_are_named_in_the_refusal(series_folder, tmp_path):
    sources = interleaved(series_folder, tmp_path, *ENERGIES)
    change(sources[1], KVP=lambda i: "80" if i == 3 else "140")
    [series] = discover(sources).series
    [(_, slug, message)] = choose([series], check_headers).left_out
    assert slug == "mixed-acquisitions"
    assert "80 kV and 140 kV" in message


def test_energies_and_phases_among_the_frames_of_one_stack(phantom_series, tmp_path):
    """Each part is read, and known, by its own frames."""
    write_enhanced(phantom_series, tmp_path / "in" / "a.dcm", stacks=2)
    whole = pydicom.dcmread(tmp_path / "in" / "a.dcm")
    for number, frame in enumerate(whole.PerFrameFunctionalGroupsSequence):
        frame.FrameContentSequence[0].StackID = "1"
        frame.CTXRayDetailsSequence = [Dataset()]
        frame.CTXRayDetailsSequence[0].KVP = 80.0 if number < 30 else 140.0
        frame.CardiacSynchronizationSequence = [Dataset()]
        frame.CardiacSynchronizationSequence[0].NominalPercentageOfCardiacPhase = 75.0
    whole.save_as(tmp_path / "in" / "a.dcm")
    found = discover([tmp_path / "in"]).series
    assert [(one.part, len(one.instances)) for one in found] == [(("80 kV",), 30), (("140 kV",), 30)]
    assert not set(found[0].content) & set(found[1].content)
    low, high = (load_dicom(one).volume.array for one in found)
    assert np.array_equal(low + 100, high), "the second stack is 100 HU denser"
    done = night(tmp_path / "in", formats=("seg",))
    assert "140 kV" in done.report["selection"]["reasons"]


def test_a_second_acquisition_the_next_night_leaves_one_result(series_folder, tmp_path):
    """What is chosen now lies in another folder than the whole series did: the patient is not counted twice."""
    first = night(series_folder)
    second = night(*twice(series_folder, tmp_path, AcquisitionNumber=2), out=first.out)
    assert [path.parent.name[-2:] for path in first.out.glob("*/*/outcome.json")] == ["-1"]
    assert second.result.is_dir()


def test_results_of_two_scans_never_share_a_folder(series_folder, tmp_path):
    sources = twice(series_folder, tmp_path, AcquisitionNumber=2)
    folders = [series.folder for series in discover(sources).series]
    assert len(set(folders)) == len(folders) == 2
