"""Frames of other makers' segmentations: on the slice that they mean, pixel by pixel, or refused."""

import highdicom as hd
import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from covct.dicom.seg_frames import frame_pixels, frame_places
from covct.errors import SourceDefect
from covct.voxels.volume import Scan

ALONG_MM = (0.0, 2.0, 4.8, 6.0)  # the third of four slices lies 0.8 mm off its even place
AXIAL = [1, 0, 0, 0, 1, 0]


def item(**attributes):
    dataset = Dataset()
    for name, value in attributes.items():
        setattr(dataset, name, value)
    return dataset


def scan(frames=()):
    """Four axial slices, 2 mm from one to the next on average, pixels of 0.7 mm; in four files or one."""
    affine = np.diag([2.0, 0.7, 0.7, 1.0])[[2, 1, 0, 3]]
    volume = hd.Volume(np.zeros((4, 3, 3), np.int16), affine, "PATIENT")
    headers = [
        item(SOPClassUID="1.2", SOPInstanceUID=f"1.{i}", ImagePositionPatient=[0, 0, mm], ImageOrientationPatient=AXIAL)
        for i, mm in enumerate(ALONG_MM)
    ]
    if frames:
        of_frames = [item(PlanePositionSequence=[item(ImagePositionPatient=[0, 0, mm])]) for mm in ALONG_MM]
        shared = [item(PlaneOrientationSequence=[item(ImageOrientationPatient=AXIAL)])]
        whole = item(SOPClassUID="1.2", SOPInstanceUID="1.9")
        whole.PerFrameFunctionalGroupsSequence = of_frames
        whole.SharedFunctionalGroupsSequence = shared
        headers = [whole]
    return Scan(volume, tuple(headers), frames=tuple(frames))


def segmentation(*frames, orientation=AXIAL):
    """A frame each: where it lies, mm (None: not told), and the UIDs, or pairs of UID and frame, that it refers to."""
    groups = []
    for along_mm, references in frames:
        sources = [
            item(ReferencedSOPInstanceUID=one)
            if isinstance(one, str)
            else item(ReferencedSOPInstanceUID=one[0], ReferencedFrameNumber=one[1])
            for one in references
        ]
        group = item(DerivationImageSequence=[item(SourceImageSequence=sources)] if sources else [])
        if along_mm is not None:
            group.PlanePositionSequence = [item(ImagePositionPatient=[0, 0, along_mm])]
        groups.append(group)
    shared = [item(PlaneOrientationSequence=[item(ImageOrientationPatient=orientation)])]
    return item(PerFrameFunctionalGroupsSequence=groups, SharedFunctionalGroupsSequence=shared)


def test_references_tell_the_slice_in_any_order():
    assert frame_places(segmentation((None, ["1.3"]), (None, ["1.0"]), (4.8, ["1.2"])), scan()) == [3, 0, 2]


def test_without_references_the_slice_lies_where_its_header_says_and_not_where_even_spacing_has_it():
    assert frame_places(segmentation((4.8, []), (0, [])), scan()) == [2, 0]


def test_a_slice_of_one_frame_may_be_called_its_frame_1():
    assert frame_places(segmentation((2, [("1.1", 1)])), scan()) == [1]


def test_of_several_sources_the_frame_lies_on_the_nearest():
    """As of a mask drawn on thick slices and stored on thin ones."""
    assert frame_places(segmentation((2, ["1.0", "1.1", "1.2"])), scan()) == [1]


def test_frames_of_a_multi_frame_ct():
    """By number, by several numbers at once, by the whole instance, and with no reference."""
    of_one_file = scan(frames=(1, 2, 3, 4))
    frames = (0, [("1.9", 1)]), (6, [("1.9", [3, 4])]), (2, ["1.9"]), (4.8, [])
    assert frame_places(segmentation(*frames), of_one_file) == [0, 3, 1, 2]


@pytest.mark.parametrize("spaced_mm", [0.3, -0.3])
def test_less_than_half_a_voxel_from_its_slice(spaced_mm):
    assert frame_places(segmentation((2 + spaced_mm, ["1.1"]), (2 + spaced_mm, [])), scan()) == [1, 1]


@pytest.mark.parametrize(
    ("frame", "wanted"),
    [
        ((2.4, ["1.1"]), "frame 1 lies 0.4 mm from the slice that it refers to"),
        ((4.0, []), "frame 1 lies 0.8 mm from the next slice"),
        ((2.0, ["9.9"]), "frame 1 refers to a slice that its scan does not have"),
        ((None, []), "neither a position nor"),
    ],
)
def test_frames_that_belong_elsewhere_are_refused(frame, wanted):
    with pytest.raises(SourceDefect, match=wanted):
        frame_places(segmentation(frame), scan())


def test_a_frame_turned_against_its_slice_is_refused_though_its_reference_is_right():
    """Rows and columns the other way round: each mask would lie mirrored."""
    with pytest.raises(SourceDefect, match="turned"):
        frame_places(segmentation((2, ["1.1"]), orientation=[-1, 0, 0, 0, -1, 0]), scan())


def stored(array, kind="BINARY", **attributes):
    """A segmentation of frames (frames, rows, columns), native."""
    bits = 1 if kind == "BINARY" else 8
    dataset = item(
        SegmentationType=kind, NumberOfFrames=len(array), Rows=array.shape[1], Columns=array.shape[2],
        BitsAllocated=bits, BitsStored=bits, HighBit=bits - 1, PixelRepresentation=0, SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2", PerFrameFunctionalGroupsSequence=[Dataset() for _ in array],
        **attributes,
    )  # fmt: skip
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    contents = np.packbits(array.ravel(), bitorder="little") if bits == 1 else array.astype(np.uint8)
    dataset.add_new("PixelData", "OB", contents.tobytes() + b"\0" * (contents.size % 2))
    return dataset


def test_frames_that_end_within_a_byte():
    """5 x 7 pixels: the second frame begins at bit 35."""
    array = np.random.default_rng(0).random((4, 5, 7)) < 0.3
    np.testing.assert_array_equal(list(frame_pixels(stored(array))), array)


def test_probabilities_of_a_half_and_more_are_yes():
    """`covct evaluate` doubled them within their eight bits, where 2 x 200 is 144, and so found none."""
    array = np.array([[[0, 100, 127], [128, 200, 255]]])
    [got] = frame_pixels(stored(array, "FRACTIONAL", MaximumFractionalValue=255))
    np.testing.assert_array_equal(got, [[False, False, False], [True, True, True]])


def test_a_label_map_keeps_its_numbers():
    [got] = frame_pixels(stored(np.array([[[0, 1], [2, 3]]]), "LABELMAP"))
    np.testing.assert_array_equal(got, [[0, 1], [2, 3]])


def test_fewer_pixels_than_frames_are_refused():
    dataset = stored(np.ones((4, 5, 7), bool))
    dataset.PixelData = dataset.PixelData[:10]
    with pytest.raises(SourceDefect, match="80 pixels, 4 frames of 35 are wanted"):
        list(frame_pixels(dataset))
