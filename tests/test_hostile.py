"""Files that lie of their size, swell, or go on without end: refused before they cost anything. Fuzzing found them."""

import gzip
import struct
import tracemalloc
import zipfile
from pathlib import Path

import imagecodecs
import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate

from covct.dicom import pixels
from covct.dicom.codestream import coded
from covct.dicom.evidence import encodable, filled, identified
from covct.dicom.header import read_values
from covct.dicom.pixels import hounsfield
from covct.dicom.read import MOST_ELEMENTS, MOST_ITEMS, read_dataset
from covct.disk.outcome import read_outcome
from covct.disk.sources import SourceFile, read_all
from covct.errors import SeriesError
from covct.intake import load_dicom as load
from covct.intake.choice import selected
from covct.intake.discover import discover
from covct.intake.load_dicom import load_dicom
from covct.intake.nifti import write_nifti
from covct.intake.volume_file import read_volume
from covct.unattended import batch
from support.bombs import BOMBS
from support.cost import cost
from support.encodings import deflated
from support.multiframe import write_enhanced

MIB = 1024**2


class peak:
    """The most memory that Python and numpy asked for within, touched or not."""

    def __enter__(self):
        tracemalloc.start()
        return self

    def __exit__(self, *_):
        self.bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()


def first(folder) -> Path:
    return sorted(folder.iterdir())[0]


# Deflated data sets


def test_deflated_slice_is_read_with_what_little_stands_behind_its_pixels(series_folder):
    path = first(series_folder)
    expected = hounsfield(pydicom.dcmread(path))
    padding = b"\xfc\xff\xfc\xffOB\0\0" + struct.pack("<L", 1000) + bytes(1000)
    np.testing.assert_array_equal(hounsfield(read_dataset(deflated(path, padding))), expected)


def test_deflated_slice_does_not_swell_beyond_the_pixels_it_declares(series_folder):
    bomb = deflated(first(series_folder), bytes(60 * MIB))
    with peak() as used, pytest.raises(ValueError, match="swells"):
        read_dataset(bomb)
    assert used.bytes < 8 * MIB


def test_deflated_element_without_end_before_the_pixels_is_not_inflated(series_folder):
    whole = deflated(
        first(series_folder), b"\x28\x00\x10\x00OB\0\0" + struct.pack("<L", 60 * MIB) + bytes(60 * MIB), False
    )
    for header_alone in (True, False):
        with peak() as used, pytest.raises(ValueError, match="swells"):
            read_dataset(whole, stop_before_pixels=header_alone)
        assert used.bytes < 40 * MIB


def test_deflated_zeros_where_the_pixels_should_be_end_soon(series_folder):
    """Zeros read as elements of eight bytes: eight million of them took a minute."""
    bomb = deflated(first(series_folder), bytes(60 * MIB), pixels=False)
    with pytest.raises(ValueError, match=f"more than {MOST_ELEMENTS} elements"):
        read_dataset(bomb, stop_before_pixels=True)


def test_deflated_behind_damaged_file_meta_information_is_not_left_to_pydicom(series_folder):
    """An element that we read otherwise than pydicom hid the transfer syntax, and pydicom inflates without bounds."""
    whole = deflated(first(series_folder))
    at = whole.index(b"\x02\x00\x10\x00UI")
    of_undefined_length = b"\x02\x00\x02\x00OB\0\0\xff\xff\xff\xff" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    hidden = whole[:at] + of_undefined_length + whole[at:]
    with pytest.raises(ValueError, match="file meta information is damaged"):
        read_dataset(hidden)


# Elements and items without end


@pytest.mark.parametrize(
    "head", [b"", bytes(128) + b"DICM", b"\x08\x00\x05\x00CS\x02\x00  "], ids=["bare", "DICM", "group 8"]
)
def test_a_file_of_zeros_is_no_header(head, tmp_path):
    """As a copy leaves it when it stops half way: 64 MiB of them took pydicom a minute."""
    (tmp_path / "a.dcm").write_bytes(head + bytes(8 * MOST_ELEMENTS + 64))
    [problem] = discover([tmp_path]).problems
    assert problem.slug == "unreadable"
    with pytest.raises(ValueError, match="elements"):
        read_dataset((tmp_path / "a.dcm").read_bytes())


def test_empty_items_by_the_million_are_counted_not_parsed(series_folder):
    whole = first(series_folder).read_bytes()
    at = whole.index(b"\x28\x00\x02\x00US")
    items = b"\xfe\xff\x00\xe0\0\0\0\0" * (MOST_ITEMS + 1)
    with peak() as used, pytest.raises(ValueError, match="sequence items"):
        read_dataset(whole[:at] + b"\x08\x00\x40\x11SQ\0\0" + struct.pack("<L", len(items)) + items + whole[at:])
    assert used.bytes < 20 * MIB


def test_items_of_fewer_bytes_than_any_that_says_something_are_not_parsed(phantom_series, tmp_path):
    """Twenty thousand empty ones in a file of 300 KB took 60 MiB."""
    path = write_enhanced(phantom_series, tmp_path / "e.dcm")
    dataset = pydicom.dcmread(path)
    dataset.NumberOfFrames = 16_000
    dataset.PerFrameFunctionalGroupsSequence = [pydicom.Dataset() for _ in range(16_000)]
    dataset.PixelData = bytes(1000)
    dataset.save_as(path)
    with peak() as used:
        assert not discover([path]).series
    assert used.bytes < 4 * MIB


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_costs_little_at_a_look(name, tmp_path):
    """Each took between 430 MiB and 2 GiB, and up to two minutes, at every look."""
    suffix, make = BOMBS[name]
    (tmp_path / f"a{suffix}").write_bytes(make())
    found = cost(lambda: [problem.message for problem in discover([tmp_path]).problems], limit_mib=512)
    assert "readable DICOM" in found.said
    assert found.mib < 100


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, (suffix, _) in BOMBS.items() if suffix == ".dcm"])
def test_a_small_file_costs_little_when_it_is_read_whole(name):
    contents = BOMBS[name][1]()

    def whole():
        try:
            dataset = read_dataset(contents)
            return [dataset.get(keyword) is None for keyword in ("ImagePositionPatient", "ImageComments")]
        except ValueError as error:
            return error

    assert cost(whole, limit_mib=512).mib < 120


@pytest.mark.slow
def test_a_header_of_many_honest_frames_is_read(phantom_series, tmp_path):
    """Its functional groups have more elements than any header of one slice."""
    path = write_enhanced(phantom_series, tmp_path / "e.dcm")
    dataset = pydicom.dcmread(path)
    groups = list(dataset.PerFrameFunctionalGroupsSequence)
    dataset.PerFrameFunctionalGroupsSequence = [groups[n % len(groups)] for n in range(4000)]
    dataset.NumberOfFrames = 4000
    for group in groups:
        group.RealWorldValueMappingSequence = [pydicom.Dataset() for _ in range(6)]
        for one in group.RealWorldValueMappingSequence:
            one.LUTLabel, one.LUTExplanation, one.DoubleFloatRealWorldValueFirstValueMapped = "a", "b", 1.0
    dataset.PixelData = bytes(1000)
    dataset.save_as(path)
    found = read_dataset(path.read_bytes(), stop_before_pixels=True)
    assert len(found.PerFrameFunctionalGroupsSequence) == 4000


@pytest.mark.parametrize("frames", [0, 1, 29, 31, 2**31 - 1])
def test_frames_are_as_many_as_their_functional_groups(frames, phantom_series, tmp_path):
    path = write_enhanced(phantom_series, tmp_path / "e.dcm")
    dataset = pydicom.dcmread(path)
    dataset.NumberOfFrames = frames
    dataset.save_as(path)
    found = discover([path])
    assert not found.series
    assert "e.dcm" in found.problems[0].label


# Headers


def test_a_slice_cut_before_its_series_is_named_is_unreadable_not_a_series_of_its_own(series_folder):
    """It came up as a nameless series, and the real one did not learn that a slice was lost at its end."""
    path = first(series_folder)
    path.write_bytes(path.read_bytes()[: path.read_bytes().index(b"\x20\x00\x0d\x00UI")])
    found = discover([series_folder])
    assert [problem.label for problem in found.problems] == [str(path)]
    [series] = found.series
    assert series.unreadable_beside == 1


@pytest.mark.parametrize("number", ["1e300", "9" * 400, "2147483649"])
def test_an_acquisition_number_without_end_becomes_no_folder_name(number, series_folder, tmp_path):
    """Two scans in one series are named by it; a name of 300 digits is more than a file system takes."""
    for index, path in enumerate(sorted(series_folder.iterdir())):
        dataset = pydicom.dcmread(path)
        dataset.SOPInstanceUID = f"1.2.3.{index}"
        dataset.add_new("AcquisitionNumber", "LO", number)
        dataset.save_as(tmp_path / "series" / f"again-{path.name}")
    found = discover([tmp_path / "series"]).series
    assert sum(len(series.instances) for series in found) == 60
    assert all(len(series.folder.split("/")[-1]) < 100 for series in found)


def test_a_value_that_cannot_be_parsed_is_empty_when_it_is_asked_for(series_folder):
    path = first(series_folder)
    path.write_bytes(path.read_bytes().replace(b"\x18\x00\x00\x51CS", b"\x18\x00\x00\x51\x43\x13"))
    values = read_values(SourceFile(str(path)), ("PatientPosition", "Modality"))
    assert values == {"PatientPosition": "", "Modality": "CT"}


def test_a_file_that_went_away_is_not_selected(series_folder):
    import re

    [series] = discover([series_folder]).series
    for path in series_folder.iterdir():
        path.unlink()
    assert not selected(series, (), (("Modality", re.compile("CT")),))


# Pixels


@pytest.mark.parametrize("vr", ["OF", "OD", "UT", "OL"])
def test_pixels_as_numbers_or_text_are_not_parsed(vr, series_folder):
    """Each value would become a Python object of 30 bytes."""
    contents = first(series_folder).read_bytes()
    at = contents.rindex(b"\xe0\x7f\x10\x00OW") + 4
    with pytest.raises(ValueError, match="value representation"):
        hounsfield(read_dataset(contents[:at] + vr.encode() + contents[at + 2 :]))


def swollen(path, uid: str, code: bytes) -> pydicom.Dataset:
    """4096 x 4096 pixels, by header and codestream, in the bytes of 128 x 128."""
    dataset = pydicom.dcmread(path)
    dataset.Rows = dataset.Columns = 4096
    dataset.PixelData = encapsulate([code])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = uid
    return dataset


@pytest.mark.parametrize(
    ("uid", "options"),
    [
        ("1.2.840.10008.1.2.4.70", {"lossless": True, "bitspersample": 16}),
        ("1.2.840.10008.1.2.4.51", {"bitspersample": 12}),
    ],
    ids=["lossless", "12 bits"],
)
def test_a_jpeg_too_short_for_its_size_is_not_decoded(uid, options, series_folder):
    """libjpeg fills what is missing with grey, and would hand out 32 MiB of it."""
    path = first(series_folder)
    code = imagecodecs.jpeg8_encode(np.minimum(pydicom.dcmread(path).pixel_array, 4095), **options)
    size = struct.pack(">HH", 128, 128)
    assert code.count(size) == 1
    dataset = swollen(path, uid, code.replace(size, struct.pack(">HH", 4096, 4096)))
    with peak() as used, pytest.raises(ValueError, match="too short"):
        hounsfield(dataset)
    assert used.bytes < MIB


def test_run_lengths_too_short_for_their_size_are_not_decoded(series_folder):
    header = struct.pack("<16L", 2, 64, 1064, *[0] * 13)
    dataset = swollen(first(series_folder), "1.2.840.10008.1.2.5", header + bytes(2000))
    with peak() as used, pytest.raises(ValueError, match="too short"):
        hounsfield(dataset)
    assert used.bytes < MIB


def jpeg_2000(side: int, layers: int = 1, levels: int = 5, block: int = 4, precincts: bytes = b"") -> bytes:
    """An empty image whose COD says anything (ISO/IEC 15444-1 A.6.1)."""
    code = bytearray(
        imagecodecs.jpeg2k_encode(np.zeros((64, 64), np.uint16), codecformat="j2k", level=0, reversible=True)
    )
    for at in (8, 24):  # image and tile
        struct.pack_into(">LL", code, at, side, side)
    at = code.index(b"\xff\x52")
    style = struct.pack(">BBHBBBBBB", bool(precincts), 0, layers, 0, levels, block, block, 0, 1) + precincts
    code[at : at + 14] = b"\xff\x52" + struct.pack(">H", 2 + len(style)) + style
    return bytes(code)


@pytest.mark.parametrize(
    "coding",
    [
        {"precincts": b"\0" + 5 * b"\x11"},
        {"precincts": b"\0", "levels": 0},
        {"precincts": 6 * b"\x44", "layers": 65535},
        {"block": 0},
    ],
    ids=["precincts of 2 x 2", "precincts of a pixel", "layers", "blocks of 4 x 4"],
)
def test_jpeg_2000_that_needs_gibibytes_to_be_taken_apart_is_not(coding, series_folder):
    """OpenJPEG keeps 1.6 KiB for each precinct: 170 bytes made it take 6 GiB and 12 s."""
    dataset = swollen(first(series_folder), "1.2.840.10008.1.2.4.90", jpeg_2000(4096, **coding))
    with pytest.raises(ValueError, match="JPEG 2000"):
        hounsfield(dataset)


def test_jpeg_2000_coding_style_of_a_tile_is_seen_too():
    code = jpeg_2000(1024)
    style = jpeg_2000(1024, block=0)
    start = style.index(b"\xff\x52")
    at = code.index(b"\xff\x90") + 12
    hidden = code[:at] + style[start : start + 14] + code[at:]
    with pytest.raises(ValueError, match="code blocks"):
        coded(hidden, "jpeg2000")


@pytest.mark.parametrize("options", [{}, {"resolutions": 1}, {"level": 60, "reversible": False}], ids=str)
def test_jpeg_2000_as_encoders_make_it_is_taken(options):
    pixels = np.arange(512 * 512, dtype=np.uint16).reshape(512, 512)
    code = imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", **({"level": 0, "reversible": True} | options))
    assert (coded(code, "jpeg2000").rows, coded(code, "jpeg2000").columns) == (512, 512)
    assert coded(imagecodecs.htj2k_encode(pixels, reversible=True, tlm=True), "jpeg2000").rows == 512


@pytest.mark.parametrize("twice", [False, True])
def test_fragments_are_looked_for_once_not_for_each_frame(twice, phantom_series, tmp_path, monkeypatch):
    """400 frames behind 200,000 empty fragments took 35 s; and of a file that came twice each frame read it anew."""
    path = write_enhanced(phantom_series, tmp_path / "e.dcm")
    dataset = pydicom.dcmread(path)
    dataset.compress("1.2.840.10008.1.2.5", encoding_plugin="pydicom", generate_instance_uid=False)
    for name in ("e.dcm", "f.dcm") if twice else ("e.dcm",):
        begin = 8 + struct.unpack_from("<L", dataset.PixelData, 4)[0]  # behind the offset table
        empty = b"\xfe\xff\x00\xe0\0\0\0\0" * 100
        dataset.PixelData = dataset.PixelData[:begin] + empty + dataset.PixelData[begin:]
        dataset.save_as(tmp_path / name)
    calls = []

    def counted(name):
        function = getattr(pixels if name == "_fragments" else load, name)
        return lambda *arguments: calls.append(name) or function(*arguments)

    monkeypatch.setattr(pixels, "_fragments", counted("_fragments"))
    monkeypatch.setattr(load, "read_dataset", counted("read_dataset"))
    [series] = discover([tmp_path]).series
    assert len(load_dicom(series).volume.array) == 30
    assert sorted(calls) == ["_fragments", "read_dataset"] if not twice else 2 * ["_fragments"] + 2 * ["read_dataset"]


# Zip archives


def lying_zip(path, contents: bytes, **claims: int) -> None:
    """One deflated member; its directory entry claims other sizes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.dcm", contents)
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\1\2")
    for name, at in (("compressed", 20), ("size", 24)):
        if name in claims:
            struct.pack_into("<L", data, entry + at, claims[name])
    path.write_bytes(data)


def test_a_zip_member_gives_no_more_than_its_directory_says(tmp_path):
    lying_zip(tmp_path / "a.zip", bytes(60 * MIB), size=1000)
    with peak() as used, pytest.raises(SeriesError) as refused:
        list(read_all([SourceFile(str(tmp_path / "a.zip"), "a.dcm")]))
    assert "a.zip" in refused.value.file
    assert used.bytes < MIB


def test_a_zip_member_that_claims_more_than_the_archive_has_is_refused(tmp_path):
    """A gibibyte was set aside to read it."""
    lying_zip(tmp_path / "a.zip", b"x" * 1000, compressed=2**30, size=2**31 - 1)
    [problem] = discover([tmp_path]).problems
    assert "claims 1073741824 bytes" in problem.message


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_member_of_a_method_that_cannot_be_bounded_is_named(method, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("a.dcm", bytes(1000))
    [problem] = discover([tmp_path]).problems
    assert "wanted none or deflate" in problem.message


def test_an_archive_is_opened_once_not_for_each_member_and_again_when_it_is_another(
    series_folder, tmp_path, monkeypatch
):
    """Its directory is read at each opening: 2000 slices in one archive took 16 s to find."""
    opened = []

    class Counted(zipfile.ZipFile):
        def __init__(self, file, *rest):
            opened.append(file)
            super().__init__(file, *rest)

    def fill(count):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            for path in sorted(series_folder.iterdir())[:count]:
                archive.write(path, path.name)

    for count in (30, 20):
        fill(count)
        with monkeypatch.context() as patch:
            patch.setattr(zipfile, "ZipFile", Counted)
            [series] = discover([tmp_path / "a.zip"]).series
        assert len(series.instances) == count
    assert len(opened) == 4, "to list its members, and to read them"


# NIfTI


@pytest.fixture
def nifti(phantom, tmp_path) -> Path:
    path = tmp_path / "a.nii"
    write_nifti(phantom.volume, path)
    return path


def test_nifti_of_several_gzip_members_is_read(nifti, tmp_path):
    whole = nifti.read_bytes()
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(whole[:1000]) + gzip.compress(whole[1000:]))
    np.testing.assert_array_equal(read_volume(tmp_path / "b.nii.gz").array, read_volume(nifti).array)


@pytest.mark.parametrize("members", [1, 2])
def test_nifti_does_not_swell_beyond_its_header(members, nifti, tmp_path):
    whole, zeros = nifti.read_bytes(), bytes(60 * MIB)
    bomb = gzip.compress(whole + zeros) if members == 1 else gzip.compress(whole) + gzip.compress(zeros)
    (tmp_path / "b.nii.gz").write_bytes(bomb)
    with peak() as used, pytest.raises(SeriesError, match="swells"):
        read_volume(tmp_path / "b.nii.gz")
    assert used.bytes < 8 * MIB


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_of_enormous_dimensions_asks_for_no_memory(suffix, nifti, tmp_path):
    whole = bytearray(nifti.read_bytes())
    struct.pack_into("<3h", whole, 42, 30000, 30000, 30000)
    path = tmp_path / f"b{suffix}"
    path.write_bytes(gzip.compress(whole) if suffix.endswith("gz") else whole)
    with peak() as used, pytest.raises(SeriesError, match="declares 54000000000352"):
        read_volume(path)
    assert used.bytes < 8 * MIB


@pytest.mark.parametrize("mm", [1e-6, 0.05, 250.0, 1e30])
def test_nifti_voxels_of_a_size_no_scanner_makes_are_refused(mm, tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.diag([mm, 1, 1, 1])), tmp_path / "a.nii")
    with pytest.raises(SeriesError, match=r"wanted 0\.1 to 100 mm") as caught:
        read_volume(tmp_path / "a.nii")
    assert caught.value.slug == "no-geometry"


def test_nifti_of_complex_numbers_is_not_hounsfield(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.complex64), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(SeriesError, match="complex numbers") as caught:
        read_volume(tmp_path / "a.nii")
    assert caught.value.slug == "not-hounsfield"


# Headers that results are made of


@pytest.mark.slow
@pytest.mark.parametrize("charset", ["ISO 2022 IR 58\\\\\\", "rot13", "ISO_IR 999"])
def test_a_name_in_an_unknown_character_set_does_not_fail_the_series(
    charset, series_folder, tmp_path, weights, networks
):
    """pydicom raises LookupError only where a name holds what the default set does not."""
    for path in series_folder.iterdir():
        contents = path.read_bytes()
        value = (charset + " " * (len(charset) % 2)).encode()
        start = contents.index(b"\x08\x00\x05\x00CS")
        end = start + 8 + int.from_bytes(contents[start + 6 : start + 8], "little")
        contents = contents[: start + 6] + struct.pack("<H", len(value)) + value + contents[end:]
        name = b"\xe4\x1b$B;3ED\x1b(J "
        start = contents.index(b"\x10\x00\x10\x00PN")
        end = start + 8 + int.from_bytes(contents[start + 6 : start + 8], "little")
        path.write_bytes(contents[: start + 6] + struct.pack("<H", len(name)) + name + contents[end:])
    order = batch.Order((series_folder,), tmp_path / "out", weights)
    tally = batch.scan(order, lambda: networks, lambda event: None)
    assert tally["done"] == 1


@pytest.mark.parametrize("vr", ["LO", "OB"])
def test_a_position_in_text_or_bytes_is_no_position(vr, series_folder):
    """It could be taken for numbers here, and fail the SEG that is written with it."""
    path = first(series_folder)
    contents = path.read_bytes()
    start = contents.index(b"\x20\x00\x32\x00DS")
    length = int.from_bytes(contents[start + 6 : start + 8], "little")
    head = b"LO" + struct.pack("<H", length) if vr == "LO" else b"OB\0\0" + struct.pack("<L", length)
    path.write_bytes(contents[: start + 4] + head + contents[start + 8 :])
    [series] = discover([path]).series
    assert series.instances[0].position is None


def test_an_attribute_that_cannot_be_written_is_not_passed_on(series_folder):
    """A damaged item of a sequence came to light only when the SEG was saved."""
    header = pydicom.dcmread(first(series_folder), stop_before_pixels=True)
    header.ProcedureCodeSequence = [pydicom.Dataset()]
    header.ProcedureCodeSequence[0].add_new(0x084F4300, "LO", 5)
    header.StudyDescription = "kept"
    [good] = identified([header])
    assert "ProcedureCodeSequence" not in good
    assert good.StudyDescription == "kept"


@pytest.mark.slow
def test_a_single_slice_with_functional_groups_is_a_single_slice(series_folder, tmp_path, weights, networks):
    for path in series_folder.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.NumberOfFrames = 1
        dataset.add_new("PerFrameFunctionalGroupsSequence", "LO", "x")
        dataset.save_as(path)
    order = batch.Order((series_folder,), tmp_path / "out", weights)
    assert batch.scan(order, lambda: networks, lambda event: None)["done"] == 1


def test_the_thickness_of_a_single_slice_is_one_that_scanners_make(series_folder):
    path = first(series_folder)
    for thickness in ("1e-308", "1e300", "-5"):
        dataset = pydicom.dcmread(path)
        dataset.SliceThickness = thickness
        dataset.save_as(path)
        assert load_dicom(discover([path]).series[0]).volume.spacing[0] == 1


@pytest.mark.parametrize(
    ("keyword", "vr", "value"), [("FrameOfReferenceUID", "UI", ["1.2", "1.3"]), ("SliceThickness", "LO", "\x119.7")]
)
def test_what_every_result_needs_is_put_in_place_of_what_is_damaged(keyword, vr, value, series_folder):
    """Two frames of reference, or a thickness in letters, failed the SEG; the report says that it was filled."""
    header = pydicom.dcmread(first(series_folder), stop_before_pixels=True)
    header.add_new(keyword, vr, value)
    before = str(header)
    [good] = encodable((header,), "key", 5.0)
    assert isinstance(good[keyword].value, float if keyword == "SliceThickness" else str)
    assert any(keyword in phrase for phrase in filled((header,)))
    assert str(header) == before, "the source's own header is left as it is"


def test_a_uid_with_the_value_representation_of_a_name_is_a_uid_in_the_results(series_folder):
    """One of sixteen slices had it, and they no longer seemed to be of one study: the SEG failed."""
    header = pydicom.dcmread(first(series_folder), stop_before_pixels=True)
    uid = str(header.StudyInstanceUID)
    del header.StudyInstanceUID
    header.add_new("StudyInstanceUID", "PN", uid)
    [good] = identified([header])
    assert (good["StudyInstanceUID"].VR, good.StudyInstanceUID) == ("UI", uid)


def test_a_slice_of_another_frame_of_reference_by_damage_gets_that_of_the_others(series_folder):
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in sorted(series_folder.iterdir())[:3]]
    del headers[0].FrameOfReferenceUID
    assert len({good.FrameOfReferenceUID for good in encodable(tuple(headers), "key", 5.0)}) == 1
    assert "FrameOfReferenceUID: missing, that of the other slices was taken" in filled(tuple(headers))


def test_a_slice_that_names_its_study_twice_is_unreadable(series_folder):
    """The first name decides where it belongs; what is written would have come from the last."""
    [series] = discover([series_folder]).series
    victim = series.instances[7].file.path
    dataset = pydicom.dcmread(victim)
    dataset.StudyInstanceUID = ""
    dataset.save_as(victim)
    with pytest.raises(SeriesError, match="two values of StudyInstanceUID") as caught:
        load_dicom(series)
    assert caught.value.slug == "unreadable"


def test_an_image_attribute_of_another_value_representation_is_not_passed_on(series_folder):
    header = pydicom.dcmread(first(series_folder), stop_before_pixels=True)
    header.add_new("LossyImageCompression", "DS", "1")
    [good] = identified([header])
    assert "LossyImageCompression" not in good


# Our own results


def test_an_outcome_of_brackets_without_end_is_no_outcome(tmp_path):
    (tmp_path / "outcome.json").write_text("[" * 100_000)
    assert read_outcome(tmp_path) is None
