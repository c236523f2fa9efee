"""Stored pixels to HU: odd ones, dishonest ones, and damaged ones."""

import io
import struct
import threading
import tracemalloc
import zlib

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless

from covct.dicom import read
from covct.dicom.codestream import coded
from covct.dicom.parallel import decode_in_order
from covct.dicom.pixels import hounsfield
from covct.dicom.read import read_dataset
from covct.dicom.syntaxes import SYNTAXES, is_lossy, syntax
from covct.errors import SeriesError

JPEG = "1.2.840.10008.1.2.4."


def slice_of(stored, uid=ExplicitVRLittleEndian, frame: bytes | None = None, **attributes) -> pydicom.Dataset:
    """A data set around stored values, plain or with an encoded frame; as a scanner writes it unless told otherwise."""
    stored = np.asarray(stored)
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid
    dataset.Rows, dataset.Columns = stored.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    bits = stored.dtype.itemsize * 8
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.PixelData = stored.tobytes() if frame is None else encapsulate([frame])
    dataset["PixelData"].VR = "OW"
    dataset["PixelData"].is_undefined_length = frame is not None
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def u16(*values):
    return np.array([values], np.uint16)


def i16(*values):
    return np.array([values], np.int16)


# --- rescale -------------------------------------------------------------------------------------------------------


def test_metal_is_clipped_and_never_wraps():
    np.testing.assert_array_equal(hounsfield(slice_of(u16(31024, 33791, 33792, 65535))), [[30000, 32767, 32767, 32767]])
    np.testing.assert_array_equal(hounsfield(slice_of(i16(32767, -32768), RescaleIntercept=1000)), [[32767, -1024]])
    np.testing.assert_array_equal(hounsfield(slice_of(u16(65535), RescaleSlope=1000)), [[32767]])


@pytest.mark.parametrize("value", [-2000, -3024, -1025])
def test_what_lies_outside_the_field_is_air_although_no_padding_is_declared(value):
    np.testing.assert_array_equal(hounsfield(slice_of(i16(value, 40), RescaleIntercept=0)), [[-1024, 40]])


def test_whole_slope_stays_integer_and_fractional_slope_is_not_rounded():
    whole = hounsfield(slice_of(u16(1000), RescaleSlope=2, RescaleIntercept=-1000))
    assert (whole.dtype, whole[0, 0]) == (np.int16, 1000)
    fractional = hounsfield(slice_of(u16(1001), RescaleSlope="0.25", RescaleIntercept="-1000.5"))
    assert (fractional.dtype, fractional[0, 0]) == (np.float32, -750.25)


def test_slope_that_changes_from_frame_to_frame():
    frames = slice_of(np.array([[[100]], [[100]]], np.uint16), NumberOfFrames=2)
    assert hounsfield(frames, 1, (1.0, -1000.0))[0, 0] == -900
    assert hounsfield(frames, 2, (2.5, -1000.0))[0, 0] == -750


def test_monochrome1_shows_low_values_bright_and_means_the_same_hu():
    np.testing.assert_array_equal(hounsfield(slice_of(u16(24), PhotometricInterpretation="MONOCHROME1")), [[-1000]])


@pytest.mark.parametrize(
    ("rescale", "said"),
    [
        ({"RescaleSlope": 0}, "RescaleSlope is 0"),
        ({"RescaleSlope": 1e9}, "RescaleSlope is 1e[+]09"),
        ({"RescaleIntercept": -1e12}, "RescaleIntercept is -1e[+]12"),
    ],
)
def test_rescale_that_gives_no_hu_is_refused(rescale, said):
    with pytest.raises(ValueError, match=said):
        hounsfield(slice_of(u16(1), **rescale))
    with pytest.raises(ValueError, match="RescaleSlope is nan"):
        hounsfield(slice_of(u16(1)), rescale=(float("nan"), 0.0))


def test_modality_lut_in_place_of_a_rescale_is_refused():
    lut = pydicom.Dataset()
    lut.LUTDescriptor, lut.LUTData = [2, 0, 16], [0, 1]
    with pytest.raises(ValueError, match="Modality LUT Sequence, wanted Rescale"):
        hounsfield(slice_of(u16(1), ModalityLUTSequence=[lut]))


# --- bits ----------------------------------------------------------------------------------------------------------


def test_garbage_and_overlays_above_the_bits_stored_are_not_seen():
    """12 bits of 16; old scanners kept overlays in the others."""
    bits = {"BitsStored": 12, "HighBit": 11}
    np.testing.assert_array_equal(hounsfield(slice_of(u16(0x0400, 0xF400, 0x1400), **bits)), [[0, 0, 0]])
    signed = slice_of(i16(0x0830, -2000, 0x5830, 40), **bits, RescaleIntercept=1000)  # 0x830 is -2000 in 12 bits
    np.testing.assert_array_equal(hounsfield(signed), [[-1000, -1000, -1000, 1040]])


def test_eight_bits_are_read():
    np.testing.assert_array_equal(hounsfield(slice_of(np.array([[0, 255]], np.uint8), RescaleSlope=8)), [[-1024, 1016]])


def test_eight_bits_in_big_endian_words_are_swapped():
    dataset = slice_of(np.array([[1, 2], [3, 4]], np.uint8), "1.2.840.10008.1.2.2", RescaleIntercept=0)
    dataset.PixelData = b"\x02\x01\x04\x03"
    np.testing.assert_array_equal(hounsfield(dataset), [[1, 2], [3, 4]])


# --- padding -------------------------------------------------------------------------------------------------------


def test_padding_value_is_air():
    np.testing.assert_array_equal(hounsfield(slice_of(u16(3000, 3001), PixelPaddingValue=3000)), [[-1024, 1977]])


@pytest.mark.parametrize("ends", [(2000, 2100), (2100, 2000)], ids=["upwards", "downwards"])
def test_padding_range_is_air_from_end_to_end(ends):
    value, limit = ends
    dataset = slice_of(u16(1999, 2000, 2050, 2100, 2101), PixelPaddingValue=value, PixelPaddingRangeLimit=limit)
    np.testing.assert_array_equal(hounsfield(dataset), [[975, -1024, -1024, -1024, 1077]])


def test_padding_whose_sign_the_header_has_otherwise():
    """-2000 as US in a signed image is 63536; signed slices of a series with intercept 1000 would show it as -1000."""
    dataset = slice_of(i16(-2000, 0), RescaleIntercept=2000)
    dataset.add_new("PixelPaddingValue", "US", 63536)
    np.testing.assert_array_equal(hounsfield(dataset), [[-1024, 2000]])


def test_padding_in_bits_that_are_not_stored():
    """0xF830 in a 12-bit unsigned image: masked it would be tissue of 1072 HU."""
    dataset = slice_of(u16(0xF830, 0x0830), BitsStored=12, HighBit=11, PixelPaddingValue=0xF830)
    assert hounsfield(dataset)[0, 0] == -1024


def test_padding_in_implicit_vr_whose_type_only_the_representation_tells():
    dataset = slice_of(i16(-2000, 0), "1.2.840.10008.1.2", RescaleIntercept=2000)
    dataset.add_new("PixelPaddingValue", "SS", -2000)
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=False, implicit_vr=True, little_endian=True)
    np.testing.assert_array_equal(hounsfield(read_dataset(stream.getvalue())), [[-1024, 2000]])


# --- others' files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["CT_small.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "MR_small_padded.dcm", "MR_small_RLE.dcm",
     "MR_small_jpeg_ls_lossless.dcm", "MR_small_jp2klossless.dcm", "JPEGLSNearLossless_16.dcm", "JPEG2000.dcm",
     "JPGExtended.dcm", "JPEG-lossy.dcm", "J2K_pixelrep_mismatch.dcm"],
)  # fmt: skip
def test_pydicoms_samples_match_another_reader(name):
    """12-bit extended JPEG, a codestream that has the sign wrong, and the rest, against SimpleITK's decoders."""
    sitk = pytest.importorskip("SimpleITK")
    path = get_testdata_file(name, download=False)
    if not path:
        pytest.skip(f"this pydicom ships no {name}")
    with open(path, "rb") as stream:
        dataset = read_dataset(stream.read())
    theirs = sitk.GetArrayFromImage(sitk.ReadImage(path))[0].astype(int)
    if name == "J2K_pixelrep_mismatch.dcm":  # SimpleITK believes the codestream: 13 bits unsigned
        theirs = np.where(theirs >= 4096 - 1024, theirs - 8192, theirs)
    padding = dataset.get("PixelPaddingValue")
    if padding is not None:
        slope, intercept = dataset.get("RescaleSlope", 1), dataset.get("RescaleIntercept", 0)
        theirs[theirs == padding * slope + intercept] = -1024
    np.testing.assert_array_equal(hounsfield(dataset, 1), np.clip(theirs, -1024, 32767))


# --- what the header declares --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"Rows": 0}, "Rows is 0, wanted 1 to 4096"),
        ({"Rows": 60000, "Columns": 60000}, "Rows is 60000, wanted 1 to 4096"),
        ({"Columns": None}, "Columns is missing"),
        ({"NumberOfFrames": 2_000_000_000}, "NumberOfFrames is 2000000000"),
        ({"SamplesPerPixel": 3}, "SamplesPerPixel is 3, wanted 1"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "PhotometricInterpretation is PALETTE COLOR"),
        ({"BitsAllocated": 32}, "BitsAllocated is 32"),
        ({"BitsAllocated": 12}, "BitsAllocated is 12, wanted 8 or 16"),
        ({"BitsStored": 17}, "BitsStored is 17"),
        ({"HighBit": 11}, "HighBit is 11, wanted 15"),
        ({"PixelRepresentation": 2}, "PixelRepresentation is 2"),
        ({"FloatPixelData": b"\0" * 8}, "pixels are floating point"),
        ({"NumberOfFrames": 2}, "2 frames, wanted one or the number of one"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_header_that_declares_no_ct_slice(attributes, said):
    with pytest.raises(ValueError, match=said):
        hounsfield(slice_of(u16(1, 2), **attributes))


def test_frame_that_is_not_there():
    for number in (0, 3):
        with pytest.raises(ValueError, match=f"frame {number} of 2"):
            hounsfield(slice_of(np.zeros((2, 1, 1), np.uint16), NumberOfFrames=2), number)


def test_plain_pixels_too_short_are_named_and_padding_behind_them_is_not_minded():
    with pytest.raises(ValueError, match="Pixel Data has 7 bytes, wanted 8"):
        hounsfield(slice_of(u16(1, 2, 3, 4), PixelData=b"\0" * 7))
    stored = u16(1, 2, 3, 4)
    np.testing.assert_array_equal(hounsfield(slice_of(stored, PixelData=stored.tobytes() + b"\0\0")), stored - 1024.0)


def test_plain_pixels_of_more_frames_than_declared_are_refused():
    """Rows may be what is wrong, and a slice cut in half would be silent."""
    with pytest.raises(ValueError, match="Pixel Data has 16 bytes, wanted 8"):
        hounsfield(slice_of(u16(1, 2, 3, 4), PixelData=b"\0" * 16))


def test_compressed_pixels_that_the_transfer_syntax_calls_plain():
    frame = imagecodecs.jpegls_encode(np.zeros((8, 8), np.uint16))
    with pytest.raises(ValueError, match="Pixel Data is compressed"):
        hounsfield(slice_of(np.zeros((8, 8), np.uint16), ExplicitVRLittleEndian, frame))


def test_no_pixels():
    dataset = slice_of(u16(1))
    del dataset.PixelData
    with pytest.raises(ValueError, match="no Pixel Data"):
        hounsfield(dataset)


def test_transfer_syntax_that_is_not_read_is_named_with_those_that_are():
    with pytest.raises(SeriesError, match=r"transfer syntax is 1.2.840.10008.1.2.4.100, wanted uncompressed, .* HTJ2K"):
        hounsfield(slice_of(u16(1), f"{JPEG}100", b"\0\0"))
    assert all(syntax(uid).name for uid in SYNTAXES)


@pytest.mark.parametrize(
    ("uid", "said", "lossy"),
    [
        (f"{JPEG}50", "", True), (f"{JPEG}51", "00", True),  # these cannot be without loss, whatever they say
        (f"{JPEG}81", "", True), (f"{JPEG}91", "", True), (f"{JPEG}203", "", True),  # these may be either
        (f"{JPEG}81", "00", False), (f"{JPEG}91", "00", False), (f"{JPEG}91", "01", True),
        (f"{JPEG}70", "", False), ("1.2.840.10008.1.2.1", "", False),
        ("1.2.840.10008.1.2.1", "01", True), (f"{JPEG}90", "01", True),  # lossy once, decompressed since
    ],
)  # fmt: skip
def test_which_images_count_as_lossy(uid, said, lossy):
    assert is_lossy(uid, said) is lossy


# --- codestreams that lie ------------------------------------------------------------------------------------------

PIXELS = (np.arange(64 * 48).reshape(64, 48) % 4096).astype(np.uint16)
FRAMES = {
    f"{JPEG}51": imagecodecs.jpeg8_encode(PIXELS, 95, bitspersample=12),
    f"{JPEG}70": imagecodecs.jpeg8_encode(PIXELS, lossless=True, bitspersample=16),
    f"{JPEG}80": imagecodecs.jpegls_encode(PIXELS),
    f"{JPEG}90": imagecodecs.jpeg2k_encode(PIXELS, 0, codecformat="J2K", reversible=True),
    f"{JPEG}201": imagecodecs.htj2k_encode(PIXELS, reversible=True),
}


def with_size(frame: bytes, rows: int, columns: int) -> bytes:
    """The same codestream, declaring another size."""
    if frame.startswith(b"\xff\x4f"):
        return frame[:8] + struct.pack(">2L", columns, rows) + frame[16:]
    at = next(i for i in range(len(frame)) if frame[i] == 0xFF and frame[i + 1] in (0xC0, 0xC1, 0xC3, 0xF7))
    return frame[: at + 5] + struct.pack(">2H", rows, columns) + frame[at + 9 :]


@pytest.mark.parametrize("uid", FRAMES)
def test_codestream_of_another_size_never_reaches_the_decoder(uid, monkeypatch):
    """A few bytes may claim 65,535 x 65,535 pixels: 8 GiB in a decoder that believes them."""
    for decoder in ("jpeg8_decode", "jpegls_decode", "jpeg2k_decode"):
        monkeypatch.setattr(imagecodecs, decoder, lambda _: pytest.fail("decoded"))
    for size in ((65535, 65535), (64, 49), (0, 48)):
        with pytest.raises(ValueError, match="codestream|JPEG 2000 tiles"):
            hounsfield(slice_of(PIXELS, uid, with_size(FRAMES[uid], *size)))


def test_jpeg_2000_of_a_million_tiles_never_reaches_the_decoder():
    frame = bytearray(FRAMES[f"{JPEG}90"])
    frame[24:32] = struct.pack(">2L", 1, 1)
    with pytest.raises(ValueError, match="3072 JPEG 2000 tiles, wanted at most 1024"):
        hounsfield(slice_of(PIXELS, f"{JPEG}90", bytes(frame)))


def test_colour_in_the_codestream_of_a_grey_image():
    frame = imagecodecs.jpeg8_encode(np.zeros((64, 48, 3), np.uint8), 95)
    with pytest.raises(ValueError, match="64 x 48 pixels of 3 samples, the header says 64 x 48 of 1"):
        hounsfield(slice_of(np.zeros((64, 48), np.uint8), f"{JPEG}50", frame))


def test_more_bits_in_the_codestream_than_are_allocated():
    with pytest.raises(ValueError, match="codestream has 16 bits a sample, wanted 2 to 8"):
        hounsfield(slice_of(np.zeros((64, 48), np.uint8), f"{JPEG}70", FRAMES[f"{JPEG}70"]))


def test_lossy_jpeg_under_a_lossless_transfer_syntax_is_refused():
    with pytest.raises(ValueError, match="SOF1, wanted SOF3"):
        hounsfield(slice_of(PIXELS, f"{JPEG}70", FRAMES[f"{JPEG}51"]))


def test_another_codec_than_the_transfer_syntax_says():
    with pytest.raises(ValueError, match="begins with ff 4f ff 51, wanted ff d8"):
        hounsfield(slice_of(PIXELS, f"{JPEG}70", FRAMES[f"{JPEG}90"]))
    with pytest.raises(ValueError, match="begins with ff d8"):
        hounsfield(slice_of(PIXELS, f"{JPEG}90", FRAMES[f"{JPEG}70"]))


@pytest.mark.parametrize("uid", FRAMES)
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.95])
def test_codestream_cut_short_is_an_error_and_no_grey_slice(uid, kept):
    """libjpeg fills what is missing with grey; a copy broken off may also leave zeros to the full length."""
    frame = FRAMES[uid]
    cut = frame[: int(kept * len(frame))]
    for broken in (cut, cut.ljust(len(frame), b"\0")):
        with pytest.raises(ValueError, match="no end marker"):
            hounsfield(slice_of(PIXELS, uid, broken))


def test_codestream_of_headers_only():
    for kind in ("jpeg", "jpeg-lossless", "jpeg-ls"):
        with pytest.raises(ValueError, match="ends within its headers|no marker"):
            coded(b"\xff\xd8\xff\xe0\x7f\xff\xff\xd9", kind)
    with pytest.raises(ValueError, match="ends within its headers"):
        coded(b"\xff\x4f\xff\x51\0\0\xff\xd9", "jpeg2000")


def test_jpeg_ls_that_hides_a_second_size():
    frame = FRAMES[f"{JPEG}80"]
    at = frame.index(b"\xff\xda")
    oversize = b"\xff\xf8\x00\x08\x04\x02" + struct.pack(">2H", 65535, 65535)
    with pytest.raises(ValueError, match="size a second time"):
        hounsfield(slice_of(PIXELS, f"{JPEG}80", frame[:at] + oversize + frame[at:]))


def test_jp2_boxes_around_the_codestream_are_taken_off():
    """PS3.5 forbids them; some archives leave them."""
    frame = imagecodecs.jpeg2k_encode(PIXELS, 0, codecformat="JP2", reversible=True)
    assert frame[4:8] == b"jP  "
    np.testing.assert_array_equal(hounsfield(slice_of(PIXELS, f"{JPEG}90", frame)), PIXELS.astype(int) - 1024)


def test_signed_jpeg_2000():
    stored = PIXELS.astype(np.int16) - 2000
    frame = imagecodecs.jpeg2k_encode(stored, 0, codecformat="J2K", reversible=True)
    dataset = slice_of(stored, f"{JPEG}90", frame, RescaleIntercept=0)
    np.testing.assert_array_equal(hounsfield(dataset), np.maximum(stored, -1024))


# --- fragments -----------------------------------------------------------------------------------------------------


def items(*fragments: bytes, offsets: bytes = b"") -> bytes:
    def item(content: bytes) -> bytes:
        return b"\xfe\xff\x00\xe0" + struct.pack("<L", len(content)) + content

    return item(offsets) + b"".join(map(item, fragments)) + b"\xfe\xff\xdd\xe0\0\0\0\0"


def even(frame: bytes) -> bytes:
    return frame + b"\0" * (len(frame) % 2)


def test_frames_in_several_fragments_each_and_an_offset_table_that_is_wrong():
    frames = [even(imagecodecs.jpegls_encode(PIXELS + n)) for n in (0, 10, 20)]
    data = items(*(part for f in frames for part in (f[:100], f[100:])), offsets=struct.pack("<3L", 0, 7, 7))
    dataset = slice_of(PIXELS, f"{JPEG}80", b"\0\0", NumberOfFrames=3, PixelData=data)
    for n in (3, 1, 2):
        np.testing.assert_array_equal(hounsfield(dataset, n), PIXELS.astype(int) - 1024 + 10 * (n - 1))


def test_one_frame_in_many_fragments():
    frame = even(FRAMES[f"{JPEG}90"])
    data = items(*(frame[i : i + 64] for i in range(0, len(frame), 64)))
    dataset = slice_of(PIXELS, f"{JPEG}90", b"\0\0", PixelData=data)
    np.testing.assert_array_equal(hounsfield(dataset), PIXELS.astype(int) - 1024)


def test_many_frames_declared_and_one_fragment_given():
    """An offset table may point all frames at the same bytes: 16,384 slices of one."""
    data = items(even(FRAMES[f"{JPEG}80"]), offsets=struct.pack("<3L", 0, 0, 0))
    with pytest.raises(ValueError, match="holds 1 frames in 1 fragments, wanted 3"):
        hounsfield(slice_of(PIXELS, f"{JPEG}80", b"\0\0", NumberOfFrames=3, PixelData=data), 1)


def test_fragment_longer_than_the_file():
    data = items(even(FRAMES[f"{JPEG}80"]))[:-40]
    with pytest.raises(ValueError, match="fragment of .* bytes is cut short"):
        hounsfield(slice_of(PIXELS, f"{JPEG}80", b"\0\0", PixelData=data))


def test_offset_table_and_nothing_else():
    with pytest.raises(ValueError, match="holds no fragment"):
        hounsfield(slice_of(PIXELS, f"{JPEG}80", b"\0\0", PixelData=items()))


# --- run lengths ---------------------------------------------------------------------------------------------------


def rle(*segments: bytes, offsets=None, count=None) -> bytes:
    starts = np.cumsum([64, *map(len, segments)])[:-1] if offsets is None else offsets
    header = [len(segments) if count is None else count, *starts]
    return struct.pack("<16L", *header, *[0] * (16 - len(header))) + b"".join(segments)


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (b"\2\0\0\0", "RLE frame of 4 bytes"),
        (rle(b"\x83\0", count=15), "15 RLE segments, wanted 2"),
        (rle(b"\x83\0"), "1 RLE segments, wanted 2"),
        (rle(b"\xfd\0", b"\xfd\0", offsets=[64, 9000]), "RLE segments begin at 64, 9000"),
        (rle(b"\xfd\0", b"\xfd\0", offsets=[66, 64]), "RLE segments begin at 66, 64"),
        (rle(b"\xfe\0", b"\xfd\0"), "expands to 3 bytes, wanted 4"),
    ],
    ids=["no header", "fifteen segments", "one segment", "beyond the end", "backwards", "too short"],
)
def test_run_lengths_that_lie(frame, said):
    with pytest.raises(ValueError, match=said):
        hounsfield(slice_of(u16(1, 2, 3, 4), RLELossless, frame))


def test_run_lengths_that_swell_are_stopped_at_the_size_of_the_slice():
    swollen = b"\x81\0" * 500_000  # 1 MB for 64 MB
    tracemalloc.start()
    with pytest.raises(RuntimeError, match="OUTPUT_TOO_SMALL"):
        hounsfield(slice_of(u16(1, 2, 3, 4), RLELossless, rle(swollen, swollen)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 1024**2, "copies of the file, no more"


def test_run_lengths_of_an_odd_number_of_pixels_with_padding():
    dataset = slice_of(u16(0x0401, 0x0401, 0x0402), RLELossless, rle(b"\xfe\4\0\0", b"\xff\1\0\2"))
    np.testing.assert_array_equal(hounsfield(dataset), [[1, 1, 2]])


# --- data sets -----------------------------------------------------------------------------------------------------


def part_10(dataset: pydicom.Dataset) -> bytes:
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3"
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def test_deflated_data_set_and_its_beginning():
    stored = np.random.default_rng(0).integers(0, 4096, (64, 64)).astype(np.uint16)
    contents = part_10(slice_of(stored, DeflatedExplicitVRLittleEndian, SpecificCharacterSet="ISO_IR 192"))
    dataset = read_dataset(contents)
    np.testing.assert_array_equal(hounsfield(dataset), stored.astype(int) - 1024)
    assert dataset.file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian
    header = read_dataset(contents[:1500], stop_before_pixels=True, specific_tags=["Rows"])
    assert (header.Rows, "PixelData" in header, "Columns" in header) == (64, False, False)
    with pytest.raises(ValueError, match="deflated data set is cut short"):
        read_dataset(contents[:1500])


@pytest.mark.slow
def test_deflated_data_set_that_swells_is_refused_before_it_does(monkeypatch):
    monkeypatch.setattr(read, "INFLATED_FREELY", 1024**2)
    honest = part_10(slice_of(u16(1), DeflatedExplicitVRLittleEndian))
    deflater = zlib.compressobj(9, wbits=-15)
    zeros = b"".join(deflater.compress(bytes(1024**2)) for _ in range(64)) + deflater.flush()
    bomb = honest[: read._data_set_at(memoryview(honest))[0]] + zeros
    tracemalloc.start()
    with pytest.raises(ValueError, match="swells beyond|more than 100000 elements"):
        read_dataset(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 * 1024**2, "the bomb holds 64 MiB"


@pytest.mark.parametrize("deflated", [False, True])
def test_sequences_nested_ten_thousand_deep_are_an_ordinary_error(deflated):
    opened = b"\x40\x00\x30\xa7SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    closed = b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    nested = opened * 10_000 + closed * 10_000
    if deflated:
        honest = part_10(slice_of(u16(1), DeflatedExplicitVRLittleEndian))
        deflater = zlib.compressobj(wbits=-15)
        contents = honest[: read._data_set_at(memoryview(honest))[0]] + deflater.compress(nested) + deflater.flush()
    else:
        contents = part_10(slice_of(u16(1))) + nested
    with pytest.raises((RecursionError, read.BeyondBounds)):
        read_dataset(contents)


def test_values_that_break_their_representation_are_not_quoted(recwarn, caplog):
    """pydicom warns of them with their text: a name in the wrong place would stand in the log."""
    dataset = slice_of(u16(1))
    with pydicom.config.disable_value_validation():
        dataset.StudyInstanceUID = "Mueller^Hans"
        contents = part_10(dataset)
    assert read_dataset(contents).StudyInstanceUID == "Mueller^Hans"
    assert not recwarn.list
    assert not caplog.records


def test_headers_do_not_keep_the_file_in_memory():
    """pydicom's data sets hold on to the file they were read from: half a MiB for each of 300 slices."""
    dataset = read_dataset(part_10(slice_of(u16(1, 2))))
    assert getattr(dataset, "buffer", None) is None
    np.testing.assert_array_equal(hounsfield(dataset), [[-1023, -1022]])


# --- side by side --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_results_come_in_order_whichever_is_ready_first(workers):
    first = threading.Event()

    def later_ones_first(n: int) -> int:
        if n == 0 and workers > 1:
            assert first.wait(10), "the second item was not begun beside the first"
        elif n == 1:
            first.set()
        return n * n

    assert list(decode_in_order(range(50), later_ones_first, workers)) == [n * n for n in range(50)]


def test_only_a_few_are_drawn_ahead():
    """A series of any length needs the memory of a few slices."""
    drawn = []

    def items():
        for n in range(100):
            drawn.append(n)
            yield n

    results = decode_in_order(items(), lambda n: n, workers=3)
    for n in range(100):
        assert next(results) == n
        assert len(drawn) <= n + 1 + 3


def test_an_error_comes_in_its_place_and_ends_the_work():
    begun = []

    def fail_at_five(n: int) -> int:
        begun.append(n)
        if n == 5:
            raise ValueError("slice 5 is damaged")
        return n

    results = decode_in_order(range(1000), fail_at_five, workers=2)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="slice 5 is damaged"):
        next(results)
    assert len(begun) < 12
