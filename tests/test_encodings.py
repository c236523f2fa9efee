"""Every encoding a CT comes in: one small series written in each, and read back as it was."""

import shutil
import zipfile

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRBigEndian, ImplicitVRLittleEndian

from covct.dicom.syntaxes import SYNTAXES, is_lossy
from covct.intake.discover import discover
from covct.intake.load_dicom import load_dicom
from support.encodings import JPEG, rewrite
from support.line import segment
from support.running import read_json

pytestmark = pytest.mark.slow

PLAIN = [uid for uid, syntax in SYNTAXES.items() if syntax.codestream is None]


def load(*sources):
    [series] = discover(sources).series
    return load_dicom(series)


def warnings_of(folder) -> set[str]:
    return {warning["slug"] for warning in read_json(folder / "report.json")["warnings"]}


@pytest.mark.parametrize("uid", sorted(SYNTAXES), ids=lambda uid: SYNTAXES[uid].name)
def test_every_transfer_syntax_end_to_end(uid, phantom, series_folder, phantom_series, tmp_path, weights, networks):
    """Lossless: the same HU to the bit. Lossy: near, and flagged although LossyImageCompression is absent."""
    rewrite(series_folder, uid)
    truth, read = load(phantom_series).volume, load(series_folder)
    assert read.transfer_syntaxes == (UID(uid).name,)
    if is_lossy(uid):
        difference = np.abs(read.volume.array.astype(int) - np.clip(truth.array, -1024, 8 * 255 - 1024))
        assert 0 < difference.mean() < 10
        assert np.percentile(difference, 99) < 60
    else:
        np.testing.assert_array_equal(read.volume.array, truth.array)
        assert read.volume.array.dtype == np.int16
    result = segment(series_folder, tmp_path / "out", weights, networks, formats=("seg",))
    report = read_json(result / "report.json")
    assert report["source"]["lossy"] is is_lossy(uid)
    assert ("lossy" in warnings_of(result)) is is_lossy(uid)
    lungs = report["regions"]["lungs"]
    assert lungs["volume_ml"] == pytest.approx(phantom.truth()["lungs_ml"], rel=0.1)


@pytest.mark.parametrize("predictor", range(1, 8))
@pytest.mark.parametrize("bits", [10, 12, 16])
def test_jpeg_lossless_of_any_predictor_and_precision(predictor, bits, series_folder, phantom_series):
    """Process 14 allows seven predictors; scanners write 12 bits or 16, some fewer."""
    path = sorted(series_folder.iterdir())[15]
    dataset = pydicom.dcmread(path)
    pixels = np.minimum(dataset.pixel_array, (1 << bits) - 1)
    frame = imagecodecs.jpeg8_encode(pixels, lossless=True, predictor=predictor, bitspersample=bits)
    dataset.PixelData = encapsulate([frame])
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    dataset.file_meta.TransferSyntaxUID = UID(f"{JPEG}57")
    dataset.save_as(path)
    np.testing.assert_array_equal(load(path).volume.array[0], pixels.astype(int) - 1024)


def without_preamble(path):
    path.write_bytes(path.read_bytes()[132:])


def without_suffix(path):
    path.rename(path.with_suffix(""))


def without_meta(syntax):
    def rewritten(path):
        """The bare data set, as old archives and C-STORE dumps have it."""
        dataset = pydicom.dcmread(path)
        if syntax == ExplicitVRBigEndian:
            dataset.PixelData = dataset.pixel_array.astype(">u2").tobytes()
        bare = pydicom.Dataset(dataset)
        bare.save_as(
            path,
            enforce_file_format=False,
            implicit_vr=syntax.is_implicit_VR,
            little_endian=syntax.is_little_endian,
        )
        assert path.read_bytes()[128:132] != b"DICM"

    return rewritten


@pytest.mark.parametrize(
    "spoil",
    [
        without_preamble,
        without_suffix,
        without_meta(ImplicitVRLittleEndian),
        without_meta(pydicom.uid.ExplicitVRLittleEndian),
        without_meta(ExplicitVRBigEndian),
    ],
    ids=["no preamble", "no suffix", "implicit, no meta", "explicit, no meta", "big endian, no meta"],
)
def test_files_that_are_not_part_10(spoil, series_folder, phantom_series, tmp_path, weights, networks):
    for path in sorted(series_folder.iterdir()):
        spoil(path)
    np.testing.assert_array_equal(load(series_folder).volume.array, load(phantom_series).volume.array)
    segment(series_folder, tmp_path / "out", weights, networks, formats=("seg",))


@pytest.mark.parametrize("uid", [f"{JPEG}90", pydicom.uid.DeflatedExplicitVRLittleEndian])
def test_compressed_slices_in_a_zip(uid, series_folder, phantom_series, tmp_path, weights, networks):
    rewrite(series_folder, uid)
    with zipfile.ZipFile(tmp_path / "series.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in series_folder.iterdir():
            archive.write(path, path.name)
    shutil.rmtree(series_folder)
    np.testing.assert_array_equal(load(tmp_path / "series.zip").volume.array, load(phantom_series).volume.array)
    segment(tmp_path / "series.zip", tmp_path / "out", weights, networks, formats=("seg",))


def test_several_syntaxes_in_one_series(series_folder, phantom_series):
    """An archive compresses what is old and leaves what came today."""
    old = series_folder.parent / "old"
    old.mkdir()
    for path in sorted(series_folder.iterdir())[::2]:
        shutil.move(path, old / path.name)
    rewrite(old, f"{JPEG}90")
    read = load(series_folder, old)
    np.testing.assert_array_equal(read.volume.array, load(phantom_series).volume.array)
    assert len(read.transfer_syntaxes) == 2


@pytest.mark.parametrize("folder", ["ricord-covid-15-slices", "jpeg2000-abdomen-20-slices"])
def test_real_compressed_slices_match_another_reader(folder, shared):
    """JPEG lossless and JPEG 2000 from scanners and archives, against SimpleITK's own decoders."""
    sitk = pytest.importorskip("SimpleITK")
    read = load(shared / "dicom" / folder)
    files = {_instance_number(path): path for path in (shared / "dicom" / folder).iterdir()}
    for header, ours in list(zip(read.headers, read.volume.array, strict=True))[::4]:
        theirs = sitk.GetArrayFromImage(sitk.ReadImage(str(files[header.InstanceNumber])))[0].astype(int)
        # SimpleITK takes -2000 in signed JPEG lossless for 63536
        theirs = np.where(theirs > 32767, theirs - 65536, theirs)
        np.testing.assert_array_equal(ours, np.maximum(theirs, -1024))


def _instance_number(path) -> int:
    return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["InstanceNumber"]).InstanceNumber
