"""What lies under a chest's Series Instance UID: no slices of it are set aside, and what may be one never is."""

import shutil

import numpy as np
import pydicom
import pytest

from covct.intake.discover import discover
from covct.intake.gate import header_warnings
from support.gate import slugs, verdict
from support.line import night
from support.running import invoke
from support.series import change

CAPTURE, STRUCTURES = "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.481.3"
PRESENTATION = "1.2.840.10008.5.1.4.1.1.11.1"
PLACE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept")


def add(folder, without=(), **attributes):
    """Another object under the series' UID, made from its first slice."""
    path = sorted(folder.iterdir())[0]
    dataset = pydicom.dcmread(path)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.77"
    dataset.InstanceNumber = 99
    for keyword in without:
        del dataset[keyword]
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.save_as(folder / "beside.dcm")
    return folder / "beside.dcm"


SLAB = ["DERIVED", "SECONDARY", "AXIAL"]
FOREIGN = {
    "RTSTRUCT": {
        "without": (*PLACE, "PixelData", "Rows", "Columns"),
        "SOPClassUID": STRUCTURES,
        "Modality": "RTSTRUCT",
    },
    "PR": {"without": PLACE, "SOPClassUID": PRESENTATION, "Modality": "PR"},
    "secondary capture": {"without": PLACE, "SOPClassUID": CAPTURE, "ImageType": [*SLAB[:2], "SCREEN SAVE"]},
    "MIP": {"ImageType": [*SLAB, "MIP"], "ImagePositionPatient": [0.0, 0.0, 500.0]},
    "VRT": {"ImageType": ["DERIVED", "SECONDARY", "VRT"], "Rows": 64, "Columns": 256},
    "derived image": {"ImageType": SLAB, "SliceThickness": 40.0, "ImagePositionPatient": [0.0, 0.0, 500.0]},
    "reformatted image": {"ImageType": [*SLAB[:2], "REFORMATTED", "AVERAGE"]},
}


@pytest.mark.parametrize("what", FOREIGN)
def test_what_is_no_slice_is_set_aside_with_a_note(what, series_folder):
    add(series_folder, **FOREIGN[what])
    [series] = discover([series_folder]).series
    assert (len(series.instances), series.folder) == (30, series.whole_folder)
    note = header_warnings(series)[1][-1]
    assert (note.slug, note.level) == ("foreign-objects", "noted")
    assert note.message.endswith(f": 1 {what}")


@pytest.mark.slow
def test_figures_and_files_are_those_of_the_chest_alone(series_folder, phantom_series):
    for name, other in (("a", FOREIGN["RTSTRUCT"]), ("b", FOREIGN["MIP"])):
        path = add(series_folder, **other)
        dataset = pydicom.dcmread(path)
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{ord(name)}"
        dataset.save_as(path.with_name(f"{name}.dcm"))
        path.unlink()
    done, plain = night(series_folder, formats=("seg", "sr"), strict=False), night(phantom_series)
    assert done.report["regions"] == plain.report["regions"]
    [message] = [one["message"] for one in done.report["warnings"] if one["slug"] == "foreign-objects"]
    assert message.endswith(": 1 MIP, 1 RTSTRUCT")
    checked = invoke("verify", done.out, series_folder, "--no-dciodvfy")
    assert checked.exit_code == 0, checked.output


@pytest.mark.slow
def test_a_dose_page_that_comes_the_next_night_redoes_nothing(series_folder):
    """The input is its slices: nothing of the result would be another."""
    first = night(series_folder)
    add(series_folder, **FOREIGN["secondary capture"])
    second = night(series_folder, out=first.out)
    assert not second.said("done")
    assert len(second.said("skipped")) == 1


@pytest.mark.slow
def test_what_was_set_aside_is_moved_with_its_study(series_folder, tmp_path):
    add(series_folder, **FOREIGN["RTSTRUCT"])
    night(series_folder, move_done=tmp_path / "moved")
    assert len(list((tmp_path / "moved").rglob("*.dcm"))) == 31
    assert not list(series_folder.glob("*"))


@pytest.mark.slow
def test_a_file_that_repeats_what_was_set_aside_is_no_twin_of_a_slice(series_folder):
    path = add(series_folder, **FOREIGN["RTSTRUCT"])
    shutil.copy(path, series_folder / "copy.dcm")
    assert night(series_folder).said("done")


def test_a_dry_run_says_what_would_be_set_aside(series_folder, weights, tmp_path):
    add(series_folder, **FOREIGN["RTSTRUCT"])
    said = invoke("scan", series_folder, "--out", tmp_path / "out", "--weights", weights, "--dry-run", "--json")
    assert "set aside, as not slices: 1 RTSTRUCT" in said.stdout


def test_without_a_chest_nothing_is_set_aside(series_folder):
    change(series_folder, ImageType=[*SLAB, "MIP"])
    assert verdict(series_folder).slug == "derived"


LAST = -1


@pytest.mark.parametrize(
    ("attributes", "slug"),
    [
        ({"SOPClassUID": CAPTURE}, "derived"),
        ({"ImageType": SLAB}, "derived"),
        ({"ImageType": [*SLAB[:2], "REFORMATTED", "AVERAGE"]}, "reformatted"),
        ({"Modality": "OT"}, "not-ct"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2.9", "Modality": "CT"}, "not-ct"),
    ],
)
def test_an_end_slice_under_another_name_is_not_hidden(attributes, slug, series_folder):
    """It lies where no other slice does, as a slice does: to leave it out would be another, shorter lung."""
    path = sorted(series_folder.iterdir())[LAST]
    dataset = pydicom.dcmread(path)
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.save_as(path)
    assert verdict(series_folder).slug == slug


@pytest.mark.parametrize("lost", ["ImagePositionPatient", "Modality"])
def test_a_slice_that_lost_an_attribute_is_not_hidden(lost, series_folder):
    path = sorted(series_folder.iterdir())[LAST]
    dataset = pydicom.dcmread(path)
    del dataset[lost]
    dataset.save_as(path)
    assert verdict(series_folder).slug in ("no-geometry", "not-ct")


def test_a_slice_that_was_processed_is_a_slice(series_folder):
    change(series_folder, ImageType=lambda i: ["DERIVED" if i % 2 else "ORIGINAL", "PRIMARY", "AXIAL"])
    [series] = discover([series_folder]).series
    assert len(series.instances) == 30
    assert "foreign-objects" not in slugs(header_warnings(series)[1])


AXIAL_REFORMATS = {
    "GE average": ["DERIVED", "SECONDARY", "REFORMATTED", "AVERAGE"],
    "average": ["ORIGINAL", "PRIMARY", "AXIAL", "AVERAGE"],
    "Siemens": ["DERIVED", "PRIMARY", "AXIAL", "CT_SOM5 MPR"],
    "Siemens, secondary": ["DERIVED", "SECONDARY", "AXIAL", "CT_SOM7 MPR"],
    "syngo": ["DERIVED", "SECONDARY", "MPR", "CSA MPR", "", "CSAPARALLEL"],
    "plain": ["DERIVED", "PRIMARY", "MPR"],
}


@pytest.mark.slow
@pytest.mark.parametrize("image_type", AXIAL_REFORMATS.values(), ids=AXIAL_REFORMATS)
def test_axial_averages_in_hu_are_done_with_a_warning(image_type, series_folder):
    change(series_folder, ImageType=image_type)
    done = night(series_folder)
    assert "reformatted" in done.warned
    assert done.report["valid_for"] == {"volume": True, "percent": True, "hu_bands": True}
    assert night(series_folder, strict=True).rejection[0] == "reformatted"


@pytest.mark.parametrize(
    ("attributes", "slug"),
    [
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, "derived"),
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, "derived"),
        ({"RescaleSlope": None}, "reformatted"),
        ({"RescaleType": "US"}, "reformatted"),
        ({"ImageType": ["DERIVED", "SECONDARY", "REFORMATTED", "PJN"]}, "derived"),
        ({"ImageType": ["DERIVED", "SECONDARY", "REFORMATTED", "ODD WORD"]}, "derived"),
        ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "CT_SOM5 MIP"]}, "derived"),
        ({"ImageType": ["DERIVED", "SECONDARY", "MPR", "VRT"]}, "derived"),
        ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL"]}, "derived"),
        ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "SUBTRACTION", "AVERAGE"]}, "derived"),
        ({"SOPClassUID": CAPTURE}, "derived"),
    ],
)
def test_what_is_no_axial_average_in_hu_is_refused(attributes, slug, series_folder):
    change(series_folder, **{"ImageType": AXIAL_REFORMATS["GE average"], **attributes})
    assert verdict(series_folder).slug == slug


@pytest.mark.slow
def test_the_original_is_chosen_before_its_average(series_folder, tmp_path):
    """Also where the average has the sharper kernel and the thinner slices."""
    average = shutil.copytree(series_folder, tmp_path / "average")
    change(
        average,
        SeriesInstanceUID="1.1",
        SOPInstanceUID=lambda i: f"1.1.{i + 1}",
        ImageType=AXIAL_REFORMATS["GE average"],
        ConvolutionKernel="LUNG",
        SliceThickness=1.0,
    )
    done = night(series_folder, average)
    assert done.left_out == {"1.1": "not-chosen"}
    assert "reformatted" not in done.warned
    [entry] = done.report["selection"]["left_out"]
    assert entry["message"].startswith("reformatted; the chosen series")


def test_originals_and_averages_are_never_one_stack(series_folder):
    """Half a step apart they would make an even one."""
    positions = [float(pydicom.dcmread(path).ImagePositionPatient[2]) for path in sorted(series_folder.iterdir())]
    change(
        series_folder,
        ImageType=lambda i: AXIAL_REFORMATS["GE average"] if i % 2 else ["ORIGINAL", "PRIMARY", "AXIAL"],
        ImagePositionPatient=lambda i: [0.0, 0.0, positions[i]],
    )
    assert np.ptp(np.diff(positions)) < 1e-6
    assert verdict(series_folder).slug == "reformatted"
