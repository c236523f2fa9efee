"""Ends that hold a new person's truth as often as they say: by hand, and in people who are made up."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from covct.pipeline.conformal import END_LEVEL, FEWEST, Seen, Stated, coverage_band, ends, guarantee, rank

coverage = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "uncertainty.py"))["coverage"]
TEN = Stated(10.0, 2.0, 4.0)  # could be 2 too high, 4 too low


def people(errors, there=True, source="a"):
    return [Seen(source, there, error) for error in errors]


def test_an_error_in_widths_leads_back_to_the_truth():
    for truth in (3.0, 10.0, 25.0):
        assert TEN.at(TEN.error(truth)) == pytest.approx(truth)
    assert (TEN.error(6.0), TEN.error(18.0)) == (-2, 2)


def test_nineteen_are_the_fewest():
    assert (rank(FEWEST - 1), rank(FEWEST), rank(38), rank(39)) == (0, 1, 1, 2)


def test_ends_are_those_of_the_people_furthest_outside_each_on_its_own_side():
    """Seldom too high, often too low: the interval leans."""
    errors = [-1.0, *np.linspace(0, 3, 18)]
    assert ends(people(errors), 10.0, [TEN], False) == (8.0, 22.0)
    assert ends(people([5.0, *errors, -3.0, *errors]), 10.0, [TEN], False) == (8.0, 22.0), "the second from outside"


def test_an_interval_holds_its_figure_also_where_networks_always_find_too_little():
    assert ends(people([1.0] * 19), 10.0, [TEN], False) == (10.0, 14.0)


def test_nothing_is_within_unless_so_much_is_called_in_few_without_any():
    sick, calls = people([-0.5] * 19), [2.0, 6.0]
    for most, low in zip(calls, (9.0, 0.0), strict=True):
        clear = people([-most] * 20, there=False)
        assert ends([*sick, *clear], 10.0, [TEN], True)[0] == low, f"in people without, {most} widths are called"
    assert ends([*sick, *clear], 10.0, [TEN], False)[0] == 9.0, "of a figure that is never 0"


def test_the_widest_source_counts_where_it_has_enough_people():
    mild, odd = people([1.0] * 60), people([3.0] * 19, source="b")
    assert ends([*mild, *odd], 10.0, [TEN], False)[1] == 22.0
    assert ends([*people([1.0] * 400), *odd[:18]], 10.0, [TEN], False)[1] == 14.0, "eighteen promise nothing themselves"


def test_folds_speak_for_those_they_have_not_seen():
    """CV+: an error of the second fold is put beside what the second fold says."""
    seen = [Seen("a", True, 1.0, fold=1)] * 19
    assert ends(seen, 10.0, [TEN, Stated(11.0, 1.0, 1.0)], False) == (10.0, 12.0)
    told = guarantee(seen, False, by_folds=True)
    assert (told.guaranteed, told.coverage) == (pytest.approx(0.8), None), "their coverage has no law"


def test_too_few_of_either_group_is_said_and_counted():
    told = guarantee([*people([0.0] * 30), *people([0.0] * 4, there=False)], True, False)
    assert (told.level, told.people, told.people_without, told.coverage) == (None, 34, 4, None)
    assert told.reason.endswith("have not learned: 30 with opacity, 4 without; wanted 19 of each")
    assert guarantee(people([0.0] * 19), False, False).level == pytest.approx(2 * END_LEVEL - 1)


@pytest.mark.parametrize("number", [19, 38, 39, 80, 400, 2210, 9999])
def test_the_band_of_coverage_is_that_of_scipy_s_beta(number):
    outside = 2 * rank(number)
    theirs = stats.beta.ppf([0.05, 0.95], number + 1 - outside, outside)
    assert coverage_band(number) == pytest.approx(theirs)


def test_folds_hold_what_they_say_in_people_who_are_made_up():
    """Each of four folds is off by something of its own, and the ensemble is their mean."""
    rng, held = np.random.default_rng(0), []
    for _ in range(150):
        bias = rng.normal(0, 1, 4)
        truths, folds = rng.uniform(5, 40, 40), np.arange(40) % 4
        said = truths + bias[folds] + rng.normal(0, 2, 40)
        seen = [Seen("a", True, t - s, int(f)) for t, s, f in zip(truths, said, folds, strict=True)]
        for truth in rng.uniform(5, 40, 10):
            stated = [Stated(truth + b + noise, 1.0, 1.0) for b, noise in zip(bias, rng.normal(0, 2, 4), strict=True)]
            low, high = ends(seen, float(np.mean([one.value for one in stated])), stated, False)
            held.append(low <= truth <= high)
    assert np.mean(held) > 0.88


@pytest.mark.parametrize(("number", "healthy", "spread"), [(19, 0.7, 0.0), (40, 0.7, 0.3), (40, 0.3, 0.3)])
def test_coverage_holds_whatever_share_of_people_is_healthy(number, healthy, spread):
    """Before, one factor of people with infection held far fewer of those without. See benchmarks/uncertainty.py."""
    told = coverage(number, healthy, spread, draws=25)
    (before, _), (after, _) = told["before"], told["after"]
    assert after["with"] > 0.87 and after["without"] > 0.92 and after["all"] > 0.88
    assert before["without"] < 0.85


def test_ten_people_have_no_interval():
    assert coverage(10, 0.5, 0.0, draws=2)["after"] is None
