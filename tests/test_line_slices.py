"""Slices in full field with a line to HU each, beside the same slices cropped at the ribs."""

import numpy as np
import pytest

from covct.data.cases import medseg_patient
from covct.data.explore import explore
from covct.data.layouts import search_cases
from covct.data.leakage import learned_patients
from covct.data.model_space import read_slices
from covct.data.published import find_sources, other_cases, read_medseg_slices
from covct.data.read_case import read_case
from covct.data.restore import find_images, output_name, restore_case
from covct.errors import UsageError
from covct.evaluation.eligible import seen_by
from covct.evaluation.truth import each_once, read_truth
from covct.networks.cards import read_card
from covct.training.samples.plan import SOURCES
from covct.training.samples.plans import CROPPED, plan_infection
from covct.training.samples.reading import Reading
from covct.training.settings import Settings
from support.checkout import SHARED
from support.chests import classified, fake_restore, save_line_slices, save_medseg
from support.labelled import find_cases
from support.thresholds import make_weights

ROWS = {"z0": "0.jpg,A,g1", "z1": "4.jpg,B,g2", "z2": ",A,g2", "z3": ",,s3", "z4": "1.jpg,C,s4"}


@pytest.fixture
def twins(tmp_path):
    """Pictures 0, 1, 2 cropped; in full field 0, a doubtful 1, 4, another slice of the person of 4, and a fourth."""
    data = tmp_path / "data"
    save_medseg(data / "cropped")
    save_line_slices(data / "full", ROWS)
    return data


def test_each_has_its_line_and_its_classes(twins):
    case = find_cases(twins / "full")[0]
    read, (hu, label) = read_case(case), classified(0)
    assert (case.name, case.known_as, case.domain, read.spacing_mm) == ("medseg_0", "medseg", "window-8bit", None)
    np.testing.assert_array_equal(read.classes[0], label)
    np.testing.assert_array_equal(read.infection[0], (label == 1) | (label == 2))
    truth = read_truth(case)
    assert truth.measured and truth.hu.dtype == np.float32
    np.testing.assert_allclose(truth.hu[0], np.clip(hu, -1100, 175), atol=2.6)
    part = read_slices(case)
    assert not part.ends_at_the_ribs(0) and read_slices(find_cases(twins / "cropped")[0]).ends_at_the_ribs(0)
    assert set(np.unique(part.classes)) == {0, 1, 2, 3} and not part.infection[part.classes == 3].any()


def test_a_patient_has_the_name_that_cards_know(twins):
    patients = {case.name: case.patient for case in find_cases(twins / "full")}
    assert patients == {
        "medseg_0": "medseg_0",
        "medseg_4": "medseg_4",
        "medseg_z2": "medseg_4",
        "medseg_z3": "medseg_s3",
    }
    card = read_card(make_weights(twins.parent / "weights") / "lungs.json")
    held = {"medseg": ["medseg_0", "medseg_4"]}
    told = learned_patients({"medseg": ["medseg_0", "medseg_4", "medseg_17"]}, held)
    card = card.replaced(training={"held_out_patients": held, "learned_patients": told})
    seen = {case.name: bool(seen_by(case, {"lungs": card})) for case in find_cases(twins / "full")}
    assert seen == {"medseg_0": False, "medseg_4": True, "medseg_z2": True, "medseg_z3": False}, "4 and 17 are one"


def test_a_doubtful_line_is_left_out_by_name(twins):
    [left] = search_cases(twins / "full").left_out
    assert (left.case, left.slug) == ("medseg_1", "doubtful-hu") and "z4" in left.message


def test_a_slice_in_both_forms_is_used_once(twins):
    sources = find_sources(twins)
    assert (
        sources == {"medseg": twins / "cropped", "medseg-full": twins / "full"} and not other_cases(twins, sources)[0]
    )
    part = read_medseg_slices(sources["medseg"], in_full=sources["medseg-full"])
    assert part.patients == ("medseg_0", "medseg_4", "medseg_4", "medseg_s3", "medseg_1", "medseg_2")
    assert part.at_the_ribs.tolist() == [False] * 4 + [True] * 2 and part.source == "medseg" and part.classes is None
    found = each_once(search_cases(twins).cases)
    assert [case.layout for case in found].count("slices-line") == 4
    assert [case.name for case in found if case.layout == "medseg"] == ["medseg_1", "medseg_2"]
    assert not explore(twins, fake_restore).left_out[1:], "the doubtful one alone, and nobody is elsewhere"


def test_in_full_field_alone_they_are_the_source(twins):
    assert find_sources(twins / "full") == {"medseg": twins / "full"}
    assert len(read_medseg_slices(twins / "full", with_classes=True).classes) == 4


def test_only_what_ends_at_the_ribs_is_shrunk(twins, monkeypatch):
    pytest.importorskip("keras")
    from covct.training.samples import plans

    scales = {}

    def noted(preset, arrays, kinds, rng, **own):
        scales.setdefault(arrays[0].tobytes(), set()).add(own["scale"])
        return arrays

    monkeypatch.setattr(plans, "deform", noted)
    reading = Reading(find_sources(twins))
    plan = plan_infection(reading, Settings("infection", 1, 8, augment="none"))
    assert set(plan.slices) == {"medseg"} and plan.sources.keys() == {"medseg", "medseg-full"} <= SOURCES.keys()
    for seed in range(60):
        plan.draw(np.random.default_rng(seed))
    [part] = reading.parts(("medseg",))
    drawn = {index: scales.get(part.hu[index].astype(part.hu.dtype).tobytes(), set()) for index in range(len(part))}
    assert any(drawn.values())
    for index, seen in drawn.items():
        assert (CROPPED["scale"] in seen) <= part.ends_at_the_ribs(index)
        assert not part.ends_at_the_ribs(index) or seen <= {CROPPED["scale"]}


def test_without_the_column_they_are_cases_of_ones_own(tmp_path):
    save_line_slices(tmp_path / "own", {"a": ",A,p1", "b": ",B,p1", "c": ",C,p2"})
    table = tmp_path / "own" / "slices.csv"
    table.write_text(table.read_text().replace("medseg_train_file", "remark"))
    assert [(case.name, case.patient, case.known_as) for case in find_cases(tmp_path / "own")] == [
        ("a", "p1", "cases"), ("b", "p1", "cases"),
    ]  # fmt: skip
    assert find_sources(tmp_path) == {"cases": tmp_path}


def test_restored_by_their_lines(twins, tmp_path):
    case = find_images(twins / "full").cases[0]
    done = restore_case(case, tmp_path / "hu", None, fake_restore)
    assert output_name(case) == "medseg_0" and set(done.files) > {"medseg_0_ct.nii.gz", "medseg_0_infection.nii.gz"}
    [row] = (tmp_path / "hu" / "cases.csv").read_text().splitlines()[1:]
    assert row == "medseg_0,medseg_0,hu,"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("z0,5.0", "z0,-5", r"slices.csv, line 2: slope '-5', intercept '-1100.0'; wanted HU = slope"),
        ("z1,", "z0,", r"line 3: name is 'z0'; wanted that of a picture, each once"),
        ("z1,", "../z1,", r"line 3: name is '../z1'"),
        ("A,g1", "A,", r"line 2: no patient_group"),
        ("B,g2", "D,g2", r"line 3: quality is 'D', wanted A, B or C"),
        ("4.jpg", "0.jpg", r"line 3: medseg_train_file is '0.jpg'; wanted a number such as 0.jpg, each once"),
        ("4.jpg,B,g2", "4.jpg,B,g1", r"slices.csv: g1 has medseg_0 and medseg_4; wanted no group of several"),
        ("slope,", "slop,", r"slices.csv: no column slope"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_by_line(old, new, told, twins):
    table = twins / "full" / "slices.csv"
    table.write_text(table.read_text().replace(old, new, 1))
    with pytest.raises(UsageError, match=told):
        find_cases(twins / "full")


def test_a_missing_picture_or_mask_is_told(twins):
    (twins / "full" / "img" / "z0.png").unlink()
    (twins / "full" / "mask" / "z1.png").unlink()
    left = {one.case: one.slug for one in search_cases(twins / "full").left_out}
    assert left == {"medseg_0": "incomplete", "medseg_4": "no-mask", "medseg_1": "doubtful-hu"}


def test_the_people_of_the_published_table_are_those_that_cards_know():
    if not (SHARED / "medseg-full").is_dir():
        pytest.skip(f"no real scans at {SHARED} (set COVCT_DATA)")
    found = each_once([*find_cases(SHARED / "medseg-train"), *find_cases(SHARED / "medseg-full")])
    assert len(found) == 80 and sum(case.layout == "medseg" for case in found) == 2
    patients = {case.patient for case in found}
    numbers = [path.stem for path in (SHARED / "medseg-train" / "Imgs").iterdir()]
    assert patients - set(map(medseg_patient, numbers)) == {"medseg_s023", "medseg_s049"}
    assert set(map(medseg_patient, numbers)) <= patients
