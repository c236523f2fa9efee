"""Every DICOM object of every kind of source, judged by dciodvfy, dcentvfy and dcmqi's two readers."""

import subprocess
import zipfile

import pydicom
import pytest

from covct.outputs import DICOM_FORMATS
from covct.phantom.dicom import write_dicom_series
from support.cuts import CUTS, POSITIONS, write_cut
from support.line import segment
from support.multiframe import write_enhanced, write_legacy_converted
from support.objects import KO, SEG, SR, judge, without_infection
from support.running import tool

pytestmark = pytest.mark.slow

NEEDED = {
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "ImageType",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SamplesPerPixel", "PhotometricInterpretation",
    "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "RescaleIntercept",
    "RescaleSlope", "PixelData",
}  # fmt: skip


def strip(folder):
    """Take away every attribute of type 2 and 3, and the frame of reference: as hard as a de-identifier can be."""
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        for element in list(dataset):
            if element.keyword not in NEEDED:
                del dataset[element.tag]
        dataset.save_as(path)


def turned_phantom(position):
    return lambda phantom, folder: write_dicom_series(phantom, folder, orientation=position)


def stripped(phantom, folder):
    write_dicom_series(phantom, folder)
    strip(folder)


def multi_frame(write):
    def make(phantom, folder):
        write_dicom_series(phantom, folder.with_name("single"))
        write(folder.with_name("single"), folder / "whole.dcm")

    return make


SOURCES = {
    **{position: turned_phantom(position) for position in POSITIONS},
    **{
        name: lambda phantom, folder, name=name: write_cut(phantom, folder, CUTS[name], 3.0, 10.0)
        for name in ("oblique 20 degrees sideways", "coronal", "sagittal", "gantry tilt 15 degrees")
    },
    "stripped of type 2 and 3": stripped,
    "enhanced": multi_frame(write_enhanced),
    "legacy converted": multi_frame(write_legacy_converted),
}


def judged(source, folder, tmp_path):
    """Assert that nobody finds an error in the result of a source."""
    files = sorted(folder.glob("*.dcm"))
    assert {SEG, SR, KO, "report.pdf.dcm"} < {file.name for file in files}
    assert any(".sc." in file.name for file in files)
    for file in files:
        assert judge(file) == (0, []), file.name
    converted_from = source.with_name("single").glob("*")  # a legacy converted image refers to them
    entity = subprocess.run(
        [tool("dcentvfy"), *files, *source.iterdir(), *converted_from], capture_output=True, text=True, check=False
    )
    errors = [line[:200] for line in (entity.stdout + entity.stderr).splitlines() if line.startswith("Error")]
    assert (entity.returncode, errors) == (0, [])
    for command in (
        ["segimage2itkimage", "--inputDICOM", folder / SEG, "--outputDirectory", tmp_path, "-t", "nifti"],
        ["tid1500reader", "--inputDICOM", folder / SR, "--outputMetadata", tmp_path / "sr.json"],
    ):
        read = subprocess.run([tool(command[0]), *command[1:]], capture_output=True, text=True, check=False)
        assert read.returncode == 0, (command[0], read.stdout, read.stderr)


@pytest.mark.parametrize("name", SOURCES)
def test_no_validator_finds_an_error(name, phantom, weights, networks, tmp_path):
    source = tmp_path / "in"
    SOURCES[name](phantom, source)
    judged(source, segment(source, tmp_path / "out", weights, networks, formats=DICOM_FORMATS), tmp_path)


@pytest.mark.parametrize("name", ["HFS", "stripped of type 2 and 3"])
def test_nor_in_those_of_a_clean_lung(name, phantom, weights, networks, tmp_path):
    source = tmp_path / "in"
    SOURCES[name](phantom, source)
    clean = without_infection(networks)
    judged(source, segment(source, tmp_path / "out", weights, clean, formats=DICOM_FORMATS), tmp_path)


@pytest.mark.parametrize("name", ["lctsc-case-005.zip", "ricord-covid-15-slices"])
def test_nor_in_those_of_real_scans(name, shared, weights, networks, tmp_path):
    source = shared / "dicom" / name
    if source.suffix == ".zip":
        with zipfile.ZipFile(source) as archive:
            for number, member in enumerate(m for m in archive.infolist() if not m.is_dir()):
                (tmp_path / "in").mkdir(exist_ok=True)
                (tmp_path / "in" / f"{number:04d}.dcm").write_bytes(archive.read(member))
        source = tmp_path / "in"
    folder = segment(source, tmp_path / "out", weights, networks, formats=DICOM_FORMATS)
    judged(source, folder, tmp_path)
