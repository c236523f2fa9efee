"""`covct evaluate --calibrate`: whose errors go into which card, and that no card is lost by it."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from covct.disk import durable
from covct.errors import OutputNotWritable, UsageError
from covct.evaluation import judge, people
from covct.evaluation.eligible import Judge, find_judges
from covct.evaluation.judge import Called
from covct.evaluation.people import Calibrating, Measured
from covct.evaluation.run import Evaluated
from covct.networks.cards import MOST_PEOPLE, file_sha256, read_card, write_card
from covct.pipeline.conformal import Stated
from covct.pipeline.likeness import OUT_OF_DISTRIBUTION
from support.thresholds import FIGURES, make_weights, threshold_card

JUDGE = Judge("", Path("weights"), {}, Path("restorer.json"))
SAID = {name: Stated(1.0, 1.0, 1.0) for name in FIGURES}


def crowd(number):
    return [Measured("somewhere", JUDGE, bool(one % 2), dict.fromkeys(FIGURES, 0.1234)) for one in range(number)]


def truth_of(infection=None, lungs=True):
    """The truth of a scan: (1, 1, 4) voxels of 1 mm; of infection so many of them, None: nobody has looked."""
    masks = {"lungs": np.ones((1, 1, 4), bool)} if lungs else {}
    if infection is not None:
        masks["infection"] = np.arange(4).reshape(1, 1, 4) < infection
    return SimpleNamespace(spacing_mm=(1.0, 1.0, 1.0), masks=masks)


def test_as_many_people_as_a_card_may_have_are_read_again_and_more_are_refused(tmp_path):
    weights = make_weights(tmp_path / "weights")
    calibrating = Calibrating.into(weights, find_judges(weights))
    calibrating.write(crowd(MOST_PEOPLE))
    assert len(read_card(weights / "infection.json").calibration.people) == MOST_PEOPLE
    before = (weights / "infection.json").read_bytes()
    with pytest.raises(UsageError, match="got 10000 people in whole scans, wanted 9999 at most"):
        calibrating.write(crowd(MOST_PEOPLE + 1))
    assert (weights / "infection.json").read_bytes() == before


def test_a_card_that_nobody_could_read_is_not_written(tmp_path, monkeypatch):
    weights = make_weights(tmp_path / "weights")
    before = (weights / "infection.json").read_bytes()
    monkeypatch.setattr(people, "LARGEST_CARD", 2000)
    with pytest.raises(UsageError, match=r"got 40 people, .* bytes, wanted 2000 at most"):
        Calibrating.into(weights, find_judges(weights)).write(crowd(40))
    assert (weights / "infection.json").read_bytes() == before


def test_a_full_disk_leaves_the_card_as_it_was(tmp_path, monkeypatch):
    weights = make_weights(tmp_path / "weights")
    before = (weights / "infection.json").read_bytes()

    def full(path):
        raise OSError(28, "No space left on device")

    calibrating = Calibrating.into(weights, find_judges(weights))
    monkeypatch.setattr(durable, "fsync", full)
    with pytest.raises(OutputNotWritable, match="No space left"):
        calibrating.write(crowd(2))
    assert (weights / "infection.json").read_bytes() == before
    assert len(list(weights.iterdir())) == 4, "and nothing beside it"


def test_people_go_into_the_card_that_was_read_whatever_its_name_says(tmp_path):
    weights = make_weights(tmp_path / "weights")
    card = read_card(weights / "infection.json").replaced(name="our-infection")
    (weights / "infection.json").write_text(card.as_json())
    said = Calibrating.into(weights, find_judges(weights)).write(crowd(3))
    assert said == "3 people in whole scans, 1 of them with infection, were written into infection.json"
    assert len(read_card(weights / "infection.json").calibration.people) == 3
    assert not (weights / "our-infection.json").exists()


def fold(folder, number):
    """The networks of a fold, like those of no other."""
    make_weights(folder)
    for task in ("lungs", "infection"):
        file = folder / f"{task}.keras"
        file.write_bytes(f"{task} {number}".encode())
        write_card(threshold_card(task, file_sha256(file)), folder)
    return folder


def together(folder, folds):
    """Folds as one ensemble."""
    folder.mkdir()
    for place, one in enumerate(folds):
        for task in ("lungs", "infection"):
            name = f"{task}-fold-{place}" if place else task
            (folder / f"{name}.keras").write_bytes((one / f"{task}.keras").read_bytes())
            write_card(read_card(one / f"{task}.json").replaced(name=name, weights=f"{name}.keras"), folder)
    return folder


def test_errors_of_one_fold_are_not_those_of_an_ensemble_nor_the_reverse(tmp_path):
    one, other = (fold(tmp_path / "cv" / f"fold-{number}", number) for number in (0, 1))
    both = together(tmp_path / "both", [one, other])
    for judged, folder in ((one, both), (both, one)):
        with pytest.raises(UsageError, match="its networks are not those that judged"):
            Calibrating.into(folder, find_judges(judged))
    assert Calibrating.into(both, find_judges(both)).folds == {"": 0}


def test_an_ensemble_of_folds_holds_all_that_judged_and_no_others(tmp_path):
    folds = [fold(tmp_path / "cv" / f"fold-{number}", number) for number in (0, 1)]
    other = fold(tmp_path / "other", 2)
    swapped = together(tmp_path / "swapped", folds[::-1])
    judges = find_judges(tmp_path / "cv")
    assert Calibrating.into(swapped, judges).folds == {"fold-0": 1, "fold-1": 0}
    for name, wrong in (("more", [*folds, other]), ("fewer", folds[:1]), ("others", [folds[0], other])):
        with pytest.raises(UsageError, match=r"not those that judged \(fold-0, fold-1\)"):
            Calibrating.into(together(tmp_path / name, wrong), judges)


def test_all_that_is_said_of_a_person_is_of_one_scan():
    """A scan before the infection, and one with it: what is there is of the scan that the errors are of."""
    person = Measured("somewhere", JUDGE)
    case, told = SimpleNamespace(slice_labels=None), Called({}, stated=SAID)
    person.add(case, truth_of(), told)
    assert (set(person.errors), person.there) == ({"volume_ml"}, False)
    person.add(case, truth_of(infection=0), told)
    clear = dict(person.errors)
    person.add(case, truth_of(infection=2), told)
    assert (set(clear), person.there, person.errors) == (set(FIGURES), False, clear)


def test_scans_that_have_no_interval_measure_nobody_and_are_counted(tmp_path, monkeypatch):
    """Reports give intervals within the limit of likeness alone: errors beyond it would widen them for everybody."""
    report = {"warnings": [{"slug": OUT_OF_DISTRIBUTION}], "regions": {"lungs": dict.fromkeys(FIGURES, 1.0)}}
    nothing = SimpleNamespace(lungs=np.zeros((1, 2, 2)), infection=np.zeros((1, 2, 2), bool))
    result = SimpleNamespace(report=report, masks=nothing, stated={name: [one] for name, one in SAID.items()})
    monkeypatch.setattr(judge, "process", lambda *_: result)
    monkeypatch.setattr(judge, "promise_of_report", lambda _: None)
    called = judge.look_at_series(None, SimpleNamespace(series="whole"))
    truth, done = truth_of(infection=2), Evaluated()
    for identity, one in ((("somewhere", "a"), called), (("somewhere", "b"), Called({}, stated=SAID))):
        case = SimpleNamespace(identity=identity, known_as="somewhere", slice_labels=None)
        done.measure(case, JUDGE, truth, one)
    assert (list(done.people), done.unlike) == ([("somewhere", "b")], 1)
    weights = make_weights(tmp_path / "weights")
    said = Calibrating.into(weights, find_judges(weights)).write(done.people.values(), done.unlike)
    assert said.endswith("infection.json; scans left out that look like nothing learned: 1")


@pytest.mark.parametrize("changes", [{"flip": True}, {"threshold": 0.4}, {"least_air_mm2": 50.0}])
def test_cards_that_feed_the_same_network_in_another_way_are_not_calibrated(tmp_path, changes):
    weights, other = make_weights(tmp_path / "weights"), make_weights(tmp_path / "other")
    write_card(read_card(other / "lungs.json").replaced(**changes), other)
    with pytest.raises(UsageError, match="its cards feed the networks in another way"):
        Calibrating.into(other, find_judges(weights))


@pytest.mark.parametrize("name", ["both", "cv/fold-1"])
def test_an_empty_slices_network_that_did_not_judge_is_not_counted_on(tmp_path, name):
    both = together(tmp_path / "both", [fold(tmp_path / "cv" / f"fold-{number}", number) for number in (0, 1)])
    (tmp_path / name / "empty-slices.keras").write_bytes(b"empty")
    card = threshold_card("empty-slices", file_sha256(tmp_path / name / "empty-slices.keras"))
    write_card(card, tmp_path / name)
    with pytest.raises(UsageError, match="wanted the same settings and thresholds, and the same empty-slices network"):
        Calibrating.into(both, find_judges(tmp_path / "cv"))
