"""MetaImage and NRRD: read as SimpleITK, which wrote them, means them; with the same checks as NIfTI, and bounded."""

import gzip
import json
import os
import shutil
import zipfile
import zlib
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

from covct.cli import app
from covct.errors import SeriesError
from covct.intake import voxel_layout
from covct.intake.discover import discover
from covct.intake.nifti import write_nifti
from covct.intake.volume_file import load_volume, read_volume
from covct.intake.volume_header import FORMAT_NAMES, check
from covct.results.entries import VOLUME_FOLDERS
from covct.results.verify import verify
from covct.unattended import batch, move_done
from covct.unattended.convert import Conversion, convert
from support.batches import never, run, watched
from support.running import read_json
from support.volumes import as_itk

ENDINGS = ("mha", "mhd", "nrrd", "nhdr")
DTYPES = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64")


def save(volume, path, compressed=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(as_itk(volume), str(path), useCompression=compressed)
    return path


def only(folder):
    [series] = discover([folder]).series
    return series


@pytest.fixture
def chest(phantom, tmp_path):
    return save(phantom.volume, tmp_path / "in" / "chest.mha")


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("codes", ["FPL", "LPH", "RAH", "HAR", "PFR", "AHL"])
def test_every_axis_direction_gives_the_same_patient(codes, ending, compressed, phantom, tmp_path):
    """The phantom is asymmetric in all three axes."""
    save(phantom.volume.to_patient_orientation(codes), tmp_path / f"a.{ending}", compressed)
    series = only(tmp_path)
    scan = load_volume(series)
    np.testing.assert_array_equal(scan.working.array, phantom.volume.array)
    np.testing.assert_allclose(scan.working.affine, phantom.volume.affine, atol=1e-4)
    assert series.kind in ("metaimage", "nrrd")


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_chest_that_lies_askew_is_where_simpleitk_has_it(ending, phantom, tmp_path):
    turn = np.eye(4)
    angle = np.radians(10)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    volume = phantom.volume
    askew = type(volume)(volume.array, turn @ volume.affine, "PATIENT")
    path = save(askew, tmp_path / f"a.{ending}")
    read, image = read_volume(path), sitk.ReadImage(str(path))
    for index in ((0, 0, 0), (3, 5, 7), (29, 100, 120)):
        there = read.affine @ [*index, 1]
        np.testing.assert_allclose(there[:3], image.TransformIndexToPhysicalPoint(list(index)), atol=1e-3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ending", ["mha", "nrrd"])
def test_every_type_of_voxel_is_read_as_simpleitk_reads_it(dtype, ending, tmp_path):
    array = np.random.default_rng(3).integers(0, 100, (4, 5, 6)).astype(dtype)
    image = sitk.GetImageFromArray(array)
    for compressed in (False, True):
        sitk.WriteImage(image, str(tmp_path / f"a.{ending}"), useCompression=compressed)
        read = read_volume(tmp_path / f"a.{ending}").array
        np.testing.assert_array_equal(read, sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / f"a.{ending}")).T)


def rewritten(path, old, new):
    whole = path.read_bytes()
    assert old in whole
    path.write_bytes(whole.replace(old, new, 1))
    return path


def test_the_most_significant_byte_first(phantom, tmp_path):
    path = save(phantom.volume, tmp_path / "a.mhd")
    rewritten(path, b"ByteOrderMSB = False", b"ByteOrderMSB = True")
    (tmp_path / "a.raw").write_bytes(phantom.volume.array.transpose().astype(">i2").tobytes())
    np.testing.assert_array_equal(read_volume(path).array, phantom.volume.array)
    path = save(phantom.volume, tmp_path / "b.nhdr")
    rewritten(path, b"endian: little", b"endian: big")
    (tmp_path / "b.raw").write_bytes(phantom.volume.array.transpose().astype(">i2").tobytes())
    np.testing.assert_array_equal(read_volume(path).array, phantom.volume.array)


@pytest.mark.parametrize(("space", "signs"), [("RAS", (-1, -1, 1)), ("left-anterior-superior", (1, -1, 1))])
def test_nrrd_in_another_space(space, signs, phantom, tmp_path):
    path = save(phantom.volume, tmp_path / "a.nrrd")
    before = read_volume(path).affine
    rewritten(path, b"left-posterior-superior", space.encode())
    np.testing.assert_allclose(read_volume(path).affine, np.diag([*signs, 1]) @ before, atol=1e-6)


def test_the_end_of_a_longer_file_and_the_part_behind_its_first_bytes(phantom, tmp_path):
    path = save(phantom.volume, tmp_path / "a.mhd")
    voxels = (tmp_path / "a.raw").read_bytes()
    for said, written in ((b"-1", b"h" * 99 + voxels), (b"99", b"h" * 99 + voxels)):
        save(phantom.volume, path)
        rewritten(path, b"NDims = 3\n", b"NDims = 3\nHeaderSize = " + said + b"\n")
        (tmp_path / "a.raw").write_bytes(written)
        np.testing.assert_array_equal(read_volume(path).array, phantom.volume.array)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("compressed", [False, True])
def test_members_of_an_archive(ending, compressed, phantom, tmp_path):
    save(phantom.volume, tmp_path / "out" / f"a.{ending}", compressed)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in (tmp_path / "out").iterdir():
            archive.write(path, f"deep/{path.name}")
    np.testing.assert_array_equal(load_volume(only(tmp_path / "a.zip")).working.array, phantom.volume.array)


@pytest.mark.slow
def test_a_chest_in_each_format_is_segmented_alike(phantom, inbox, order, networks):
    shutil.rmtree(inbox)
    write_nifti(phantom.volume, inbox.parent / "c.nii.gz")
    (inbox / "nifti").mkdir(parents=True)
    shutil.move(inbox.parent / "c.nii.gz", inbox / "nifti" / "C.NII.GZ")
    for ending in ENDINGS:
        save(phantom.volume, inbox / ending / f"c.{ending}")
    tally, events = run(order, networks)
    assert tally["done"] == 5, events
    reports = [read_json(path) for path in order.out.glob("*/*/report.json")]
    assert sorted(report["source"]["format"] for report in reports) == ["metaimage"] * 2 + ["nifti"] + ["nrrd"] * 2
    assert len({json.dumps([report["regions"], report["lesions"]], sort_keys=True) for report in reports}) == 1
    assert {path.name for path in order.out.glob("*/*/*.nii.gz")} == {"lungs.nii.gz", "infection.nii.gz"}
    assert [verdict.defects for verdict in verify(order.out, [inbox])] == [()] * 5
    assert run(order, never)[0]["done before"] == 5
    shown = (order.out / "index.html").read_text()
    assert all(f"c.{ending}" in shown for ending in ("mhd", "nrrd", "nhdr"))


@pytest.mark.slow
def test_masks_lie_on_the_grid_of_the_source(phantom, inbox, order, networks):
    shutil.rmtree(inbox)
    path = save(phantom.volume.to_patient_orientation("RAH"), inbox / "c.nrrd")
    run(order, networks)
    [mask] = order.out.glob("*/*/lungs.nii.gz")
    written, image = sitk.ReadImage(str(mask)), sitk.ReadImage(str(path))
    assert written.GetSize() == image.GetSize()
    np.testing.assert_allclose(written.GetOrigin(), image.GetOrigin(), atol=1e-3)
    np.testing.assert_allclose(written.GetDirection(), image.GetDirection(), atol=1e-3)


@pytest.mark.slow
def test_header_and_voxels_are_moved_together(phantom, inbox, order, networks, tmp_path):
    save(phantom.volume, inbox / "d" / "c.mhd", compressed=True)
    moving = replace(order, move_done=tmp_path / "moved")
    run(moving, networks)
    assert sorted(path.name for path in (moving.move_done / "d").iterdir()) == ["c.mhd", "c.zraw"]
    assert not (inbox / "d").exists()


@pytest.mark.slow
def test_a_scan_of_the_same_name_each_night_keeps_its_voxels_when_moved(phantom, inbox, order, networks, tmp_path):
    shutil.rmtree(inbox)
    moving = replace(order, move_done=tmp_path / "moved")
    sent = [phantom.volume.with_array(phantom.volume.array + np.int16(night)) for night in range(2)]
    for volume in sent:
        save(volume, inbox / "scan.mhd")
        assert run(moving, networks)[0]["done"] == 1
        assert not [path for path in inbox.rglob("*") if path.is_file()]
    found = [read_volume(path).array[0, 0, 0] for path in moving.move_done.rglob("*.mhd")]
    assert sorted(found) == [volume.array[0, 0, 0] for volume in sent]


@pytest.mark.slow
def test_voxels_that_a_killed_process_left_aside_are_moved_the_next_night(
    phantom, inbox, order, networks, tmp_path, monkeypatch
):
    """They lay in the inbox for ever, under a name by which no header found them."""

    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    shutil.rmtree(inbox)
    save(phantom.volume, inbox / "scan.mhd")
    with_moves = replace(order, move_done=tmp_path / "moved")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(move_done, "into", killed)
        patch.setattr(move_done, "put_aside_back", lambda *_: None)
        run(with_moves, networks)
    assert all(path.name.startswith("covct-moving-") for path in inbox.iterdir())
    tally, events = run(with_moves, never)
    assert (tally["done before"], [event for event in events if event["event"] == "problem"]) == (1, [])
    assert not list(inbox.iterdir())
    assert sorted(path.name for path in with_moves.move_done.glob("scan*")) == ["scan.mhd", "scan.raw"]


@pytest.mark.slow
def test_watch_takes_a_header_once_its_voxels_are_there(phantom, inbox, order, networks, tmp_path):
    shutil.rmtree(inbox)
    save(phantom.volume, tmp_path / "aside" / "c.mhd")
    inbox.mkdir()

    def arrive(name):
        return lambda: shutil.copy(tmp_path / "aside" / name, inbox / name)

    done = watched(order, networks, [arrive("c.mhd"), None, arrive("c.raw"), None, None, None, None, None])
    assert [what for what, _ in done] == ["done"]


@pytest.mark.slow
def test_other_voxels_under_the_same_header_are_another_volume(phantom, inbox, order, networks):
    shutil.rmtree(inbox)
    path = save(phantom.volume, inbox / "c.mhd")
    run(order, networks)
    other = phantom.volume.with_array(phantom.volume.array + np.int16(1))
    (inbox / "c.raw").write_bytes(other.array.transpose().tobytes())
    assert path.is_file()
    assert run(order, networks)[0]["done"] == 1
    assert len(list(order.out.glob("metaimage-*"))) == 2


@pytest.mark.slow
def test_a_dry_run_and_a_conversion(chest, tmp_path, weights, order, networks):
    asked = ["scan", str(chest), "--out", str(tmp_path / "out"), "--weights", str(weights), "--dry-run", "--json"]
    [row] = [json.loads(line) for line in CliRunner().invoke(app, asked).stdout.splitlines()]
    assert (row["verdict"], row["why"]) == ("segment", "the only volume in the file")
    counts = convert(Conversion((chest,), tmp_path / "converted"), lambda event: None)
    assert counts["converted"] == 1
    series = only(tmp_path / "converted")
    assert (series.kind, len(series.instances)) == ("dicom", 30)
    assert convert(Conversion((chest,), tmp_path / "other", to="nifti"), lambda event: None)["converted"] == 0


# What is refused


def slug(path):
    with pytest.raises(SeriesError) as caught:
        read_volume(path)
    assert str(caught.value.message).count("\n") == 0
    return caught.value.slug


def test_more_than_one_volume_and_colours(tmp_path):
    for ending in ("mha", "nrrd"):
        path = str(tmp_path / f"a.{ending}")
        sitk.WriteImage(sitk.Image([4, 4, 4, 2], sitk.sitkInt16), path)
        assert slug(tmp_path / f"a.{ending}") == "not-3d"
    sitk.WriteImage(sitk.Image([4, 4, 4], sitk.sitkVectorUInt8, 3), str(tmp_path / "b.mha"))
    assert slug(tmp_path / "b.mha") == "not-hounsfield"
    sitk.WriteImage(sitk.Image([4, 4, 4], sitk.sitkVectorUInt8, 3), str(tmp_path / "b.nrrd"))
    assert slug(tmp_path / "b.nrrd") == "not-3d"


@pytest.mark.parametrize(
    ("ending", "old", "new"),
    [
        ("mha", b"TransformMatrix = ", b"Comment = "),
        ("mha", b"ElementSpacing = ", b"Comment = "),
        ("mha", b"Offset = ", b"Comment = "),
        ("mha", b"ElementSpacing = 3", b"ElementSpacing = nan"),
        ("mha", b"ElementSpacing = 3", b"ElementSpacing = -3"),
        ("mha", b"ElementSpacing = 3", b"ElementSpacing = 0"),
        ("mha", b"ElementSpacing = 3", b"ElementSpacing = 3e9"),
        ("mha", b"TransformMatrix = 1", b"TransformMatrix = 7"),
        ("nrrd", b"space: left-posterior-superior", b"# space"),
        ("nrrd", b"space: left-posterior-superior", b"space: scanner-xyz"),
        ("nrrd", b"space directions: (3,0,0)", b"space directions: (0,0,0)"),
        ("nrrd", b"space directions: (3,0,0)", b"space directions: none"),
        ("nrrd", b"space origin:", b"# origin:"),
        ("nrrd", b"endian: little", b'endian: little\nspace units: "inch" "inch" "inch"'),
    ],
)
def test_a_volume_of_which_left_and_right_or_the_size_are_unknown(ending, old, new, phantom, tmp_path):
    path = save(phantom.volume.to_patient_orientation("LPH"), tmp_path / f"a.{ending}")
    assert slug(rewritten(path, old, new)) == "no-geometry"


@pytest.mark.parametrize("elsewhere", [
    "../secret.raw", "/etc/passwd", "..", ".", ".hidden", "sub/a.raw", "C:\\a.raw", "http://x/a.raw", "LIST", "LIST 2",
    "./../secret.raw", "././a.raw", ".//etc/passwd", "./",
    "a%03d.raw 1 30 1", "a*.raw", "a?.raw", "\x00", "", "a.raw\x1b[2J",
])  # fmt: skip
@pytest.mark.parametrize("ending", ["mhd", "nhdr"])
def test_voxels_elsewhere_are_not_read(elsewhere, ending, phantom, tmp_path):
    path = save(phantom.volume, tmp_path / "in" / f"a.{ending}")
    shutil.copy(tmp_path / "in" / "a.raw", tmp_path / "secret.raw")
    (tmp_path / "in" / "sub").mkdir()
    shutil.copy(tmp_path / "in" / "a.raw", tmp_path / "in" / "sub" / "a.raw")
    assert slug(rewritten(path, b"a.raw", elsewhere.encode())) == "unreadable"


@pytest.mark.parametrize("ending", ["mhd", "nhdr"])
def test_voxels_in_the_header_s_own_folder_said_as_a_path(ending, phantom, tmp_path):
    """As tools write `data file: ./a.raw`."""
    path = rewritten(save(phantom.volume, tmp_path / f"a.{ending}"), b"a.raw", b"./a.raw")
    assert read_volume(path).array.size == phantom.volume.array.size


def test_voxels_behind_a_link_or_in_a_pipe_are_not_read(phantom, tmp_path):
    path = save(phantom.volume, tmp_path / "in" / "a.mhd")
    shutil.move(tmp_path / "in" / "a.raw", tmp_path / "secret.raw")
    (tmp_path / "in" / "a.raw").symlink_to(tmp_path / "secret.raw")
    assert slug(path) == "unreadable"
    (tmp_path / "in" / "a.raw").unlink()
    os.mkfifo(tmp_path / "in" / "a.raw")
    assert slug(path) == "unreadable"
    (tmp_path / "in" / "a.raw").unlink()
    assert slug(path) == "unreadable"


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("ending", ["mha", "nrrd"])
def test_a_volume_cut_short_anywhere_is_unreadable(ending, compressed, phantom, tmp_path):
    whole = save(phantom.volume, tmp_path / f"a.{ending}", compressed).read_bytes()
    for length in (0, 1, 100, 300, 600, len(whole) // 2, len(whole) - 5, len(whole) - 1):
        (tmp_path / f"a.{ending}").write_bytes(whole[:length])
        assert slug(tmp_path / f"a.{ending}") == "unreadable"


@pytest.mark.parametrize("ending", ["mha", "nrrd"])
def test_damage_within_a_compressed_volume_is_found_by_its_checksum(ending, phantom, tmp_path):
    """ITK's reader takes the damaged voxels, and half a MetaImage whose CompressedDataSize says so, without a word."""
    whole = bytearray(save(phantom.volume, tmp_path / f"a.{ending}", compressed=True).read_bytes())
    whole[-2] ^= 0xFF
    (tmp_path / f"a.{ending}").write_bytes(whole)
    assert slug(tmp_path / f"a.{ending}") == "unreadable"


def test_half_a_stream_that_the_header_calls_whole(phantom, tmp_path):
    path = save(phantom.volume, tmp_path / "a.mha", compressed=True)
    head, packed = path.read_bytes().split(b"LOCAL\n", 1)
    half = len(packed) // 2
    head = head.replace(b"CompressedDataSize = %d" % len(packed), b"CompressedDataSize = %d" % half)
    path.write_bytes(head + b"LOCAL\n" + packed[:half])
    assert sitk.ReadImage(str(path)).GetSize() == tuple(phantom.volume.shape), "why it is not read by SimpleITK"
    assert slug(path) == "unreadable"


BAD = {
    "not a header": b"hello",
    "binary": bytes(range(256)) * 4,
    "no end": b"NDims = 3\n" * 1,
    "endless line": b"ObjectType = " + b"x" * 200_000,
    "twice": b"NDims = 3\nNDims = 2\n",
    "many axes": b"NDims = 2000000000\nElementDataFile = LOCAL\n",
    "axes that are none": b"NDims = three\nElementDataFile = LOCAL\n",
    "nrrd without end": b"NRRD0004\n" + b"#" * 200_000,
    "nrrd twice": b"NRRD0004\ntype: short\ntype: double\n\n",
    "nrrd of the future": b"NRRD0009\n\n",
    "nrrd of lists": b"NRRD0004\ntype: block\ndimension: 3\n\n",
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_hostile_header_is_unreadable(name, ending, tmp_path):
    (tmp_path / f"a.{ending}").write_bytes(BAD[name])
    assert slug(tmp_path / f"a.{ending}") == "unreadable"


@pytest.mark.parametrize(
    "sizes", ["40000 40000 40000", "-128 128 30", "0 128 30", "128 30", "9" * 400, "1e3 1 1", "٣ 3 3"]
)
@pytest.mark.parametrize("ending", ["mha", "nrrd"])
@pytest.mark.parametrize("compressed", [False, True])
def test_sizes_that_the_file_cannot_hold_cost_nothing(sizes, ending, compressed, phantom, tmp_path):
    path = save(phantom.volume.to_patient_orientation("LPH"), tmp_path / f"a.{ending}", compressed)
    rewritten(path, b"128 128 30", sizes.encode())
    assert slug(path) == "unreadable"


@pytest.mark.parametrize("ending", ["mha", "nrrd"])
def test_what_swells_beyond_its_header_is_cut_off(ending, phantom, tmp_path):
    path = save(phantom.volume.to_patient_orientation("LPH"), tmp_path / f"a.{ending}", compressed=True)
    whole = path.read_bytes()
    start = whole.index(b"LOCAL\n") + 6 if ending == "mha" else whole.index(b"\n\n") + 2
    packed = zlib.compress(bytes(50_000_000)) if ending == "mha" else gzip.compress(bytes(50_000_000))
    path.write_bytes(whole[:start] + packed)
    with pytest.raises(SeriesError, match="swells"):
        read_volume(path)


@pytest.mark.slow
def test_hostile_volumes_cost_one_outcome_each(phantom, inbox, order, networks):
    for index, (name, ending) in enumerate([(name, ending) for name in BAD for ending in ("mha", "nhdr")]):
        (inbox / f"{index}.{ending}").write_bytes(BAD[name] + str(index).encode())
    tally, events = run(order, networks)
    assert (tally["done"], tally["failed"], tally["rejected"]) == (3, 0, 22)
    assert {event["slug"] for event in events if event["event"] == "rejected"} == {"unreadable"}


def test_names_of_formats():
    assert tuple(f"{kind}-" for kind in FORMAT_NAMES) == VOLUME_FOLDERS
    with pytest.raises(ValueError, match="axes"):
        voxel_layout.extents("1 2", 3)


# NIfTI as others write them


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "A.NII.GZ", "A.Nii"])
@pytest.mark.parametrize("length", [20_000, 2_000_000])
def test_a_long_header_extension_is_read_over(name, length, phantom, tmp_path, weights, networks, order):
    """As AFNI, dcmstack and dicm2nii write it."""
    folder = tmp_path / "long"
    folder.mkdir()
    write_nifti(phantom.volume, tmp_path / "plain.nii")
    image = nibabel.Nifti1Image.from_filename(tmp_path / "plain.nii")
    image = nibabel.Nifti1Image(np.asanyarray(image.dataobj), image.affine, image.header)
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(6, b"{}" + os.urandom(length)))
    nibabel.save(image, tmp_path / name.lower())
    shutil.move(tmp_path / name.lower(), folder / name)
    tally, events = run(replace(order, sources=(folder,)), networks)
    assert tally["done"] == 1, events


def test_a_sparse_file_is_known_by_its_header_at_once(tmp_path, monkeypatch):
    """2 GiB of nothing cost their sender nothing; they shall cost no seconds of hashing at every new name."""
    from covct.intake import volume_header

    def unexpected(*_):
        raise AssertionError("not hashed")

    monkeypatch.setattr(volume_header, "digest", unexpected)
    header = nibabel.Nifti1Header()
    header.set_data_shape((2000, 2000, 2000))
    header.set_data_dtype(np.int16)
    for name, start in (("a.nii", b""), ("b.nii", bytes(header.binaryblock)), ("c.mha", b""), ("d.nii.gz", b"")):
        (tmp_path / name).write_bytes(start)
        os.truncate(tmp_path / name, 2 * 1024**3 - 1)
    assert len(discover([tmp_path]).series) == 3, "of the same beginning and size are two"
    for name in ("a.nii", "b.nii", "c.mha", "d.nii.gz"):
        assert slug(tmp_path / name) == "unreadable"


@pytest.mark.slow
def test_hashing_a_long_file_gives_signs_of_life(tmp_path, phantom, inbox, order, networks, monkeypatch):
    from covct.unattended import heartbeat

    monkeypatch.setattr(heartbeat, "MOST_OFTEN_S", 0.0)
    shutil.rmtree(inbox)
    inbox.mkdir()
    long = type(phantom.volume)(np.tile(phantom.volume.array, (12, 1, 1)), phantom.volume.affine, "PATIENT")
    write_nifti(long, inbox / "a.nii")
    events: list[dict] = []
    batch.scan(order, lambda: networks, events.append)  # quiet events too
    first = [event["event"] for event in events].index("found")
    assert [event["event"] for event in events[:first]].count("alive") > 10


def test_the_files_that_hold_a_volume(phantom, tmp_path):
    from covct.disk.sources import SourceFile

    path = save(phantom.volume, tmp_path / "a.mhd")
    assert check(SourceFile(str(path))) == [SourceFile(str(path)), SourceFile(str(tmp_path / "a.raw"))]


# Pairs of an image and its masks


def masks_of(phantom):
    lungs = phantom.volume.with_array(phantom.lungs.astype(np.uint8))
    return lungs, phantom.volume.with_array((phantom.lungs > 0).astype(np.uint8))


@pytest.mark.parametrize(("image", "mask"), [("nrrd", "nrrd"), ("mha", "nii.gz"), ("NII.GZ", "mhd"), ("nhdr", "NII")])
def test_pairs_are_learned_from_and_judged_in_whatever_format(image, mask, phantom, tmp_path):
    from covct.data.read_case import read_case
    from covct.data.restore import find_images, read_stack
    from covct.evaluation.truth import read_truth
    from support.labelled import find_cases

    def put(volume, name, ending):
        path = tmp_path / f"{name}.{ending.lower()}"
        if ending.lower().startswith("nii"):
            write_nifti(volume, path)
            path.rename(tmp_path / f"{name}.{ending}")
        else:
            save(volume.to_patient_orientation("LPH"), path)

    lungs, infection = masks_of(phantom)
    put(phantom.volume.to_patient_orientation("LPH"), "p1_ct", image)
    for name, volume in (("p1_lungs", lungs), ("p1_infection", infection)):
        put(volume.to_patient_orientation("LPH"), name, mask)
    [case] = find_cases(tmp_path)
    assert {case.name: sorted(case.masks)} == {"p1": ["infection", "lungs"]}
    read = read_case(case)
    np.testing.assert_array_equal(read.lungs > 0, phantom.lungs > 0)
    np.testing.assert_array_equal(read_truth(case).masks["lungs"], phantom.lungs > 0)
    [image] = find_images(tmp_path).cases
    assert read_stack(image).masks.keys() == {"lungs", "infection"}
