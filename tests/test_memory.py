"""Memory: packed masks, components slice by slice, a SEG frame by frame, and series that cannot be held."""

import gzip
import tracemalloc
from dataclasses import replace
from functools import cache, partial

import highdicom as hd
import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import RLELossless

from covct.dicom.evidence import encodable, equipment, identified, object_uids
from covct.dicom.seg import _description, write_seg
from covct.intake.discover import discover
from covct.intake.load_dicom import load_dicom
from covct.intake.nifti import write_mask, write_nifti
from covct.networks.devices import OPENVINO
from covct.outputs import Outputs
from covct.phantom.chest import make_phantom
from covct.phantom.dicom import write_dicom_series
from covct.pipeline import memory
from covct.pipeline import series as pipeline
from covct.terms import LABELMAP_SEGMENTS, SEGMENTS
from covct.unattended import batch
from covct.voxels.components import components
from covct.voxels.labels import INFECTED, Labels, per_slice
from covct.voxels.preprocess import whole_slice
from covct.voxels.volume import Masks, Probability
from support.cost import cost
from support.cuts import points_in_seg
from support.encodings import deflated
from support.multiframe import write_enhanced
from support.objects import MAKING
from support.running import read_json
from support.series import change
from support.thresholds import make_networks

pytestmark = pytest.mark.slow

NETWORKS = {task: {"sha256": "a" * 64, "threshold": 0.5} for task in ("lungs", "infection")}
CORONAL, SAGITTAL = [1, 0, 0, 0, 0, -1], [0, 1, 0, 0, 0, -1]
CUTS = [{}, {"orientation": "FFP"}, {"orientation": "HFDR"}, {"orientation_cosines": CORONAL},
        {"orientation_cosines": SAGITTAL}]  # fmt: skip


def packed(lungs, infection):
    labels = Labels(lungs.shape)
    for index in range(len(lungs)):
        labels[index] = lungs[index] + np.uint8(INFECTED) * infection[index]
    return labels


def masks_of(phantom, size=32):
    """The phantom's true masks, packed, with probabilities that are a ramp."""
    labels = packed(phantom.lungs, phantom.infection)
    ramp = np.broadcast_to(np.linspace(0, 1, size, dtype=np.float16), (len(labels), size, size))
    probability = Probability(ramp, whole_slice(phantom.lungs.shape[1:]))
    return Masks(labels.lungs, labels.infection, probability, probability)


@pytest.fixture(scope="module")
def coarse():
    """A chest of few pixels, as a coronal or sagittal cut has a file for each row or column; all lengths differ."""
    return make_phantom(
        slices=24, rows=36, columns=44, slice_spacing_mm=None, pixel_spacing_mm=(10.5, 9.0), lesions="severe", seed=1
    )


@pytest.fixture(scope="module", params=CUTS, ids=str)
def scan(request, coarse, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cut")
    write_dicom_series(coarse, folder, **request.param)
    return load_dicom(discover([folder]).series[0])


def test_packed_labels_come_back_as_they_were():
    labels = np.random.default_rng(0).choice(np.array([0, 1, 2, 5, 6], np.uint8), (5, 13, 17))
    labels[1] = 0
    labels[2, :4] = labels[2, 9:] = 0
    labels[3, labels[3] >= INFECTED] -= INFECTED
    kept = Labels(labels.shape)
    for index, one in enumerate(labels):
        kept[index] = one
    np.testing.assert_array_equal(np.stack(list(kept)), labels)
    np.testing.assert_array_equal(kept.lungs, labels & 3)
    np.testing.assert_array_equal(kept.infection, labels > 2)
    assert not np.asarray(Labels((2, 3, 4)).lungs).any(), "what was never set is background"


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.9])
def test_components_are_those_of_a_labelled_volume(share):
    """At 0.3 noise just percolates: pieces of many slices join late and by detours."""
    mask = np.random.default_rng(1).random((24, 40, 30)) < share
    mask[7] = False
    found = components(lambda index: mask[index], len(mask))
    relabel = sitk.RelabelComponentImageFilter()
    theirs = sitk.GetArrayFromImage(
        relabel.Execute(sitk.ConnectedComponent(sitk.GetImageFromArray(mask.astype(np.uint8))))
    )
    ours = np.stack([found.on_slice(index) for index in range(len(mask))])
    assert found.sizes.tolist() == list(relabel.GetSizeOfObjectsInPixels())
    pairs = np.unique(np.stack([ours[mask], theirs[mask]]), axis=1)
    assert pairs.shape[1] == len(found.sizes), "one of ours is one of theirs"
    assert found.holding(1) == np.flatnonzero((ours == 1).any((1, 2))).tolist()


@pytest.mark.parametrize("backwards", [False, True])
def test_planes_are_those_of_the_mask_turned_at_once(scan, coarse, backwards, monkeypatch):
    """In blocks of few planes, so that several are needed."""
    monkeypatch.setattr("covct.voxels.volume.BLOCK_BYTES", 8_000)
    whole = scan.to_source(coarse.lungs).array
    for axis in range(3):
        planes = np.stack(list(scan.planes_of_source(coarse.lungs.__getitem__, axis=axis, backwards=backwards)))
        expected = np.moveaxis(whole, axis, 0)
        np.testing.assert_array_equal(planes, expected[::-1] if backwards else expected)


def as_highdicom_would(scan, masks, outputs):
    """The SEG of all pixels at once, by highdicom alone."""
    lungs, infection = np.asarray(masks.lungs), np.asarray(masks.infection)
    segments = SEGMENTS
    if outputs.seg_type == "labelmap":
        pixels, segments = scan.to_source(lungs + np.uint8(2) * infection).array, LABELMAP_SEGMENTS
    else:
        layers = [lungs == 1, lungs == 2, infection]
        if outputs.seg_type == "fractional":
            inside = [lungs == 1, lungs == 2, lungs > 0]
            on_slices = np.stack([masks.lung_probability.on_slice(i, lungs.shape[1:]) for i in range(len(lungs))])
            layers = [np.clip(on_slices * one, 0, 1) for one in inside]
        pixels = np.stack([scan.to_source(layer).array for layer in layers], axis=-1)
        pixels = pixels.astype(np.float32 if outputs.seg_type == "fractional" else np.uint8)
    return hd.seg.Segmentation(
        source_images=encodable(scan.headers, "key", float(scan.volume.spacing[0])),
        pixel_array=np.ascontiguousarray(pixels),
        segmentation_type=outputs.seg_type.upper(),
        segment_descriptions=[_description(segment, "key", NETWORKS, outputs.seg_type) for segment in segments],
        series_number=9200,
        instance_number=1,
        omit_empty_frames=not outputs.all_frames and bool(pixels.any()),
        **object_uids("key", "seg"),
        **equipment(),
    )


@pytest.mark.parametrize("seg_type", ["binary", "labelmap", "fractional"])
@pytest.mark.parametrize("all_frames", [False, True])
def test_seg_written_frame_by_frame_is_the_one_written_at_once(scan, coarse, seg_type, all_frames, tmp_path):
    masks, outputs = masks_of(coarse), Outputs(seg_type=seg_type, all_frames=all_frames)
    write_seg(tmp_path / "seg.dcm", scan, masks, "key", NETWORKS, outputs, MAKING)
    as_highdicom_would(scan, masks, outputs).save_as(tmp_path / "theirs.dcm")
    ours, theirs = (pydicom.dcmread(tmp_path / name) for name in ("seg.dcm", "theirs.dcm"))
    assert {header.Rows for header in scan.headers} == {scan.volume.shape[1]}, "the source's headers are as they were"
    if seg_type == "binary":
        assert ours.PixelData == theirs.PixelData
    np.testing.assert_array_equal(ours.pixel_array, theirs.pixel_array)
    for keyword in ("NumberOfFrames", "Rows", "Columns", "SegmentsOverlap", "BitsAllocated",
                    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
                    "ReferencedSeriesSequence"):  # fmt: skip
        assert ours[keyword] == theirs[keyword], keyword


@pytest.mark.parametrize("infected", [False, True])
@pytest.mark.parametrize("seg_type", ["binary", "labelmap", "fractional"])
def test_seg_of_odd_slices_is_whole(seg_type, infected, phantom, tmp_path):
    """127 x 101 pixels are no whole number of bytes: the next frame begins in the middle of one."""
    small = phantom.volume[:, :127, :101]
    write_dicom_series(small, tmp_path / "in")
    scan = load_dicom(discover([tmp_path / "in"]).series[0])
    lungs = np.ascontiguousarray(phantom.lungs[:, :127, :101])
    infection = phantom.infection[:, :127, :101] & infected
    labels = packed(lungs, infection)
    masks = replace(masks_of(phantom), lungs=labels.lungs, infection=labels.infection)
    write_seg(tmp_path / "seg.dcm", scan, masks, "key", NETWORKS, Outputs(seg_type=seg_type), MAKING)
    ours = pydicom.dcmread(tmp_path / "seg.dcm")
    theirs = as_highdicom_would(scan, masks, Outputs(seg_type=seg_type))
    np.testing.assert_array_equal(ours.pixel_array, theirs.pixel_array)
    assert ours.SegmentsOverlap == theirs.SegmentsOverlap
    assert len(ours["PixelData"].value) % 2 == 0


def test_slices_shifted_sideways_keep_their_own_frames(phantom, series_folder, tmp_path):
    """The frames go by x first, so that they lie to and fro in the file."""
    shifts = np.random.default_rng(2).uniform(-0.2, 0.2, 30).round(3)
    paths = sorted(series_folder.iterdir())
    places = [[float(v) for v in pydicom.dcmread(path).ImagePositionPatient] for path in paths]
    change(series_folder, ImagePositionPatient=lambda i: [places[i][0] + shifts[i], *places[i][1:]])
    scan, masks = load_dicom(discover([series_folder]).series[0]), masks_of(phantom)
    write_seg(tmp_path / "seg.dcm", scan, masks, "key", NETWORKS, Outputs(), MAKING)
    points = points_in_seg(tmp_path / "seg.dcm", 1)
    rows, columns = np.nonzero(phantom.lungs[15] == 1)
    across, down, (x, y, z) = phantom.volume.spacing[2], phantom.volume.spacing[1], places[15]
    here = points[np.abs(points[:, 2] - z) < 0.01]
    expected = np.stack([x + shifts[15] + columns * across, y + rows * down], axis=1)
    np.testing.assert_allclose(here[:, :2], expected, atol=0.01)


@pytest.mark.parametrize("dicom_grid", [False, True])
def test_nifti_mask_written_plane_by_plane_is_the_one_written_at_once(scan, coarse, dicom_grid, tmp_path):
    order = [2, 1, 0] if dicom_grid else [0, 1, 2]
    write_mask(scan, masks_of(coarse).lungs, tmp_path / "a.nii.gz", dicom_grid)
    volume = scan.to_source(coarse.lungs).permute_spatial_axes(order)
    write_nifti(volume, tmp_path / "b.nii", scan.affine[:, [*order, 3]])
    assert gzip.decompress((tmp_path / "a.nii.gz").read_bytes()) == (tmp_path / "b.nii").read_bytes()


def test_masks_and_seg_of_a_large_series_need_a_fraction_of_its_voxels(phantom, tmp_path, monkeypatch):
    """16 million voxels in the SEG took eleven bytes each, all segments and a sum over them; now less than one, beside
    a block of planes that is no larger for a larger series."""
    monkeypatch.setattr("covct.voxels.volume.BLOCK_BYTES", 2**20)
    rows, columns = np.mgrid[:512, :512]
    one = ((rows - 256) ** 2 + (columns - 150) ** 2 < 90**2).astype(np.uint8)
    write_dicom_series(phantom, tmp_path / "in")
    small = load_dicom(discover([tmp_path / "in"]).series[0])
    affine = np.array([[0, 0, 0.7, 0], [0, 0.7, 0, 0], [-5.0, 0, 0, 0], [0, 0, 0, 1]])
    volume = hd.Volume(np.broadcast_to(np.int16(-800), (60, 512, 512)), affine, "PATIENT")
    write_seg(
        tmp_path / "first.dcm", small, masks_of(phantom), "key", NETWORKS, Outputs(), MAKING
    )  # highdicom reads its tables
    scan = replace(small, volume=volume, headers=tuple(_placed(small.headers[0], volume, i) for i in range(60)))
    tracemalloc.start()
    try:
        labels = Labels((60, 512, 512))
        for index in range(20, 40):
            labels[index] = one
        found = components(lambda i: labels.lungs[i] > 0, 60)
        write_seg(
            tmp_path / "seg.dcm",
            scan,
            Masks(labels.lungs, labels.infection, None, None),
            "key",
            NETWORKS,
            Outputs(),
            MAKING,
        )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.sizes.tolist() == [20 * np.count_nonzero(one)]
    assert per_slice(labels.lungs).sum() == found.sizes[0]
    assert peak < 60 * 512 * 512, f"{peak / 2**20:.0f} MiB"


def _placed(header, volume, index):
    """The header as a slice of another volume's."""
    [placed] = identified([header])
    placed.Rows, placed.Columns = volume.shape[1:]
    placed.PixelSpacing = [0.7, 0.7]
    placed.SOPInstanceUID = f"1.2.3.{index + 1}"
    placed.ImagePositionPatient = [0, 0, -5.0 * index]
    return placed


def test_series_that_cannot_be_held_is_rejected_unread_and_done_where_it_can(
    series_folder, tmp_path, weights, networks, monkeypatch
):
    order = batch.Order((series_folder,), tmp_path / "out", weights, outputs=Outputs(("png",)), memory_mib=500)
    events = []
    with monkeypatch.context() as patched:
        patched.setattr("covct.pipeline.series.load_dicom", lambda series: pytest.fail("it was read"))
        assert batch.scan(order, lambda: networks, events.append)["rejected"] == 1
    [rejected] = [event for event in events if event["event"] == "rejected"]
    assert rejected["slug"] == "too-large"
    assert "30 x 128 x 128" in rejected["message"] and "0.5 GiB are at hand" in rejected["message"]
    assert batch.scan(replace(order, memory_mib=None), lambda: networks, events.append)["done"] == 1


LARGE = {"slices": 48, "rows": 512, "columns": 512, "slice_spacing_mm": 6.0, "pixel_spacing_mm": (0.7, 0.7)}


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A chest of 12.6 million voxels as DICOM: its 24 MiB stand out from what Python does meanwhile."""
    folder = tmp_path_factory.mktemp("large")
    write_dicom_series(make_phantom(**LARGE, seed=1), folder)
    return folder


@cache
def in_rle(path):
    """A slice as RLE, which pydicom makes in a quarter of a second: enough for all frames."""
    dataset = pydicom.dcmread(path)
    dataset.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    [frame] = generate_frames(dataset.PixelData, number_of_frames=1)
    return frame


def put_rle(dataset, large, frames=1):
    """The middle slice in place of each: it is about bytes, not about what they show."""
    middle = sorted(large.iterdir())[LARGE["slices"] // 2]
    dataset.PixelData = encapsulate([in_rle(middle)] * frames)
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    dataset.file_meta.TransferSyntaxUID = RLELossless


def as_slices(large, path, rle=False, padding=0):
    for source in large.iterdir():
        dataset = pydicom.dcmread(source)
        if rle:
            put_rle(dataset, large)
        if padding:
            dataset.add_new("DataSetTrailingPadding", "OB", bytes(padding))
        dataset.save_as(path / source.name)


def as_deflated(large, path):
    for source in large.iterdir():
        (path / source.name).write_bytes(deflated(source))


def as_multi_frame(large, path, padding=0, rle=False):
    dataset = pydicom.dcmread(write_enhanced(large, path / "e.dcm"))
    if rle:
        put_rle(dataset, large, int(dataset.NumberOfFrames))
    if padding:
        dataset.add_new("DataSetTrailingPadding", "OB", bytes(padding))
    dataset.save_as(path / "e.dcm")


def as_nifti(large, path, dtype="<i2", slope=1.0, suffix=".nii", dimensions=3):
    voxels = np.stack([pydicom.dcmread(source).pixel_array for source in sorted(large.iterdir())])
    voxels = (voxels.astype(np.int32) - 1024).astype(dtype).reshape(*voxels.shape, *(1,) * (dimensions - 3))
    image = nibabel.Nifti1Image(voxels, np.diag([6.0, 0.7, 0.7, 1]))
    image.header.set_slope_inter(slope, 0.25 if slope != 1 else 0)
    contents = bytearray(image.to_bytes())
    contents[112:120] = np.array([slope, 0.25 if slope != 1 else 0], "<f4").tobytes()
    (path / f"a{suffix}").write_bytes(gzip.compress(contents, 1) if suffix.endswith("gz") else contents)


KINDS = {
    "slices": as_slices,
    "slices, RLE": partial(as_slices, rle=True),
    "slices, deflated": as_deflated,
    "slices with much behind their pixels": partial(as_slices, padding=2 * 2**20),
    "multi-frame": as_multi_frame,
    "multi-frame, RLE": partial(as_multi_frame, rle=True),
    "multi-frame with much behind its pixels": partial(as_multi_frame, padding=100 * 2**20),
    "nifti": as_nifti,
    "nifti, gzip": partial(as_nifti, suffix=".nii.gz"),
    "nifti, scaled": partial(as_nifti, slope=0.5),
    "nifti, scaled, gzip": partial(as_nifti, slope=0.5, suffix=".nii.gz"),
    "nifti, unsigned": partial(as_nifti, dtype="<u2"),
    "nifti, 32 bits": partial(as_nifti, dtype="<i4"),
    "nifti, 8 bits, scaled": partial(as_nifti, dtype="u1", slope=4.5),
    "nifti, float": partial(as_nifti, dtype="<f4"),
    "nifti, double, gzip": partial(as_nifti, dtype="<f8", suffix=".nii.gz"),
    "nifti, four dimensions, scaled": partial(as_nifti, slope=0.5, dimensions=4),
}
OF_THE_PROCESS_MIB = 24  # tables, libraries, arenas


@pytest.mark.parametrize("kind", KINDS)
def test_reading_takes_no_more_than_the_gate_counts(kind, large, tmp_path):
    """By the kernel's peak. Scaled voxels were counted with 6 bytes and took 22; what follows the pixels, with none."""
    (tmp_path / "in").mkdir()
    KINDS[kind](large, tmp_path / "in")
    [series] = discover([tmp_path / "in"]).series

    def read():
        memory.steady_heap()  # as a pass does
        return pipeline.read(series, float("inf")).volume.shape

    pipeline.read(series, float("inf"))  # libraries are loaded now
    found = cost(read, limit_mib=2048)
    counted = pipeline.counted_mib(series, OPENVINO) - memory.BASE_MIB[OPENVINO]
    assert found.mib < counted + OF_THE_PROCESS_MIB
    assert counted < 3 * found.mib + OF_THE_PROCESS_MIB, "nor far less: honest series would be refused"


def test_nifti_that_says_it_is_enormous_is_rejected_by_its_header(phantom, tmp_path, weights, networks):
    """Inflated, its zeros would fill the memory before its size is known."""
    write_nifti(phantom.volume, tmp_path / "a.nii")
    header = bytearray((tmp_path / "a.nii").read_bytes()[:352])
    header[40:56] = np.array([3, 8000, 8000, 8000, 1, 1, 1, 1], "<i2").tobytes()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.nii.gz").write_bytes(gzip.compress(bytes(header)))
    events = []
    batch.scan(batch.Order((tmp_path / "in",), tmp_path / "out", weights), lambda: networks, events.append)
    [rejected] = [event for event in events if event["event"] == "rejected"]
    assert rejected["slug"] == "too-large"


def test_fifteen_hundred_slices_of_768_fit_into_4_gib_by_the_estimate():
    assert memory.needed_mib(1500, 768, 768) <= 4096
    assert memory.needed_mib(1500, 768, 768, 4) > 4096, "fractions of HU take twice as much"
    assert memory.needed_mib(300, 512, 512) > 1400 > 1100 > memory.needed_mib(300, 512, 512, runtime=OPENVINO)


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/a/b\n", {"a/memory.max": "1073741824", "a/b/memory.max": "max"}, 1024),
        ("0::/host/path\n", {"memory.max": "2147483648"}, 2048),
        ("9:cpu:/x\n4:memory:/x\n", {"memory/x/memory.limit_in_bytes": "536870912"}, 512),
        ("4:memory:/x\n0::/\n", {"memory/x/memory.limit_in_bytes": "9223372036854771712"}, 8192),
        ("0::/\n", {}, 8192),
    ],
)
def test_memory_at_hand_is_the_least_of_machine_and_container(cgroup, files, expected, tmp_path):
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text("MemTotal:        8388608 kB\nMemFree: 1 kB\n")
    (tmp_path / "proc" / "self" / "cgroup").write_text(cgroup)
    for name, content in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    assert memory.at_hand_mib(tmp_path / "proc", tmp_path / "cgroup") == expected


@pytest.mark.parametrize("failing", [1, 2])
def test_one_series_without_memory_does_not_stop_the_others(phantom, tmp_path, weights, failing):
    for number in (1, 2):
        write_dicom_series(
            phantom, tmp_path / "in" / str(number), study_uid=f"1.2.{number}", series_uid=f"1.2.{number}.1"
        )
        for path in (tmp_path / "in" / str(number)).iterdir():
            dataset = pydicom.dcmread(path)
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.{number}.1.{path.stem}"
            dataset.SOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[str(number), path.stem])
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
            dataset.save_as(path)
    networks, calls = make_networks(), []

    def predict(slices):
        calls.append(len(slices))
        if len(calls) <= failing:
            raise MemoryError
        return networks.lungs.predict(slices)

    short = replace(networks, lungs=replace(networks.lungs, predict=predict))
    events = []
    tally = batch.scan(batch.Order((tmp_path / "in",), tmp_path / "out", weights), lambda: short, events.append)
    if failing == 1:  # it is tried once more by itself: the next one was in memory with it
        assert tally["done"] == 2
        return
    assert (tally["failed"], tally["done"]) == (1, 1)
    [failed] = [read_json(path) for path in (tmp_path / "out").glob("*/*/outcome.json") if "failed" in path.read_text()]
    assert failed["slug"] == "out-of-memory"
