"""8-bit slices back to Hounsfield units, with a tiny restorer: what is told, what is refused, what is written."""

import json
import os

import cv2
import numpy as np
import pytest

from covct.architectures import ARCHITECTURES
from covct.data.domains import detect_domain
from covct.data.layouts import search_cases
from covct.data.model_space import recipe_pixels
from covct.data.restore import find_images, output_name, read_stack
from covct.data.tables import read_table
from covct.errors import UsageError
from covct.intake.nifti import read_description, write_nifti
from covct.intake.volume_file import read_volume
from covct.networks.cards import Card, file_sha256, write_card
from support.chests import chest as small_chest
from support.chests import published
from support.running import invoke, read_json


@pytest.fixture(scope="session")
def chest(phantom):
    """Six slices of the coarse phantom at 256 x 256 with its masks: HU, lungs, infection; anterior up, feet first."""
    chosen = phantom.volume.array[22:8:-2]
    hu = np.stack([cv2.resize(one.astype(np.float32), (256, 256)) for one in chosen])
    hu = hu + np.random.default_rng(0).normal(0, 15, hu.shape)
    masks = [
        np.stack([cv2.resize(one.astype(np.uint8), (256, 256), interpolation=0) for one in mask[22:8:-2] > 0])
        for mask in (phantom.lungs, phantom.infection)
    ]
    return hu, *masks


@pytest.fixture(scope="session")
def restorer(tmp_path_factory):
    """A network of the right shape that has learned nothing."""
    folder = tmp_path_factory.mktemp("restorer")
    arguments = {"size": 256, "base_filters": 2}
    ARCHITECTURES["unet"](**arguments).save(folder / "restorer.keras")
    card = Card(
        name="restorer", task="restorer", architecture={"name": "unet", "arguments": arguments},
        recipe={"name": "clahe", "arguments": {}}, field_of_view="whole", size=256, threshold=0.5,
        weights="restorer.keras", sha256=file_sha256(folder / "restorer.keras"), licence="none",
    )  # fmt: skip
    return write_card(card, folder)


def windowed(hu, low=-1250, high=250):
    return np.clip((hu - low) / (high - low) * 255, 0, 255).astype(np.uint8)


def write_pictures(folder, pixels, first=0):
    folder.mkdir(parents=True)
    for index, one in enumerate(pixels):
        cv2.imwrite(str(folder / f"{first + index}.png"), one)
    return folder


@pytest.mark.slow
def test_clahe_is_told_and_goes_through_the_restorer(chest, restorer, tmp_path):
    hu, lungs, infection = chest
    write_pictures(tmp_path / "set" / "ct", recipe_pixels(hu))
    write_pictures(tmp_path / "set" / "lungs", 255 * lungs)
    write_pictures(tmp_path / "set" / "infection", 255 * infection)
    result = invoke("restore", tmp_path / "set", "--restorer", restorer, "-o", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    [line] = [json.loads(one) for one in result.stdout.splitlines()]
    assert (line["kind"], line["slices"]) == ("clahe-8bit", len(hu))
    assert set(line["tissues"]) == {"healthy_lung", "infected_lung"}
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {
        "set_ct.nii.gz", "set_lungs.nii.gz", "set_infection.nii.gz", "set_sheet.png", "restored.json", "cases.csv",
    }  # fmt: skip
    record = read_json(tmp_path / "out" / "restored.json")
    assert record["restorer"]["sha256"] == file_sha256(restorer.with_suffix(".keras"))
    assert record["research_use"]
    back = read_volume(tmp_path / "out" / "set_ct.nii.gz").to_patient_orientation("HPL").array
    assert back.min() >= -1000 and back.max() <= 200, "the restorer's window"
    mask = read_volume(tmp_path / "out" / "set_lungs.nii.gz").to_patient_orientation("HPL").array
    np.testing.assert_array_equal(mask, lungs)


def test_a_known_window_comes_back_to_within_its_step(chest, tmp_path):
    hu, lungs, infection = chest
    write_pictures(tmp_path / "in", windowed(hu))
    result = invoke("restore", tmp_path / "in", "-o", tmp_path / "out", "--window=-1250,250", "--spacing", "5,0.8,0.7")
    assert result.exit_code == 0, result.output
    volume = read_volume(tmp_path / "out" / "in_ct.nii.gz")
    np.testing.assert_allclose(sorted(volume.spacing), [0.7, 0.8, 5], atol=1e-5)
    back = volume.to_patient_orientation("HPL").array
    assert np.abs(back - np.clip(hu, -1250, 250)).max() <= 1500 / 255 + 1
    assert "unknown" not in read_description(tmp_path / "out" / "in_ct.nii.gz")
    assert read_json(tmp_path / "out" / "restored.json")["restorer"] is None, "a window needs none"


def test_an_untold_window_is_found_from_air_and_tissue(chest, tmp_path):
    hu, lungs, infection = chest
    write_pictures(tmp_path / "in", windowed(hu, -1300, 200))
    assert invoke("restore", tmp_path / "in", "-o", tmp_path / "out").exit_code == 0
    back = read_volume(tmp_path / "out" / "in_ct.nii.gz").to_patient_orientation("HPL").array
    healthy = (lungs > 0) & (infection == 0)
    assert abs(np.median(back[healthy]) - np.median(hu[healthy])) < 60
    description = read_description(tmp_path / "out" / "in_ct.nii.gz")
    assert description.startswith("covct: HU restored from window-8bit; spacing unknown, 1 mm taken")
    assert (tmp_path / "out" / "cases.csv").read_text().splitlines()[1] == "in,,hu,unknown", "no mask is not no disease"


def test_a_restorer_says_what_size_it_is_of(restorer):
    from covct.training.samples.restoration import load_restorer

    with pytest.raises(UsageError, match="restores slices of 256 x 256 pixels, got 512 x 512"):
        load_restorer(restorer)(np.zeros((1, 512, 512), np.uint8))


def test_volumes_restored_beside_others_leave_what_is_said_of_them(chest, tmp_path):
    """Without its row a volume that nobody marked would be learned from as healthy; a patient's two stay his."""
    hu, lungs, _ = chest
    for name, table in (("one", "0,2,p1,up\n3,5,p1,up\n"), ("two", "0,5,p2,up\n")):
        write_pictures(tmp_path / name / "ct", windowed(hu))
        write_pictures(tmp_path / name / "lungs", 255 * lungs)
        (tmp_path / name / "volumes.csv").write_text("first,last,patient_group,anterior\n" + table)
        result = invoke("restore", tmp_path / name, "-o", tmp_path / "out", "--window=-1250,250")
        assert result.exit_code == 0, result.output
    found = {case.name: case for case in search_cases(tmp_path / "out").cases}
    assert {name: case.patient for name, case in found.items()} == {"p1-0000": "p1", "p1-0003": "p1", "p2-0000": "p2"}
    assert not any(case.negative for case in found.values())


def test_a_volume_is_declared_before_it_is_there(chest, tmp_path, monkeypatch):
    """A process that dies between the two leaves a row too much, never one too few."""
    from covct.data import restore

    monkeypatch.setattr(restore, "_write_nifti", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    write_pictures(tmp_path / "in", windowed(chest[0]))
    with pytest.raises(KeyboardInterrupt):
        restore.restore_case(find_images(tmp_path / "in").cases[0], tmp_path / "out", "window", None)
    assert "in,,hu,unknown" in (tmp_path / "out" / "cases.csv").read_text()


def test_hounsfield_units_are_refused(chest, phantom, tmp_path):
    write_nifti(phantom.volume, tmp_path / "hu.nii.gz")
    for extra in ((), ("--source-kind", "clahe")):
        result = invoke("restore", tmp_path / "hu.nii.gz", "-o", tmp_path / "out", *extra)
        assert isinstance(result.exception, UsageError)
        assert "hu.nii.gz" in str(result.exception) and "already" in str(result.exception)
    cv2.imwrite(str(tmp_path / "deep.png"), np.full((64, 64), 40000, np.uint16))
    result = invoke("restore", tmp_path / "deep.png", "-o", tmp_path / "out")
    assert "16 bits a pixel, wanted 8" in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_slices_that_do_not_tell_their_domain_want_to_be_told(tmp_path):
    write_pictures(tmp_path / "in", np.full((2, 64, 64), 30, np.uint8))
    result = invoke("restore", tmp_path / "in", "-o", tmp_path / "out")
    assert "say --source-kind clahe or window" in str(result.exception)


def test_dark_clahe_slices_are_not_taken_for_a_window(chest, tmp_path):
    """The publisher's min-max of a slice with metal makes tissue dark, so that it piles up as in a window."""
    dark = (0.55 * windowed(chest[0])).astype(np.uint8)
    dark[:, 40:90, 40:120] = 200  # as bright as tissue is in a window, though not as much of it
    write_pictures(tmp_path / "in", dark)
    result = invoke("restore", tmp_path / "in", "-o", tmp_path / "out")
    assert "dark CLAHE slices" in str(result.exception)
    assert "say --source-kind clahe or window" in str(result.exception)
    assert not (tmp_path / "out").exists()
    assert invoke("restore", tmp_path / "in", "-o", tmp_path / "out", "--source-kind", "window").exit_code == 0


@pytest.mark.parametrize("volume", ["coronacases_001", "coronacases_008", "coronacases_010"])
def test_ten_dark_slices_of_a_published_volume_ask_for_their_kind(volume, shared):
    folder = shared / "ma-slices"
    row = next(row for row in read_table(folder / "volumes.csv", ("first",)) if row["patient_group"] == volume)
    slices = [cv2.imread(str(folder / "ct" / f"{int(row['first']) + k:04d}.png"), 0) for k in range(60)]
    assert detect_domain(np.stack(slices[:10]))[0] == ""
    assert detect_domain(np.stack(slices))[0] == "clahe-8bit"


@pytest.mark.slow
def test_an_8_bit_nifti_keeps_its_place(chest, phantom, restorer, tmp_path):
    """A CLAHE volume of another size than the restorer's, askew in the file: HU on the very grid it came with."""
    grey = phantom.volume.with_array(recipe_pixels(phantom.volume.array.astype(np.float32)))
    write_nifti(grey.to_patient_orientation("LAH"), tmp_path / "x_ct.nii.gz")
    result = invoke(
        "restore", tmp_path / "x_ct.nii.gz", "-o", tmp_path / "out", "--restorer", restorer, "--source-kind", "clahe"
    )
    assert result.exit_code == 0, result.output
    back = read_volume(tmp_path / "out" / "x_ct.nii.gz").to_patient_orientation("FPL")
    assert back.shape == grey.shape
    np.testing.assert_allclose(back.affine, grey.affine, atol=1e-3)


def test_patients_on_their_side_are_turned_and_each_picture_is_one(tmp_path):
    """As medicalsegmentation.com has them: Imgs/ and GT/, the front on the left, every picture another size."""
    picture = np.zeros((40, 60), np.uint8)
    picture[:, :10] = 200  # the patient's front
    (tmp_path / "set" / "Imgs").mkdir(parents=True)
    (tmp_path / "set" / "GT").mkdir()
    for index, image in enumerate((picture, picture[:30])):
        cv2.imwrite(str(tmp_path / "set" / "Imgs" / f"{index}.png"), image)
        cv2.imwrite(str(tmp_path / "set" / "GT" / f"{index}.png"), image)
    cases = find_images(tmp_path / "set").cases
    assert [output_name(case) for case in cases] == ["set-0", "set-1"]
    stack = read_stack(cases[1])
    assert stack.volume.shape == (1, 60, 30)
    assert (stack.volume.array[0, :10] == 200).all() and not stack.volume.array[0, 10:].any()
    np.testing.assert_array_equal(stack.masks["infection"], stack.volume.array > 127)


def test_masks_that_say_1_for_255_are_read_as_masks(chest, tmp_path):
    """They were empty, and written beside the volume as what it is infected by."""
    hu, lungs, infection = chest
    write_pictures(tmp_path / "set" / "ct", windowed(hu))
    write_pictures(tmp_path / "set" / "lungs", lungs)
    write_pictures(tmp_path / "set" / "infection", infection)
    [case] = find_images(tmp_path / "set").cases
    np.testing.assert_array_equal(read_stack(case).masks["infection"], infection > 0)
    np.testing.assert_array_equal(read_stack(case).masks["lungs"], lungs > 0)


def test_a_table_of_volumes_parts_the_pictures(tmp_path):
    write_pictures(tmp_path / "set" / "ct", np.arange(8, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 4), np.uint8))
    (tmp_path / "set" / "volumes.csv").write_text("first,last,patient_group,anterior\n0,4,a,up\n5,7,b,down\n")
    first, second = find_images(tmp_path / "set").cases
    assert (output_name(first), len(first.images), output_name(second), second.mirrored) == (
        "a-0000",
        5,
        "b-0005",
        True,
    )
    assert read_stack(second).volume.array[:, 0, 0].tolist() == [5, 6, 7]


def test_the_twenty_volumes_are_restored_by_their_known_window(tmp_path):
    """Those in HU are refused by name; those in a window come back to within a step, with masks and patients."""
    result = invoke("restore", published(tmp_path / "set"), "-o", tmp_path / "out", "--json")
    assert result.exit_code == 3
    assert "coronacases_org_001.nii.gz: these are Hounsfield units already" in " ".join(result.stderr.split())
    assert [json.loads(line)["name"] for line in result.stdout.splitlines()] == [
        "radiopaedia_10_85902_1", "radiopaedia_10_85902_3",
    ]  # fmt: skip
    back = read_volume(tmp_path / "out" / "radiopaedia_10_85902_1_ct.nii.gz").to_patient_orientation("FPL").array
    assert np.abs(back - np.clip(small_chest(1)[0], -1250, 250)).max() <= 6
    cases = search_cases(tmp_path / "out").cases
    assert [(case.patient, sorted(case.masks)) for case in cases] == 2 * [("radiopaedia_10", ["infection", "lungs"])]


def test_dicom_is_in_hounsfield_units_already(phantom_series, tmp_path):
    result = invoke("restore", phantom_series, "-o", tmp_path / "out")
    assert "these are Hounsfield units already (DICOM); wanted slices on 8 bit" in str(result.exception)


def test_two_volumes_that_would_be_written_under_one_name(chest, tmp_path):
    for place in ("a", "b"):
        write_pictures(tmp_path / place / "slices" / "ct", windowed(chest[0]))
    result = invoke("restore", tmp_path, "-o", tmp_path.parent / "restored")
    assert "two volumes would be written as slices_ct.nii.gz" in str(result.exception)


def test_pictures_of_two_sizes_are_no_volume(tmp_path):
    write_pictures(tmp_path / "in", [np.zeros((8, 8), np.uint8), np.zeros((8, 9), np.uint8)])
    [case] = find_images(tmp_path / "in").cases
    with pytest.raises(UsageError, match=r"1\.png: 8 x 9 pixels, 0\.png has 8 x 8"):
        read_stack(case)
    assert len(find_images(tmp_path / "in", each=True).cases) == 2


def test_what_is_there_is_kept_unless_forced(chest, tmp_path):
    write_pictures(tmp_path / "in", windowed(chest[0]))
    arguments = ("restore", tmp_path / "in", "-o", tmp_path / "out")
    assert invoke(*arguments).exit_code == 0
    assert "--force" in str(invoke(*arguments).exception)
    first = (tmp_path / "out" / "in_ct.nii.gz").read_bytes()
    assert invoke(*arguments, "--force").exit_code == 0
    assert (tmp_path / "out" / "in_ct.nii.gz").read_bytes() == first, "the same again"


def test_one_bad_volume_does_not_stop_the_others(chest, tmp_path):
    write_pictures(tmp_path / "in", windowed(chest[0]))
    cv2.imwrite(str(tmp_path / "in" / "9.png"), np.full((64, 64), 30, np.uint8))
    result = invoke("restore", tmp_path / "in", "-o", tmp_path / "out", "--each")
    assert result.exit_code == 3
    assert len(read_json(tmp_path / "out" / "restored.json")["volumes"]) == len(chest[0])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--window", "250,-1250"), "lower limit first"),
        (("--spacing", "1,1"), "wanted 3 numbers"),
        (("--spacing", "0,1,1"), "above 0"),
    ],
)
def test_numbers_that_make_no_sense(chest, tmp_path, arguments, said):
    write_pictures(tmp_path / "in", windowed(chest[0]))
    assert said in str(invoke("restore", tmp_path / "in", "-o", tmp_path / "out", *arguments).exception)


def test_a_card_of_another_task_is_no_restorer(chest, weights, tmp_path):
    write_pictures(tmp_path / "in", recipe_pixels(chest[0]))
    result = invoke("restore", tmp_path / "in", "-o", tmp_path / "out", "--restorer", weights / "lungs.json")
    assert "wanted one of a restorer" in str(result.exception)


def test_a_full_disk_leaves_nothing_half_written(chest, tmp_path, monkeypatch):
    from covct.errors import OutputNotWritable

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    write_pictures(tmp_path / "in", windowed(chest[0]))
    monkeypatch.setattr(os, "replace", full)
    result = invoke("restore", tmp_path / "in", "-o", tmp_path / "out")
    assert isinstance(result.exception, OutputNotWritable)
    assert not list((tmp_path / "out").iterdir())
