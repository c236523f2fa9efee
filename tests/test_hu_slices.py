"""Slices in HU as pictures of 16 bits, beside the same slices on 8 bit: found, read, learned from, judged."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from covct.data.cases import CaseError
from covct.data.domains import TISSUE_HU
from covct.data.explore import explore
from covct.data.layouts import search_cases
from covct.data.model_space import read_slices
from covct.data.pairs import UNKNOWN_HERE, read_pairs
from covct.data.published import find_sources, other_cases, read_equalised_ma_slices, read_ma_slices
from covct.data.read_case import read_case
from covct.data.restore import find_images, read_stack
from covct.data.slices import UNKNOWN
from covct.errors import UsageError
from covct.evaluation.eligible import seen_by
from covct.evaluation.order import EvaluationOrder
from covct.evaluation.run import evaluate
from covct.networks.cards import read_card, write_card
from support.chests import equalised, fake_restore, save_hu_slices, save_pair, save_slices
from support.labelled import find_cases
from support.thresholds import make_networks, make_weights


@pytest.fixture
def twins(tmp_path):
    """Two volumes of one patient and one of another on 8 bit, all but two slices of them in HU."""
    data = tmp_path / "data"
    save_slices(data / "ma", ["p1", "p2", "p1"], equalised, anterior="down")
    save_hu_slices(data / "hu", data / "ma", skip=(1, 14))
    return data


def test_masks_are_those_of_the_same_numbers_beside(twins):
    cases = find_cases(twins / "hu")
    assert [(case.name, case.patient, case.known_as) for case in cases] == [
        ("p1-1", "p1", "ma"), ("p2", "p2", "ma"), ("p1-2", "p1", "ma"),
    ]  # fmt: skip
    read = read_case(cases[0])
    assert read.domain == "hu" and read.numbers.tolist() == [0, 2, 3, 4] and read.pixels.shape == (4, 64, 64)
    twin = read_case(find_cases(twins / "ma")[0])
    np.testing.assert_array_equal(read.infection, twin.infection[[0, 2, 3, 4]])
    np.testing.assert_array_equal(read.lungs, twin.lungs[[0, 2, 3, 4]])
    assert abs(np.median(read.pixels[(read.lungs > 0) & (read.infection == 0)]) + 850) < 5, "front up, as the masks"
    assert (read.pixels[read.unknown] == TISSUE_HU).all()
    assert read.unknown.mean() == pytest.approx(1 - (52 / 64) ** 2)


def test_masks_of_its_own_need_no_folder_beside_it(twins, tmp_path):
    alone = tmp_path / "alone" / "hu"
    save_hu_slices(alone, twins / "ma")
    [left] = search_cases(alone).left_out
    assert left.slug == "no-mask" and "volumes.csv beside it" in left.message
    for kind in ("lungs", "infection"):
        (alone / kind).symlink_to(twins / "ma" / kind)
    (alone / "slices.csv").write_text((alone / "slices.csv").read_text().replace("p1", "x"))
    assert [(case.name, len(case.images)) for case in find_cases(alone)] == [("x", 10), ("p2", 5)]


def test_what_nobody_knows_is_in_no_loss(twins):
    """Neither lungs nor healthy: the networks see soft tissue there, and are told nothing."""
    [case, *_] = find_cases(twins / "hu")
    part, read = read_slices(case), read_case(case)
    unknown = part.lungs == UNKNOWN
    assert 0.1 < unknown.mean() < 0.9
    np.testing.assert_array_equal(part.infection == UNKNOWN, unknown)
    assert (part.hu[unknown] == TISSUE_HU).all()
    assert (part.infection == 1).any() and (part.lungs == 1).any() and (part.lungs == 0).any()
    assert len(part.with_known_lungs()) == len(read)


def test_slices_in_hu_take_the_place_of_those_on_8_bit(twins):
    """One patient of one source, however many slices of his are there in either form; each slice once."""
    sources = find_sources(twins)
    assert sources == {"ma": twins / "ma", "ma-hu": twins / "hu"}
    assert other_cases(twins, sources) == ([], [])
    restored = []

    def restore(pixels):
        restored.append(len(pixels))
        return fake_restore(pixels)

    part = read_ma_slices(twins / "ma", restore, in_hu=twins / "hu")
    assert (len(part), part.source, set(part.patients)) == (15, "ma", {"p1", "p2"})
    assert restored == [1, 1], "the two that are not there in HU"
    assert len(read_equalised_ma_slices(twins / "ma")) == 15
    assert find_sources(twins / "hu") == {"ma": twins / "hu"}
    assert len(read_ma_slices(twins / "hu", None)) == 13, "HU needs no restorer"


def test_infection_and_lungs_are_learned_from_them(twins):
    pytest.importorskip("keras")
    from covct.training.samples.plans import plan_infection, plan_lungs
    from covct.training.samples.reading import Reading
    from covct.training.settings import Settings

    reading = Reading(find_sources(twins / "hu"))
    for plan in (plan_infection, plan_lungs):
        made = plan(reading, Settings(plan.__name__.removeprefix("plan_"), 1, 8, augment="none"))
        assert set(made.slices) == {"ma"} and made.patients == {"ma": ["p1", "p2"]}
        drawn = [made.draw(np.random.default_rng(seed))[1] for seed in range(8)]
        assert any(truth[..., 0].any() for truth in drawn)
        assert all((truth[..., 1] == 0).any() for truth in drawn), "the surroundings have no weight"


@pytest.mark.parametrize("whole", [False, True], ids=["cropped alone", "with a whole scan"])
def test_lungs_that_know_nothing_of_what_lies_around_say_so(twins, whole, caplog):
    """Trained on such slices alone, scans of whole chests came out with 12 to 28 litres of lung."""
    pytest.importorskip("keras")
    from covct.training.finish import limits
    from covct.training.samples.plans import plan_lungs
    from covct.training.samples.reading import Reading
    from covct.training.settings import Settings

    data = twins / "hu"
    if whole:
        (twins / "whole").mkdir()
        for name in ("a", "b"):
            save_pair(twins / "whole", name, seed=ord(name))
        data = twins
    settings = Settings("lungs", 1, 8, augment="none")
    plan = plan_lungs(Reading(find_sources(data)), settings)
    said = "What lies around the chest is unknown"
    assert (said in limits(settings, plan)) is (said in caplog.text) is not whole


def test_slices_in_both_forms_are_true_pairs_of_the_restorer(twins):
    """One number is one slice, its front up in both; nobody who is left out is drawn, unknown surroundings weigh 0."""
    pytest.importorskip("keras")
    from covct.training.samples.plan import Origin
    from covct.training.samples.plans import plan_restorer
    from covct.training.samples.reading import Reading
    from covct.training.settings import Settings

    pairs = read_pairs(twins / "ma", twins / "hu")
    assert pairs.numbers.tolist() == [n for n in range(15) if n not in (1, 14)]
    for grey, hu, kind in zip(pairs.grey, pairs.hu, pairs.kind, strict=True):
        known = kind != UNKNOWN_HERE
        assert np.corrcoef(grey[known], hu[known])[0, 1] > 0.7, "with one of them upside down it is 0.55 to 0.61"
    for seed in range(2):
        save_pair(twins / "lctsc", f"q{seed}", seed, infected=False, kinds=("lungs",))
    settings = Settings("restorer", 1, 8, split="none", leave_out=("p1",))
    plan = plan_restorer(Reading(find_sources(twins)), settings)
    assert plan.slices == {"lctsc": 12, "ma": 5} and plan.held_out["ma"] == ["p1"]
    origins: list[Origin] = []
    drawn = [plan.draw(np.random.default_rng(seed), origins) for seed in range(30)]
    assert {(one.source, one.patient) for one in origins if one.source == "ma"} == {("ma", "p2")}
    true = [truth for (_, truth), one in zip(drawn, origins, strict=True) if one.source == "ma"]
    assert 14 < len(true) < 27 and all((truth[..., 1] == 0).mean() > 0.2 for truth in true)
    with pytest.raises(UsageError, match="--leave-out nobody: no source has such a patient"):
        plan_restorer(Reading(find_sources(twins)), replace(settings, leave_out=("nobody",)))


def judged(data, tmp_path, called=lambda seen: seen, **wishes):
    """Evaluated by networks of thresholds; `called` changes what the lungs network marks."""
    weights = make_weights(tmp_path / "weights")
    for task in ("lungs", "infection"):
        card = read_card(weights / f"{task}.json")
        write_card(card.replaced(training={"held_out_patients": {"ma": ["p1", "p2"]}}), weights)
    made = make_networks()
    lungs = replace(made.lungs, card=read_card(weights / "lungs.json"), predict=lambda x: called(made.lungs.predict(x)))
    networks = replace(made, lungs=lungs, infection=replace(made.infection, card=read_card(weights / "infection.json")))
    order = EvaluationOrder(data, tmp_path / "out", weights=weights, resamples=100, names=True, **wishes)
    return evaluate(order, lambda folder: networks, lambda card: fake_restore)


@pytest.mark.slow
def test_what_is_called_where_nobody_knows_counts_for_nothing(twins, tmp_path):
    evaluation = judged(twins, tmp_path)
    assert [row["case"] for row in evaluation["cases"]] == ["p1-1", "p2", "p1-2"], "in HU, and not on 8 bit again"
    assert {row["source"] for row in evaluation["cases"]} == {"ma"}
    assert [group["patients"] for group in evaluation["groups"]] == [2, 2]
    assert any("Slices of 3 volumes are judged in HU" in note for note in evaluation["notes"])
    counts = evaluation["cases"][0]["tasks"]["lungs"]["counts"]
    part = read_slices(find_cases(twins / "hu")[0])
    assert sum(counts.values()) == np.count_nonzero(part.lungs != UNKNOWN)
    again = judged(twins, tmp_path / "all", lambda seen: np.ones_like(seen))
    counts = again["cases"][0]["tasks"]["lungs"]["counts"]
    assert counts["invented"] == np.count_nonzero(part.lungs == 0), "not what lies in the unknown"


def test_a_patient_known_on_8_bit_is_the_same_patient(twins, tmp_path):
    card = read_card(make_weights(tmp_path / "weights") / "lungs.json")
    card = card.replaced(training={"held_out_patients": {"ma": ["p2"]}})
    seen = {case.name: bool(seen_by(case, {"lungs": card})) for case in find_cases(twins / "hu")}
    assert seen == {"p1-1": True, "p2": False, "p1-2": True}


def test_explore_tells_of_what_is_known_alone(twins):
    found = explore(twins, fake_restore)
    facts = {one.name: one for one in found.facts if one.layout == "slices-hu"}
    assert set(facts) == {"p1-1", "p2", "p1-2"} and not found.left_out
    assert facts["p2"].domain == "hu"
    assert found.histograms["hu"].counts["image"].sum() == 13 * 52 * 52, "not the soft tissue that was put around"


def test_restoration_has_nothing_to_do_with_them(twins):
    [case, *_] = find_images(twins / "hu").cases
    from covct.data.restore import domain_of

    with pytest.raises(UsageError, match=r"0000.png: these are Hounsfield units already"):
        domain_of(read_stack(case), None)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda f: cv2.imwrite(str(f / "ct" / "0000.png"), np.zeros((64, 64), np.uint8)), "0000.png: 8 bits a pixel"),
        (lambda f: cv2.imwrite(str(f / "ct" / "0000.png"), np.full((64, 64), 9000, np.uint16)), "values up to 9000"),
        (lambda f: (f / "ct" / "0000.png").write_bytes(b"x"), "0000.png: not a readable picture"),
    ],
    ids=["8 bits", "values", "damaged"],
)
def test_pictures_that_are_not_in_hu_are_refused_by_name(spoil, told, twins):
    spoil(twins / "hu")
    with pytest.raises(CaseError, match=told):
        read_case(find_cases(twins / "hu")[0])


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("0000,p1", "0000,p2", r"slices.csv: slice 0000 is of p2, .*volumes.csv says p1"),
        ("0000,p1", "x,p1", r"slices.csv, line 2: number is 'x'; wanted each number once"),
        ("0002,p1", "0000,p1", r"slices.csv, line 3: number is '0000'; wanted each number once"),
        ("0000,p1", "0000,", r"slices.csv, line 2: no patient_group"),
        ("number,", "nummer,", r"slices.csv: no column number"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_by_line(old, new, told, twins):
    table = twins / "hu" / "slices.csv"
    table.write_text(table.read_text().replace(old, new, 1))
    with pytest.raises(UsageError, match=told):
        find_cases(twins / "hu")


def test_a_missing_picture_is_told(twins):
    (twins / "hu" / "ct" / "0006.png").unlink()
    [left] = search_cases(twins / "hu").left_out
    assert (left.case, left.slug) == ("p2", "incomplete") and "ct/0006.png" in left.message
