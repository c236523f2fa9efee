"""Secondary captures: what is drawn lies where the geometry says, in words and colours that can be read."""

import subprocess
import tracemalloc
import warnings
from dataclasses import replace
from datetime import UTC, datetime

import highdicom as hd
import numpy as np
import pydicom
import pytest

from covct import RESEARCH_USE
from covct.dicom import capture
from covct.intake.discover import discover
from covct.intake.load_dicom import load_dicom
from covct.outputs import Outputs, formats_for
from covct.phantom.chest import make_phantom
from covct.phantom.dicom import write_dicom_series
from covct.results.entries import Entry
from covct.results.page import as_html
from covct.unattended import batch
from covct.voxels.overlay import BACKGROUND, LEFT_LUNG_RGB, NOTICE, RIGHT_LUNG_RGB, TEXT, put_text, text_width
from covct.voxels.preprocess import whole_slice
from covct.voxels.volume import Masks, Probability, Scan
from support.chests import SMALL
from support.cuts import CUTS, points_in_seg, write_cut
from support.example_report import example_report
from support.multiframe import write_enhanced, write_legacy_converted
from support.objects import MAKING
from support.running import read_json, tool

pytestmark = pytest.mark.slow

KEY = "0" * 64
CORONAL = [1, 0, 0, 0, 0, -1]


def write(source, out, weights, networks, captures="key"):
    """The folder of the result and the captures in it, in the order of their names."""
    order = batch.Order((source,), out, weights, outputs=Outputs(("seg", "sc"), captures=captures))
    events = []
    assert batch.scan(order, lambda: networks, events.append)["done"] == 1, events
    [report] = out.glob("*/*/report.json")
    return report.parent, [pydicom.dcmread(path) for path in sorted(report.parent.glob("capture-*.sc.dcm"))]


def load(phantom, folder, **how) -> tuple[Scan, Masks]:
    """The phantom as a series read back, with its true masks."""
    write_dicom_series(phantom, folder, **how)
    unused = Probability(np.zeros((1, 1, 1), np.float32), whole_slice((1, 1)))
    return load_dicom(discover([folder]).series[0]), Masks(phantom.lungs, phantom.infection, unused, unused)


def draw(scan, masks, report=None, captures="all"):
    return list(capture.captures(scan, masks, report or example_report(), KEY, Outputs(captures=captures), MAKING))


def points(dataset, pixels):
    """(n, 2) row and column of a capture to (n, 3) LPS mm, by nothing but the capture's own plane (PS3.3 C.7.6.2)."""
    across, down = np.reshape(np.array(dataset.ImageOrientationPatient, float), (2, 3))
    row_mm, column_mm = map(float, dataset.PixelSpacing)
    corner = np.array(dataset.ImagePositionPatient, float)
    return corner + pixels[:, :1] * row_mm * down + pixels[:, 1:] * column_mm * across


def pixel(dataset, point):
    """LPS mm to row and column of a capture, and the distance of the point from its plane."""
    across, down = np.reshape(np.array(dataset.ImageOrientationPatient, float), (2, 3))
    row_mm, column_mm = map(float, dataset.PixelSpacing)
    away = point - np.array(dataset.ImagePositionPatient, float)
    return away @ down / row_mm, away @ across / column_mm, away @ np.cross(across, down)


def reddish(picture):
    red, green, _ = np.moveaxis(picture.astype(int), -1, 0)
    return red > green + 60


def coloured(picture, colour):
    return (abs(picture.astype(int) - colour) <= 28).all(axis=-1)


def judged(*paths):
    """What dciodvfy finds wrong."""
    errors = []
    for path in paths:
        verdict = subprocess.run([tool("dciodvfy"), "-new", path], capture_output=True, text=True, check=False)
        errors += [line for line in verdict.stderr.splitlines() if line.startswith("Error")]
        assert verdict.returncode == 0, errors
    return errors


def test_validators_find_no_error(series_folder, tmp_path, weights, networks):
    folder, captures = write(series_folder, tmp_path / "out", weights, networks)
    files = sorted(folder.glob("*.dcm"))
    assert len(captures) == 12 and len(files) == 13
    assert judged(files[0], files[-2]) == []
    verdict = subprocess.run(
        [tool("dcentvfy"), *sorted(series_folder.iterdir()), *files], capture_output=True, text=True, check=False
    )
    assert (verdict.returncode, verdict.stderr) == (0, ""), "patient, study and frame of reference are the source's"


def test_pictures_are_compressed_without_loss(phantom, tmp_path, monkeypatch):
    """As DCMTK, which is in most archives, decodes them."""
    scan, masks = load(phantom, tmp_path / "in")
    key = Outputs(captures="key")
    [packed, *_] = capture.captures(scan, masks, example_report(), KEY, key, MAKING)
    monkeypatch.setattr(capture, "_compress", lambda dataset, picture: None)
    [plain, *_] = capture.captures(scan, masks, example_report(), KEY, key, MAKING)
    assert len(packed.PixelData) < 0.7 * len(plain.PixelData)
    packed.save_as(tmp_path / "packed.dcm")
    subprocess.run([tool("dcmdrle"), tmp_path / "packed.dcm", tmp_path / "back.dcm"], check=True)
    assert (pydicom.dcmread(tmp_path / "back.dcm").pixel_array == plain.pixel_array).all()


@pytest.mark.parametrize("position", ["HFS", "FFP", "HFDL", "FFDR"])
def test_infection_is_drawn_where_the_seg_has_it(position, phantom, weights, networks, tmp_path):
    """By the capture's own geometry, however the patient lay: a mirrored or shifted plane marks other tissue."""
    write_dicom_series(phantom, tmp_path / "in", orientation=position)
    folder, captures = write(tmp_path / "in", tmp_path / "out", weights, networks)
    seg = hd.seg.segread(folder / "segmentation.seg.dcm").get_volume(combine_segments=False)
    seg = seg.match_geometry(phantom.volume, tol=1e-3)  # slices without a segment have no frame
    infection = seg.array[..., 2] > 0
    drawn = np.zeros(infection.shape, int)
    for one in captures:
        red = np.argwhere(reddish(one.pixel_array))
        index = np.rint(seg.map_reference_to_indices(points(one, red))).astype(int)
        # What maps out of the scan stands in the bands of text.
        inside = ((index >= 0) & (index < infection.shape)).all(axis=1)
        np.add.at(drawn, tuple(index[inside].T), 1)
        rows = red[~inside, 0]
        assert len(rows) and len(red[inside]) > 500 and rows.min() > red[inside, 0].max(), "only the legend is below"
    slices = drawn.any(axis=(1, 2))
    assert slices.sum() == 12
    assert drawn[infection].sum() > 0.9 * drawn.sum(), "the rest is the outline's smooth edge"
    assert np.mean(drawn[slices][infection[slices]] > 0) > 0.97
    blue, yellow = (
        np.concatenate([points(one, np.argwhere(coloured(one.pixel_array[60:570], colour))) for one in captures])
        for colour in (RIGHT_LUNG_RGB, LEFT_LUNG_RGB)
    )
    assert blue[:, 0].mean() < yellow[:, 0].mean() - 50, "LPS: the patient's right has the smaller x"


@pytest.mark.parametrize("position", ["HFS", "FFP", "HFDL"])
def test_enlarged_slices_keep_their_place(position, phantom, tmp_path):
    """Four pixels to a voxel: taken corner for centre, all would be 1.1 mm off."""
    scan, masks = load(phantom, tmp_path, orientation=position)
    block = np.zeros_like(masks.infection)
    block[14, 70:76, 30:41] = True
    one = draw(scan, replace(masks, infection=block))[14]
    middle = points(one, np.argwhere(reddish(one.pixel_array[:570]))).mean(axis=0)
    np.testing.assert_allclose(middle, phantom.volume.map_indices_to_reference(np.array([[14, 72.5, 35]]))[0], atol=0.1)


@pytest.mark.parametrize("position", ["HFS", "HFP", "FFS", "FFP", "HFDR", "FFDL"])
def test_side_markers_stand_on_the_patients_sides(position, phantom, tmp_path):
    scan, masks = load(phantom, tmp_path, orientation=position)
    one = draw(scan, masks)[14]
    picture = one.pixel_array
    assert list(one.PatientOrientation) == ["L", "P"]
    ends = {"R": picture[:40, :40], "L": picture[:40, -40:]}
    for letter, end in ends.items():
        assert (trimmed(end) == trimmed(drawn_letter(letter))).all()
    left_end, right_end = points(one, np.array([[0, 0], [0, 511]]))
    assert right_end[0] - left_end[0] == pytest.approx(511 * 0.75), "towards the patient's left"


def drawn_letter(letter):
    image = np.full((40, 40, 3), BACKGROUND, np.uint8)
    put_text(image, letter, 8, 30, 18, TEXT)
    return image


def trimmed(image):
    """Without the background around what is drawn."""
    drawn = (image != np.array(BACKGROUND)).any(axis=-1)
    rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


@pytest.mark.parametrize("name", ["oblique 20 degrees sideways", "sagittal", "gantry tilt 15 degrees"])
def test_any_cut_is_drawn_where_the_seg_has_it(name, phantom, weights, networks, tmp_path):
    """Every infected point of the SEG lies in the plane of one capture, and is red there."""
    write_cut(phantom, tmp_path / "in", CUTS[name], pixel_mm=3.0, step_mm=6.0)
    folder, captures = write(tmp_path / "in", tmp_path / "out", weights, networks, captures="all")
    infected = points_in_seg(folder / "segmentation.seg.dcm", 3)
    found = []
    for one in captures:
        row, column, distance = pixel(one, infected)
        here = abs(distance) < 0.01
        place = np.rint([row[here], column[here]]).astype(int)
        found += reddish(one.pixel_array)[tuple(place)].tolist()
    assert len(found) == len(infected) > 1000
    assert np.mean(found) > 0.97
    assert judged(folder / "capture-0015.sc.dcm") == []
    assert len(captures[14].SourceImageSequence) == (
        len(list((tmp_path / "in").iterdir())) if name == "sagittal" else 1
    )


def test_each_capture_refers_to_its_source_slice(phantom, tmp_path):
    """Feet first, so that the order of the files is not that of the pictures."""
    scan, masks = load(phantom, tmp_path, orientation="FFS")
    positions = {header.SOPInstanceUID: header.ImagePositionPatient[2] for header in scan.headers}
    captures = draw(scan, masks)
    assert [c.InstanceNumber for c in captures] == list(range(1, 31))
    assert [c.ImagePositionPatient[2] for c in captures] == sorted(positions.values(), reverse=True), "head to feet"
    for one in captures:
        [item] = one.SourceImageSequence
        assert positions[item.ReferencedSOPInstanceUID] == one.ImagePositionPatient[2]
        [series] = one.ReferencedSeriesSequence
        assert series.SeriesInstanceUID == scan.headers[0].SeriesInstanceUID
        assert series.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == item.ReferencedSOPInstanceUID


@pytest.mark.parametrize("convert", [write_enhanced, write_legacy_converted])
def test_multi_frame_source_is_referred_to_by_frame(convert, phantom_series, tmp_path, weights, networks):
    """Its frames are not in the order of space."""
    source = pydicom.dcmread(convert(phantom_series, tmp_path / "in" / "e.dcm"))
    folder, captures = write(tmp_path / "in", tmp_path / "out", weights, networks)
    for one in captures:
        [item] = one.SourceImageSequence
        assert item.ReferencedSOPInstanceUID == source.SOPInstanceUID
        groups = source.PerFrameFunctionalGroupsSequence[item.ReferencedFrameNumber - 1]
        assert one.ImagePositionPatient[2] == pytest.approx(groups.PlanePositionSequence[0].ImagePositionPatient[2])
    assert judged(folder / "capture-0001.sc.dcm") == []


def test_coronal_series_is_drawn_axial_and_refers_to_all_its_images(phantom, tmp_path):
    """A picture across the source's slices has a row of every one of them; to name one source would be wrong."""
    made = make_phantom(**{**SMALL, "rows": 64, "pixel_spacing_mm": (6.0, 3.0)}, lesions="moderate", seed=1)
    scan, masks = load(made, tmp_path / "in", orientation_cosines=CORONAL)
    assert scan.volume.shape == (64, 30, 128)
    captures = draw(scan, masks)
    one = captures[14]
    assert len(captures) == 30
    assert {i.ReferencedSOPInstanceUID for i in one.SourceImageSequence} == {h.SOPInstanceUID for h in scan.headers}
    assert one.PixelSpacing == [0.75, 0.75]
    assert np.allclose(one.ImageOrientationPatient, [1, 0, 0, 0, 1, 0])
    red = np.argwhere(reddish(one.pixel_array[:570]))
    index = np.rint(made.volume.map_reference_to_indices(points(one, red))).astype(int)
    assert len(index) > 500 and set(index[:, 0]) == {14}
    assert np.mean(made.infection[tuple(index.T)]) > 0.95
    one.save_as(tmp_path / "one.dcm")
    assert judged(tmp_path / "one.dcm") == []


def test_plane_that_dicom_cannot_tell_is_left_out(phantom, tmp_path):
    """Coronal images of a tilted stack, cut across: rows and columns are not perpendicular."""
    scan, masks = load(phantom, tmp_path / "in", orientation_cosines=CORONAL)
    tilted = scan.volume.affine.copy()
    tilted[:3, 0] += 0.25 * tilted[:3, 2]
    [*_, one] = draw(replace(scan, tilted_affine=tilted), masks)
    assert "ImagePositionPatient" not in one and "PixelSpacing" not in one
    one.save_as(tmp_path / "one.dcm")
    assert judged(tmp_path / "one.dcm") == []


def test_redo_sends_the_same_objects(series_folder, tmp_path, weights, networks):
    _, first = write(series_folder, tmp_path / "one", weights, networks)
    _, second = write(series_folder, tmp_path / "two", weights, networks)
    assert [c.SOPInstanceUID for c in first] == [c.SOPInstanceUID for c in second]
    assert len({c.SOPInstanceUID for c in first}) == 12 and len({c.SeriesInstanceUID for c in first}) == 1
    assert all(a.PixelData == b.PixelData for a, b in zip(first, second, strict=True))


def test_key_captures_hold_the_worst_slice_and_all_hold_every_slice(series_folder, tmp_path, weights, networks):
    _, key = write(series_folder, tmp_path / "key", weights, networks)
    folder, every = write(series_folder, tmp_path / "all", weights, networks, captures="all")
    assert (len(key), len(every)) == (12, 30)
    files = read_json(folder / "outcome.json")["files"]
    assert sum(name.endswith(".sc.dcm") for name in files) == 30
    worst = max(every, key=lambda c: np.count_nonzero(reddish(c.pixel_array[60:570])))
    assert worst.ImagePositionPatient in [c.ImagePositionPatient for c in key]
    assert {c.SOPInstanceUID for c in key}.isdisjoint(c.SOPInstanceUID for c in every), "another order, other objects"


def test_clean_lung_is_drawn_and_says_zero(series_folder, tmp_path, weights, networks):
    clean = replace(networks.infection, predict=lambda slices: np.zeros(slices.shape[:3], np.float32))
    folder, captures = write(series_folder, tmp_path / "out", weights, replace(networks, infection=clean))
    assert len(captures) == 12
    assert not any(reddish(c.pixel_array[60:570]).any() for c in captures)
    lines = [text for text, _ in capture.figure_lines(read_json(folder / "report.json"))]
    assert lines[0] == "Share of opacity: lungs 0.0 %, right 0.0 %, left 0.0 %"


def test_one_slice_is_drawn_and_its_figures_are_withheld(series_folder, tmp_path, weights, networks):
    for path in sorted(series_folder.iterdir()):
        if path.name != "0015.dcm":
            path.unlink()
    folder, captures = write(series_folder, tmp_path / "out", weights, networks)
    [one] = captures
    assert reddish(one.pixel_array[60:570]).any()
    assert judged(folder / "capture-0001.sc.dcm") == []
    lines = capture.figure_lines(read_json(folder / "report.json"))
    assert lines == [
        ("Percentages withheld: they do not hold for this scan", NOTICE),
        ("Volumes withheld: they do not hold for this scan", NOTICE),
    ]


def test_deidentified_source(series_folder, tmp_path, weights, networks):
    for path in series_folder.iterdir():
        dataset = pydicom.dcmread(path)
        for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "AccessionNumber",
                        "StudyDate", "StudyTime", "ReferringPhysicianName", "FrameOfReferenceUID", "SliceThickness",
                        "PositionReferenceIndicator", "InstanceNumber"):  # fmt: skip
            if keyword in dataset:
                delattr(dataset, keyword)
        dataset.save_as(path)
    folder, captures = write(series_folder, tmp_path / "out", weights, networks)
    assert judged(folder / "capture-0001.sc.dcm") == []
    assert captures[0].PatientID in ("", None), "nothing is invented that could be taken for the patient's"
    seg = pydicom.dcmread(folder / "segmentation.seg.dcm", stop_before_pixels=True)
    assert captures[0].FrameOfReferenceUID == seg.FrameOfReferenceUID


def test_odd_names_are_kept_and_not_told(phantom, tmp_path, caplog):
    scan, masks = load(phantom, tmp_path)
    scan.headers[0].PatientName = "Hippocrates"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        one = draw(scan, masks)[0]
    assert str(one.PatientName) == "Hippocrates"
    assert "Hippocrates" not in caplog.text + "".join(str(warning.message) for warning in told)


def test_attributes_say_what_it_is(phantom, tmp_path):
    scan, masks = load(phantom, tmp_path)
    one = draw(scan, masks)[0]
    assert "research use only" in one.SeriesDescription
    assert RESEARCH_USE in one.DerivationDescription
    assert one.ContentQualification == "RESEARCH"
    assert (one.BurnedInAnnotation, list(one.ImageType)) == ("YES", ["DERIVED", "SECONDARY"])
    assert one.LossyImageCompression == "00"
    assert draw(scan, masks, example_report(source__lossy=True))[0].LossyImageCompression == "01", "once lossy, always"


def test_no_more_than_a_few_pictures_are_in_memory_at_once(phantom, tmp_path):
    scan, masks = load(phantom, tmp_path)
    size = draw(scan, masks)[0].pixel_array.nbytes
    tracemalloc.start()
    for _ in capture.captures(scan, masks, example_report(), KEY, Outputs(captures="all"), MAKING):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 15 * size, "of 30 pictures; drawing one takes a few copies of it"


def test_figures_are_in_words():
    report = example_report(
        regions__lungs__infection_percent=0.01, regions__right_lung__infection_percent=None,
        regions__left_lung__infection_percent=12.34, regions__lungs__infection_ml=0.4, regions__lungs__volume_ml=2000.4,
        regions__lungs__ground_glass_ml=0.3, regions__lungs__consolidation_ml=0.1,
        regions__lungs__below_bands_ml=0.14, regions__lungs__above_bands_ml=0.06,
    )  # fmt: skip
    assert [text for text, _ in capture.figure_lines(report)][:3] == [
        "Share of opacity: lungs < 0.1 %, right no lung found, left 12.3 %",
        "Opacity 0.4 mL of 2000 mL of lung",
        "Ground glass 0.3 mL, consolidation 0.1 mL, neither 0.2 mL",
    ]


@pytest.mark.parametrize(
    ("what", "words"), [("percent", "Percentages"), ("volume", "Volumes"), ("hu_bands", "Figures by HU")]
)
def test_withheld_figures_are_said_to_be(what, words):
    lines = capture.figure_lines(example_report(**{f"valid_for__{what}": False}))
    assert (f"{words} withheld: they do not hold for this scan", NOTICE) in lines


@pytest.mark.parametrize("columns", [400, 512, 768, 1024])
def test_words_fit(columns, phantom):
    capitals = round(columns / capture.COLUMNS_A_CAPITAL)
    header = capture._header(columns, capitals)
    notice = np.flatnonzero(coloured(header, NOTICE).any(axis=0))
    white = np.flatnonzero(coloured(header, TEXT).any(axis=0))
    right_marker, left_marker = white[white < columns // 2], white[white > columns // 2]
    assert right_marker[-1] + capitals < notice[0] and notice[-1] + capitals < left_marker[0]
    long = [{"slug": "a", "message": "of 3 slices at 12.5° the figures describe what is shown, not the lungs " * 9}] * 2
    footer = capture._footer(columns, capitals, example_report(warnings=long))
    assert (footer[:, -capitals // 2 :] == BACKGROUND).all() and (footer[-2:] == BACKGROUND).all()
    assert len(footer) < 0.6 * columns, "warnings without end do not push the slice away"


def test_lines_are_broken_between_words_and_in_ascii():
    lines = capture.wrapped("tilted by 12.5° in ten words or so", 11, 130)
    assert len(lines) > 1 and " ".join(lines) == "tilted by 12.5 degrees in ten words or so"
    assert all(text_width(line, 11) <= 130 for line in lines)
    assert capture.wrapped("größer", 11, 500) == ["gr??er"]


@pytest.mark.parametrize(
    ("shape", "spacing", "drawn"),
    [
        ((512, 512), (0.7, 0.7), (512, 512)),
        ((768, 768), (0.5, 0.5), (768, 768)),
        ((128, 128), (3.0, 3.0), (512, 512)),
        ((256, 256), (1.5, 1.5), (512, 512)),
        ((60, 512), (5.0, 0.7), (429, 512)),  # from a coronal series
        ((512, 80), (0.7, 4.0), (512, 457)),  # from a sagittal one
    ],
)
def test_slices_are_drawn_on_square_pixels_and_many_enough(shape, spacing, drawn):
    assert capture.drawn_shape(shape, spacing) == drawn


def test_large_slices_are_drawn_pixel_by_pixel(phantom, tmp_path):
    """No resampling where none is needed: outside the outlines a pixel's grey is that of its voxel."""
    scan, masks = load(make_phantom(**{**SMALL, "slices": 3, "rows": 768, "columns": 768}, seed=1), tmp_path)
    one = draw(scan, masks)[1]
    header = round(5.4 * round(768 / capture.COLUMNS_A_CAPITAL))
    assert one.Columns == 768
    np.testing.assert_allclose(points(one, np.array([[header, 0]]))[0], scan.headers[1].ImagePositionPatient, atol=1e-6)
    picture = one.pixel_array[header : header + 768]
    grey = np.clip((scan.volume.array[1].astype(float) + 1350) * 0.17, 0, 255)
    untouched = np.ptp(picture.astype(int), axis=-1) == 0
    assert untouched.mean() > 0.9
    assert abs(picture[..., 0] - grey)[untouched].max() <= 1


def test_page_links_to_one_of_many_captures():
    files = ("report.json", *(f"capture-{n:04d}.sc.dcm" for n in range(1, 301)))
    html = as_html([Entry("1.2/3", "done", files=files)], datetime(2026, 1, 1, tzinfo=UTC))
    assert html.count(".sc.dcm") == 1
    assert 'href="1.2/3/capture-0001.sc.dcm">capture 1 of 300<' in html


def test_nifti_has_no_captures():
    assert formats_for("nifti", ("sc", "png")) == ("nifti", "png")
