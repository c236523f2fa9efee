"""What shares a Series Instance UID and is not one scan."""

import shutil

import pydicom
import pytest
from multiframe import write_enhanced
from test_discover import change

from covct.discover import discover


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


def test_results_of_two_scans_never_share_a_folder(series_folder, tmp_path):
    sources = twice(series_folder, tmp_path, AcquisitionNumber=2)
    folders = [series.folder for series in discover(sources).series]
    assert len(set(folders)) == len(folders) == 2
